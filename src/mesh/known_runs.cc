#include "mesh/known_runs.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <system_error>

#include "base/file.h"
#include "base/log.h"
#include "mesh/printable.h"

namespace sporkle::mesh {
namespace {

constexpr std::string_view first_line = "sporkle known runs 1";
constexpr std::string_view no_run = "-";
// 64 runs with 8 long addresses and a record each take less.
constexpr size_t max_file_bytes = size_t{1} << 20;

bool is_run_value(std::string_view text) {
  return text.size() == link_run_digits && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

// The first word of `line`, taken off.
std::string_view take_word(std::string_view& line) {
  const size_t end = line.find(' ');
  const std::string_view word = line.substr(0, end);
  line.remove_prefix(end == std::string_view::npos ? line.size() : end + 1);
  return word;
}

// "ID RUN TIME"
Result<KnownRun> parse_run(std::string_view line) {
  KnownRun run;
  SPORKLE_ASSIGN_OR_RETURN(run.coordinator, NodeId::parse(take_word(line)));
  const std::string_view id = take_word(line), time = take_word(line);
  if (id != no_run && !is_run_value(id)) return invalid_argument("it has no valid run ID");
  if (id != no_run) run.run = id;
  const auto [end, error] = std::from_chars(time.data(), time.data() + time.size(), run.last_used_unix_s);
  if (time.empty() || error != std::errc() || end != time.data() + time.size() || !line.empty())
    return invalid_argument("it does not end with a time");
  return run;
}

// Holds the right to change the file; by a file beside it, since the file itself is replaced.
class Lock {
 public:
  explicit Lock(const std::filesystem::path& path) : fd_(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)) {
    while (fd_ >= 0 && ::flock(fd_, LOCK_EX) != 0 && errno == EINTR) {
    }
  }
  ~Lock() {
    if (fd_ >= 0) ::close(fd_);
  }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;

 private:
  // Without a lock (a file system that has none) the last writer wins, and what the other one learned is lost.
  int fd_;
};

}  // namespace

std::optional<RunRecord> KnownRun::verified() const {
  if (record.empty()) return std::nullopt;
  auto parsed = RunRecord::parse(record);
  if (!parsed.ok() || parsed->coordinator() != coordinator) return std::nullopt;
  return *std::move(parsed);
}

Result<KnownRuns> KnownRuns::parse(std::string_view text) {
  KnownRuns known;
  for (size_t number = 1; !text.empty() || number == 1; ++number) {
    const size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    const auto at_fault = [number](const std::string& what) {
      return corrupt_data("line " + std::to_string(number) + ": " + what);
    };
    if (number == 1) {
      if (line != first_line) return at_fault("expected \"" + std::string(first_line) + "\"");
      continue;
    }
    const std::string_view kind = take_word(line);
    if (kind == "run") {
      auto run = parse_run(line);
      if (!run.ok()) return at_fault(run.status().message());
      if (known.runs_.size() == max_runs) return at_fault("more than " + std::to_string(max_runs) + " runs");
      known.runs_.push_back(*std::move(run));
      continue;
    }
    if (known.runs_.empty()) return at_fault("it belongs to no run");
    KnownRun& run = known.runs_.back();
    if (kind == "address") {
      auto address = Address::parse(line);
      if (!address.ok()) return at_fault(address.status().message());
      if (run.addresses.size() == max_addresses)
        return at_fault("more than " + std::to_string(max_addresses) + " addresses of one run");
      run.addresses.push_back(*std::move(address));
    } else if (kind == "record") {
      auto bytes = record_bytes_from_text(line);
      if (!bytes.ok()) return at_fault(bytes.status().message());
      run.record = *std::move(bytes);
    } else {
      return at_fault("'" + printable(kind, 20) + "' is none of run, address and record");
    }
  }
  return known;
}

std::string KnownRuns::text() const {
  std::string text = std::string(first_line) + "\n";
  for (const KnownRun& run : runs_) {
    text += "run " + run.coordinator.to_string() + " " + (run.run.empty() ? std::string(no_run) : run.run) + " " +
            std::to_string(run.last_used_unix_s) + "\n";
    for (const Address& address : run.addresses) text += "address " + address.to_string() + "\n";
    if (!run.record.empty()) text += "record " + record_to_text(std::span(run.record)) + "\n";
  }
  return text;
}

const KnownRun* KnownRuns::find(const RunLink& link) const {
  const std::string wanted = run_in_link(link);
  const KnownRun* best = nullptr;
  for (const KnownRun& run : runs_)
    if (run.coordinator == link.coordinator && (wanted.empty() || run.run == wanted) &&
        (!best || run.last_used_unix_s > best->last_used_unix_s))
      best = &run;
  return best;
}

KnownRun& KnownRuns::at(const NodeId& coordinator, const std::string& run, uint64_t now_unix_s) {
  auto found = std::ranges::find_if(
      runs_, [&](const KnownRun& known) { return known.coordinator == coordinator && known.run == run; });
  if (found == runs_.end()) {
    if (runs_.size() >= max_runs) runs_.erase(std::ranges::min_element(runs_, {}, &KnownRun::last_used_unix_s));
    found = runs_.insert(runs_.end(), KnownRun{coordinator, run, 0, {}, {}});
  }
  found->last_used_unix_s = now_unix_s;
  return *found;
}

void KnownRuns::worked(const RunLink& link, const Address& address, uint64_t now_unix_s) {
  const std::string run = run_in_link(link);
  KnownRun& known = at(link.coordinator, is_run_value(run) ? run : "", now_unix_s);
  std::erase(known.addresses, address);
  known.addresses.insert(known.addresses.begin(), address);
  if (known.addresses.size() > max_addresses) known.addresses.resize(max_addresses);
}

Status KnownRuns::learned(const RunRecord& record, uint64_t now_unix_s) {
  KnownRun& known = at(record.coordinator(), link_run_value(record.run_id), now_unix_s);
  std::optional<RunRecord> held = known.verified();
  if (held && held->run_id != record.run_id) held.reset();
  SPORKLE_RETURN_IF_ERROR(replace_if_newer(held, record));
  known.record = record.encode();
  return {};
}

KnownRuns KnownRunsFile::load() const {
  std::error_code error;
  const auto size = std::filesystem::file_size(path_, error);
  if (error) return {};
  Status status;
  if (size > max_file_bytes) {
    status = corrupt_data("it has " + std::to_string(size) + " bytes");
  } else if (const auto text = read_file(path_); !text.ok()) {
    status = text.status();
  } else if (auto known = KnownRuns::parse(*text); !known.ok()) {
    status = known.status();
  } else {
    return *std::move(known);
  }
  log(LogLevel::warning, "mesh",
      path_.string() + ", which remembers runs, is ignored and will be written anew: " + status.message());
  return {};
}

Status KnownRunsFile::remember(const RunLink& link, const Address& address, const std::optional<RunRecord>& record,
                               uint64_t now_unix_s) const {
  std::filesystem::path lock_path = path_;
  lock_path += ".lock";
  const Lock lock(lock_path);
  KnownRuns known = load();
  // A link that does not say its run: the record does.
  RunLink named = link;
  Status status;
  if (record && record->belongs_to(link)) {
    named.parameters[std::string(link_run_parameter)] = link_run_value(record->run_id);
    status = known.learned(*record, now_unix_s);
  }
  known.worked(named, address, now_unix_s);
  SPORKLE_RETURN_IF_ERROR(write_file_atomically(path_, known.text()));
  return status;
}

}  // namespace sporkle::mesh
