#include "ir/math.h"

#include <limits>
#include <numbers>
#include <span>

#include "ir/half_pi.h"

namespace sporkle::ir {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// What differs between f32 and f64. The polynomials are minimax fits (Remez), coefficients rounded to the type, lowest
// degree first; the comments give the largest error relative to the function.
struct Format {
  DType type, integer, unsigned_integer;
  int mantissa_bits, bias;
  double round_magic;  // 1.5 * 2^mantissa_bits: adding it rounds to a whole number, which the low bits then hold
  double smallest_normal;

  // Parts of constants; `high` has trailing zeros, so that its product with a whole exponent is exact.
  double log2_e, ln2_high, ln2_low;
  double two_over_pi, half_pi[3];

  double exp_lowest, exp_highest;   // beyond, the result is certainly 0 or infinity
  std::span<const double> exp;      // exp(r) = 1 + r + r^2 exp(r), |r| <= ln(2)/2
  double tanh_highest;              // beyond, the result is certainly 1
  std::span<const double> tanh;     // expm1(2r) = r (2 + r tanh(r)), |r| <= ln(2)/4
  std::span<const double> log;      // log((1 + s)/(1 - s)) = 2 s + s z log(z), z = s^2, |s| <= 0.172
  std::span<const double> sin;      // sin(r) = r + r z sin(z), z = r^2, |r| <= pi/4
  std::span<const double> cos;      // cos(r) = 1 - z/2 + z^2 cos(z)
  std::span<const double> erf;      // erf(x) = x + x erf(z), z = x^2, |x| <= 1
  double erfc_center, erf_highest;  // beyond the highest, the result is certainly 1
  std::span<const double> erfc;     // erf(x) = 1 - exp(-x^2) erfc(t), t = (x - center) / (x + center), x >= 1
};

constexpr double kExp32[] = {0x1.fffffcp-2, 0x1.55548cp-3, 0x1.555856p-5, 0x1.123dc0p-7, 0x1.6ae2a4p-10};  // 2^-27.8
constexpr double kTanh32[] = {0x1.fffffep+0, 0x1.5554aap+0, 0x1.55579cp-1, 0x1.122c32p-2, 0x1.6abc1cp-4};  // 2^-26.1
constexpr double kLog32[] = {0x1.55557ap-1, 0x1.995ec4p-2, 0x1.31e3b6p-2};                                 // 2^-30.2
constexpr double kSin32[] = {-0x1.555546p-3, 0x1.110776p-7, -0x1.995300p-13};                              // 2^-27.9
constexpr double kCos32[] = {0x1.55554ap-5, -0x1.6c0c1ap-10, 0x1.99e0f2p-16};                              // 2^-33.1
constexpr double kErf32[] = {0x1.06eba8p-3, -0x1.81273ep-2,  0x1.ce2cf8p-4, -0x1.b7f90cp-6,
                             0x1.5405b0p-8, -0x1.a3f6f0p-11, 0x1.496a02p-14};  // 2^-27.8
constexpr double kErfc32[] = {0x1.058672p-2, -0x1.b57036p-2, 0x1.eeea80p-3,   -0x1.437ed4p-4,
                              0x1.e9327ap-9, 0x1.ca3c56p-8,  -0x1.b70e20p-11, -0x1.e77d38p-11};  // 2^-27.9

constexpr double kExp64[] = {0x1.000000000000ap-1,  0x1.55555555554fap-3,  0x1.555555555087dp-5,  // 2^-56.4
                             0x1.1111111127c1bp-7,  0x1.6c16c1842a073p-10, 0x1.a01a012a45948p-13, 0x1.a0199a0c67cbcp-16,
                             0x1.71df257997528p-19, 0x1.28ad72df49401p-22, 0x1.ad7f330d73d4dp-26};
constexpr double kTanh64[] = {0x1.0000000000000p+1,  0x1.5555555555559p+0,  0x1.555555555553fp-1,  // 2^-59.9
                              0x1.111111110f6dap-2,  0x1.6c16c16c1f086p-4,  0x1.a01a01afd3d93p-6,
                              0x1.a01a017bc1b8fp-8,  0x1.71ddf87ececfdp-10, 0x1.27e53636127c9p-12,
                              0x1.af5e74e04d7e0p-15, 0x1.1ee8798518d50p-17};
constexpr double kLog64[] = {0x1.5555555555593p-1, 0x1.999999997f98bp-2, 0x1.2492494234338p-2,  // 2^-59.5
                             0x1.c71c51cd6f354p-3, 0x1.74664c313f642p-3, 0x1.39a04c916d2ecp-3, 0x1.2f14a8b7c1b3cp-3};
constexpr double kSin64[] = {-0x1.5555555555548p-3, 0x1.111111110f730p-7,   -0x1.a01a019be928ap-13,  // 2^-56.8
                             0x1.71de355531c0ap-19, -0x1.ae5e4b85adb80p-26, 0x1.5d8b47c6ec356p-33};
constexpr double kCos64[] = {0x1.555555555554cp-5,   -0x1.6c16c16c15217p-10, 0x1.a01a019cbe09dp-16,  // 2^-64.2
                             -0x1.27e4f8116c5b0p-22, 0x1.1ee9f0453e1f1p-29,  -0x1.8fb091c2fd0a9p-37};
constexpr double kErf64[] = {0x1.06eba8214db69p-3,   -0x1.812746b0379e6p-2,  0x1.ce2f21a042b20p-4,  // 2^-56.3
                             -0x1.b82ce3128499cp-6,  0x1.565bcd0db02c7p-8,   -0x1.c02db3d8ecdbep-11,
                             0x1.f9a321a116d34p-14,  -0x1.f4d1df38db4adp-17, 0x1.b9def1995c1e2p-20,
                             -0x1.5f1d36a3432b9p-23, 0x1.f7a4112daf012p-27,  -0x1.386abe81bbd4fp-30,
                             0x1.0579a69d4b2cbp-34};
constexpr double kErfc64[] = {0x1.afbb3f3b7343bp-3,   -0x1.7ca88dec217a6p-2,  0x1.01c11a735cd99p-2,  // 2^-57.7
                              -0x1.0011543716c80p-3,  0x1.470ba1f67e4bcp-5,   -0x1.05bb2fe5ca14ap-8,
                              -0x1.5a5716cd1b356p-9,  0x1.cb3b61c5bbfbap-11,  0x1.def2c825edb97p-13,
                              -0x1.0e466d1b6a799p-13, -0x1.1ebdc48186c74p-15, 0x1.384e59b611265p-16,
                              0x1.fad69f9dcca52p-18,  -0x1.34cdbb24dd039p-19, -0x1.e398632abb635p-20,
                              0x1.72ee8574fb7bcp-24,  0x1.70bdc6d82c3afp-22,  0x1.f2aecee1337b8p-25};

constexpr Format kFormat32{.type = DType::f32,
                           .integer = DType::i32,
                           .unsigned_integer = DType::u32,
                           .mantissa_bits = 23,
                           .bias = 127,
                           .round_magic = 0x1.8p23,
                           .smallest_normal = 0x1p-126,
                           .log2_e = 0x1.715476p+0,
                           .ln2_high = 0x1.62e8p-1,
                           .ln2_low = -0x1.e8082ep-16,
                           .two_over_pi = 0x1.45f306p-1,
                           .half_pi = {0x1.921fb6p+0, -0x1.777a5cp-25, -0x1.ee59dap-50},
                           .exp_lowest = -104,
                           .exp_highest = 89,
                           .exp = kExp32,
                           .tanh_highest = 10,
                           .tanh = kTanh32,
                           .log = kLog32,
                           .sin = kSin32,
                           .cos = kCos32,
                           .erf = kErf32,
                           .erfc_center = 2,
                           .erf_highest = 4,
                           .erfc = kErfc32};

constexpr Format kFormat64{.type = DType::f64,
                           .integer = DType::i64,
                           .unsigned_integer = DType::u64,
                           .mantissa_bits = 52,
                           .bias = 1023,
                           .round_magic = 0x1.8p52,
                           .smallest_normal = 0x1p-1022,
                           .log2_e = 0x1.71547652b82fep+0,
                           .ln2_high = 0x1.62e42fefa4p-1,
                           .ln2_low = -0x1.8432a1b0e2634p-43,
                           .two_over_pi = 0x1.45f306dc9c883p-1,
                           .half_pi = {0x1.921fb54442d18p+0, 0x1.1a62633145c07p-54, -0x1.f1976b7ed8fbcp-110},
                           .exp_lowest = -746,
                           .exp_highest = 710,
                           .exp = kExp64,
                           .tanh_highest = 20,
                           .tanh = kTanh64,
                           .log = kLog64,
                           .sin = kSin64,
                           .cos = kCos64,
                           .erf = kErf64,
                           .erfc_center = 2.5,
                           .erf_highest = 6,
                           .erfc = kErfc64};

// One expansion in the making: short names for the Builder's calls at one type.
class Expansion {
 public:
  Expansion(Builder& builder, const Node* x) : b_(builder), f_(x->type == DType::f32 ? kFormat32 : kFormat64), x_(x) {}

