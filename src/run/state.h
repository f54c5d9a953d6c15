// What a coordinator knows: plain values, kept by Store and worked on by Coordinator.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "base/sha256.h"
#include "mesh/clock.h"
#include "mesh/node_id.h"
#include "mesh/run_link.h"
#include "run/status.h"
#include "train/compression.h"

namespace sporkle::run {

struct Member {
  mesh::NodeId id;
  std::string name;
  std::string software;
  uint32_t threads = 0;
  uint64_t session = 0;  // of its present process
  bool ready = false;    // has asked for work in this session
  bool left = false;     // said good-bye
  bool present = false;  // heard of lately
  double tokens_per_second = 0;
  uint32_t failures = 0;      // missed deadlines and refused updates in a row
  std::string last_accepted;  // lease ID: a repeated submission is recognised even after its round
  uint64_t tokens = 0;
  uint64_t steps = 0;
  uint64_t reports = 0;
  uint64_t late = 0;
  uint64_t rejected = 0;
  uint64_t leases_lost = 0;
  uint64_t bytes_in = 0;
  uint64_t bytes_out = 0;

  // Not kept: true of this moment only.
  mesh::Clock::TimePoint silent_until{};  // counts as lost when nothing has come by then
  mesh::Clock::TimePoint last_seen{};
  std::string lease;  // ID of its active lease, or empty
  uint32_t step = 0;  // of that lease
  double loss = 0;
  std::string delivered;  // the lease last given out, and when
  mesh::Clock::TimePoint delivered_at{};
  bool reduces = false;  // takes part in reductions between peers
  uint16_t reduction_port = 0;
  mesh::Address reduction_address;  // last dialled
  bool reachable = false;           // somebody answered there
  uint16_t serves_port = 0;         // where it gives parameters to others; 0: nowhere
  std::string serves_sha256;
  double overhead_s = 0;  // between delivery and submission beyond the computing: transfers, mostly
};

enum class LeaseState : uint32_t {
  active,
  reported,  // its update is in, and waits for the round to close
  lost,      // its units are back in the pool; it may still be revived while they are
  refused,   // its update failed the checks
};

struct LeaseRecord {
  std::string id;  // raw digest over run, round, node and content
  mesh::NodeId node;
  uint64_t round = 0;
  uint32_t sequence = 0;  // within the round; canonical order is (node, sequence)
  std::vector<uint64_t> units;
  uint32_t steps = 0;
  double schedule_step = 0;
  double schedule_stride = 0;
  LeaseState state = LeaseState::active;
  train::Compression compression = train::Compression::int8;  // asked for; with `reported`, the update's
  bool any_compression = false;                               // the worker picks it
  bool by_peers = false;                                      // its update goes to the other workers
  // With `reported`:
  uint64_t update_bytes = 0;
  uint32_t reported_steps = 0;
  uint64_t reported_tokens = 0;
  double reported_mean_loss = 0;
  double reported_norm = 0;  // comparable_norm
  std::string blob;          // where the update lies, or the commitment to it
  bool committed = false;    // there is only a commitment
};

// What changes with every round, in one row.
struct RoundState {
  uint64_t number = 0;       // of the open round = version of the parameters = rounds closed
  uint32_t sequence = 0;     // leases given in this round
  uint32_t leases_lost = 0;  // in this round
  uint64_t steps_done = 0;   // inner steps in closed rounds
  uint64_t tokens_done = 0;
  uint64_t next_unit = 0;
  uint64_t bytes_in = 0;  // since the run began, status requests included
  uint64_t bytes_out = 0;
  uint64_t round_bytes_in = 0;  // the above when the round opened
  uint64_t round_bytes_out = 0;
  uint64_t workers_joined = 0;
  uint64_t workers_lost = 0;
  std::vector<double> norms;  // comparable norms of the last accepted updates, in canonical order
};

struct CoordinatorState {
  RoundState round;
  std::vector<Member> members;
  std::vector<LeaseRecord> leases;  // of the open round
  std::set<uint64_t> returned_units;
  std::vector<RoundRecord> history;
};

}  // namespace sporkle::run
