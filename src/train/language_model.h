// A GPT-2 model with its optimiser on one device: what training, evaluation, generation and a mesh worker share.
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
#include "nn/gpt.h"
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
  double loss_scale = 1;     // with which the gradients were computed
};

class LanguageModel {
 public:
  // A fresh model, initialised from the seed alone.
  static Result<std::unique_ptr<LanguageModel>> create(const Gpt2Shape& shape, const OptimizationConfig& optimization,
                                                       const DeviceChoice& choice);
  // With a checkpoint's parameters; its optimiser starts anew unless restore() follows.
  static Result<std::unique_ptr<LanguageModel>> from_checkpoint(const Checkpoint& checkpoint,
                                                                const OptimizationConfig& optimization,
                                                                const DeviceChoice& choice);

  const Gpt2Shape& shape() const { return shape_; }
  nn::Gpt& gpt() { return *gpt_; }
  tensor::Context& context() { return *context_; }
  size_t parameter_count() const { return static_cast<size_t>(gpt_->parameter_count()); }

  // One optimiser step. The batch is cut into `accumulation` parts of equal size whose gradients are averaged; rows
  // must be a multiple of it. unavailable when the loss is not finite: the parameters are then as before.
  //
  // With products in f16 the loss is multiplied by a scale before it is differentiated, and the gradients divided by
  // it, so that small ones do not vanish: dynamic loss scaling (Micikevicius et al., "Mixed Precision Training", 2018).
  // Where gradients overflow the scale is halved and the step taken again; after kStepsToGrow good ones it doubles.
  Result<StepResult> step(const Batch& batch, int64_t accumulation, double learning_rate, nn::DropoutKey dropout);
  // Mean loss without dropout, nats a token.
  Result<double> loss(const Batch& batch);

  // All parameters one after the other, in the order of gpt2_parameters(shape()).
  Status get_parameters(std::span<float> values) { return gpt_->get_parameters(values); }
  Status set_parameters(std::span<const float> values) { return gpt_->set_parameters(values); }

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
  static constexpr double kFirstScale = 65536, kLeastScale = 1, kMostScale = 0x1p24;
  static constexpr int kStepsToGrow = 200;

  LanguageModel() = default;
  Result<StepResult> step_once(const Batch& batch, int64_t accumulation, double learning_rate, nn::DropoutKey dropout,
                               bool* overflow);
  Gpt2Shape shape_;
  nn::AdamWConfig adamw_config_;
  std::unique_ptr<tensor::Context> context_;  // outlives the tensors below
  std::optional<nn::Gpt> gpt_;
  std::optional<nn::AdamW> adamw_;
  double loss_scale_ = 1;  // 1 but in f16
  int good_steps_ = 0;     // since it changed
};

// SHA-256 of all parameters, as `sporkle checkpoint show` prints it.
Result<std::string> parameters_sha256_hex(LanguageModel& model);

}  // namespace sporkle::train
