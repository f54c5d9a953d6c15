// A model with its optimiser on one device: what training, evaluation, generation and a mesh worker share.
//
// Owns its device context. Belongs to one thread at a time.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "nn/adamw.h"
#include "nn/decoder.h"
#include "tensor/capture.h"
#include "tensor/context.h"
#include "train/checkpoint.h"
#include "train/config.h"

namespace sporkle::train {

struct DeviceChoice {
  std::string device;           // as hal::open_device takes it; "" for the default
  int threads = 0;              // 0: one for each core
  size_t memory_cap_bytes = 0;  // of tensors and what computing needs beside them; 0: no limit
  // Instead of device and threads, where it is not empty.
  std::function<Result<std::unique_ptr<tensor::Context>>()> open_context = {};
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
  double building_s = 0;     // the host's time until the device was given the step's last part
  double loss_scale = 1;     // with which the gradients were computed
};

// Where the memory of a training step goes, in bytes, as it was planned.
struct StepMemory {
  size_t parameters = 0;
  size_t optimizer = 0;  // moments
  size_t gradients = 0;
  size_t activations = 0;  // what the way back needs of the way forward: what lives when the loss is there
  size_t peak = 0;         // of everything at once
  int keep_every = 0;      // 0: no activations are computed again (tensor/passes/passes.h)
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
  //
  // With products in f16 the loss is multiplied by a scale before it is differentiated, and the gradients divided by
  // it, so that small ones do not vanish: dynamic loss scaling (Micikevicius et al., "Mixed Precision Training", 2018).
  // Where gradients overflow the scale is halved and the step taken again; after kStepsToGrow good ones it doubles.
  Result<StepResult> step(const Batch& batch, int64_t accumulation, double learning_rate, nn::DropoutKey dropout);
  // Of the last step; zeros before the first.
  const StepMemory& step_memory() const { return step_memory_; }
  // The halves of a step, for parts that are made on several devices (train/data_parallel.h). A sum of gradients stays
  // on the device, as nn::AdamW packs it; undefined, it is that of no parts. Adding all parts in order, by whichever of
  // the two ways, gives the bits that step() makes.
  // Adds the gradients of part `part` of `parts`, each divided by `parts`; returns the part's loss, of shape [], which
  // the device may still be computing.
  Result<tensor::Tensor> add_part(const Batch& batch, int64_t part, int64_t parts, nn::DropoutKey dropout,
                                  tensor::Tensor* sum);
  // Adds what another device's sum of one part has, as to_host<float>() gives it.
  Status add_gradients(std::span<const float> part, tensor::Tensor* sum);
  // loss: the mean over the parts.
  Result<StepResult> apply_gradients(const tensor::Tensor& sum, double loss, double learning_rate);
  // All parameters as nn::AdamW packs them: moved at once between models of one shape.
  Status read_packed_parameters(std::vector<float>* values);
  Status set_packed_parameters(std::span<const float> values);
  // Makes the first parameters and moments on the device now, and waits for them; else the first step does.
  Status prepare();
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
    std::map<std::string, double> values;  // TrainingState::values: where the loss scale stands, in f16
  };
  Result<Snapshot> snapshot();
  // Optimiser state and loss scale from a checkpoint of this model; corrupt_data names what is missing, has another
  // shape or is out of range.
  Status restore(const LoadedTrainingState& state);

  // Throws away the optimiser's moments.
  void reset_optimizer();

 private:
  static constexpr double kFirstScale = 65536, kLeastScale = 1, kMostScale = 0x1p24;
  static constexpr int kStepsToGrow = 200;

  LanguageModel() = default;
  bool scales_loss() const { return context_->options().product_type == ir::DType::f16; }
  // One try at a step. `overflow`: the gradients are not finite although the loss is; nothing has changed then.
  Result<StepResult> step_once(const Batch& batch, int64_t accumulation, double learning_rate, nn::DropoutKey dropout,
                               bool* overflow);
  // A step as capture_ has it.
  Result<StepResult> replay(const Batch& batch, double learning_rate, bool* overflow);
  // Reads what a step gave. `loss`: undefined where `mean_loss` is it.
  Result<StepResult> finish_step(const tensor::Tensor& norm, const tensor::Tensor& loss, double mean_loss,
                                 double building_s, bool* overflow);
  // After realize() of the loss as the second of some tensors.
  void note_memory();
  struct Part {
    tensor::Tensor inputs, targets, loss;
  };
  // Gradients of a part of a batch, not yet computed.
  Result<std::vector<tensor::Tensor>> gradients_of(const Batch& batch, int64_t part, int64_t parts,
                                                   nn::DropoutKey dropout, Part* made);
  // `gradients`: packed. `whole`: of a batch in one part, whose loss is computed together with the update; captured
  // where `capture` says so. Elsewhere the loss is `mean_loss`.
  Result<StepResult> update(const tensor::Tensor& gradients, const Part* whole, bool capture, double mean_loss,
                            double learning_rate, double start_s, bool* overflow);
  ModelShape shape_;
  nn::AdamWConfig adamw_config_;
  std::unique_ptr<tensor::Context> context_;  // outlives the tensors below
  std::unique_ptr<nn::Decoder> decoder_;
  std::optional<nn::AdamW> adamw_;
  std::optional<tensor::Capture> capture_;  // of a step with so many rows and tokens
  int64_t capture_rows_ = 0;
  size_t capture_tokens_ = 0;
  StepMemory step_memory_;
  double loss_scale_ = 1;  // 1 but in f16
  int good_steps_ = 0;     // since it changed
};

// SHA-256 of all parameters, as `sporkle checkpoint show` prints it.
Result<std::string> parameters_sha256_hex(LanguageModel& model);

}  // namespace sporkle::train
