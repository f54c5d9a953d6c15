// What every language model of this layer is: named parameters, and the logits that it gives tokens.
//
// A Decoder belongs to its Context's thread.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "nn/quantized_linear.h"
#include "tensor/attention.h"
#include "tensor/capture.h"
#include "tensor/tensor.h"

namespace sporkle::nn {

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

class Decoder {
 public:
  virtual ~Decoder() = default;

  tensor::Context& context() const { return *context_; }
  // In Hugging Face's order. The optimiser replaces values; shapes never change.
  std::vector<Parameter>& parameters() { return parameters_; }
  const std::vector<Parameter>& parameters() const { return parameters_; }
  int64_t parameter_count() const;
  // The same numbers one after the other. set: invalid_argument when the size differs.
  Status get_parameters(std::span<float> values) const;
  Status set_parameters(std::span<const float> values);

  // tokens: i32 [rows, length], length <= the model's context, every ID below its vocabulary (the caller has checked).
  // Result: [rows, length, vocabulary]. dropout == nullptr: none (evaluation).
  tensor::Tensor logits(const tensor::Tensor& tokens, const DropoutKey* dropout = nullptr) const;
  // Mean cross-entropy in nats a token; targets as tokens. Shape [].
  tensor::Tensor loss(const tensor::Tensor& tokens, const tensor::Tensor& targets,
                      const DropoutKey* dropout = nullptr) const;

  // From now on linear layers and the logits compute with weights of 8 bits (nn/quantized_linear.h): for inference
  // alone. The parameters stay as they are.
  Status quantize_int8();

  // Lays out the weights of linear layers with many more inputs than outputs by outputs: a single token's products then
  // read them in long runs. For generation alone: an optimiser would lay them out anew. Values and bits stay.
  Status lay_out_for_generation();

  // Keys and values of the positions so far, for generation. It belongs to one model with the parameters that it had at
  // the first call; `length` may be set back.
  struct Cache {
    int64_t length = 0;
    std::vector<tensor::AttentionCache> layers;  // made by the first call, for its rows and the whole context
    tensor::Tensor positions;                    // i32 [n]: of the tokens that a call appends
    std::shared_ptr<tensor::Capture> step;       // of one more token, from the first such call on
  };
  // Logits of the last position after appending tokens [rows, n] to what the cache holds: [rows, vocabulary]. The
  // cache's length grows by n and must stay <= the context. The same bits as the last row of logits() over the whole
  // sequence. Runs at once; after an error the cache is of no use.
  tensor::Tensor extend(const tensor::Tensor& tokens, Cache& cache) const;

 protected:
  explicit Decoder(tensor::Context& context) : context_(&context) {}
  Decoder(Decoder&&) = default;
  Decoder& operator=(Decoder&&) = default;

  // Adds a parameter, normal with this deviation or, where that is 0, `mean` everywhere. Its index.
  size_t add(std::string name, const tensor::Shape& shape, double deviation, double mean, bool decay, uint64_t seed);
  const tensor::Tensor& parameter(size_t index) const { return parameters_[index].value; }
  // An error where tokens [rows, length] after what the cache holds do not fit `context` positions.
  Status check_length(const tensor::Tensor& tokens, const Cache* cache, int64_t context) const;
  // What the head is applied to, [rows, length, width]: of tokens that follow what the cache holds, if there is one;
  // they have the cache's `positions`.
  virtual tensor::Tensor hidden(const tensor::Tensor& tokens, const DropoutKey* dropout, Cache* cache) const = 0;
  // The weight of a linear layer: [inputs, outputs], or with `transposed` [outputs, inputs].
  struct LinearWeight {
    size_t parameter;
    bool transposed;
  };
  // x times the weight, in 8 bits where it was quantised.
  tensor::Tensor product(const tensor::Tensor& x, const LinearWeight& weight) const;
  bool is_quantized() const { return !quantized_.empty(); }
  // Of every linear layer but the head.
  virtual std::vector<LinearWeight> linear_weights() const = 0;
  // The parameter [vocabulary, width] that gives the logits.
  virtual size_t head() const = 0;
  // An empty cache of one layer.
  virtual tensor::AttentionCache make_cache(int64_t rows) const = 0;
  virtual int64_t layer_count() const = 0;
  // Positions of the longest sequence.
  virtual int64_t context_length() const = 0;
  // For one of the places in a model that drop, numbered from 0.
  static tensor::RandomKey dropout_key(const DropoutKey& key, uint64_t place);

 private:
  tensor::Context* context_;
  std::vector<Parameter> parameters_;
  std::map<size_t, QuantizedWeight> quantized_;  // by the parameter's index
};

}  // namespace sporkle::nn
