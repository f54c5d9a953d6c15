#include "nn/gpt.h"

#include <algorithm>
#include <cmath>

#include "tensor/layers.h"
#include "tensor/random.h"

namespace sporkle::nn {

using tensor::Shape;
using tensor::Tensor;

std::vector<Tensor> values(std::span<const Parameter> parameters) {
  std::vector<Tensor> result;
  for (const Parameter& p : parameters) result.push_back(p.value);
  return result;
}

Result<Gpt> Gpt::create(tensor::Context& context, const GptConfig& config, uint64_t seed) {
  for (const int64_t extent : {config.layers, config.heads, config.width, config.context, config.vocab_size})
    if (extent <= 0) return invalid_argument("a model's layers, heads, width, context and vocabulary must be above 0");
  if (config.width % config.heads != 0)
    return invalid_argument("a model of width " + std::to_string(config.width) + " cannot have " +
                            std::to_string(config.heads) + " heads: they must divide the width");
  Gpt gpt;
  gpt.config_ = config;
  gpt.context_ = &context;
  const int64_t d = config.width;
  const double deviation = 0.02, residual = 0.02 / std::sqrt(2.0 * static_cast<double>(config.layers));
  const auto weight = [&](const std::string& name, Shape shape, double sigma) {
    return gpt.add(name + ".weight", shape, sigma, 0, true, seed);
  };
  const auto linear = [&](const std::string& name, int64_t inputs, int64_t outputs, double sigma) {
    const size_t index = weight(name, {inputs, outputs}, sigma);
    gpt.add(name + ".bias", {outputs}, 0, 0, false, seed);
    return index;
  };
  const auto norm = [&](const std::string& name) {
    const size_t index = gpt.add(name + ".weight", {d}, 0, 1, false, seed);
    gpt.add(name + ".bias", {d}, 0, 0, false, seed);
    return index;
  };
  gpt.wte_ = weight("wte", {config.vocab_size, d}, deviation);
  gpt.wpe_ = weight("wpe", {config.context, d}, deviation);
  for (int64_t l = 0; l < config.layers; ++l) {
    const std::string h = "h." + std::to_string(l) + ".";
    Block block;
    block.ln_1 = norm(h + "ln_1");
    block.c_attn = linear(h + "attn.c_attn", d, 3 * d, deviation);
    block.c_proj = linear(h + "attn.c_proj", d, d, residual);
    block.ln_2 = norm(h + "ln_2");
    block.c_fc = linear(h + "mlp.c_fc", d, 4 * d, deviation);
    block.mlp_proj = linear(h + "mlp.c_proj", 4 * d, d, residual);
    gpt.blocks_.push_back(block);
  }
  gpt.ln_f_ = norm("ln_f");
  return gpt;
}

size_t Gpt::add(std::string name, const Shape& shape, double deviation, double mean, bool decay, uint64_t seed) {
  const size_t index = parameters_.size();
  // The parameter's number is its random stream, so that each has numbers of its own.
  Tensor value = deviation > 0 ? tensor::normal(*context_, shape, {seed, index, 0}) * deviation
                               : tensor::full(*context_, shape, mean);
  parameters_.push_back({std::move(name), std::move(value), decay});
  return index;
}

int64_t Gpt::parameter_count() const {
  int64_t count = 0;
  for (const Parameter& p : parameters_) count += p.value.size();
  return count;
}

Status Gpt::get_parameters(std::span<float> values) const {
  if (static_cast<int64_t>(values.size()) != parameter_count())
    return invalid_argument("the model has " + std::to_string(parameter_count()) + " parameters, not " +
                            std::to_string(values.size()));
  const std::vector<Tensor> all = nn::values(parameters_);
  SPORKLE_RETURN_IF_ERROR(tensor::realize(all));
  for (const Tensor& tensor : all) {
    SPORKLE_ASSIGN_OR_RETURN(const std::vector<float> host, tensor.to_host<float>());
    std::ranges::copy(host, values.begin());
    values = values.subspan(host.size());
  }
  return {};
}

Status Gpt::set_parameters(std::span<const float> values) {
  if (static_cast<int64_t>(values.size()) != parameter_count())
    return invalid_argument("the model has " + std::to_string(parameter_count()) + " parameters, not " +
                            std::to_string(values.size()));
  for (Parameter& p : parameters_) {
    const auto size = static_cast<size_t>(p.value.size());
    p.value = tensor::from_host<float>(*context_, values.first(size), p.value.shape());
    SPORKLE_RETURN_IF_ERROR(p.value.status());
    values = values.subspan(size);
  }
  return {};
}

Status Gpt::quantize_int8() {
  const auto quantize = [&](size_t index, bool transposed) -> Status {
    Result<QuantizedWeight> weight = quantize_weight(parameter(index), transposed);
    if (!weight.ok()) return weight.status().with_context(parameters_[index].name);
    quantized_[index] = std::move(*weight);
    return {};
  };
  for (const Block& block : blocks_)
    for (const size_t index : {block.c_attn, block.c_proj, block.c_fc, block.mlp_proj})
      SPORKLE_RETURN_IF_ERROR(quantize(index, false));
  return quantize(wte_, true);
}

Tensor Gpt::to_vocabulary(const Tensor& x) const {
  if (const auto found = quantized_.find(wte_); found != quantized_.end()) return quantized_linear(x, found->second);
  return tensor::matmul(x, parameter(wte_).transpose(0, 1));
}

Tensor Gpt::linear(const Tensor& x, size_t weight) const {
  if (const auto found = quantized_.find(weight); found != quantized_.end())
    return quantized_linear(x, found->second) + parameter(weight + 1);
  return tensor::matmul(x, parameter(weight)) + parameter(weight + 1);
}

Tensor Gpt::norm(const Tensor& x, size_t weight) const {
  return tensor::layer_norm(x, parameter(weight), parameter(weight + 1), config_.layer_norm_epsilon);
}

Tensor Gpt::drop(const Tensor& x, const DropoutKey* dropout, uint64_t place) const {
  if (!dropout || config_.dropout == 0) return x;
  // Streams above the parameters' own: one for every place in the model that drops.
  return tensor::dropout(x, config_.dropout, {dropout->seed, (uint64_t{1} << 32) + place, dropout->step});
}

Tensor Gpt::attention(const Tensor& x, size_t layer, const DropoutKey* dropout, Cache* cache) const {
  const int64_t rows = x.extent(0), length = x.extent(1), heads = config_.heads, size = config_.width / heads;
  const tensor::Heads parts = tensor::split_heads(linear(x, blocks_[layer].c_attn), heads);
  const Tensor& q = parts.queries;
  Tensor k = parts.keys, v = parts.values;  // [rows, heads, length, size]
  if (cache) {
    if (cache->length > 0) {
      k = tensor::concatenate(cache->keys[layer], k, 2);
      v = tensor::concatenate(cache->values[layer], v, 2);
    }
    // Detached: a cache keeps values, not the history of how they came about.
    cache->keys[layer] = k = k.detach();
    cache->values[layer] = v = v.detach();
  }
  const double scale = 1.0 / std::sqrt(static_cast<double>(size));
  const Tensor weights = tensor::causal_softmax(tensor::matmul(q, k.transpose(-1, -2)), scale);
  const Tensor mixed = tensor::matmul(drop(weights, dropout, 4 * layer + 1), v);
  return linear(mixed.permute({0, 2, 1, 3}).reshape({rows, length, config_.width}), blocks_[layer].c_proj);
}

Tensor Gpt::hidden(const Tensor& tokens, const DropoutKey* dropout, Cache* cache) const {
  const int64_t length = tokens.extent(1), start = cache ? cache->length : 0;
  if (tokens.rank() != 2 || start + length > config_.context)
    return tensor::error_tensor(
        context_,
        invalid_argument("tokens of shape " + tensor::to_string(tokens.shape()) + " after position " +
                         std::to_string(start) + " do not fit a context of " + std::to_string(config_.context)));
  Tensor x = tensor::embedding(parameter(wte_), tokens) + parameter(wpe_).slice(0, start, length);
  x = drop(x, dropout, 0);
  for (size_t l = 0; l < blocks_.size(); ++l) {
    const Block& block = blocks_[l];
    x = x + drop(attention(norm(x, block.ln_1), l, dropout, cache), dropout, 4 * l + 2);
    const Tensor inner = tensor::gelu(linear(norm(x, block.ln_2), block.c_fc));
    x = x + drop(linear(inner, block.mlp_proj), dropout, 4 * l + 3);
  }
  if (cache) cache->length += length;
  return norm(x, ln_f_);
}

Tensor Gpt::logits(const Tensor& tokens, const DropoutKey* dropout) const {
  return to_vocabulary(hidden(tokens, dropout, nullptr));
}

Tensor Gpt::loss(const Tensor& tokens, const Tensor& targets, const DropoutKey* dropout) const {
  const Tensor all = logits(tokens, dropout);
  return tensor::cross_entropy(all.reshape({-1, config_.vocab_size}), targets.reshape({-1}));
}

Tensor Gpt::extend(const Tensor& tokens, Cache& cache) const {
  cache.keys.resize(blocks_.size());
  cache.values.resize(blocks_.size());
  const Tensor last = hidden(tokens, nullptr, &cache).slice(1, tokens.extent(1) - 1, 1);
  const Tensor logits = to_vocabulary(last.reshape({tokens.extent(0), config_.width}));
  // The cache's new values in the same submission, so that no later step computes them again.
  std::vector<Tensor> all{logits};
  all.insert(all.end(), cache.keys.begin(), cache.keys.end());
  all.insert(all.end(), cache.values.begin(), cache.values.end());
  const Status status = tensor::realize(all);
  return status.ok() ? logits : tensor::error_tensor(context_, status);
}

}  // namespace sporkle::nn