  const Node* exp() { return exp(x_); }

  // exp(x) = 2^n exp(r), x = n ln(2) + r.
  const Node* exp(const Node* argument) {
    // The constant first: then a NaN in x passes through, and hardware needs one instruction.
    const Node* x = b_.binary(Op::max, number(f_.exp_lowest), b_.min(number(f_.exp_highest), argument));
    // 2^n as a product of two powers, since n alone may exceed the exponent's range; only the last product rounds, so
    // that results underflow gradually. The low bits of t hold n + 2 bias.
    const auto [t, n] = round(x, f_.log2_e, 2 * f_.bias);
    const Node* r = b_.fma(n, number(-f_.ln2_low), b_.fma(n, number(-f_.ln2_high), x));
    const Node* p = b_.fma(b_.fma(polynomial(f_.exp, r), r, number(1)), r, number(1));
    const Node* both = bits(t);
    const Node* half = b_.binary(Op::shr, both, mask(1));
    return b_.mul(b_.mul(p, power(half)), power(b_.sub(both, half)));
  }

  // log(x) = k ln(2) + log(1 + f), 1 + f in [sqrt(1/2), sqrt(2)); log(1 + f) by s = f / (2 + f).
  const Node* log() {
    const int scaling = f_.mantissa_bits + 2;
    const Node* is_tiny = b_.binary(Op::less, x_, number(f_.smallest_normal));
    const Node* x = b_.select(is_tiny, b_.mul(x_, number(static_cast<double>(int64_t{1} << scaling))), x_);
    const Node* x_bits = b_.bitcast(f_.integer, x);
    const Node* shift = b_.bits(f_.integer, f_.mantissa_bits);
    const Node* sqrt_half = b_.bits(f_.integer, constant_bits(f_.type, std::numbers::sqrt2 / 2));
    const Node* exponent = b_.binary(Op::shr, b_.sub(x_bits, sqrt_half), shift);
    const Node* mantissa = b_.bitcast(f_.type, b_.sub(x_bits, b_.binary(Op::shl, exponent, shift)));
    const Node* k = b_.sub(b_.cast(f_.type, exponent), b_.select(is_tiny, number(scaling), number(0)));
    const Node* f = b_.sub(mantissa, number(1));
    const Node* s = b_.div(f, b_.add(f, number(2)));
    const Node* z = b_.mul(s, s);
    const Node* half_square = b_.mul(b_.mul(f, number(0.5)), f);
    const Node* low = b_.fma(k, number(f_.ln2_low), b_.mul(s, b_.fma(z, polynomial(f_.log, z), half_square)));
    const Node* result = b_.fma(k, number(f_.ln2_high), b_.sub(f, b_.sub(half_square, low)));
    const Node* finite = b_.select(b_.binary(Op::less, x_, number(kInfinity)), result, x_);
    const Node* not_positive = b_.select(b_.binary(Op::equal, x_, number(0)), number(-kInfinity),
                                         number(std::numeric_limits<double>::quiet_NaN()));
    return b_.select(b_.binary(Op::less, number(0), x_), finite, not_positive);
  }

