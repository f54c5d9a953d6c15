// RunStatus: a run at a glance, as `sporkle run status` and the demo's screen show it. Plain values; the coordinator
// answers the method "status" with them to any authenticated peer.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "mesh/channel.h"

namespace sporkle::run {

enum class NodeState : uint32_t {
  waiting,    // present, without work
  computing,  // holds a lease
  lost,       // silent for too long, or disconnected
  left,       // said good-bye
};
std::string_view node_state_name(NodeState state);

struct NodeStatus {
  std::string id;        // full text form
  std::string short_id;  // what people are shown
  std::string name;
  std::string software;
  uint32_t threads = 0;
  NodeState state = NodeState::waiting;
  double tokens_per_second = 0;  // 0: not measured yet
  double last_seen_seconds = 0;  // ago
  uint64_t tokens = 0;           // in accepted updates
  uint64_t steps = 0;
  uint64_t reports = 0;
  uint64_t late = 0;
  uint64_t rejected = 0;
  uint64_t leases_lost = 0;
  uint64_t bytes_in = 0;   // from the node
  uint64_t bytes_out = 0;  // to the node
  uint32_t lease_step = 0;
  uint32_t lease_steps = 0;  // 0: no lease
  double loss = 0;           // of its last step
};

struct RoundRecord {
  uint64_t round = 0;
  uint32_t inner_steps = 0;  // H
  uint32_t reports = 0;
  uint32_t leases_lost = 0;
  uint64_t steps = 0;
  uint64_t tokens = 0;
  double train_loss = 0;  // token-weighted mean over the reports
  std::optional<double> validation_loss;
  uint64_t bytes_in = 0;
  uint64_t bytes_out = 0;
  double seconds = 0;
  int64_t closed_unix_ms = 0;
  std::string compression;    // of its updates: "int8", or "2 int8, 1 topk"; empty: not recorded
  uint64_t update_bytes = 0;  // of all its updates, before the mesh's own compression
};

enum class RunPhase : uint32_t { waiting, running, finished };
std::string_view run_phase_name(RunPhase phase);

struct RunStatus {
  std::string run_id;
  std::string name;
  RunPhase phase = RunPhase::waiting;
  uint64_t round = 0;        // the open one; the number of closed ones
  uint32_t inner_steps = 0;  // H of the open round
  double step = 0;           // schedule steps done, of total_steps
  uint64_t total_steps = 0;
  uint64_t tokens = 0;
  uint64_t total_tokens = 0;
  uint64_t parameter_count = 0;
  uint32_t nominal_workers = 0;
  uint64_t bytes_in = 0;
  uint64_t bytes_out = 0;
  uint64_t workers_joined = 0;
  uint64_t workers_lost = 0;
  std::vector<NodeStatus> nodes;     // in canonical order of IDs
  std::vector<RoundRecord> history;  // the latest closed rounds, oldest first
};

// Asks a coordinator.
Result<RunStatus> fetch_status(mesh::Channel& channel, std::chrono::milliseconds timeout);

// The wire form, for the coordinator.
std::string encode_status(const RunStatus& status);
Result<RunStatus> decode_status(std::string_view body);

}  // namespace sporkle::run
