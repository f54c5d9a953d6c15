// A residual network with its optimiser on one device: images in, classes out.
//
// Owns its device context. Belongs to one thread at a time.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/status.h"
#include "nn/adamw.h"
#include "nn/resnet.h"
#include "tensor/capture.h"
#include "tensor/context.h"
#include "train/config.h"
#include "train/language_model.h"

namespace sporkle::train {

// `count` images of `height` x `width` pixels, [count, channels, height, width], and the class of each.
struct ImageBatch {
  std::span<const float> images;
  std::span<const int32_t> classes;
  int64_t count = 0, height = 0, width = 0;
};

class ImageClassifier {
 public:
  // A fresh network, initialised from the seed alone.
  static Result<std::unique_ptr<ImageClassifier>> create(const nn::ResNetConfig& config,
                                                         const OptimizationConfig& optimization,
                                                         const DeviceChoice& choice);

  nn::ResNet& net() { return *net_; }
  const nn::AdamW& optimizer() const { return *adamw_; }
  tensor::Context& context() { return *context_; }

  // Begins anew with other values of the parameters, in their order: moments, steps and running statistics too.
  // invalid_argument names a shape that does not fit.
  Status restart(std::span<const tensor::Tensor> values);

  // One optimiser step on the mean cross-entropy; the norms' running statistics move too. Steps on batches of one shape
  // are captured and replayed. unavailable when the loss or its gradient is not finite: parameters, moments and
  // running statistics are then as before.
  Result<StepResult> step(const ImageBatch& batch, double learning_rate);
  // [count, classes], with the running statistics; classes are not looked at.
  Result<std::vector<float>> scores(const ImageBatch& batch);

  // One file of everything that training needs to go on to the same bits: parameters and running statistics under
  // torchvision's names, the optimiser's moments as first_moment/NAME and second_moment/NAME, and the steps done.
  // Atomic: a crash leaves the file before.
  Status save(const std::filesystem::path& path) const;
  // Of a network of the same shape; corrupt_data or invalid_argument name what does not fit, and nothing has changed.
  Status load(const std::filesystem::path& path);

 private:
  ImageClassifier() = default;
  Status check(const ImageBatch& batch, bool with_classes) const;

  std::unique_ptr<tensor::Context> context_;
  std::optional<nn::ResNet> net_;
  nn::AdamWConfig adamw_config_;
  std::optional<nn::AdamW> adamw_;
  std::optional<tensor::Capture> capture_;
  std::vector<int64_t> captured_;  // count, height and width of its batches
};

}  // namespace sporkle::train
