#include "nn/adamw.h"

#include "dsl/kernel.h"
#include "tensor/kernel_call.h"

namespace sporkle::nn {

using dsl::Expr;
using ir::DType;
using tensor::Tensor;

namespace {

// base^n by IEEE multiplications alone: the same bits everywhere.
double power(double base, int64_t n) {
  double result = 1.0;
  for (; n > 0; n >>= 1) {
    if (n & 1) result *= base;
    base *= base;
  }
  return result;
}

struct Rates {
  double learning_rate, decay, beta1, beta2, correction1, correction2, epsilon;
};

// value, gradient, first moment, second moment, clip (one element) -> value, first moment, second moment.
tensor::KernelCall adamw_call(const tensor::Shape& shape, const Rates& r) {
  tensor::KernelCall call;
  call.key = "adamw";
  call.define = [](dsl::KernelBuilder& k) {
    const auto value = k.input(DType::f32, "value"), gradient = k.input(DType::f32, "gradient");
    const auto first = k.input(DType::f32, "first"), second = k.input(DType::f32, "second");
    const auto clip = k.input(DType::f32, "clip");
    const auto new_value = k.output(DType::f32, "new_value"), new_first = k.output(DType::f32, "new_first");
    const auto new_second = k.output(DType::f32, "new_second");
    const Expr n = k.size("n");
    const Expr rate = k.scalar(DType::f32, "rate"), keep = k.scalar(DType::f32, "keep");
    const Expr beta1 = k.scalar(DType::f32, "beta1"), other1 = k.scalar(DType::f32, "other1");
    const Expr beta2 = k.scalar(DType::f32, "beta2"), other2 = k.scalar(DType::f32, "other2");
    const Expr inverse1 = k.scalar(DType::f32, "inverse1"), inverse2 = k.scalar(DType::f32, "inverse2");
    const Expr epsilon = k.scalar(DType::f32, "epsilon");
    k.range("i", n, [&](Expr i) {
      const Expr g = gradient[i] * clip[0];
      const Expr m = fma(beta1, first[i], other1 * g);
      const Expr v = fma(beta2, second[i], other2 * g * g);
      const Expr change = (m * inverse1) / (sqrt(v * inverse2) + epsilon);
      new_first.store(i, m);
      new_second.store(i, v);
      new_value.store(i, fma(-rate, change, value[i] * keep));
    });
  };
  call.schedule = "i:thread4096 i:vec";
  call.results = {{DType::f32, shape}, {DType::f32, shape}, {DType::f32, shape}};
  const auto number = [](double x) { return tensor::scalar_bits(DType::f32, x); };
  call.scalars = {tensor::scalar_bits(tensor::element_count(shape)),
                  number(r.learning_rate),
                  number(1.0 - r.learning_rate * r.decay),
                  number(r.beta1),
                  number(1.0 - r.beta1),
                  number(r.beta2),
                  number(1.0 - r.beta2),
                  number(1.0 / r.correction1),
                  number(1.0 / r.correction2),
                  number(r.epsilon)};
  return call;
}

}  // namespace

AdamW::AdamW(tensor::Context& context, const AdamWConfig& config, std::span<const Parameter> parameters)
    : context_(&context), config_(config) {
  for (const Parameter& p : parameters) {
    first_.push_back(tensor::zeros(context, p.value.shape()));
    second_.push_back(tensor::zeros(context, p.value.shape()));
  }
}

Tensor AdamW::update(std::vector<Parameter>& parameters, std::span<const Tensor> gradients, double learning_rate) {
  Tensor square = tensor::full(*context_, {}, 0.0);
  for (const Tensor& gradient : gradients) square = square + tensor::sum(gradient * gradient);
  const Tensor norm = tensor::sqrt(square);
  Tensor clip = tensor::full(*context_, {}, 1.0);
  if (config_.gradient_clip > 0) clip = tensor::minimum(clip, config_.gradient_clip / (norm + 1e-6));
  clip = clip.contiguous();

  ++step_;
  Rates rates{learning_rate,
              0.0,
              config_.beta1,
              config_.beta2,
              1.0 - power(config_.beta1, step_),
              1.0 - power(config_.beta2, step_),
              config_.epsilon};
  for (size_t i = 0; i < parameters.size(); ++i) {
    rates.decay = parameters[i].decay ? config_.weight_decay : 0.0;
    const Tensor inputs[] = {parameters[i].value, gradients[i], first_[i], second_[i], clip};
    const std::vector<Tensor> results = tensor::call_kernel(adamw_call(parameters[i].value.shape(), rates), inputs);
    // Detached: the next step's gradients stop here.
    parameters[i].value = results[0].detach();
    first_[i] = results[1].detach();
    second_[i] = results[2].detach();
  }
  return norm;
}

void AdamW::append_state(std::vector<Tensor>* tensors) const {
  tensors->insert(tensors->end(), first_.begin(), first_.end());
  tensors->insert(tensors->end(), second_.begin(), second_.end());
}

}  // namespace sporkle::nn
