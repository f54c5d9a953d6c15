#include "validate/operations.h"

#include <cmath>

#include "base/edit_distance.h"
#include "nn/adamw.h"
#include "tensor/context.h"

namespace sporkle::validate {
namespace {

using tensor::Draw;
using tensor::OpCall;
using tensor::OperandSpec;
using tensor::OpRow;
using tensor::Shape;
using tensor::Tensor;

struct AdamWStep {
  nn::AdamWConfig config;
  double learning_rate;
  int64_t step;
};

// One update of a parameter, after Loshchilov and Hutter, algorithm 2. Operands: value, gradient, first and second
// moment.
tensor::Expected expected_adamw(const AdamWStep& s, std::span<const std::vector<double>> x) {
  const size_t n = x[0].size();
  const double correction1 = 1 - std::pow(s.config.beta1, static_cast<double>(s.step));
  const double correction2 = 1 - std::pow(s.config.beta2, static_cast<double>(s.step));
  tensor::Expected e;
  e.values.resize(3 * n);
  e.magnitudes.resize(3 * n);
  for (size_t i = 0; i < n; ++i) {
    const double value = x[0][i], g = x[1][i], first = x[2][i], second = x[3][i];
    const double m = s.config.beta1 * first + (1 - s.config.beta1) * g;
    const double v = s.config.beta2 * second + (1 - s.config.beta2) * g * g;
    const double slope = s.learning_rate / (std::sqrt(v / correction2) + s.config.epsilon) / correction1;
    const double m_size = s.config.beta1 * std::fabs(first) + (1 - s.config.beta1) * std::fabs(g);
    e.values[i] = value * (1 - s.learning_rate * s.config.weight_decay) - slope * m;
    e.magnitudes[i] = std::fabs(value) + slope * m_size;
    e.values[n + i] = m;
    e.magnitudes[n + i] = m_size;
    e.values[2 * n + i] = e.magnitudes[2 * n + i] = v;
  }
  return e;
}

OpCall draw_adamw(Draw& draw) {
  AdamWStep s;
  s.config.gradient_clip = 0;
  s.config.weight_decay = 0.125;
  s.learning_rate = draw.one_of({0.001, 0.01, 0.1});
  s.step = draw.integer(1, 1000);
  const Shape shape = draw.shape(1, 2);
  OpCall call;
  call.parameters = "step " + std::to_string(s.step) + ", learning rate " + std::to_string(s.learning_rate);
  for (int i = 0; i < 4; ++i) {
    OperandSpec operand{shape, tensor::DType::f32, 0, 4, i != 3};
    operand.lowest = i == 3 ? 0x1p-10 : 0;
    operand.any_view = false;
    call.operands.push_back(operand);
  }
  call.apply = [s](std::span<const Tensor> x) {
    std::vector<nn::Parameter> parameters{{"parameter", x[0], true}};
    nn::AdamW optimizer(x[0].context(), s.config, parameters);
    if (const Status status = optimizer.set_moments(x.subspan(2, 1), x.subspan(3, 1)); !status.ok())
      return tensor::Tensors(3, tensor::error_tensor(&x[0].context(), status));
    optimizer.set_step(s.step - 1);
    (void)optimizer.update(parameters, x.subspan(1, 1), s.learning_rate);
    return tensor::Tensors{parameters[0].value, optimizer.first_moments()[0], optimizer.second_moments()[0]};
  };
  call.ulp_limit = 12;
  call.expected = [s](std::span<const std::vector<double>> x) { return expected_adamw(s, x); };
  return call;
}

std::vector<OpRow> all_rows() {
  const std::span<const OpRow> table = tensor::op_table();
  std::vector<OpRow> rows(table.begin(), table.end());
  rows.push_back(
      {"adamw", "optimisers", {tensor::DType::f32}, "12 of the sum of the terms' magnitudes", false, draw_adamw});
  return rows;
}

}  // namespace

std::span<const OpRow> operations() {
  static const std::vector<OpRow> rows = all_rows();
  return rows;
}

Result<const OpRow*> find_operation(std::string_view name) {
  std::vector<std::string> known;
  for (const OpRow& row : operations()) {
    if (row.name == name) return &row;
    known.push_back(row.name);
  }
  std::string message = "unknown operation \"" + std::string(name) + "\"";
  if (const std::string nearest = nearest_name(name, known); !nearest.empty())
    message += "; did you mean \"" + nearest + "\"?";
  message += " (known:";
  for (const std::string& one : known) message += " " + one;
  return not_found(message + ")");
}

}  // namespace sporkle::validate
