// AdamW (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019), with decay on weight matrices only, and
// clipping of the gradients' global norm. Belongs to its Context's thread.
//
// All parameters lie one after the other in one piece of memory, and so do their moments and gradients: an update is
// one kernel, in place, and the norm is one sum over all gradients, in an order that depends on the parameters' sizes
// alone.
#pragma once

#include <span>
#include <vector>

#include "base/status.h"
#include "nn/gpt.h"

namespace sporkle::nn {

struct AdamWConfig {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double weight_decay = 0.1;
  double gradient_clip = 1.0;  // of the global norm; 0: off
};

class AdamW {
 public:
  AdamW(tensor::Context& context, const AdamWConfig& config, std::span<const Parameter> parameters);

  // Moves the parameters' values into one piece of memory, of which the values become views; nothing to do when they
  // are that already. update() does it by itself; done before, it saves the memory of a second copy for a step.
  Status adopt(std::vector<Parameter>& parameters);

  // The gradients, in the order of the parameters, as one tensor.
  tensor::Tensor pack(std::span<const tensor::Tensor> gradients) const;

  // Replaces the parameters' values and the moments by lazy ones and adds one to step(). They take the memory of the
  // old ones, which are errors once realised. Gives the gradients' norm before clipping (lazy, shape []). Where it or
  // the `guard` (a loss, of shape []; optional) is not finite, values and moments keep their elements.
  tensor::Tensor update(std::vector<Parameter>& parameters, std::span<const tensor::Tensor> gradients,
                        double learning_rate, const tensor::Tensor& guard = {});
  // The same from what pack() gave, and from the rates.
  tensor::Tensor update(std::vector<Parameter>& parameters, const tensor::Tensor& packed_gradients,
                        const tensor::Tensor& rates, const tensor::Tensor& guard = {});
  // The numbers of the next step, as data: all that changes in a captured step but the state. Adds one to step().
  tensor::Tensor next_rates(double learning_rate);
  // Values and moments of all parameters, each as one tensor: what a captured step takes and gives.
  std::vector<tensor::Tensor> state() const { return {value_, first_, second_}; }
  void set_state(std::vector<Parameter>& parameters, std::span<const tensor::Tensor> state);

  // Of the parameters, which is that of the gradients and of each moment.
  size_t size_bytes() const { return static_cast<size_t>(size_) * sizeof(float); }
  int64_t step() const { return step_; }
  void set_step(int64_t step) { step_ = step; }
  // In the order of the parameters and of their shapes.
  std::vector<tensor::Tensor> first_moments() const { return views(first_); }
  std::vector<tensor::Tensor> second_moments() const { return views(second_); }
  Status set_moments(std::span<const tensor::Tensor> first, std::span<const tensor::Tensor> second);
  // Everything that realize() must be given after an update, the parameters among it.
  void append_state(std::vector<tensor::Tensor>* tensors) const;

 private:
  // The parts of a packed tensor, in the order of the parameters.
  std::vector<tensor::Tensor> views(const tensor::Tensor& packed) const;
  tensor::Tensor packed(std::span<const tensor::Tensor> parts) const;

  tensor::Context* context_;
  AdamWConfig config_;
  int64_t step_ = 0;
  std::vector<tensor::Shape> shapes_;  // in the order of the parameters
  std::vector<size_t> order_;          // of the parameters in memory: first those that decay
  std::vector<int64_t> offsets_;       // of the parameters, in elements
  int64_t decayed_ = 0, size_ = 0;     // elements that decay; all
  tensor::Tensor value_, first_, second_;
  std::vector<tensor::Tensor> given_;  // the parameters' values as views of value_
};

}  // namespace sporkle::nn
