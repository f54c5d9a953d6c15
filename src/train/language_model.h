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
  Result<StepResult> step(const Batch& batch, int64_t accumulation, double learning_rate, nn::DropoutKey dropout);
  // The two halves of a step, for parts that are made on several devices (train/data_parallel.h). The gradients of part
  // `part` of `parts`, each divided by `parts`, one parameter after the other as get_parameters has them; adding those
  // of all parts in order gives the bits that step() makes. Returns the part's loss.
  Result<double> part_gradients(const Batch& batch, int64_t part, int64_t parts, nn::DropoutKey dropout,
                                std::span<float> gradients);
  Result<StepResult> apply_gradients(std::span<const float> gradients, double loss, double learning_rate);
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
  LanguageModel() = default;
  // Gradients of the part and its loss, not yet computed.
  Result<std::vector<tensor::Tensor>> gradients_of(const Batch& batch, int64_t part, int64_t parts,
                                                   nn::DropoutKey dropout, tensor::Tensor* loss);
  // `loss`: computed together with the update where it is a tensor, else `known_loss`.
  Result<StepResult> update(const std::vector<tensor::Tensor>& gradients, const tensor::Tensor* loss, double known_loss,
                            double learning_rate);
  Gpt2Shape shape_;
  nn::AdamWConfig adamw_config_;
  std::unique_ptr<tensor::Context> context_;  // outlives the tensors below
  std::optional<nn::Gpt> gpt_;
  std::optional<nn::AdamW> adamw_;
};

// SHA-256 of all parameters, as `sporkle checkpoint show` prints it.
Result<std::string> parameters_sha256_hex(LanguageModel& model);

}  // namespace sporkle::train