  // tanh(x) = u / (u + 2), u = expm1(2 |x|) = 2^n (1 + q) - 1; 2^n - 1 is exact as long as it matters, and q is
  // accurate relative to itself, so small arguments need no path of their own.
  const Node* tanh() {
    const Node* a = b_.min(number(f_.tanh_highest), b_.unary(Op::abs, x_));
    const auto [t, n] = round(a, 2 * f_.log2_e, f_.bias);
    const Node* r = b_.fma(n, number(-f_.ln2_low / 2), b_.fma(n, number(-f_.ln2_high / 2), a));
    const Node* q = b_.fma(b_.mul(r, r), polynomial(f_.tanh, r), b_.add(r, r));
    const Node* scale = power(bits(t));
    const Node* u = b_.fma(scale, q, b_.sub(scale, number(1)));
    return with_sign(b_.div(u, b_.add(u, number(2))), sign_of_x());
  }

  const Node* sin() { return sin_or_cos(0); }
  const Node* cos() { return sin_or_cos(1); }

  // A polynomial near 0; from 1 on erfc, which is small there, so that its errors (those of exp(-x^2) above all) are
  // too.
  const Node* erf() {
    const Node* a = b_.min(number(f_.erf_highest), b_.unary(Op::abs, x_));
    const Node* square = b_.mul(a, a);
    const Node* near_zero = b_.fma(a, polynomial(f_.erf, square), a);
    const Node* center = number(f_.erfc_center);
    const Node* t = b_.div(b_.sub(a, center), b_.add(a, center));
    const Node* tail = b_.mul(exp(b_.unary(Op::neg, square)), polynomial(f_.erfc, t));
    const Node* magnitude = b_.select(b_.binary(Op::less, a, number(1)), near_zero, b_.sub(number(1), tail));
    return with_sign(magnitude, sign_of_x());
  }

