// A Llama model: pre-norm blocks of causal self-attention with rotary positions and shared key/value heads, and a
// SwiGLU MLP; RMS norms, no biases. Parameter names and layouts are Hugging Face's (linear weights are [outputs,
// inputs]). Touvron et al., "Llama 2: Open Foundation and Fine-Tuned Chat Models", 2023.
//
// A Llama belongs to its Context's thread.
#pragma once

#include "nn/decoder.h"
#include "tensor/layers.h"

namespace sporkle::nn {

struct LlamaConfig {
  int64_t layers = 4;
  int64_t heads = 4;
  int64_t kv_heads = 4;  // divides heads; so many neighbouring heads share keys and values
  int64_t width = 128;
  int64_t inner_width = 344;  // of the MLP
  int64_t context = 128;      // the most positions
  int64_t vocab_size = 256;
  double rms_norm_epsilon = 1e-5;
  double rotary_base = 10000;
  bool tied = false;     // whether the head is the embedding
  double dropout = 0.0;  // after the embedding, on attention weights, and on what each half of a block adds
};

class Llama final : public Decoder {
 public:
  // Weights normal with deviation 0.02, projections into the residual stream scaled by 1 / sqrt(2 layers), norms 1.
  // Depends on the seed alone. invalid_argument when heads do not divide width into even sizes, kv_heads does not
  // divide heads, or an extent is not positive.
  static Result<Llama> create(tensor::Context& context, const LlamaConfig& config, uint64_t seed);

  const LlamaConfig& config() const { return config_; }

 private:
  struct Block {
    size_t q, k, v, o, gate, up, down, input_norm, post_attention_norm;  // parameter indices
  };
  explicit Llama(tensor::Context& context) : Decoder(context) {}
  tensor::Tensor linear(const tensor::Tensor& x, size_t weight) const;
  tensor::Tensor attention(const tensor::Tensor& x, size_t layer, const DropoutKey* dropout, Cache* cache) const;
  tensor::Tensor hidden(const tensor::Tensor& tokens, const DropoutKey* dropout, Cache* cache) const override;
  std::vector<LinearWeight> linear_weights() const override;
  size_t head() const override { return head_; }
  tensor::AttentionCache make_cache(int64_t rows) const override;
  int64_t layer_count() const override { return config_.layers; }
  int64_t context_length() const override { return config_.context; }
  tensor::Tensor drop(const tensor::Tensor& x, const DropoutKey* dropout, uint64_t place) const;

  LlamaConfig config_;
  size_t embedding_ = 0, norm_ = 0, head_ = 0;
  std::vector<Block> blocks_;
  tensor::RotaryTables tables_;
};

}  // namespace sporkle::nn
