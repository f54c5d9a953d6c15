#include "nn/llama.h"

#include <cmath>

#include "tensor/attention.h"

namespace sporkle::nn {

using tensor::Shape;
using tensor::Tensor;

Result<Llama> Llama::create(tensor::Context& context, const LlamaConfig& config, uint64_t seed) {
  for (const int64_t extent : {config.layers, config.heads, config.kv_heads, config.width, config.inner_width,
                               config.context, config.vocab_size})
    if (extent <= 0) return invalid_argument("a model's layers, heads, widths, context and vocabulary must be above 0");
  if (config.width % (2 * config.heads) != 0 || config.heads % config.kv_heads != 0)
    return invalid_argument("a Llama of width " + std::to_string(config.width) + " cannot have " +
                            std::to_string(config.heads) + " heads over " + std::to_string(config.kv_heads) +
                            ": heads must divide the width into even sizes, and kv_heads the heads");
  Llama llama(context);
  llama.config_ = config;
  const int64_t d = config.width, size = d / config.heads, shared = config.kv_heads * size;
  const double deviation = 0.02, residual = 0.02 / std::sqrt(2.0 * static_cast<double>(config.layers));
  const auto weight = [&](const std::string& name, int64_t outputs, int64_t inputs, double sigma) {
    return llama.add(name + ".weight", {outputs, inputs}, sigma, 0, true, seed);
  };
  const auto norm = [&](const std::string& name) { return llama.add(name + ".weight", {d}, 0, 1, false, seed); };
  llama.embedding_ = weight("model.embed_tokens", config.vocab_size, d, deviation);
  for (int64_t l = 0; l < config.layers; ++l) {
    const std::string name = "model.layers." + std::to_string(l) + ".";
    Block block;
    block.q = weight(name + "self_attn.q_proj", d, d, deviation);
    block.k = weight(name + "self_attn.k_proj", shared, d, deviation);
    block.v = weight(name + "self_attn.v_proj", shared, d, deviation);
    block.o = weight(name + "self_attn.o_proj", d, d, residual);
    block.gate = weight(name + "mlp.gate_proj", config.inner_width, d, deviation);
    block.up = weight(name + "mlp.up_proj", config.inner_width, d, deviation);
    block.down = weight(name + "mlp.down_proj", d, config.inner_width, residual);
    block.input_norm = norm(name + "input_layernorm");
    block.post_attention_norm = norm(name + "post_attention_layernorm");
    llama.blocks_.push_back(block);
  }
  llama.norm_ = norm("model.norm");
  llama.head_ = config.tied ? llama.embedding_ : weight("lm_head", config.vocab_size, d, deviation);
  llama.tables_ = tensor::rotary_tables(context, config.context, size, config.rotary_base);
  llama.tables_ = {llama.tables_.cosines.detach(), llama.tables_.sines.detach()};
  SPORKLE_RETURN_IF_ERROR(tensor::realize({llama.tables_.cosines, llama.tables_.sines}));
  return llama;
}

std::vector<Decoder::LinearWeight> Llama::linear_weights() const {
  std::vector<LinearWeight> weights;
  for (const Block& block : blocks_)
    for (const size_t index : {block.q, block.k, block.v, block.o, block.gate, block.up, block.down})
      weights.push_back({index, true});
  return weights;
}

Tensor Llama::linear(const Tensor& x, size_t weight) const { return product(x, {weight, true}); }

Tensor Llama::drop(const Tensor& x, const DropoutKey* dropout, uint64_t place) const {
  if (!dropout || config_.dropout == 0) return x;
  return tensor::dropout(x, config_.dropout, dropout_key(*dropout, place));
}

Tensor Llama::attention(const Tensor& x, size_t layer, const DropoutKey* dropout, Cache* cache) const {
  const Block& block = blocks_[layer];
  const int64_t heads = config_.heads, kv_heads = config_.kv_heads;
  const int64_t size = config_.width / heads;
  tensor::AttentionOptions options{.scale = 1.0 / std::sqrt(static_cast<double>(size))};
  if (dropout) {
    options.dropout = config_.dropout;
    options.key = dropout_key(*dropout, 4 * layer + 1);
  }
  // One product of the three weights, whose result attention and the rotation then use in place. A few tokens of
  // generation are joined rather than the weights.
  const auto joined = [](const Tensor& q, const Tensor& k, const Tensor& v, int axis) {
    return tensor::concatenate(tensor::concatenate(q, k, axis), v, axis);
  };
  const Tensor projected =
      is_quantized() || cache
          ? joined(linear(x, block.q), linear(x, block.k), linear(x, block.v), -1)
          : tensor::matmul(x, joined(parameter(block.q), parameter(block.k), parameter(block.v), 0).transpose(0, 1));
  const auto angles = [&](const Tensor& table) { return cache ? tensor::embedding(table, cache->positions) : table; };
  const tensor::RotaryTables tables{angles(tables_.cosines), angles(tables_.sines)};
  const Tensor qkv = tensor::rotary(projected, tables, heads + kv_heads, 0);
  const Tensor mixed =
      cache ? tensor::cached_attention(qkv, heads, cache->layers[layer], cache->positions.slice(0, 0, 1), options.scale)
            : tensor::packed_attention(qkv, heads, kv_heads, options);
  return linear(mixed, block.o);
}

Tensor Llama::hidden(const Tensor& tokens, const DropoutKey* dropout, Cache* cache) const {
  if (Status s = check_length(tokens, cache, config_.context); !s.ok()) return tensor::error_tensor(&context(), s);
  const auto norm = [&](const Tensor& x, size_t weight) {
    return tensor::rms_norm(x, parameter(weight), config_.rms_norm_epsilon);
  };
  Tensor x = drop(tensor::embedding(parameter(embedding_), tokens), dropout, 0);
  for (size_t l = 0; l < blocks_.size(); ++l) {
    const Block& block = blocks_[l];
    x = x + drop(attention(norm(x, block.input_norm), l, dropout, cache), dropout, 4 * l + 2);
    const Tensor normed = norm(x, block.post_attention_norm);
    const Tensor inner = tensor::swiglu(linear(normed, block.gate), linear(normed, block.up));
    x = x + drop(linear(inner, block.down), dropout, 4 * l + 3);
  }
  return norm(x, norm_);
}

tensor::AttentionCache Llama::make_cache(int64_t rows) const {
  return tensor::attention_cache(context(), rows, config_.kv_heads, config_.context, config_.width / config_.heads);
}

}  // namespace sporkle::nn
