#include "mesh/dht.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <libtorrent/alert_types.hpp>
#include <libtorrent/entry.hpp>
#include <libtorrent/session.hpp>
#include <libtorrent/session_params.hpp>
#include <libtorrent/settings_pack.hpp>
#include <limits>
#include <list>
#include <mutex>
#include <optional>
#include <sstream>
#include <thread>
#include <utility>

#include "base/file.h"
#include "base/log.h"
#include "mesh/clock.h"

namespace sporkle::mesh {
namespace {

namespace lt = libtorrent;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

// A lookup that began before any node was known ends at once and empty, so it is repeated, at first soon.
constexpr milliseconds first_pause{60}, longest_pause{2'000};
constexpr milliseconds settle_time{200};
// The first put sometimes never reports its end.
constexpr milliseconds attempt_timeout{4'000};
constexpr size_t max_nodes_file_bytes = size_t{64} << 10;
constexpr size_t max_nodes_kept = 100;

std::array<char, 32> chars(const PublicKey& key) {
  std::array<char, 32> result;
  std::ranges::transform(key, result.begin(), [](std::byte b) { return static_cast<char>(b); });
  return result;
}

std::string listen_interface(const DhtOptions& options) {
  const std::string port = ":" + std::to_string(options.port);
  if (options.host.empty()) return "0.0.0.0" + port + ",[::]" + port;
  return options.host.find(':') == std::string::npos ? options.host + port : "[" + options.host + "]" + port;
}

lt::settings_pack settings_for(const DhtOptions& options) {
  lt::settings_pack pack;
  std::string nodes;
  for (const Address& address : options.bootstrap) nodes += (nodes.empty() ? "" : ",") + address.to_string();
  pack.set_str(lt::settings_pack::dht_bootstrap_nodes, nodes);
  pack.set_str(lt::settings_pack::listen_interfaces, listen_interface(options));
  pack.set_int(lt::settings_pack::max_retry_port_bind, 0);  // the port asked for, or none
  pack.set_bool(lt::settings_pack::listen_system_port_fallback, false);
  pack.set_str(lt::settings_pack::user_agent, "sporkle");
  pack.set_bool(lt::settings_pack::enable_dht, true);
  for (const int off :
       {lt::settings_pack::enable_lsd, lt::settings_pack::enable_upnp, lt::settings_pack::enable_natpmp})
    pack.set_bool(off, false);
  if (options.shared_address) {
    pack.set_bool(lt::settings_pack::dht_restrict_routing_ips, false);
    pack.set_bool(lt::settings_pack::dht_restrict_search_ips, false);
  }
  pack.set_int(lt::settings_pack::alert_mask,
               static_cast<int>(static_cast<uint32_t>(lt::alert_category::dht | lt::alert_category::status |
                                                      lt::alert_category::error)));
  pack.set_int(lt::settings_pack::alert_queue_size, 4000);
  return pack;
}

// One "host:port" a line. A damaged line counts as none.
std::vector<Address> remembered(const std::filesystem::path& file) {
  std::vector<Address> nodes;
  std::error_code error;
  if (file.empty()) return nodes;
  if (const auto size = std::filesystem::file_size(file, error); error || size > max_nodes_file_bytes) return nodes;
  const auto text = read_file(file);
  if (!text.ok()) return nodes;
  std::istringstream lines(*text);
  for (std::string line; std::getline(lines, line) && nodes.size() < max_nodes_kept;)
    if (auto address = Address::parse(line); address.ok()) nodes.push_back(*std::move(address));
  return nodes;
}

}  // namespace

struct Dht::State {
  // One call of put() or find() that waits; it stands in `waiting` with the mutex held.
  struct Wait {
    std::array<char, 32> key;
    std::string salt;
    const RunLink* link = nullptr;  // of a find
    bool round_over = false;        // the lookup, or the put, has ended
    std::optional<RunRecord> record;
    size_t refused = 0;  // items that were no such record
    std::string why_refused;
    size_t stored = 0;  // nodes
  };

  DhtOptions options;
  std::vector<Address> known;  // from the last time
  std::unique_ptr<lt::session> session;
  uint16_t port = 0;
  std::mutex mutex;
  std::condition_variable_any changed;
  std::list<Wait*> waiting;
  bool alerts_there = false, stopping = false;
  std::optional<Status> listening;
  std::thread thread;

  // Besides being asked where others are, the bootstrap nodes become neighbours like any: a table that has nobody else
  // in it yet would otherwise name nobody to those who come next.
  void greet() {
    for (const auto* list : {&options.bootstrap, &known})
      for (const Address& address : *list) session->add_dht_node({address.host, address.port});
  }

  void loop() {
    std::vector<lt::alert*> alerts;
    for (;;) {
      {
        std::unique_lock lock(mutex);
        changed.wait(lock, [this] { return alerts_there || stopping; });
        if (stopping) return;
        alerts_there = false;
      }
      session->pop_alerts(&alerts);
      const std::lock_guard lock(mutex);
      for (const lt::alert* alert : alerts) take(*alert);
      changed.notify_all();
    }
  }

  void take(const lt::alert& alert) {
    if (const auto* item = lt::alert_cast<lt::dht_mutable_item_alert>(&alert)) return take_item(*item);
    if (const auto* put = lt::alert_cast<lt::dht_put_alert>(&alert)) {
      for (Wait* wait : waiting) {
        if (wait->link || wait->key != put->public_key || wait->salt != put->salt) continue;
        wait->round_over = true;
        wait->stored = static_cast<size_t>(std::max(put->num_success, 0));
      }
    } else if (const auto* up = lt::alert_cast<lt::listen_succeeded_alert>(&alert)) {
      if (up->socket_type == lt::socket_type_t::utp) {
        if (port == 0) port = static_cast<uint16_t>(up->port);
        listening = Status();
      }
    } else if (const auto* down = lt::alert_cast<lt::listen_failed_alert>(&alert)) {
      if (!listening)
        listening = unavailable("the DHT cannot listen: " + down->error.message() + " (port " +
                                std::to_string(down->port) + ")");
    }
  }

  void take_item(const lt::dht_mutable_item_alert& item) {
    for (Wait* wait : waiting) {
      if (!wait->link || wait->key != item.key || wait->salt != item.salt) continue;
      if (item.authoritative) wait->round_over = true;
      if (item.item.type() == lt::entry::undefined_t) continue;  // nobody has one
      const Status status = accept(*wait, item);
      if (status.ok()) continue;
      ++wait->refused;
      wait->why_refused = status.message();
    }
  }

  static Status accept(Wait& wait, const lt::dht_mutable_item_alert& item) {
    if (item.item.type() != lt::entry::string_t) return corrupt_data("an item is no string");
    SPORKLE_ASSIGN_OR_RETURN(RunRecord record, RunRecord::parse(std::as_bytes(std::span(item.item.string()))));
    if (!record.belongs_to(*wait.link)) return invalid_argument("an item is another run's record");
    if (item.seq < 0 || record.sequence != static_cast<uint64_t>(item.seq))
      return corrupt_data("an item has another sequence number than its record");
    SPORKLE_RETURN_IF_ERROR(record.check_expiry(unix_seconds()));
    return replace_if_newer(wait.record, std::move(record));
  }

  // Begins rounds by `begin` until `done` says so with the mutex held, which is also held when this returns.
  template <typename Begin, typename Done>
  Status repeat(std::unique_lock<std::mutex>& lock, Wait& wait, milliseconds timeout, const std::stop_token& stop,
                const Begin& begin, const Done& done) {
    const auto deadline = steady_clock::now() + timeout;
    milliseconds pause = first_pause;
    waiting.push_back(&wait);
    Status result =
        Status(Code::deadline_exceeded, "no answer from the DHT within " + std::to_string(timeout.count()) + " ms");
    while (steady_clock::now() < deadline && !stop.stop_requested() && !stopping) {
      wait.round_over = false;
      lock.unlock();
      begin();
      lock.lock();
      const auto attempt_ends = std::min(deadline, steady_clock::now() + attempt_timeout);
      changed.wait_until(lock, stop, attempt_ends, [&] { return wait.round_over || wait.record || stopping; });
      // One node's record is enough to go on with, once others had a moment to give a newer one.
      if (wait.record)
        changed.wait_until(lock, stop, std::min(deadline, steady_clock::now() + settle_time),
                           [&] { return wait.round_over || stopping; });
      if (done()) {
        result = Status();
        break;
      }
      changed.wait_until(lock, stop, std::min(deadline, steady_clock::now() + pause), [&] { return stopping; });
      pause = std::min(pause * 2, longest_pause);
      if (pause == longest_pause) greet();  // it may have been away
    }
    waiting.remove(&wait);
    if (!result.ok() && (stop.stop_requested() || stopping)) return Status(Code::cancelled, "the search was given up");
    return result;
  }
};

Dht::Dht(std::unique_ptr<State> state) : state_(std::move(state)) {}

Result<std::unique_ptr<Dht>> Dht::start(const DhtOptions& options) {
  auto state = std::make_unique<State>();
  State& s = *state;
  s.options = options;
  s.known = remembered(options.nodes_file);
  try {
    lt::session_params params;
    params.settings = settings_for(options);
    s.session = std::make_unique<lt::session>(std::move(params));
    s.session->set_alert_notify([&s] {
      const std::lock_guard lock(s.mutex);
      s.alerts_there = true;
      s.changed.notify_all();
    });
    s.greet();
  } catch (const std::exception& failure) {
    return unavailable("the DHT does not start: " + std::string(failure.what()));
  }
  s.thread = std::thread([&s] { s.loop(); });
  std::unique_ptr<Dht> dht(new Dht(std::move(state)));
  std::unique_lock lock(s.mutex);
  if (!s.changed.wait_for(lock, std::chrono::seconds(5), [&s] { return s.listening.has_value(); }))
    return unavailable("the DHT does not start: no socket is open after 5 s");
  const Status listening = *s.listening;
  lock.unlock();
  if (!listening.ok()) return listening;
  return dht;
}

Dht::~Dht() {
  State& s = *state_;
  {
    const std::lock_guard lock(s.mutex);
    s.stopping = true;
    s.changed.notify_all();
  }
  if (s.thread.joinable()) s.thread.join();
  if (!s.session) return;
  s.session->set_alert_notify([] {});
  if (s.options.nodes_file.empty()) return;
  const lt::session_params params = s.session->session_state(lt::session_handle::save_dht_state);
  std::string text;
  size_t kept = 0;
  for (const auto* nodes : {&params.dht_state.nodes, &params.dht_state.nodes6})
    for (const lt::udp::endpoint& node : *nodes)
      if (kept++ < max_nodes_kept) text += Address{node.address().to_string(), node.port()}.to_string() + "\n";
  if (kept == 0) return;    // the old list is still the best
  std::error_code ignored;  // then writing fails, and says why
  std::filesystem::create_directories(s.options.nodes_file.parent_path(), ignored);
  const Status written = write_file_atomically(s.options.nodes_file, text);
  if (!written.ok()) log(LogLevel::warning, "mesh", "the DHT's nodes are not kept: " + written.message());
}

uint16_t Dht::port() const { return state_->port; }

size_t Dht::node_count() const {
  const lt::session_params params = state_->session->session_state(lt::session_handle::save_dht_state);
  return params.dht_state.nodes.size() + params.dht_state.nodes6.size();
}

Result<size_t> Dht::put(const RunRecord& record, const Identity& identity, milliseconds timeout, std::stop_token stop) {
  const std::vector<std::byte> value = record.encode();
  if (record.key != identity.public_key())
    return invalid_argument("a record of another key cannot be put into the DHT");
  if (value.size() > max_record_bytes)
    return invalid_argument("the record has " + std::to_string(value.size()) + " bytes; the DHT takes " +
                            std::to_string(max_record_bytes) + "; give fewer or shorter addresses");
  if (record.sequence > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
    return invalid_argument("sequence number " + std::to_string(record.sequence) + " has more than 63 bits");
  State& s = *state_;
  State::Wait wait;
  wait.key = chars(record.key);
  wait.salt = dht_salt(link_run_value(record.run_id));
  // Called on libtorrent's thread, perhaps after this call has ended.
  struct Item {
    std::string value;
    std::array<char, 64> signature;
    int64_t sequence;
    std::atomic<int64_t> newer{-1};
  };
  const auto item = std::make_shared<Item>();
  item->value.assign(reinterpret_cast<const char*>(value.data()), value.size());
  item->sequence = static_cast<int64_t>(record.sequence);
  const Signature signature = identity.sign(dht_signed_bytes(wait.salt, record.sequence, value));
  std::ranges::transform(signature, item->signature.begin(), [](std::byte b) { return static_cast<char>(b); });
  const auto sign = [item](lt::entry& entry, std::array<char, 64>& out, int64_t& sequence, const std::string&) {
    if (entry.type() != lt::entry::undefined_t && sequence > item->sequence) {
      // Only the coordinator itself can have signed that; it stays, and this one is then too old to be taken.
      item->newer = sequence;
      return;
    }
    entry = item->value;
    out = item->signature;
    sequence = item->sequence;
  };
  std::unique_lock lock(s.mutex);
  SPORKLE_RETURN_IF_ERROR(s.repeat(
      lock, wait, timeout, stop, [&] { s.session->dht_put_item(wait.key, sign, wait.salt); },
      [&] { return wait.round_over && (wait.stored > 0 || item->newer >= 0); }));
  if (item->newer >= 0)
    return Status(Code::already_exists, "the DHT has a newer record of this run, of sequence number " +
                                            std::to_string(item->newer.load()) +
                                            "; does another coordinator of this key run?");
  return wait.stored;
}

Result<RunRecord> Dht::find(const RunLink& link, milliseconds timeout, std::stop_token stop) {
  SPORKLE_ASSIGN_OR_RETURN(const PublicKey key, key_in_link(link));
  const std::string run = run_in_link(link);
  if (run.empty()) return invalid_argument("the link names no run, so the DHT cannot be asked for it");
  State& s = *state_;
  State::Wait wait;
  wait.key = chars(key);
  wait.salt = dht_salt(run);
  wait.link = &link;
  std::unique_lock lock(s.mutex);
  const Status status = s.repeat(
      lock, wait, timeout, stop, [&] { s.session->dht_get_item(wait.key, wait.salt); },
      [&] { return wait.record.has_value(); });
  if (status.ok()) return *std::move(wait.record);
  if (status.code() == Code::cancelled) return status;
  return not_found("the DHT does not answer for this run (" + std::to_string(timeout.count()) + " ms" +
                   (wait.refused == 0
                        ? std::string()
                        : "; " + std::to_string(wait.refused) + " answers were refused: " + wait.why_refused) +
                   ")");
}

std::string dht_salt(std::string_view link_run_value) { return "sporkle run " + std::string(link_run_value); }

std::vector<std::byte> dht_signed_bytes(std::string_view salt, uint64_t sequence, std::span<const std::byte> value) {
  const std::string head = "4:salt" + std::to_string(salt.size()) + ":" + std::string(salt) + "3:seqi" +
                           std::to_string(sequence) + "e1:v" + std::to_string(value.size()) + ":";
  std::vector<std::byte> bytes;
  bytes.reserve(head.size() + value.size());
  for (const char c : head) bytes.push_back(static_cast<std::byte>(c));
  bytes.insert(bytes.end(), value.begin(), value.end());
  return bytes;
}

}  // namespace sporkle::mesh
