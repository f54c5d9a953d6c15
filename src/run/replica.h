// How the run layer sees a model: Replica on a worker, ModelHost beside the coordinator. Whoever has a model implements
// them; this layer moves flat f32 parameters and token bytes and never learns what a tensor is.
//
// A Replica and a ModelHost are used by one thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/status.h"
#include "run/config.h"

namespace sporkle::run {

// One worker's share of a round.
struct InnerWork {
  uint64_t round = 0;
  // Token IDs, little-endian, token_bytes each. A shard of n + 1 tokens holds n predictions. Valid during the call.
  std::vector<std::span<const std::byte>> shards;
  uint32_t token_bytes = 2;
  uint32_t steps = 0;
  // Inner step k (from 0) has the learning rate of step schedule_step + k * schedule_stride out of
  // schedule_total_steps: a slow worker makes fewer and longer strides through the schedule than a fast one.
  double schedule_step = 0;
  double schedule_stride = 1;
  uint64_t schedule_total_steps = 0;
  uint64_t seed = 0;  // for everything random; depends on the work alone
};

struct InnerProgress {
  uint32_t step = 0;  // steps done so far
  double loss = 0;    // of the last one
};
// Called after every step. False: stop now and report what was done.
using StepCallback = std::function<bool(const InnerProgress&)>;

struct InnerReport {
  uint64_t tokens = 0;
  uint32_t steps = 0;  // fewer than asked for only when the callback said stop
  double mean_loss = 0;
  double seconds = 0;
};

class Replica {
 public:
  virtual ~Replica() = default;
  virtual size_t parameter_count() const = 0;
  virtual Status set_parameters(std::span<const float> parameters) = 0;
  virtual Status get_parameters(std::span<float> parameters) = 0;
  // Runs inner steps from the present parameters. The inner optimizer's state stays here from call to call.
  virtual Result<InnerReport> train(const InnerWork& work, const StepCallback& callback) = 0;
  // A short calibration that leaves no trace, tenths of a second at most; 0 when unknown (the first report then tells).
  virtual Result<double> measure_tokens_per_second() = 0;
};

using ReplicaFactory = std::function<Result<std::unique_ptr<Replica>>(const RunManifest&)>;

struct CheckpointInfo {
  uint64_t round = 0;  // rounds behind these parameters
  double step = 0;     // schedule steps behind them
  uint64_t tokens = 0;
  bool final = false;
};

class ModelHost {
 public:
  virtual ~ModelHost() = default;
  // Asked for once, when the run is new. Size: the manifest's parameter_count.
  virtual Result<std::vector<float>> initial_parameters() = 0;
  // Validation loss, nats a token. May take its time: runs on a thread of its own.
  virtual Result<double> evaluate(std::span<const float> parameters) = 0;
  // Returns where the checkpoint lies.
  virtual Result<std::string> save_checkpoint(std::span<const float> parameters, const CheckpointInfo& info) = 0;
};

}  // namespace sporkle::run
