// A model with its optimiser on one device: what training, evaluation, generation and a mesh worker share.
//
// Owns its device context. Belongs to one thread at a time.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "nn/adamw.h"
#include "nn/decoder.h"
#include "tensor/context.h"
#include "train/checkpoint.h"
#include "train/config.h"

namespace sporkle::train {

struct DeviceChoice {
  std::string device;  // as hal::open_device takes it; "" for the default
  int threads = 0;     // 0: one for each core
};

// `rows` sequences of the same length; targets are one token ahead of inputs.
struct Batch {
  std::span<const int32_t> inputs;
  std::span<const int32_t> targets;
  int64_t rows = 0;
};

struct StepResult {
  double loss = 0;           // nats a token, mean over the batch, before the step
  double gradient_norm = 0;  // before clipping
};

class LanguageModel {
 public:
  // A fresh model, initialised from the seed alone.
  static Result<std::unique_ptr<LanguageModel>> create(const ModelShape& shape, const OptimizationConfig& optimization,
                                                       const DeviceChoice& choice);
  // With a checkpoint's parameters; its optimiser starts anew unless restore() follows.
  static Result<std::unique_ptr<LanguageModel>> from_checkpoint(const Checkpoint& checkpoint,
                                                                const OptimizationConfig& optimization,
                                                                const DeviceChoice& choice);

  const ModelShape& shape() const { return shape_; }
  nn::Decoder& decoder() { return *decoder_; }
  tensor::Context& context() { return *context_; }
  size_t parameter_count() const { return static_cast<size_t>(decoder_->parameter_count()); }

  // One optimiser step. The batch is cut into `accumulation` parts of equal size whose gradients are averaged; rows
  // must be a multiple of it. unavailable when the loss is not finite: the parameters are then as before.
  Result<StepResult> step(const Batch& batch, int64_t accumulation, double learning_rate, nn::DropoutKey dropout);
  // Mean loss without dropout, nats a token.
  Result<double> loss(const Batch& batch);

  // All parameters one after the other, in the order of model_parameters(shape()).
  Status get_parameters(std::span<float> values) { return decoder_->get_parameters(values); }
  Status set_parameters(std::span<const float> values) { return decoder_->set_parameters(values); }

  // A copy of everything on the host, for a checkpoint.
  struct Snapshot {
    std::vector<OwnedTensor> parameters;
    std::vector<OwnedTensor> optimizer;  // first_moment/NAME and second_moment/NAME
    int64_t optimizer_steps = 0;
  };
  Result<Snapshot> snapshot();
  // Optimiser state from a checkpoint of this model; corrupt_data names what is missing or has another shape.
  Status restore(const LoadedTrainingState& state);

  // Throws away the optimiser's moments.
  void reset_optimizer();

 private:
  LanguageModel() = default;
  ModelShape shape_;
  nn::AdamWConfig adamw_config_;
  std::unique_ptr<tensor::Context> context_;  // outlives the tensors below
  std::unique_ptr<nn::Decoder> decoder_;
  std::optional<nn::AdamW> adamw_;
};

// SHA-256 of all parameters, as `sporkle checkpoint show` prints it.
Result<std::string> parameters_sha256_hex(LanguageModel& model);

}  // namespace sporkle::train
