#include "tensor/pointwise.h"

#include <array>
#include <cassert>
#include <numbers>

#include "tensor/context.h"
#include "tensor/graph.h"
#include "tensor/random.h"

namespace sporkle::tensor {
namespace {

using dsl::Expr;
using dsl::KernelBuilder;

template <ir::Op op>
Expr unary(KernelBuilder& k, const Expr* x, DType) {
  return Expr(k.ir().unary(op, x[0].node()));
}
template <ir::Op op>
Expr binary(KernelBuilder& k, const Expr* x, DType) {
  return Expr(k.ir().binary(op, x[0].node(), x[1].node()));
}

// sqrt(2 / pi) and the cubic coefficient of GELU's tanh approximation (Hendrycks and Gimpel, arXiv 1606.08415).
constexpr double kGeluScale = 0.7978845608028654;
constexpr double kGeluCubic = 0.044715;

Expr compute_gelu(KernelBuilder&, const Expr* x, DType type) {
  const auto c = [&](double v) { return dsl::constant(type, v); };
  const Expr inner = c(kGeluScale) * (x[0] + c(kGeluCubic) * (x[0] * x[0] * x[0]));
  return c(0.5) * x[0] * (c(1.0) + dsl::tanh(inner));
}

void gradient_gelu(const Tensor&, const Tensor& dy, std::span<const Tensor> x, std::span<Tensor> dx) {
  const Tensor square = x[0] * x[0];
  const Tensor t = tanh((x[0] + x[0] * square * kGeluCubic) * kGeluScale);
  const Tensor slope = (square * (3 * kGeluCubic) + 1.0) * kGeluScale;
  dx[0] = dy * ((t + 1.0) * 0.5 + x[0] * (1.0 - t * t) * slope * 0.5);
}

// The operands of the random operations: element number (i64), counter (u32), key (u32).
Expr compute_uniform(KernelBuilder&, const Expr* x, DType type) { return uniform_element(x[0], x[1], x[2], type); }

Expr compute_normal(KernelBuilder&, const Expr* x, DType type) {
  Expr low = dsl::cast(DType::u32, x[0]), high = x[1];
  philox2x32(&low, &high, x[2]);
  // In f32 whatever the type, so that f64 tensors hold the same numbers. The logarithm's argument is in (0, 1].
  const auto fraction = [](Expr bits, int added) {
    return dsl::cast(DType::f32, dsl::cast(DType::i32, bits >> 8) + added) * dsl::constant(DType::f32, 0x1p-24);
  };
  const Expr radius = dsl::sqrt(dsl::constant(DType::f32, -2.0) * dsl::log(fraction(low, 1)));
  const Expr angle = fraction(high, 0) * dsl::constant(DType::f32, 2 * std::numbers::pi);
  return dsl::cast(type, radius * dsl::cos(angle));
}

Tensor zero_like(const Tensor& x) { return full_like(x, 0.0); }

// minimum and maximum: to the operand that won, to the second on a tie.
template <bool first_wins_when_less>
void gradient_extremum(const Tensor&, const Tensor& dy, std::span<const Tensor> x, std::span<Tensor> dx) {
  const Tensor first = first_wins_when_less ? less(x[0], x[1]) : less(x[1], x[0]);
  dx[0] = where(first, dy, zero_like(dy));
  dx[1] = where(first, zero_like(dy), dy);
}

using Operands = std::span<const Tensor>;
using Gradients = std::span<Tensor>;

void gradient_copy(const Tensor&, const Tensor& dy, Operands, Gradients dx) { dx[0] = dy; }
void gradient_neg(const Tensor&, const Tensor& dy, Operands, Gradients dx) { dx[0] = -dy; }
void gradient_sqrt(const Tensor& y, const Tensor& dy, Operands, Gradients dx) { dx[0] = dy * 0.5 / y; }
void gradient_abs(const Tensor&, const Tensor& dy, Operands x, Gradients dx) {
  dx[0] = where(less(x[0], zero_like(x[0])), -dy, dy);
}
void gradient_exp(const Tensor& y, const Tensor& dy, Operands, Gradients dx) { dx[0] = dy * y; }
void gradient_log(const Tensor&, const Tensor& dy, Operands x, Gradients dx) { dx[0] = dy / x[0]; }
void gradient_tanh(const Tensor& y, const Tensor& dy, Operands, Gradients dx) { dx[0] = dy * (1.0 - y * y); }
void gradient_sin(const Tensor&, const Tensor& dy, Operands x, Gradients dx) { dx[0] = dy * cos(x[0]); }
void gradient_cos(const Tensor&, const Tensor& dy, Operands x, Gradients dx) { dx[0] = -(dy * sin(x[0])); }
void gradient_erf(const Tensor&, const Tensor& dy, Operands x, Gradients dx) {
  dx[0] = dy * (2 * std::numbers::inv_sqrtpi) * exp(-(x[0] * x[0]));
}
void gradient_rsqrt(const Tensor& y, const Tensor& dy, Operands, Gradients dx) { dx[0] = dy * -0.5 * (y * y * y); }
void gradient_cast(const Tensor&, const Tensor& dy, Operands x, Gradients dx) {
  if (ir::is_float(x[0].dtype())) dx[0] = dy.cast(x[0].dtype());
}
void gradient_add(const Tensor&, const Tensor& dy, Operands, Gradients dx) {
  dx[0] = dy;
  dx[1] = dy;
}
void gradient_sub(const Tensor&, const Tensor& dy, Operands, Gradients dx) {
  dx[0] = dy;
  dx[1] = -dy;
}
void gradient_mul(const Tensor&, const Tensor& dy, Operands x, Gradients dx) {
  dx[0] = dy * x[1];
  dx[1] = dy * x[0];
}
void gradient_div(const Tensor& y, const Tensor& dy, Operands x, Gradients dx) {
  dx[0] = dy / x[1];
  dx[1] = -(dy * y / x[1]);
}
void gradient_where(const Tensor&, const Tensor& dy, Operands x, Gradients dx) {
  dx[1] = where(x[0], dy, zero_like(dy));
  dx[2] = where(x[0], zero_like(dy), dy);
}
void gradient_fma(const Tensor&, const Tensor& dy, Operands x, Gradients dx) {
  dx[0] = dy * x[1];
  dx[1] = dy * x[0];
  dx[2] = dy;
}

Expr compute_copy(KernelBuilder&, const Expr* x, DType) { return x[0]; }
Expr compute_cast(KernelBuilder&, const Expr* x, DType type) { return dsl::cast(type, x[0]); }
Expr compute_where(KernelBuilder&, const Expr* x, DType) { return dsl::select(x[0], x[1], x[2]); }
Expr compute_fma(KernelBuilder&, const Expr* x, DType) { return dsl::fma(x[0], x[1], x[2]); }

// The limits of exp to cos are those of their expansions (ir/math.h). GELU's parts each round near 1 before they
// cancel, so that its error is measured against |x|.
constexpr Accuracy kExact{};
constexpr Accuracy kSqrt{.negative = false};
constexpr Accuracy kExp{.ulp_limit = 1, .highest = 87};
constexpr Accuracy kLog{.ulp_limit = 1, .lowest = 0x1p-100, .negative = false};
constexpr Accuracy kTanh{.ulp_limit = 2.6};
constexpr Accuracy kSine{.ulp_limit = 2};
constexpr Accuracy kErf{.ulp_limit = 1.1};
constexpr Accuracy kRsqrt{.ulp_limit = 0.501, .lowest = 0x1p-149, .negative = false};
constexpr Accuracy kGelu{.ulp_limit = 6, .magnitude = [](Operands x) { return abs(x[0]); }};

constexpr PointwiseRow kTable[] = {
    {Op::copy, "copy", 1, Domain::any, false, 0, compute_copy, gradient_copy, kExact},
    {Op::neg, "neg", 1, Domain::number, false, 1, unary<ir::Op::neg>, gradient_neg, kExact},
    {Op::sqrt, "sqrt", 1, Domain::real, false, 8, unary<ir::Op::sqrt>, gradient_sqrt, kSqrt},
    {Op::abs, "abs", 1, Domain::number, false, 1, unary<ir::Op::abs>, gradient_abs, kExact},
    {Op::floor, "floor", 1, Domain::real, false, 4, unary<ir::Op::floor>, nullptr, kExact},
    {Op::exp, "exp", 1, Domain::real, false, 16, unary<ir::Op::exp>, gradient_exp, kExp},
    {Op::log, "log", 1, Domain::real, false, 20, unary<ir::Op::log>, gradient_log, kLog},
    {Op::tanh, "tanh", 1, Domain::real, false, 24, unary<ir::Op::tanh>, gradient_tanh, kTanh},
    {Op::sin, "sin", 1, Domain::real, false, 60, unary<ir::Op::sin>, gradient_sin, kSine},
    {Op::cos, "cos", 1, Domain::real, false, 60, unary<ir::Op::cos>, gradient_cos, kSine},
    {Op::erf, "erf", 1, Domain::real, false, 40, unary<ir::Op::erf>, gradient_erf, kErf},
    {Op::rsqrt, "rsqrt", 1, Domain::real, false, 24, unary<ir::Op::rsqrt>, gradient_rsqrt, kRsqrt},
    {Op::gelu, "gelu", 1, Domain::real, false, 30, compute_gelu, gradient_gelu, kGelu},
    {Op::cast, "cast", 1, Domain::any, false, 1, compute_cast, gradient_cast, kExact},
    {Op::add, "add", 2, Domain::number, false, 1, binary<ir::Op::add>, gradient_add, kExact},
    {Op::sub, "sub", 2, Domain::number, false, 1, binary<ir::Op::sub>, gradient_sub, kExact},
    {Op::mul, "mul", 2, Domain::number, false, 1, binary<ir::Op::mul>, gradient_mul, kExact},
    {Op::div, "div", 2, Domain::number, false, 8, binary<ir::Op::div>, gradient_div, kExact},
    {Op::min, "minimum", 2, Domain::number, false, 1, binary<ir::Op::min>, gradient_extremum<true>, kExact},
    {Op::max, "maximum", 2, Domain::number, false, 1, binary<ir::Op::max>, gradient_extremum<false>, kExact},
    {Op::less, "less", 2, Domain::number, true, 1, binary<ir::Op::less>, nullptr, kExact},
    {Op::less_equal, "less_equal", 2, Domain::number, true, 1, binary<ir::Op::less_equal>, nullptr, kExact},
    {Op::equal, "equal", 2, Domain::number, true, 1, binary<ir::Op::equal>, nullptr, kExact},
    {Op::not_equal, "not_equal", 2, Domain::number, true, 1, binary<ir::Op::not_equal>, nullptr, kExact},
    {Op::logical_and, "logical_and", 2, Domain::boolean, true, 1, binary<ir::Op::bit_and>, nullptr, kExact},
    {Op::logical_or, "logical_or", 2, Domain::boolean, true, 1, binary<ir::Op::bit_or>, nullptr, kExact},
    {Op::where, "where", 3, Domain::any, false, 1, compute_where, gradient_where, kExact},
    {Op::fma, "fma", 3, Domain::real, false, 1, compute_fma, gradient_fma, kExact},
    {Op::uniform, "uniform", 0, Domain::real, false, 60, compute_uniform, nullptr, kExact},
    {Op::normal, "normal", 0, Domain::real, false, 110, compute_normal, nullptr, kExact},
};

Tensor apply(const std::source_location& source, Op op, std::initializer_list<Tensor> x) {
  const SourceScope scope(source);
  return pointwise(op, {x.begin(), x.size()});
}

Tensor number_like(const Tensor& x, double value) {
  return x.ok() ? full(x.context(), x.shape(), value, x.dtype()) : x;
}

}  // namespace

// Operands of one type and, after broadcasting, of one shape.
Tensor pointwise(Op op, std::span<const Tensor> x) {
  const PointwiseRow& row = pointwise_row(op);
  const std::span<const Tensor> operands = x.first(static_cast<size_t>(row.arity));
  Tensor failed;
  if (!check_operands(row.name, operands, &failed).ok()) return failed;
  Context& context = x[0].context();
  const auto wrong = [&](std::string_view why) {
    std::string message = std::string(row.name) + ":";
    for (const Tensor& t : operands) message += " " + std::string(ir::dtype_name(t.dtype())) + to_string(t.shape());
    return error_tensor(&context, invalid_argument(message + ": " + std::string(why)));
  };

  const size_t first = op == Op::where ? 1 : 0;
  const DType type = x[first].dtype();
  for (size_t i = first; i < operands.size(); ++i)
    if (x[i].dtype() != type) return wrong("the operands' element types differ; cast one");
  if (op == Op::where && x[0].dtype() != DType::boolean) return wrong("the condition must be boolean");
  if (row.domain == Domain::number && type == DType::boolean) return wrong("booleans are no numbers; cast them");
  if (row.domain == Domain::real && !ir::is_float(type)) return wrong("needs f32 or f64; cast");
  if (row.domain == Domain::boolean && type != DType::boolean) return wrong("needs booleans");

  if (is_16_bit(type) && op != Op::copy && op != Op::where) {  // computed in f32, rounded once
    std::array<Tensor, 3> wide;
    for (size_t i = 0; i < operands.size(); ++i) wide[i] = x[i].cast(DType::f32);
    const Tensor result = pointwise(op, std::span<const Tensor>(wide));
    return row.compares ? result : result.cast(type);
  }

  Shape shape = x[0].shape();
  for (size_t i = 1; i < operands.size(); ++i) {
    if (x[i].shape() == shape) continue;
    const Result<Shape> both = broadcast_shapes(shape, x[i].shape());
    if (!both.ok()) return wrong("the shapes do not broadcast");
    shape = *both;
  }
  std::vector<NodeRef> inputs;
  inputs.reserve(operands.size());
  for (const Tensor& t : operands) inputs.push_back(t.expand(shape).node());
  return Tensor(make_node(op, context, row.compares ? DType::boolean : type, shape, std::move(inputs)));
}

std::span<const PointwiseRow> pointwise_table() { return kTable; }

const PointwiseRow& pointwise_row(Op op) {
  const PointwiseRow& row = kTable[static_cast<size_t>(op) - static_cast<size_t>(Op::copy)];
  assert(row.op == op);
  return row;
}

Tensor operator+(const Operand& a, const Tensor& b) { return apply(a.source(), Op::add, {a, b}); }
Tensor operator-(const Operand& a, const Tensor& b) { return apply(a.source(), Op::sub, {a, b}); }
Tensor operator*(const Operand& a, const Tensor& b) { return apply(a.source(), Op::mul, {a, b}); }
Tensor operator/(const Operand& a, const Tensor& b) { return apply(a.source(), Op::div, {a, b}); }
Tensor operator+(const Operand& a, double b) { return a + number_like(a, b); }
Tensor operator-(const Operand& a, double b) { return a - number_like(a, b); }
Tensor operator*(const Operand& a, double b) { return a * number_like(a, b); }
Tensor operator/(const Operand& a, double b) { return a / number_like(a, b); }
Tensor operator+(double a, const Operand& b) { return Operand(number_like(b, a), b.source()) + b; }
Tensor operator-(double a, const Operand& b) { return Operand(number_like(b, a), b.source()) - b; }
Tensor operator*(double a, const Operand& b) { return Operand(number_like(b, a), b.source()) * b; }
Tensor operator/(double a, const Operand& b) { return Operand(number_like(b, a), b.source()) / b; }
Tensor operator-(const Operand& a) { return apply(a.source(), Op::neg, {a}); }
Tensor minimum(const Operand& a, const Tensor& b) { return apply(a.source(), Op::min, {a, b}); }
Tensor maximum(const Operand& a, const Tensor& b) { return apply(a.source(), Op::max, {a, b}); }
Tensor maximum(const Operand& a, double b) { return maximum(a, number_like(a, b)); }
Tensor fma(const Operand& a, const Tensor& b, const Tensor& c) { return apply(a.source(), Op::fma, {a, b, c}); }
Tensor less(const Operand& a, const Tensor& b) { return apply(a.source(), Op::less, {a, b}); }
Tensor less_equal(const Operand& a, const Tensor& b) { return apply(a.source(), Op::less_equal, {a, b}); }
Tensor equal(const Operand& a, const Tensor& b) { return apply(a.source(), Op::equal, {a, b}); }
Tensor not_equal(const Operand& a, const Tensor& b) { return apply(a.source(), Op::not_equal, {a, b}); }
Tensor logical_and(const Operand& a, const Tensor& b) { return apply(a.source(), Op::logical_and, {a, b}); }
Tensor logical_or(const Operand& a, const Tensor& b) { return apply(a.source(), Op::logical_or, {a, b}); }
Tensor where(const Operand& condition, const Tensor& a, const Tensor& b) {
  return apply(condition.source(), Op::where, {condition, a, b});
}
Tensor sqrt(const Operand& x) { return apply(x.source(), Op::sqrt, {x}); }
Tensor abs(const Operand& x) { return apply(x.source(), Op::abs, {x}); }
Tensor floor(const Operand& x) { return apply(x.source(), Op::floor, {x}); }
Tensor exp(const Operand& x) { return apply(x.source(), Op::exp, {x}); }
Tensor log(const Operand& x) { return apply(x.source(), Op::log, {x}); }
Tensor tanh(const Operand& x) { return apply(x.source(), Op::tanh, {x}); }
Tensor sin(const Operand& x) { return apply(x.source(), Op::sin, {x}); }
Tensor cos(const Operand& x) { return apply(x.source(), Op::cos, {x}); }
Tensor erf(const Operand& x) { return apply(x.source(), Op::erf, {x}); }
Tensor rsqrt(const Operand& x) { return apply(x.source(), Op::rsqrt, {x}); }
Tensor gelu_erf(const Operand& x) {
  const SourceScope scope(x.source());
  return x * 0.5 * (erf(x * (std::numbers::sqrt2 / 2)) + 1.0);
}
Tensor gelu(const Operand& x) { return apply(x.source(), Op::gelu, {x}); }
Tensor relu(const Operand& x) { return maximum(x, 0.0); }

}  // namespace sporkle::tensor
