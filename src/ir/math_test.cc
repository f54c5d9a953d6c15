#include "ir/math.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "ir/interpreter.h"
#include "ir/text.h"
#include "ir/verifier.h"

namespace sporkle::ir {
namespace {

template <typename F>
constexpr DType kType = std::is_same_v<F, float> ? DType::f32 : DType::f64;

// y[i] = op(x[i]), executed with the operation itself or with its expansion.
template <typename F>
std::vector<F> evaluate(Op op, std::vector<F> x, bool expanded = false) {
  Kernel kernel;
  kernel.context = std::make_shared<Context>();
  kernel.name = op_name(op);
  kernel.buffers = {{"x", kType<F>, Access::read}, {"y", kType<F>, Access::write}};
  Builder b(*kernel.context);
  const Node* i = b.range(b.integer(static_cast<int64_t>(x.size())), "i");
  const Node* value = b.unary(op, b.load(b.buffer(kType<F>, 0, "x"), i));
  kernel.body = b.block({{b.loop(Op::loop, i, {{b.store(b.buffer(kType<F>, 1, "y"), i, value)}})}});
  if (expanded) kernel = expand_math(kernel);
  std::vector<F> y(x.size());
  const InterpreterBuffer buffers[] = {{reinterpret_cast<std::byte*>(x.data()), x.size() * sizeof(F)},
                                       {reinterpret_cast<std::byte*>(y.data()), y.size() * sizeof(F)}};
  const Status status = interpret(kernel, buffers, {});
  EXPECT_TRUE(status.ok()) << status.to_string();
  return y;
}

// In units in the last place of the exact value; 1e9 where only one of the two is NaN or infinite.
template <typename F>
double error_ulp(F found, long double exact) {
  const F rounded = static_cast<F>(exact);
  if (std::isnan(exact)) return std::isnan(found) ? 0 : 1e9;
  if (std::isinf(rounded) || std::isinf(found)) return rounded == found ? 0 : 1e9;
  int exponent;
  std::frexp(exact, &exponent);
  using Limits = std::numeric_limits<F>;
  const int last_place = std::max(exponent, Limits::min_exponent) - Limits::digits;
  return static_cast<double>(std::fabs(std::ldexp(static_cast<long double>(found) - exact, -last_place)));
}

struct Function {
  Op op;
  long double (*exact)(long double);
  double limit_ulp;
};
const Function kFunctions[] = {
    {Op::exp, [](long double x) { return std::exp(x); }, 1},
    {Op::log, [](long double x) { return std::log(x); }, 1},
    {Op::tanh, [](long double x) { return std::tanh(x); }, 2.6},
    {Op::sin, [](long double x) { return std::sin(x); }, 2},
    {Op::cos, [](long double x) { return std::cos(x); }, 2},
    {Op::erf, [](long double x) { return std::erf(x); }, 1.1},
    {Op::rsqrt, [](long double x) { return 1 / std::sqrt(x); }, 0.501},
};

// All over the type's bits, and densely where the functions bend.
template <typename F>
std::vector<F> samples() {
  using Bits = std::conditional_t<sizeof(F) == 4, uint32_t, uint64_t>;
  std::vector<F> result;
  std::mt19937_64 random(42);
  const auto add = [&](F x) {
    if (std::isfinite(x)) result.push_back(x);
  };
  for (int i = 0; i < 60000; ++i) {
    add(std::bit_cast<F>(static_cast<Bits>(random())));
    const F sign = i % 2 ? F{1} : F{-1};
    const F unit = static_cast<F>(static_cast<double>(random() >> 11) * 0x1p-53);
    add(sign * unit);
    add(sign * unit * 20);
    add(sign * unit * 800);
    add(sign * unit * 0x1p13f);
    add(sign * unit * 0x1p20f);
    add(1 + sign * unit / 64);
    // Near multiples of pi/2, where sin and cos vanish.
    add(static_cast<F>(static_cast<double>(static_cast<int64_t>(unit * 5000)) * 1.5707963267948966));
    add(static_cast<F>(static_cast<double>(static_cast<int64_t>(unit * 0x1p40f)) * 1.5707963267948966));
  }
  return result;
}

template <typename F>
void check_accuracy(const Function& function) {
  const std::vector<F> x = samples<F>();
  const std::vector<F> y = evaluate(function.op, x);
  double worst = 0;
  F at = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double error = error_ulp(y[i], function.exact(static_cast<long double>(x[i])));
    if (error > worst) worst = error, at = x[i];
  }
  EXPECT_LE(worst, function.limit_ulp) << op_name(function.op) << " of " << dtype_name(kType<F>) << " at " << at;
  EXPECT_GT(worst, 0.4);  // half a unit is what correct rounding would leave; less means that nothing was compared
}

TEST(Math, ErrorsStayWithinTheStatedLimits) {
  for (const Function& function : kFunctions) {
    check_accuracy<float>(function);
    check_accuracy<double>(function);
  }
}

// Numbers that lie closest to a multiple of pi/2 (Muller et al., Handbook of Floating-Point Arithmetic, 2nd edition,
// section 10.2, for f64), both sides of where integer arithmetic takes over, and the ends.
template <typename F>
void check_far_angles(std::vector<F> x, F takes_over) {
  x.insert(x.end(), {takes_over, std::nextafter(takes_over, F{0}), std::numeric_limits<F>::max(), -takes_over});
  for (const Op op : {Op::sin, Op::cos}) {
    const std::vector<F> y = evaluate(op, x);
    for (size_t i = 0; i < x.size(); ++i) {
      const long double angle = x[i];
      EXPECT_LE(error_ulp(y[i], op == Op::sin ? std::sin(angle) : std::cos(angle)), 2) << op_name(op) << " of " << x[i];
    }
  }
}

TEST(Math, FarAngles) {
  check_far_angles<float>({0x1.f37c8ap+95f, -0x1.f37c8ap+95f, 0x1.47d0fep+34f, 1e22f, 1e30f}, 0x1p13f);
  check_far_angles<double>({0x1.6ac5b262ca1ffp+849, -0x1.6ac5b262ca1ffp+849, 1e22, 1e300, 0x1.6ac5b262ca1ffp+850},
                           0x1p20);
}

template <typename F>
bool same(F a, F b) {
  return std::isnan(a) ? std::isnan(b) : a == b && std::signbit(a) == std::signbit(b);
}

template <typename F>
void check_special_values() {
  using Limits = std::numeric_limits<F>;
  const F inf = Limits::infinity(), nan = Limits::quiet_NaN(), tiny = Limits::denorm_min(), big = Limits::max();
  const std::vector<F> x{0, -F{0}, inf, -inf, nan, tiny, -tiny, big, -big, 1, -1};
  const auto expect = [&](Op op, const std::vector<F>& wanted) {
    const std::vector<F> y = evaluate(op, x);
    for (size_t i = 0; i < x.size(); ++i)
      EXPECT_TRUE(same(y[i], wanted[i])) << op_name(op) << "(" << x[i] << ") gave " << y[i];
  };
  const F e = static_cast<F>(std::exp(1.0L)), inverse_e = static_cast<F>(std::exp(-1.0L));
  const F tanh1 = static_cast<F>(std::tanh(1.0L));
  expect(Op::exp, {1, 1, inf, 0, nan, 1, 1, inf, 0, e, inverse_e});
  expect(Op::log, {-inf, -inf, inf, nan, nan, static_cast<F>(std::log(static_cast<long double>(tiny))), nan,
                   static_cast<F>(std::log(static_cast<long double>(big))), nan, 0, nan});
  const std::vector<F> tanh = evaluate(Op::tanh, x);
  const std::vector<F> wanted{0, -F{0}, 1, -1, nan, tiny, -tiny, 1, -1};
  for (size_t i = 0; i < wanted.size(); ++i) EXPECT_TRUE(same(tanh[i], wanted[i])) << "tanh(" << x[i] << ")";
  EXPECT_NEAR(tanh[9], tanh1, 3 * Limits::epsilon());
  EXPECT_EQ(tanh[10], -tanh[9]);
  const F erf1 = static_cast<F>(std::erf(1.0L));
  const std::vector<F> erf = evaluate(Op::erf, x);
  const F erf_tiny = erf[5];
  for (size_t i = 0; i < x.size(); ++i)
    EXPECT_TRUE(same(erf[i], std::vector<F>{0, -F{0}, 1, -1, nan, erf_tiny, -erf_tiny, 1, -1, erf1, -erf1}[i]))
        << "erf(" << x[i] << ") gave " << erf[i];
  EXPECT_EQ(erf_tiny, tiny);  // 1.128 units, rounded
  const F root_tiny = static_cast<F>(1 / std::sqrt(static_cast<long double>(tiny)));
  const F root_big = static_cast<F>(1 / std::sqrt(static_cast<long double>(big)));
  expect(Op::rsqrt, {inf, -inf, 0, nan, nan, root_tiny, nan, root_big, nan, 1, nan});
  const std::vector<F> sin = evaluate(Op::sin, x), cos = evaluate(Op::cos, x);
  for (const size_t i : {0u, 1u, 5u, 6u}) {
    EXPECT_TRUE(same(sin[i], x[i])) << "sin(" << x[i] << ")";
    EXPECT_EQ(cos[i], 1) << "cos(" << x[i] << ")";
  }
  for (const size_t i : {2u, 3u, 4u}) EXPECT_TRUE(std::isnan(sin[i]) && std::isnan(cos[i])) << x[i];
}

TEST(Math, SpecialValues) {
  check_special_values<float>();
  check_special_values<double>();
}

TEST(Math, ExpUnderflowsGradually) {
  for (float x = -87; x > -105; x -= 0.0625f) {
    const float y = evaluate<float>(Op::exp, {x})[0];
    EXPECT_LE(error_ulp(y, std::exp(static_cast<long double>(x))), 1) << x;
  }
  const std::vector<double> y = evaluate<double>(Op::exp, {-708.5, -720, -744.4, -745.2, 709.78, 709.79});
  EXPECT_EQ(y[2], std::numeric_limits<double>::denorm_min());
  EXPECT_EQ(y[3], 0);
  EXPECT_TRUE(y[4] < y[5] && std::isinf(y[5]));
  EXPECT_LE(error_ulp(y[1], std::exp(-720.0L)), 1);
}

// The interpreter computes floor by itself and the rest by these expansions; a lowered kernel holds the expansions.
template <typename F>
void check_expanded() {
  std::vector<F> x = samples<F>();
  x.resize(20000);
  for (const double edge : {0.0, -0.0, 0.5, -0.5, 0.99999, -0.99999, 8388607.5, -8388607.5, 8388608.0,
                            4503599627370495.5, -4503599627370495.5, 1e300, -1e300, 1e-300})
    x.push_back(static_cast<F>(edge));
  x.push_back(std::numeric_limits<F>::quiet_NaN());
  x.push_back(std::numeric_limits<F>::infinity());
  for (const Op op : {Op::exp, Op::log, Op::tanh, Op::sin, Op::cos, Op::erf, Op::rsqrt, Op::floor}) {
    const std::vector<F> plain = evaluate(op, x), expanded = evaluate(op, x, true);
    for (size_t i = 0; i < x.size(); ++i) {
      ASSERT_TRUE(same(plain[i], expanded[i])) << op_name(op) << "(" << x[i] << ")";
      ASSERT_TRUE(op != Op::floor || same(plain[i], std::floor(x[i]))) << x[i];
    }
  }
}

TEST(Math, ExpansionsAreWhatTheOperationsMean) {
  check_expanded<float>();
  check_expanded<double>();
}

TEST(Math, ExpandedKernelsHoldNoMathematicalFunctions) {
  const Result<Kernel> kernel = parse(R"(kernel "k" strict
buffer x@0 f64 read_write
%0 = load f64 x@0 0
%1 = exp f64 %0
%2 = log f64 %1
%3 = tanh f64 %2
%4 = sin f64 %3
%5 = cos f64 %4
%6 = erf f64 %5
%7 = rsqrt f64 %6
%8 = floor f64 %7
store x@0 0 %8
)");
  ASSERT_TRUE(kernel.ok()) << kernel.status().to_string();
  const Kernel expanded = expand_math(*kernel);
  EXPECT_TRUE(verify(expanded).ok()) << verify(expanded).to_string();
  visit_post_order(expanded.body, [](const Node* node) {
    EXPECT_FALSE((node->op >= Op::exp && node->op <= Op::rsqrt) || node->op == Op::floor) << op_name(node->op);
  });
}

// These run inline in the inner loops of GELU and softmax.
TEST(Math, ExpansionsAreShort) {
  Context context;
  Builder b(context);
  const auto operations = [](const Node* root) {
    int count = 0;
    visit_post_order(root, [&](const Node* node) { count += node->op >= Op::add && node->op != Op::bitcast; });
    return count;
  };
  const Node* x = b.scalar(DType::f32, 0, "x");
  EXPECT_LE(operations(expand_exp(b, x)), 18);
  EXPECT_LE(operations(expand_tanh(b, x)), 20);
}

}  // namespace
}  // namespace sporkle::ir
