#include "ir/arithmetic.h"

#include <cmath>
#include <limits>

#include "ir/float16.h"

namespace sporkle::ir {
namespace {

float as_f32(uint64_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits)); }
double as_f64(uint64_t bits) { return std::bit_cast<double>(bits); }
uint64_t to_bits(float x) { return std::bit_cast<uint32_t>(x); }
uint64_t to_bits(double x) { return std::bit_cast<uint64_t>(x); }

template <typename T>
T saturate(double x) {
  if (std::isnan(x)) return 0;
  // max() may not be exact as a double; the power of two above it is.
  const double beyond = std::ldexp(1.0, std::numeric_limits<T>::digits);
  if (x >= beyond) return std::numeric_limits<T>::max();
  if (x <= static_cast<double>(std::numeric_limits<T>::lowest())) return std::numeric_limits<T>::lowest();
  return static_cast<T>(x);
}

template <typename F>
uint64_t apply_float(Op op, F a, F b, F c) {
  switch (op) {
    case Op::add:
      return to_bits(a + b);
    case Op::sub:
      return to_bits(a - b);
    case Op::mul:
      return to_bits(a * b);
    case Op::div:
      return to_bits(a / b);
    case Op::neg:
      return to_bits(-a);
    case Op::min:
      return to_bits(a < b || std::isnan(a) ? a : b);
    case Op::max:
      return to_bits(b < a || std::isnan(a) ? a : b);
    case Op::fma:
      return to_bits(std::fma(a, b, c));
    case Op::sqrt:
      return to_bits(std::sqrt(a));
    case Op::abs:
      return to_bits(std::fabs(a));
    case Op::floor:
      return to_bits(std::floor(a));
    case Op::less:
      return a < b;
    case Op::less_equal:
      return a <= b;
    case Op::equal:
      return a == b;
    case Op::not_equal:
      return a != b;
    default:
      return 0;
  }
}

// Integers and booleans; x and y are extended from the type's width to 64 bits, the result is narrowed to it.
uint64_t apply_integer(Op op, DType type, uint64_t x, uint64_t y) {
  const bool is_signed_type = is_signed(type);
  const int64_t sx = static_cast<int64_t>(x), sy = static_cast<int64_t>(y);
  const unsigned shift = static_cast<unsigned>(y & static_cast<uint64_t>(dtype_size(type) * 8 - 1));
  const bool less = is_signed_type ? sx < sy : x < y;
  switch (op) {
    case Op::add:
      return canonical_bits(type, x + y);
    case Op::sub:
      return canonical_bits(type, x - y);
    case Op::mul:
      return canonical_bits(type, x * y);
    case Op::div:
      if (y == 0) return 0;
      if (!is_signed_type) return x / y;
      // The lowest integer by -1 wraps around to itself.
      return canonical_bits(type, sy == -1 ? 0 - x : static_cast<uint64_t>(sx / sy));
    case Op::mod:
      if (y == 0) return 0;
      if (!is_signed_type) return x % y;
      return sy == -1 ? 0 : static_cast<uint64_t>(sx % sy);
    case Op::neg:
      return canonical_bits(type, 0 - x);
    case Op::min:
      return less ? x : y;
    case Op::max:
      return less ? y : x;
    case Op::abs:
      return canonical_bits(type, is_signed_type && sx < 0 ? 0 - x : x);
    case Op::bit_and:
      return x & y;
    case Op::bit_or:
      return x | y;
    case Op::bit_xor:
      return x ^ y;
    case Op::shl:
      return canonical_bits(type, x << shift);
    case Op::shr:
      return is_signed_type ? static_cast<uint64_t>(sx >> shift) : x >> shift;
    case Op::less:
      return less;
    case Op::less_equal:
      return less || x == y;
    case Op::equal:
      return x == y;
    case Op::not_equal:
      return x != y;
    default:
      return 0;
  }
}

uint64_t integer_to(DType type, DType from, uint64_t x) {
  const bool wide_unsigned = from == DType::u64;
  switch (type) {
    case DType::f32:
      return to_bits(wide_unsigned ? static_cast<float>(x) : static_cast<float>(static_cast<int64_t>(x)));
    case DType::f64:
      return to_bits(wide_unsigned ? static_cast<double>(x) : static_cast<double>(static_cast<int64_t>(x)));
    default:
      return type == DType::boolean ? x != 0 : canonical_bits(type, x);
  }
}

