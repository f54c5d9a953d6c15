#include "nn/resnet.h"

#include <algorithm>
#include <cmath>

#include "tensor/convolution.h"
#include "tensor/random.h"

namespace sporkle::nn {

using tensor::Shape;
using tensor::Tensor;

Result<ResNet> ResNet::create(tensor::Context& context, const ResNetConfig& config, uint64_t seed) {
  constexpr int64_t kMost = 65536, kMostBlocks = 1024;
  const auto sensible = [](int64_t extent) { return extent >= 1 && extent <= kMost; };
  const auto few = [](int64_t blocks) { return blocks >= 1 && blocks <= kMostBlocks; };
  bool fine = sensible(config.channels) && sensible(config.classes) && sensible(config.width);
  fine = fine && !config.blocks.empty() && config.blocks.size() <= 8 && std::ranges::all_of(config.blocks, few);
  if (!fine)
    return invalid_argument("a residual network needs channels, classes and a width from 1 to " +
                            std::to_string(kMost) + ", and 1 to 8 stages of 1 to " + std::to_string(kMostBlocks) +
                            " blocks each");
  ResNet net;
  net.config_ = config;
  net.context_ = &context;
  int64_t channels = config.width;
  net.stem_ = net.add_unit("conv1", "bn1", config.channels, channels, 3, 1, seed);
  for (size_t stage = 0; stage < config.blocks.size(); ++stage) {
    const int64_t filters = config.width << stage;
    for (int64_t i = 0; i < config.blocks[stage]; ++i) {
      const std::string name = "layer" + std::to_string(stage + 1) + "." + std::to_string(i) + ".";
      const int64_t stride = stage > 0 && i == 0 ? 2 : 1;
      Block block;
      block.first = net.add_unit(name + "conv1", name + "bn1", channels, filters, 3, stride, seed);
      block.second = net.add_unit(name + "conv2", name + "bn2", filters, filters, 3, 1, seed);
      if (stride != 1 || channels != filters)
        block.shortcut = {
            net.add_unit(name + "downsample.0", name + "downsample.1", channels, filters, 1, stride, seed)};
      net.blocks_.push_back(std::move(block));
      channels = filters;
    }
  }
  net.classifier_ =
      net.add("fc.weight", {config.classes, channels}, 1 / std::sqrt(static_cast<double>(channels)), 0, true, seed);
  net.add("fc.bias", {config.classes}, 0, 0, false, seed);
  for (const Parameter& p : net.parameters_) SPORKLE_RETURN_IF_ERROR(p.value.status().with_context(p.name));
  return net;
}

size_t ResNet::add(std::string name, const Shape& shape, double deviation, double mean, bool decay, uint64_t seed) {
  const size_t index = parameters_.size();
  // The parameter's number is its random stream, so that each has numbers of its own.
  Tensor value = deviation > 0 ? tensor::normal(*context_, shape, {seed, index, 0}) * deviation
                               : tensor::full(*context_, shape, mean);
  parameters_.push_back({std::move(name), std::move(value), decay});
  return index;
}

ResNet::Unit ResNet::add_unit(const std::string& convolution, const std::string& norm, int64_t channels,
                              int64_t filters, int64_t kernel, int64_t stride, uint64_t seed) {
  Unit unit{parameters_.size(), statistics_.size(), stride, kernel / 2};
  const double deviation = std::sqrt(2.0 / static_cast<double>(filters * kernel * kernel));
  add(convolution + ".weight", {filters, channels, kernel, kernel}, deviation, 0, true, seed);
  add(norm + ".weight", {filters}, 0, 1, false, seed);
  add(norm + ".bias", {filters}, 0, 0, false, seed);
  // Mean and variance take turns.
  statistics_.push_back({norm + ".running_mean", initial_statistic(filters, 0)});
  statistics_.push_back({norm + ".running_var", initial_statistic(filters, 1)});
  return unit;
}

// As data: equal constants would become one tensor once realised, and a captured step could not tell them apart.
Tensor ResNet::initial_statistic(int64_t filters, float value) const {
  return tensor::from_host<float>(*context_, std::vector<float>(static_cast<size_t>(filters), value), {filters});
}

int64_t ResNet::parameter_count() const {
  int64_t count = 0;
  for (const Parameter& p : parameters_) count += p.value.size();
  return count;
}

std::vector<Tensor> ResNet::statistics_values() const { return values(statistics_); }

void ResNet::set_statistics(std::span<const Tensor> values) {
  for (size_t i = 0; i < statistics_.size(); ++i) statistics_[i].value = values[i];
}

void ResNet::reset_statistics() {
  for (size_t i = 0; i < statistics_.size(); ++i)
    statistics_[i].value = initial_statistic(statistics_[i].value.size(), i % 2 == 0 ? 0 : 1);
}

void ResNet::append_state(std::vector<Tensor>* tensors) const {
  for (const Parameter& s : statistics_) tensors->push_back(s.value);
}

Tensor ResNet::apply(const Unit& unit, const Tensor& x, std::vector<Tensor>* updated) const {
  tensor::ConvolutionOptions options;
  options.stride = {unit.stride, unit.stride};
  options.padding = {unit.padding, unit.padding};
  const Tensor y = conv2d(x, parameters_[unit.weight].value, options);
  const Tensor &weight = parameters_[unit.weight + 1].value, &bias = parameters_[unit.weight + 2].value;
  const Tensor &mean = statistics_[unit.statistics].value, &variance = statistics_[unit.statistics + 1].value;
  if (!updated) return batch_norm_inference(y, weight, bias, mean, variance);
  tensor::BatchNorm norm = batch_norm(y, weight, bias, mean, variance);
  (*updated)[unit.statistics] = norm.running_mean;
  (*updated)[unit.statistics + 1] = norm.running_variance;
  return norm.y;
}

Tensor ResNet::forward(const Tensor& images, std::vector<Tensor>* updated) const {
  Tensor x = relu(apply(stem_, images, updated));
  for (const Block& block : blocks_) {
    const Tensor inner = relu(apply(block.first, x, updated));
    const Tensor shortcut = block.shortcut.empty() ? x : apply(block.shortcut[0], x, updated);
    x = relu(apply(block.second, inner, updated) + shortcut);
  }
  if (!x.ok()) return x;
  const Tensor &weight = parameters_[classifier_].value, &bias = parameters_[classifier_ + 1].value;
  return matmul(mean(x, {2, 3}), weight.transpose(0, 1)) + bias;
}

Tensor ResNet::training_logits(const Tensor& images) {
  std::vector<Tensor> updated(statistics_.size());
  const Tensor result = forward(images, &updated);
  if (result.ok())
    for (size_t i = 0; i < updated.size(); ++i) statistics_[i].value = updated[i];
  return result;
}

Tensor ResNet::logits(const Tensor& images) const { return forward(images, nullptr); }

}  // namespace sporkle::nn
