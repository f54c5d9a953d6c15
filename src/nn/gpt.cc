#include "nn/gpt.h"

#include <cmath>

#include "tensor/attention.h"
#include "tensor/layers.h"
#include "tensor/random.h"

namespace sporkle::nn {

using tensor::Shape;
using tensor::Tensor;

Result<Gpt> Gpt::create(tensor::Context& context, const GptConfig& config, uint64_t seed) {
  for (const int64_t extent : {config.layers, config.heads, config.width, config.context, config.vocab_size})
    if (extent <= 0) return invalid_argument("a model's layers, heads, width, context and vocabulary must be above 0");
  if (config.width % config.heads != 0)
    return invalid_argument("a model of width " + std::to_string(config.width) + " cannot have " +
                            std::to_string(config.heads) + " heads: they must divide the width");
  Gpt gpt(context);
  gpt.config_ = config;
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

std::vector<Decoder::LinearWeight> Gpt::linear_weights() const {
  std::vector<LinearWeight> weights;
  for (const Block& block : blocks_)
    for (const size_t index : {block.c_attn, block.c_proj, block.c_fc, block.mlp_proj})
      weights.push_back({index, false});
  return weights;
}

Tensor Gpt::linear(const Tensor& x, size_t weight) const { return product(x, {weight, false}) + parameter(weight + 1); }

Tensor Gpt::norm(const Tensor& x, size_t weight) const {
  return tensor::layer_norm(x, parameter(weight), parameter(weight + 1), config_.layer_norm_epsilon);
}

Tensor Gpt::drop(const Tensor& x, const DropoutKey* dropout, uint64_t place) const {
  if (!dropout || config_.dropout == 0) return x;
  return tensor::dropout(x, config_.dropout, dropout_key(*dropout, place));
}

Tensor Gpt::attention(const Tensor& x, size_t layer, const DropoutKey* dropout, Cache* cache) const {
  const int64_t size = config_.width / config_.heads;
  tensor::AttentionOptions options{.scale = 1.0 / std::sqrt(static_cast<double>(size))};
  if (dropout) {
    options.dropout = config_.dropout;
    options.key = dropout_key(*dropout, 4 * layer + 1);
  }
  const Tensor qkv = linear(x, blocks_[layer].c_attn);
  const Tensor mixed = cache ? tensor::cached_attention(qkv, config_.heads, cache->layers[layer],
                                                        cache->positions.slice(0, 0, 1), options.scale)
                             : tensor::packed_attention(qkv, config_.heads, config_.heads, options);
  return linear(mixed, blocks_[layer].c_proj);
}

Tensor Gpt::hidden(const Tensor& tokens, const DropoutKey* dropout, Cache* cache) const {
  if (Status s = check_length(tokens, cache, config_.context); !s.ok()) return tensor::error_tensor(&context(), s);
  const Tensor& table = parameter(wpe_);
  const Tensor places = cache ? tensor::embedding(table, cache->positions) : table.slice(0, 0, tokens.extent(1));
  Tensor x = tensor::embedding(parameter(wte_), tokens) + places;
  x = drop(x, dropout, 0);
  for (size_t l = 0; l < blocks_.size(); ++l) {
    const Block& block = blocks_[l];
    x = x + drop(attention(norm(x, block.ln_1), l, dropout, cache), dropout, 4 * l + 2);
    const Tensor inner = tensor::gelu(linear(norm(x, block.ln_2), block.c_fc));
    x = x + drop(linear(inner, block.mlp_proj), dropout, 4 * l + 3);
  }
  return norm(x, ln_f_);
}

tensor::AttentionCache Gpt::make_cache(int64_t rows) const {
  return tensor::attention_cache(context(), rows, config_.heads, config_.context, config_.width / config_.heads);
}

}  // namespace sporkle::nn