uint64_t float_to(DType type, double x) {
  switch (type) {
    case DType::f32:
      return to_bits(static_cast<float>(x));
    case DType::f64:
      return to_bits(x);
    case DType::boolean:
      return x != 0;
    default:
      return static_cast<uint64_t>(saturating_integer(type, x));
  }
}

uint64_t apply_cast(DType type, DType from, uint64_t x) {
  if (type == from) return x;
  // The 16-bit formats convert to and from f32; every other cast of theirs goes through f32.
  if (from == DType::f16) return apply_cast(type, DType::f32, to_bits(half_to_float(static_cast<uint16_t>(x))));
  if (from == DType::bf16) return apply_cast(type, DType::f32, to_bits(bfloat16_to_float(static_cast<uint16_t>(x))));
  if (type == DType::f16) return float_to_half(as_f32(apply_cast(DType::f32, from, x)));
  if (type == DType::bf16) return float_to_bfloat16(as_f32(apply_cast(DType::f32, from, x)));
  if (!is_float(from)) return integer_to(type, from, x);
  return float_to(type, from == DType::f32 ? as_f32(x) : as_f64(x));
}

// See Op::dot.
uint64_t apply_dot(DType type, uint64_t a, uint64_t b, uint64_t c) {
  if (type == DType::f32) {
    const auto part = [](uint64_t word, bool high) {
      return as_f32(high ? word & 0xffff0000 : word << 16 & 0xffffffff);
    };
    return to_bits(std::fma(part(a, true), part(b, true), std::fma(part(a, false), part(b, false), as_f32(c))));
  }
  for (int shift = 0; shift < 32; shift += 8)
    c += static_cast<uint64_t>(static_cast<int64_t>(a >> shift & 0xff) * static_cast<int8_t>(b >> shift & 0xff));
  return canonical_bits(type, c);
}

}  // namespace

uint64_t apply(Op op, DType type, DType from, const uint64_t* v) {
  switch (op) {
    case Op::dot:
      return apply_dot(type, v[0], v[1], v[2]);
    case Op::select:
      return v[0] ? v[1] : v[2];
    case Op::cast:
      return apply_cast(type, from, v[0]);
    case Op::bitcast:
      return canonical_bits(type, v[0]);
    default:
      break;
  }
  const bool unary = op == Op::neg || op == Op::sqrt || op == Op::abs || op == Op::floor;
  const uint64_t b = unary ? 0 : v[1];
  const uint64_t c = op == Op::fma ? v[2] : 0;
  if (from == DType::f32) return apply_float(op, as_f32(v[0]), as_f32(b), as_f32(c));
  if (from == DType::f64) return apply_float(op, as_f64(v[0]), as_f64(b), as_f64(c));
  return apply_integer(op, from, v[0], b);
}

Op combine_op(Combine combine) {
  switch (combine) {
    case Combine::add:
      return Op::add;
    case Combine::max:
      return Op::max;
    case Combine::min:
      return Op::min;
    case Combine::dot:
      return Op::dot;
    case Combine::fma:
      break;
  }
  return Op::fma;
}

uint64_t combine_identity(Combine combine, DType type) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  switch (combine) {
    case Combine::max:
      return static_cast<uint64_t>(constant_bits(type, -infinity));
    case Combine::min:
      return static_cast<uint64_t>(constant_bits(type, infinity));
    default:
      return static_cast<uint64_t>(constant_bits(type, -0.0));
  }
}

uint64_t canonical_bits(DType type, uint64_t bits) {
  switch (type) {
    case DType::boolean:
      return bits & 1;
    case DType::i8:
      return static_cast<uint64_t>(static_cast<int64_t>(static_cast<int8_t>(bits)));
    case DType::i32:
      return static_cast<uint64_t>(static_cast<int64_t>(static_cast<int32_t>(bits)));
    case DType::u8:
      return static_cast<uint8_t>(bits);
    case DType::f16:
    case DType::bf16:
      return static_cast<uint16_t>(bits);
    case DType::u32:
    case DType::f32:
      return static_cast<uint32_t>(bits);
    default:
      return bits;
  }
}

int64_t saturating_integer(DType type, double number) {
  switch (type) {
    case DType::i8:
      return saturate<int8_t>(number);
    case DType::u8:
      return saturate<uint8_t>(number);
    case DType::i32:
      return saturate<int32_t>(number);
    case DType::u32:
      return saturate<uint32_t>(number);
    case DType::u64:
      return static_cast<int64_t>(saturate<uint64_t>(number));
    default:
      return saturate<int64_t>(number);
  }
}

}  // namespace sporkle::ir
