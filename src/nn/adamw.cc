#include "nn/adamw.h"

#include <algorithm>
#include <array>

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

// Places in the rates.
enum Rate : int { kRate, kKeep, kBeta1, kOther1, kBeta2, kOther2, kInverse1, kInverse2, kEpsilon, kRateCount };

// Gradient, clip and guard (one element each), rates, and what the results take: value, first and second moment.
// Elements below `decayed` decay. Each is stored when nothing reads its old value any more.
tensor::KernelCall adamw_call(const tensor::Shape& shape, int64_t decayed) {
  tensor::KernelCall call;
  call.key = "adamw";
  call.define = [](dsl::KernelBuilder& k) {
    const auto gradient = k.input(DType::f32, "gradient"), clip = k.input(DType::f32, "clip");
    const auto guard = k.input(DType::f32, "guard"), rates = k.input(DType::f32, "rates");
    const auto value = k.in_out(DType::f32, "value"), first = k.in_out(DType::f32, "first");
    const auto second = k.in_out(DType::f32, "second");
    const Expr n = k.size("n"), decayed_count = k.size("decayed");
    const auto rate = [&](Rate which) { return rates[Expr(which)]; };
    // 0 when everything is finite, else NaN.
    const Expr goes = guard[0] == dsl::constant(DType::f32, 0);
    k.range("i", n, [&](Expr i) {
      const Expr g = gradient[i] * clip[0];
      const Expr m = fma(rate(kBeta1), first[i], rate(kOther1) * g);
      const Expr v = fma(rate(kBeta2), second[i], rate(kOther2) * g * g);
      const Expr change = (m * rate(kInverse1)) / (sqrt(v * rate(kInverse2)) + rate(kEpsilon));
      const Expr kept = value[i] * select(i < decayed_count, rate(kKeep), dsl::constant(DType::f32, 1));
      value.store(i, select(goes, fma(-rate(kRate), change, kept), value[i]));
      second.store(i, select(goes, v, second[i]));
      first.store(i, select(goes, m, first[i]));
    });
  };
  call.schedule = "i:thread4096 i:vec";
  call.results = {{DType::f32, shape}, {DType::f32, shape}, {DType::f32, shape}};
  call.takes = {4, 5, 6};
  call.scalars = {tensor::scalar_bits(tensor::element_count(shape)), tensor::scalar_bits(decayed)};
  return call;
}

}  // namespace

AdamW::AdamW(tensor::Context& context, const AdamWConfig& config, std::span<const Parameter> parameters)
    : context_(&context), config_(config), offsets_(parameters.size()) {
  for (const Parameter& p : parameters) shapes_.push_back(p.value.shape());
  for (const bool decays : {true, false})
    for (size_t i = 0; i < parameters.size(); ++i)
      if (parameters[i].decay == decays) order_.push_back(i);
  std::vector<tensor::Shape> in_memory;
  for (const size_t i : order_) in_memory.push_back(shapes_[i]);
  const std::vector<int64_t> offsets = tensor::pack_offsets(in_memory);
  size_ = offsets.back();
  decayed_ = size_;
  for (size_t i = 0; i < order_.size(); ++i) {
    offsets_[order_[i]] = offsets[i];
    if (!parameters[order_[i]].decay) decayed_ = std::min(decayed_, offsets[i]);
  }
  first_ = tensor::zeros(context, {size_}).contiguous().detach();
  second_ = tensor::zeros(context, {size_}).contiguous().detach();
}

Tensor AdamW::packed(std::span<const Tensor> parts) const {
  std::vector<Tensor> in_memory;
  for (const size_t i : order_) in_memory.push_back(parts[i]);
  return tensor::pack(in_memory);
}

Tensor AdamW::pack(std::span<const Tensor> gradients) const { return packed(gradients); }

std::vector<Tensor> AdamW::views(const Tensor& packed) const {
  std::vector<Tensor> result;
  for (size_t i = 0; i < shapes_.size(); ++i)
    result.push_back(packed.slice(0, offsets_[i], tensor::element_count(shapes_[i])).reshape(shapes_[i]));
  return result;
}

