#include "apps/sporkle/run_connector.h"

#include <algorithm>
#include <condition_variable>
#include <thread>
#include <utility>

#include "base/file.h"
#include "base/log.h"
#include "mesh/address_order.h"
#include "mesh/clock.h"
#include "mesh/lan_scan.h"
#include "mesh/retry.h"
#include "mesh/seed_list.h"

namespace sporkle::app {
namespace {

// The network is not asked more often than this by one joining process.
constexpr std::chrono::seconds pause_between_looks{5};
constexpr std::chrono::seconds dht_patience{8};

// Of what the coordinator answered: its record; nothing when it knows none. A failure when the record is not what it
// should be: then the address does not lead to the run either.
Result<std::optional<mesh::RunRecord>> record_in(const Result<mesh::Message>& answer, const mesh::RunLink& link) {
  if (!answer.ok()) return std::optional<mesh::RunRecord>();
  SPORKLE_ASSIGN_OR_RETURN(mesh::RunRecord record,
                           mesh::RunRecord::parse(std::as_bytes(std::span(answer.value().body))));
  if (!record.belongs_to(link)) return invalid_argument("another run than the link's answers there");
  return std::optional(std::move(record));
}

// Each reconnect goes on from the last connection's TLS session.
RunConnectorOptions with_sessions(RunConnectorOptions options) {
  if (!options.client.sessions) options.client.sessions = std::make_shared<mesh::TlsSessionCache>();
  return options;
}

}  // namespace

RunConnector::RunConnector(mesh::RunLink link, const mesh::Identity& identity, RunConnectorOptions options)
    : link_(std::move(link)),
      identity_(identity),
      options_(with_sessions(std::move(options))),
      file_(home_directory() / "known_runs") {}

Result<std::unique_ptr<RunConnector>> RunConnector::create(const mesh::RunLink& link, const mesh::Identity& identity,
                                                           RunConnectorOptions options) {
  std::unique_ptr<RunConnector> connector(new RunConnector(link, identity, std::move(options)));
  RunConnector& c = *connector;
  const uint64_t now = mesh::unix_seconds();
  const mesh::KnownRuns known = c.file_.load();
  if (const mesh::KnownRun* const run = known.find(link)) {
    c.known_ = *run;
    c.record_ = run->verified();
    if (c.record_ && (!c.record_->belongs_to(link) || c.record_->expired(now))) c.record_.reset();
  }
  std::string tried = "this machine remembers no address of it";
  std::optional<mesh::SeedList> seeds;
  for (const std::string& file : c.options_.seeds) {
    SPORKLE_ASSIGN_OR_RETURN(mesh::SeedList list, mesh::SeedList::load(file));
    for (const std::string& warning : list.warnings()) log(LogLevel::warning, "join", warning);
    if (seeds) {
      SPORKLE_RETURN_IF_ERROR(seeds->append(std::move(list)));
    } else {
      seeds = std::move(list);
    }
  }
  if (seeds) {
    Result<mesh::RunRecord> record = seeds->find(link, now);
    if (!record.ok()) {
      tried += ", " + record.status().message();
    } else if (!c.record_ || c.record_->run_id == record->run_id) {
      const Status status = mesh::replace_if_newer(c.record_, *std::move(record));
      if (!status.ok()) log(LogLevel::warning, "join", "the seed list is not used: " + status.message());
    }
  }
  if (c.addresses().empty() && !c.look_around(true))
    return not_found(
        "the link of coordinator " + link.coordinator.short_id() + " has no address, " + tried +
        ", and neither the local network nor the DHT answers for it; ask for a link with an address, or for a record "
        "to give with --seeds");
  return connector;
}

std::vector<mesh::Address> RunConnector::addresses() const {
  std::vector<std::vector<mesh::Address>> sources{lan_};
  if (record_) sources.push_back(record_->addresses);
  sources.push_back(link_.addresses);
  return mesh::addresses_to_try(known_ ? known_->addresses : std::vector<mesh::Address>(), sources);
}

bool RunConnector::look_around(bool lan) {
  const auto now = std::chrono::steady_clock::now();
  if (last_look_ != std::chrono::steady_clock::time_point{} && now - last_look_ < pause_between_looks) return false;
  last_look_ = now;
  // Whichever answers first is enough. A search of the local network that is late ends by itself, and nobody waits.
  struct Mailbox {
    std::mutex mutex;
    std::condition_variable changed;
    int open = 0;
    std::vector<mesh::Address> lan;
    std::optional<mesh::RunRecord> record;
  };
  const auto mailbox = std::make_shared<Mailbox>();
  const auto ended = [mailbox](const auto& put_in) {
    const std::lock_guard lock(mailbox->mutex);
    put_in();
    --mailbox->open;
    mailbox->changed.notify_all();
  };
  if (lan) {
    ++mailbox->open;
    lan_thread_ = std::jthread([mailbox, ended, link = link_] {
      mesh::LanScanOptions options;
      options.enough = [&link](const mesh::LanRun& run) { return run.record.belongs_to(link); };
      const auto scan = mesh::scan_lan(options);
      if (!scan.ok()) log(LogLevel::warning, "join", scan.status().message());
      ended([&] {
        if (!scan.ok()) return;
        for (const mesh::LanRun& run : scan->runs)
          if (run.record.belongs_to(link))
            for (const mesh::Address& address : run.addresses()) mailbox->lan.push_back(address);
      });
    });
  }
  std::jthread dht_thread;
  if (options_.dht.wanted()) {
    ++mailbox->open;
    dht_thread = std::jthread([this, mailbox, ended](const std::stop_token& stop) {
      Result<mesh::RunRecord> record = find_in_dht(stop);
      if (!record.ok() && record.status().code() != Code::cancelled)
        log(LogLevel::warning, "join", record.status().message());
      ended([&] {
        if (record.ok()) mailbox->record = *std::move(record);
      });
    });
  }
  const std::vector<mesh::Address> before = addresses();
  {
    std::unique_lock lock(mailbox->mutex);
    mailbox->changed.wait(lock,
                          [&] { return mailbox->open == 0 || !mailbox->lan.empty() || mailbox->record.has_value(); });
    lan_ = mailbox->lan;
    // An older record than the one that is known leads nowhere new.
    if (mailbox->record && (!record_ || record_->run_id == mailbox->record->run_id))
      (void)mesh::replace_if_newer(record_, *mailbox->record);
  }
  dht_thread.request_stop();
  return !addresses().empty() && addresses() != before;
}

Result<mesh::RunRecord> RunConnector::find_in_dht(const std::stop_token& stop) {
  if (!dht_) {
    SPORKLE_ASSIGN_OR_RETURN(const mesh::DhtOptions options, options_.dht.options(0));
    SPORKLE_ASSIGN_OR_RETURN(dht_, mesh::Dht::start(options));
  }
  return dht_->find(link_, dht_patience, stop);
}

Result<std::unique_ptr<mesh::Client>> RunConnector::connect() {
  mesh::RunLink link = link_;
  link.addresses = addresses();
  auto client = mesh::Client::connect(link, identity_, options_.client);
  if (!client.ok() && look_around(options_.lan)) {
    link.addresses = addresses();
    client = mesh::Client::connect(link, identity_, options_.client);
  }
  if (!client.ok()) {
    const bool own_only = std::ranges::all_of(link.addresses, [this](const mesh::Address& address) {
      return std::ranges::find(link_.addresses, address) != link_.addresses.end();
    });
    if (client.status().code() == Code::permission_denied && (ever_connected_ || !own_only))
      return unavailable(client.status().message());
    return client;
  }
  ever_connected_ = true;
  const auto learn = [lessons = lessons_, link = link_,
                      address = (*client)->server_address()](const Result<mesh::Message>& answer) {
    auto record = record_in(answer, link);
    if (!record.ok())
      return log(LogLevel::warning, "join", address.to_string() + " is not remembered: " + record.status().message());
    const std::lock_guard lock(lessons->mutex);
    lessons->waiting.push_back({address, *std::move(record)});
  };
  (*client)->start_call("record", {}, learn);
  return client;
}

void RunConnector::remember() {
  std::vector<Lesson> lessons;
  {
    const std::lock_guard lock(lessons_->mutex);
    lessons.swap(lessons_->waiting);
  }
  for (const Lesson& lesson : lessons) {
    const Status status = file_.remember(link_, lesson.address, lesson.record, mesh::unix_seconds());
    if (!status.ok()) log(LogLevel::warning, "join", "not all of this run is remembered: " + status.message());
  }
}

}  // namespace sporkle::app
