// What a run is (RunManifest) and how its coordinator conducts it (RunConfig). Plain values.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "train/diloco.h"

namespace sporkle::run {

// What every worker must know, and what cannot change while the run lasts.
struct RunManifest {
  std::string name;
  std::string model;  // opaque here: whatever the replica needs to build the model, a configuration text say
  uint64_t parameter_count = 0;
  uint32_t token_bytes = 2;      // bytes a token ID takes in the training data: 1, 2 or 4
  uint64_t tokens_per_step = 0;  // of one worker: batch x sequence length
  // Training tokens are cut into shards of this many tokens (plus one, so that each yields this many predictions); a
  // lease names enough shards for its steps. One sequence a shard mixes the text best; more cost fewer look-ups.
  uint64_t shard_tokens = 0;
  std::string data_sha256;  // hexadecimal, of the training tokens
  // Length of the run in steps of nominal_workers together: total tokens = total_steps * nominal_workers *
  // tokens_per_step. The learning-rate schedule runs over these steps.
  uint64_t total_steps = 0;
  uint32_t nominal_workers = 1;
  uint64_t seed = 0;

  uint64_t total_inner_steps() const { return total_steps * nominal_workers; }
  uint64_t total_tokens() const { return total_inner_steps() * tokens_per_step; }
};

// More shards than this do not go into one lease, so that its message stays small; its steps are fewer then.
inline constexpr uint64_t kMaxUnitsPerLease = 8192;

// How many inner steps a round has, as a list: "1x4,2x4,5x10,10x" is 4 rounds of 1 step, 4 of 2, 10 of 5, then 10 for
// ever. "50" alone is 50 for ever; a list whose last entry has a count goes on with that entry.
class InnerStepSchedule {
 public:
  // invalid_argument names the entry at fault.
  static Result<InnerStepSchedule> parse(std::string_view text);
  uint32_t steps(uint64_t round) const;

 private:
  struct Entry {
    uint32_t steps;
    uint64_t end_round;  // first round after this entry
  };
  std::vector<Entry> entries_;
};

struct OuterPhase {
  uint64_t from_round = 0;
  train::OuterStep step;
};

struct RunConfig {
  RunManifest manifest;
  std::string inner_steps = "100";       // H, see InnerStepSchedule
  std::vector<OuterPhase> outer = {{}};  // ascending from_round, the first from 0
  uint32_t start_workers = 1;            // the first round waits for so many
  uint32_t quorum = 1;                   // updates without which a round does not close
  double deadline_factor = 2.5;          // a round's deadline: factor x expected duration + minimum_deadline_s
  double minimum_deadline_s = 2.0;
  double unmeasured_deadline_s = 120.0;  // while nobody's speed is known
  double heartbeat_interval_s = 1.0;
  double heartbeat_timeout_s = 6.0;  // silence after which a worker counts as lost
  double disconnect_grace_s = 2.0;   // the same once its connection is known to be gone
  double restart_grace_s = 15.0;     // how long workers have to come back after the coordinator's restart
  double long_poll_s = 20.0;         // next_work is answered with `wait` after this
  double norm_bound = 10.0;          // an update this many times the usual norm is refused
  uint32_t staleness_rounds = 2;     // a late update this old still goes into its worker's error feedback
  uint32_t max_workers = 4096;
  // How workers send their updates: a name of train::Compression, or "auto": each worker picks one for its link
  // (run/link.h). The change of the parameters goes back in 8 bits in any case.
  std::string compression = "int8";
  // Who adds up the updates: "coordinator", or "peers": the workers among themselves (coordinator_reductions.cc).
  std::string reduction = "coordinator";

  // invalid_argument names the field at fault.
  Status validate() const;
  train::OuterStep outer_step(uint64_t round) const;
};

// What a ring all-reduce of f32 gradients at every one of `steps` steps makes each of `nodes` nodes send and receive,
// together: 2 x 2 (n - 1) / n x 4 bytes x parameters x steps. What a node of a run moves (bytes_in + bytes_out)
// compares with this.
uint64_t all_reduce_bytes_per_node(uint64_t parameter_count, uint32_t nodes, uint64_t steps);

}  // namespace sporkle::run