  // y = 1 / sqrt(x), rounded twice, then one step of Newton's method from its exact residual 1 - x y^2.
  const Node* rsqrt() {
    const Node* y = b_.div(number(1), b_.unary(Op::sqrt, x_));
    const Node* high = b_.mul(x_, y);
    const Node* low = b_.fma(x_, y, b_.unary(Op::neg, high));
    const Node* residual = b_.fma(b_.unary(Op::neg, high), y, number(1));
    residual = b_.fma(b_.unary(Op::neg, low), y, residual);
    const Node* better = b_.fma(b_.mul(y, number(0.5)), residual, y);
    // 0, infinity, NaN and what is below 0 have no residual.
    const Node* regular =
        b_.binary(Op::bit_and, b_.binary(Op::less, number(0), x_), b_.binary(Op::less, x_, number(kInfinity)));
    return b_.select(regular, better, y);
  }

  // Rounds |x| to a whole number by adding and subtracting 2^mantissa_bits, then steps down where that went up.
  const Node* floor() {
    const Node* whole_from = number(static_cast<double>(int64_t{1} << f_.mantissa_bits));  // no fractions from here on
    const Node* magnitude = b_.unary(Op::abs, x_);
    const Node* rounded = with_sign(b_.sub(b_.add(magnitude, whole_from), whole_from), sign_of_x());
    const Node* down = b_.select(b_.binary(Op::less, x_, rounded), b_.sub(rounded, number(1)), rounded);
    return b_.select(b_.binary(Op::less, magnitude, whole_from), down, x_);
  }

 private:
  struct Rounded {
    const Node* shifted;  // its low bits hold number + bias
    const Node* number;
  };

  const Node* number(double value) { return b_.constant(f_.type, value); }
  const Node* mask(int64_t value) { return b_.bits(f_.unsigned_integer, value); }
  const Node* bits(const Node* value) { return b_.bitcast(f_.unsigned_integer, value); }

  // The whole number nearest to x * factor.
  Rounded round(const Node* x, double factor, int bias) {
    const Node* magic = number(f_.round_magic + bias);
    const Node* shifted = b_.fma(x, number(factor), magic);
    return {shifted, b_.sub(shifted, magic)};
  }

  // 2^(e - bias), e in the low bits.
  const Node* power(const Node* exponent) {
    return b_.bitcast(f_.type, b_.binary(Op::shl, exponent, mask(f_.mantissa_bits)));
  }

  const Node* polynomial(std::span<const double> coefficients, const Node* x) {
    const Node* sum = number(coefficients.back());
    for (size_t i = coefficients.size() - 1; i-- > 0;) sum = b_.fma(sum, x, number(coefficients[i]));
    return sum;
  }

