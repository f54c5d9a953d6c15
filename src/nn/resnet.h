// A residual network for small images: ResNet-18 by default, with the stem that He et al. use for images of 32 x 32
// (one 3 x 3 convolution, no pooling). He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", 2016.
//
// A ResNet belongs to its Context's thread.
#pragma once

#include <span>
#include <vector>

#include "base/status.h"
#include "nn/gpt.h"
#include "tensor/tensor.h"

namespace sporkle::nn {

struct ResNetConfig {
  int64_t channels = 3;  // of the images
  int64_t classes = 10;
  int64_t width = 64;                       // channels of the first stage; each further stage has twice as many
  std::vector<int64_t> blocks{2, 2, 2, 2};  // of two convolutions each; every stage but the first halves the image
};

class ResNet {
 public:
  // Convolutions normal with deviation sqrt(2 / (filters * taps)), the last layer with 1 / sqrt(inputs), norms 1,
  // biases 0. Depends on the seed alone. invalid_argument when an extent is not positive.
  static Result<ResNet> create(tensor::Context& context, const ResNetConfig& config, uint64_t seed);

  const ResNetConfig& config() const { return config_; }
  // The optimiser replaces values; shapes never change. Names are torchvision's.
  std::vector<Parameter>& parameters() { return parameters_; }
  const std::vector<Parameter>& parameters() const { return parameters_; }
  int64_t parameter_count() const;
  // The norms' running means and variances, which inference uses.
  const std::vector<Parameter>& statistics() const { return statistics_; }
  std::vector<tensor::Tensor> statistics_values() const;
  // In the order of statistics(), of the same shapes.
  void set_statistics(std::span<const tensor::Tensor> values);
  // As they are at first: means 0, variances 1.
  void reset_statistics();
  // Everything lazy that realize() must be given with the loss after training_logits().
  void append_state(std::vector<tensor::Tensor>* tensors) const;

  // images: [images, channels, height, width]. Result: [images, classes]. The first normalises with the statistics of
  // these images, and replaces the running ones by lazy ones; the second with the running ones.
  tensor::Tensor training_logits(const tensor::Tensor& images);
  tensor::Tensor logits(const tensor::Tensor& images) const;

 private:
  struct Unit {         // a convolution and its norm
    size_t weight;      // parameter index; the norm's weight and bias follow it
    size_t statistics;  // index of the running mean; the variance follows it
    int64_t stride;
    int64_t padding;
  };
  struct Block {
    Unit first, second;
    std::vector<Unit> shortcut;  // none where the input already has the block's shape, else one
  };

  ResNet() = default;
  size_t add(std::string name, const tensor::Shape& shape, double deviation, double mean, bool decay, uint64_t seed);
  Unit add_unit(const std::string& convolution, const std::string& norm, int64_t channels, int64_t filters,
                int64_t kernel, int64_t stride, uint64_t seed);
  tensor::Tensor initial_statistic(int64_t filters, float value) const;
  // Collects the new statistics in *updated, or uses the running ones where it is null.
  tensor::Tensor apply(const Unit& unit, const tensor::Tensor& x, std::vector<tensor::Tensor>* updated) const;
  tensor::Tensor forward(const tensor::Tensor& images, std::vector<tensor::Tensor>* updated) const;

  ResNetConfig config_;
  tensor::Context* context_ = nullptr;
  std::vector<Parameter> parameters_, statistics_;
  Unit stem_{};
  std::vector<Block> blocks_;
  size_t classifier_ = 0;  // parameter index of the weight; the bias follows it
};

}  // namespace sporkle::nn
