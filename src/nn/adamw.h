// AdamW (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019), with decay on weight matrices only, and
// clipping of the gradients' global norm. One kernel a parameter. Belongs to its Context's thread.
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

  // Replaces the parameters' values and the moments by lazy ones and adds one to step(). `gradients` in the order of
  // the parameters. Gives the gradients' norm before clipping (lazy, shape []).
  tensor::Tensor update(std::vector<Parameter>& parameters, std::span<const tensor::Tensor> gradients,
                        double learning_rate);

  int64_t step() const { return step_; }
  void set_step(int64_t step) { step_ = step; }
  // In the order of the parameters and of their shapes.
  std::vector<tensor::Tensor>& first_moments() { return first_; }
  std::vector<tensor::Tensor>& second_moments() { return second_; }
  // Everything that realize() must be given with the parameters after an update.
  void append_state(std::vector<tensor::Tensor>* tensors) const;

 private:
  tensor::Context* context_;
  AdamWConfig config_;
  int64_t step_ = 0;
  std::vector<tensor::Tensor> first_, second_;
};

}  // namespace sporkle::nn
