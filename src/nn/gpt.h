// A GPT-2 model: pre-norm blocks of causal self-attention and a GELU MLP, learned positions, embedding and output
// projection tied. Parameter names and layouts are Hugging Face's (linear weights are [inputs, outputs]).
//
// A Gpt belongs to its Context's thread.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "nn/quantized_linear.h"
#include "tensor/tensor.h"

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

struct Parameter {
  std::string name;  // "h.0.attn.c_attn.weight"
  tensor::Tensor value;
  bool decay = false;  // whether weight decay applies: weight matrices, not biases and norms
};

// The parameters' values, in order: what grad() differentiates with respect to.
std::vector<tensor::Tensor> values(std::span<const Parameter> parameters);

// Where a training step's dropout masks come from. Equal keys give equal masks.
struct DropoutKey {
  uint64_t seed = 0;
  uint64_t step = 0;
};

class Gpt {
 public:
  // Initialised as GPT-2: weights normal with deviation 0.02, projections into the residual stream scaled by
  // 1 / sqrt(2 layers), biases 0, norms 1. Depends on the seed alone. invalid_argument when heads do not divide width
  // or an extent is not positive.
  static Result<Gpt> create(tensor::Context& context, const GptConfig& config, uint64_t seed);

  const GptConfig& config() const { return config_; }
  tensor::Context& context() const { return *context_; }
  // In Hugging Face's order: wte, wpe, h.0 ..., ln_f. The optimiser replaces values; shapes never change.
  std::vector<Parameter>& parameters() { return parameters_; }
  const std::vector<Parameter>& parameters() const { return parameters_; }
  int64_t parameter_count() const;
  // The same numbers one after the other. set: invalid_argument when the size differs.
  Status get_parameters(std::span<float> values) const;
  Status set_parameters(std::span<const float> values);

  // tokens: i32 [rows, length], length <= context, every ID below vocab_size (the caller has checked).
  // Result: [rows, length, vocab_size]. dropout == nullptr: none (evaluation).
  tensor::Tensor logits(const tensor::Tensor& tokens, const DropoutKey* dropout = nullptr) const;
  // Mean cross-entropy in nats a token; targets as tokens. Shape [].
  tensor::Tensor loss(const tensor::Tensor& tokens, const tensor::Tensor& targets,
                      const DropoutKey* dropout = nullptr) const;

  // From now on linear layers and the logits compute with weights of 8 bits (nn/quantized_linear.h): for inference
  // alone. The parameters stay as they are.
  Status quantize_int8();

  // Keys and values of the positions so far, for generation.
  struct Cache {
    int64_t length = 0;
    std::vector<tensor::Tensor> keys, values;  // one a layer: [rows, heads, length, width / heads]
  };
  // Logits of the last position after appending tokens [rows, n] to what the cache holds: [rows, vocab_size]. The
  // cache's length grows by n and must stay <= context. Equal to the last row of logits() over the whole sequence. Runs
  // at once.
  tensor::Tensor extend(const tensor::Tensor& tokens, Cache& cache) const;

 private:
  struct Block {
    size_t ln_1, c_attn, c_proj, ln_2, c_fc, mlp_proj;  // parameter index of the weight; the bias follows it
  };
  Gpt() = default;
  size_t add(std::string name, const tensor::Shape& shape, double deviation, double mean, bool decay, uint64_t seed);
  const tensor::Tensor& parameter(size_t index) const { return parameters_[index].value; }
  tensor::Tensor linear(const tensor::Tensor& x, size_t weight) const;
  tensor::Tensor to_vocabulary(const tensor::Tensor& x) const;
  tensor::Tensor norm(const tensor::Tensor& x, size_t weight) const;
  tensor::Tensor attention(const tensor::Tensor& x, size_t layer, const DropoutKey* dropout, Cache* cache) const;
  tensor::Tensor hidden(const tensor::Tensor& tokens, const DropoutKey* dropout, Cache* cache) const;
  tensor::Tensor drop(const tensor::Tensor& x, const DropoutKey* dropout, uint64_t place) const;

  GptConfig config_;
  tensor::Context* context_ = nullptr;
  std::vector<Parameter> parameters_;
  size_t wte_ = 0, wpe_ = 0, ln_f_ = 0;
  std::vector<Block> blocks_;
  std::map<size_t, QuantizedWeight> quantized_;  // by the parameter's index
};

}  // namespace sporkle::nn