  const Node* sign_of_x() {
    const int64_t sign = f_.type == DType::f32 ? int64_t{1} << 31 : std::numeric_limits<int64_t>::min();
    return b_.binary(Op::bit_and, bits(x_), mask(sign));
  }

  const Node* with_sign(const Node* magnitude, const Node* sign) {
    return b_.bitcast(f_.type, b_.binary(Op::bit_xor, bits(magnitude), sign));
  }

  // |x| = n pi/2 + r; the quadrant n (plus one for cos) says which polynomial and which sign. With fused operations the
  // first step of the reduction is exact: x and n half_pi[0] are multiples of one unit, and their difference is small.
  // That carries as far as n is exact and the parts of pi/2 are enough; beyond, half_pi.h takes over. Infinities stay
  // on this side, and become NaN.
  const Node* sin_or_cos(int64_t first_quadrant) {
    const Node* a = b_.unary(Op::abs, x_);
    const auto [t, n] = round(a, f_.two_over_pi, 0);
    const Node* r = a;
    for (const double part : f_.half_pi) r = b_.fma(n, number(-part), r);
    const int64_t smallest = constant_bits(f_.type, smallest_for_half_pi(f_.type));
    const Node* is_large =
        b_.binary(Op::less, b_.sub(bits(a), mask(smallest)), mask(constant_bits(f_.type, kInfinity) - smallest));
    const ReducedAngle reduced = reduce_by_half_pi(b_, a);
    r = b_.select(is_large, reduced.remainder, r);
    const Node* z = b_.mul(r, r);
    const Node* sine = b_.fma(b_.mul(r, z), polynomial(f_.sin, z), r);
    const Node* cosine = b_.fma(b_.mul(z, z), polynomial(f_.cos, z), b_.fma(z, number(-0.5), number(1)));
    const Node* quadrant = b_.add(b_.select(is_large, reduced.quadrant, bits(t)), mask(first_quadrant));
    const Node* is_odd = b_.binary(Op::equal, b_.binary(Op::bit_and, quadrant, mask(1)), mask(1));
    const int sign_position = 8 * dtype_size(f_.type) - 1;
    const Node* sign = b_.binary(Op::shl, b_.binary(Op::bit_and, quadrant, mask(2)), mask(sign_position - 1));
    if (first_quadrant == 0) sign = b_.binary(Op::bit_xor, sign, sign_of_x());
    return with_sign(b_.select(is_odd, cosine, sine), sign);
  }

  Builder& b_;
  const Format& f_;
  const Node* x_;
};

}  // namespace

const Node* expand_exp(Builder& b, const Node* x) { return Expansion(b, x).exp(); }
const Node* expand_log(Builder& b, const Node* x) { return Expansion(b, x).log(); }
const Node* expand_tanh(Builder& b, const Node* x) { return Expansion(b, x).tanh(); }
const Node* expand_sin(Builder& b, const Node* x) { return Expansion(b, x).sin(); }
const Node* expand_cos(Builder& b, const Node* x) { return Expansion(b, x).cos(); }
const Node* expand_erf(Builder& b, const Node* x) { return Expansion(b, x).erf(); }
const Node* expand_rsqrt(Builder& b, const Node* x) { return Expansion(b, x).rsqrt(); }
const Node* expand_floor(Builder& b, const Node* x) { return Expansion(b, x).floor(); }

Kernel expand_math(const Kernel& kernel) {
  Kernel result = kernel;
  Builder builder(*kernel.context);
  NodeMap memo;
  result.body = rewrite(builder, kernel.body, memo, [](Builder& b, const Node* node) -> const Node* {
    switch (node->op) {
      case Op::exp:
        return expand_exp(b, node->src(0));
      case Op::log:
        return expand_log(b, node->src(0));
      case Op::tanh:
        return expand_tanh(b, node->src(0));
      case Op::sin:
        return expand_sin(b, node->src(0));
      case Op::cos:
        return expand_cos(b, node->src(0));
      case Op::erf:
        return expand_erf(b, node->src(0));
      case Op::rsqrt:
        return expand_rsqrt(b, node->src(0));
      case Op::floor:
        return expand_floor(b, node->src(0));
      default:
        return nullptr;
    }
  });
  return result;
}

}  // namespace sporkle::ir
