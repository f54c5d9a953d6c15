// KnownRuns: what this machine remembers of the runs that it has joined: addresses that worked, and the last record. So
// a link opens although its own addresses are gone or out of date, and without asking anyone.
//
// A KnownRuns is a value. KnownRunsFile is the file that holds it, for all processes of a user; its calls are
// thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"
#include "mesh/node_id.h"
#include "mesh/run_link.h"
#include "mesh/run_record.h"

namespace sporkle::mesh {

struct KnownRun {
  NodeId coordinator;
  std::string run;  // link_run_value(), or empty when neither link nor record said it
  uint64_t last_used_unix_s = 0;
  std::vector<Address> addresses;             // that led to the coordinator, the latest first
  std::vector<std::byte> record;              // encoded, not verified; may be empty
  std::optional<RunRecord> verified() const;  // `record`, if it is there and its signature holds
};

class KnownRuns {
 public:
  static constexpr size_t max_runs = 64;      // of more, the one used longest ago is forgotten
  static constexpr size_t max_addresses = 8;  // of each

  // text()'s reverse; corrupt_data names the line at fault.
  static Result<KnownRuns> parse(std::string_view text);
  std::string text() const;

  // What is known of the run that `link` names; of a link without a run ID, the run of its coordinator that was used
  // last. Null when nothing is.
  const KnownRun* find(const RunLink& link) const;

  // After a connection by `link`: `address` led to the coordinator.
  void worked(const RunLink& link, const Address& address, uint64_t now_unix_s);
  // Keeps a record of a run; one with a lower sequence number than the record known is refused (replace_if_newer).
  Status learned(const RunRecord& record, uint64_t now_unix_s);

  const std::vector<KnownRun>& runs() const { return runs_; }

 private:
  KnownRun& at(const NodeId& coordinator, const std::string& run, uint64_t now_unix_s);
  std::vector<KnownRun> runs_;
};

class KnownRunsFile {
 public:
  explicit KnownRunsFile(std::filesystem::path path) : path_(std::move(path)) {}

  // Empty where there is no file. A damaged one counts as empty and is logged as a warning.
  KnownRuns load() const;
  // Reads, changes and writes while no other process does. `link`'s run was reached at `address`; `record`, where there
  // is one, is the coordinator's own word. Errors: those of the file system, and a record that is older than the one
  // known (the address is kept all the same).
  Status remember(const RunLink& link, const Address& address, const std::optional<RunRecord>& record,
                  uint64_t now_unix_s) const;

 private:
  std::filesystem::path path_;
};

}  // namespace sporkle::mesh
