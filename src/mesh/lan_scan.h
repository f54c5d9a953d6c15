// Finding the runs of the local network: asks, collects what answers for a moment, and gives the runs whose records are
// signed and have not expired. What arrives is not trusted: memory and the work on signatures are bounded, so that a
// machine that floods the network can at worst hide runs.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/sha256.h"
#include "base/status.h"
#include "mesh/lan_datagram.h"
#include "mesh/lan_scope.h"
#include "mesh/run_record.h"

namespace sporkle::mesh {

struct LanRun {
  RunRecord record;
  std::string source;  // the host that sent it, with its zone where it has one; not proved

  // To try: where the record came from, then what it says.
  std::vector<Address> addresses() const;
};

// Gathers records out of datagrams. Belongs to one thread at a time.
class LanCollector {
 public:
  static constexpr size_t max_runs = 128;
  static constexpr size_t max_runs_of_source = 16;
  static constexpr size_t max_signatures_checked = 1024;

  explicit LanCollector(uint64_t now_unix_s) : now_unix_s_(now_unix_s) {}

  // Takes a datagram from `source`, a host. Whether it brought a new run, or a newer record of one; the failure says
  // why it was left out (queries and repetitions are not failures).
  Result<bool> receive(std::span<const std::byte> datagram, const std::string& source);

  // By name, then ID.
  std::vector<LanRun> runs() const;

 private:
  uint64_t now_unix_s_;
  std::map<std::pair<PublicKey, RunId>, LanRun> runs_;
  std::map<std::string, size_t> runs_of_source_;
  std::set<Digest> seen_;  // datagrams whose signatures have been checked
};

struct LanScanOptions {
  LanScope scope = LanScope::network;
  uint16_t port = lan_port;
  std::chrono::milliseconds duration{900};
  // Ends the scan early once it says true of a run.
  std::function<bool(const LanRun&)> enough;
};

struct LanScan {
  std::vector<LanRun> runs;
  size_t left_out = 0;       // datagrams that were no proper records
  std::string why_left_out;  // of one of them
};

// Blocks for the duration, or less. Errors: those of the system when neither IPv4 nor IPv6 can be used. Thread-safe.
Result<LanScan> scan_lan(const LanScanOptions& options = {});

}  // namespace sporkle::mesh
