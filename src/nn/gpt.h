// A GPT-2 model: pre-norm blocks of causal self-attention and a GELU MLP, learned positions, embedding and output
// projection tied. Parameter names and layouts are Hugging Face's (linear weights are [inputs, outputs]).
//
// A Gpt belongs to its Context's thread.
#pragma once

#include "nn/decoder.h"

namespace sporkle::nn {

struct GptConfig {
  int64_t layers = 4;
  int64_t heads = 4;
  int64_t width = 128;
  int64_t context = 128;  // the most positions
  int64_t vocab_size = 256;
  double layer_norm_epsilon = 1e-5;
  double dropout = 0.0;  // after the embedding, on attention weights, and on what each half of a block adds
};

class Gpt final : public Decoder {
 public:
  // Initialised as GPT-2: weights normal with deviation 0.02, projections into the residual stream scaled by
  // 1 / sqrt(2 layers), biases 0, norms 1. Depends on the seed alone. invalid_argument when heads do not divide width
  // or an extent is not positive.
  static Result<Gpt> create(tensor::Context& context, const GptConfig& config, uint64_t seed);

  const GptConfig& config() const { return config_; }

 private:
  struct Block {
    size_t ln_1, c_attn, c_proj, ln_2, c_fc, mlp_proj;  // parameter index of the weight; the bias follows it
  };
  explicit Gpt(tensor::Context& context) : Decoder(context) {}
  tensor::Tensor linear(const tensor::Tensor& x, size_t weight) const;
  tensor::Tensor norm(const tensor::Tensor& x, size_t weight) const;
  tensor::Tensor attention(const tensor::Tensor& x, size_t layer, const DropoutKey* dropout, Cache* cache) const;
  tensor::Tensor hidden(const tensor::Tensor& tokens, const DropoutKey* dropout, Cache* cache) const override;
  std::vector<LinearWeight> linear_weights() const override;
  size_t head() const override { return wte_; }
  tensor::AttentionCache make_cache(int64_t rows) const override;
  int64_t layer_count() const override { return config_.layers; }
  int64_t context_length() const override { return config_.context; }
  tensor::Tensor drop(const tensor::Tensor& x, const DropoutKey* dropout, uint64_t place) const;

  GptConfig config_;
  size_t wte_ = 0, wpe_ = 0, ln_f_ = 0;
  std::vector<Block> blocks_;
};

}  // namespace sporkle::nn