Status AdamW::adopt(std::vector<Parameter>& parameters) {
  bool adopted = given_.size() == parameters.size();
  for (size_t i = 0; adopted && i < given_.size(); ++i) adopted = parameters[i].value.node() == given_[i].node();
  if (adopted) return {};
  const Tensor value = packed(values(parameters)).detach();
  SPORKLE_RETURN_IF_ERROR(tensor::realize({value, first_}));
  SPORKLE_RETURN_IF_ERROR(tensor::realize({second_}));  // apart, as equal moments would be one
  value_ = value;
  given_ = views(value_);
  for (size_t i = 0; i < given_.size(); ++i) parameters[i].value = given_[i];
  return {};
}

Tensor AdamW::update(std::vector<Parameter>& parameters, std::span<const Tensor> gradients, double learning_rate,
                     const Tensor& guard) {
  return update(parameters, pack(gradients), next_rates(learning_rate), guard);
}

Tensor AdamW::next_rates(double learning_rate) {
  ++step_;
  std::array<float, kRateCount> rates{};
  const auto set = [&](Rate which, double value) { rates[which] = static_cast<float>(value); };
  set(kRate, learning_rate);
  set(kKeep, 1.0 - learning_rate * config_.weight_decay);
  set(kBeta1, config_.beta1);
  set(kOther1, 1.0 - config_.beta1);
  set(kBeta2, config_.beta2);
  set(kOther2, 1.0 - config_.beta2);
  set(kInverse1, 1.0 / (1.0 - power(config_.beta1, step_)));
  set(kInverse2, 1.0 / (1.0 - power(config_.beta2, step_)));
  set(kEpsilon, config_.epsilon);
  return tensor::from_host<float>(*context_, rates, {kRateCount});
}

Tensor AdamW::update(std::vector<Parameter>& parameters, const Tensor& packed_gradients, const Tensor& rates,
                     const Tensor& guard) {
  if (Status status = adopt(parameters); !status.ok()) return tensor::error_tensor(context_, status);
  const Tensor norm = tensor::sqrt(tensor::sum(packed_gradients * packed_gradients));
  Tensor clip = tensor::full(*context_, {}, 1.0);
  if (config_.gradient_clip > 0) clip = tensor::minimum(clip, config_.gradient_clip / (norm + 1e-6));
  Tensor finite = norm - norm;
  if (guard.defined()) finite = finite + (guard - guard);
  const Tensor inputs[] = {packed_gradients, clip, finite, rates, value_, first_, second_};
  const std::vector<Tensor> results = tensor::call_kernel(adamw_call({size_}, decayed_), inputs);
  // Detached: the next step's gradients stop here.
  const Tensor state[] = {results[0].detach(), results[1].detach(), results[2].detach()};
  set_state(parameters, state);
  return norm;
}

void AdamW::set_state(std::vector<Parameter>& parameters, std::span<const Tensor> state) {
  value_ = state[0];
  first_ = state[1];
  second_ = state[2];
  given_ = views(value_);
  for (size_t i = 0; i < given_.size(); ++i) parameters[i].value = given_[i];
}

Status AdamW::set_moments(std::span<const Tensor> first, std::span<const Tensor> second) {
  if (first.size() != shapes_.size() || second.size() != shapes_.size())
    return invalid_argument("the optimiser has " + std::to_string(shapes_.size()) + " parameters, not " +
                            std::to_string(first.size()));
  const Tensor packed_first = packed(first).detach(), packed_second = packed(second).detach();
  SPORKLE_RETURN_IF_ERROR(tensor::realize({packed_first}));
  SPORKLE_RETURN_IF_ERROR(tensor::realize({packed_second}));
  first_ = packed_first;
  second_ = packed_second;
  return {};
}

void AdamW::append_state(std::vector<Tensor>* tensors) const {
  if (value_.defined()) tensors->push_back(value_);
  tensors->push_back(first_);
  tensors->push_back(second_);
}

}  // namespace sporkle::nn
