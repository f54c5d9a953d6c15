// Conversions between types, and between values and what memory holds.
#include <cmath>
#include <limits>

#include "codegen/spirv/arithmetic.h"

namespace sporkle::codegen::spirv {
namespace {

using ir::DType;
using SpvOp = spv::Op;

bool is_wide(DType type) { return type == DType::i64 || type == DType::u64; }

}  // namespace

Id Arithmetic::cast(DType to, DType from, int depth, Id a) {
  if (to == from) return a;
  // The 16-bit formats convert to and from f32; every other cast of theirs goes through f32.
  if (from == DType::f16) return cast(to, DType::f32, depth, half_to_float(depth, a));
  if (from == DType::bf16) {
    const Id bits = i32(depth, SpvOp::OpShiftLeftLogical, a, u32(16));
    return cast(to, DType::f32, depth, s_.define(depth, SpvOp::OpBitcast, m_.float_type(32), {bits}));
  }
  if (to == DType::f16) return half_from_float(depth, cast(DType::f32, from, depth, a));
  if (to == DType::bf16) return bfloat_from_float(depth, cast(DType::f32, from, depth, a));
  const Id target = m_.value_type(to);
  if (from == DType::boolean)
    return select(depth, to, a, m_.constant(to, ir::constant_bits(to, 1)), m_.constant(to, 0));
  if (to == DType::boolean) return compare(ir::Op::not_equal, from, depth, a, m_.constant(from, 0));
  if (from == DType::f32 && to == DType::f64) return widen(depth, a);
  if (ir::is_float(from) && ir::is_float(to)) return s_.define(depth, SpvOp::OpFConvert, target, {a});
  if (ir::is_float(from)) return float_to_integer(to, from, depth, a);
  if (ir::is_float(to))
    return s_.define(depth, ir::is_signed(from) ? SpvOp::OpConvertSToF : SpvOp::OpConvertUToF, target, {a});
  return integer_to_integer(to, from, depth, a);
}

Id Arithmetic::integer_to_integer(DType to, DType from, int depth, Id a) {
  if (is_wide(to)) {
    if (is_wide(from)) return a;
    const Id u64 = m_.integer_type(64), wide = s_.define(depth, SpvOp::OpUConvert, u64, {a});
    if (!ir::is_signed(from)) return wide;
    // Signs are extended by arithmetic: Mesa 22.3 compares what OpSConvert gives with constants wrongly.
    const Id sign = m_.constant_u64(0x80000000);
    return s_.define(depth, SpvOp::OpISub, u64, {s_.define(depth, SpvOp::OpBitwiseXor, u64, {wide, sign}), sign});
  }
  return narrow(to, depth, is_wide(from) ? s_.define(depth, SpvOp::OpUConvert, m_.integer_type(32), {a}) : a);
}

// Truncated and saturated, NaN gives 0; SPIR-V leaves all but the plain case undefined.
Id Arithmetic::float_to_integer(DType to, DType from, int depth, Id a) {
  if (to == DType::i8 || to == DType::u8) {
    const Id wide = float_to_integer(DType::i32, from, depth, a);
    const Id low = m_.constant(DType::i32, to == DType::i8 ? -128 : 0);
    const Id high = m_.constant(DType::i32, to == DType::i8 ? 127 : 255);
    return extremum(ir::Op::min, DType::i32, depth, extremum(ir::Op::max, DType::i32, depth, wide, low), high);
  }
  const bool is_signed = ir::is_signed(to);
  const int digits = 8 * ir::dtype_size(to) - (is_signed ? 1 : 0);
  const double beyond_value = std::ldexp(1.0, digits), lowest_value = is_signed ? -beyond_value : 0.0;
  const auto number = [&](double value) { return m_.constant(from, ir::constant_bits(from, value)); };
  const Id beyond = number(beyond_value), lowest = number(lowest_value);
  const Id over = test(depth, SpvOp::OpFOrdGreaterThanEqual, a, beyond);
  const Id under = test(depth, SpvOp::OpFOrdLessThanEqual, a, lowest);
  const Id inside = test(depth, SpvOp::OpLogicalAnd, test(depth, SpvOp::OpFOrdGreaterThan, a, lowest),
                         test(depth, SpvOp::OpFOrdLessThan, a, beyond));
  const Id safe = select(depth, from, inside, a, number(0));
  Id result = s_.define(depth, is_signed ? SpvOp::OpConvertFToS : SpvOp::OpConvertFToU, m_.value_type(to), {safe});
  constexpr double infinity = std::numeric_limits<double>::infinity();
  result = select(depth, to, over, m_.constant(to, ir::constant_bits(to, infinity)), result);
  return select(depth, to, under, m_.constant(to, ir::constant_bits(to, -infinity)), result);
}

// The steps are those of ir/float16.cc.
Id Arithmetic::half_from_float(int depth, Id a) {
  const Id bits = s_.define(depth, SpvOp::OpBitcast, m_.integer_type(32), {a});
  const Id sign = i32(depth, SpvOp::OpBitwiseAnd, i32(depth, SpvOp::OpShiftRightLogical, bits, u32(16)), u32(0x8000));
  const Id magnitude = i32(depth, SpvOp::OpBitwiseAnd, bits, u32(0x7fffffff));
  const Id odd = i32(depth, SpvOp::OpBitwiseAnd, i32(depth, SpvOp::OpShiftRightLogical, magnitude, u32(13)), u32(1));
  const Id rounded = i32(depth, SpvOp::OpIAdd, i32(depth, SpvOp::OpIAdd, magnitude, odd), u32(0xfff - (112u << 23)));
  const Id normal = i32(depth, SpvOp::OpShiftRightLogical, rounded, u32(13));
  // Below 2^-14, halves are multiples of 2^-24, the last place of 0.5.
  const Id shifted =
      floating(depth, SpvOp::OpFAdd, DType::f32,
               {s_.define(depth, SpvOp::OpBitcast, m_.float_type(32), {magnitude}), m_.constant_f32(0.5f)});
  const Id small = i32(depth, SpvOp::OpISub, s_.define(depth, SpvOp::OpBitcast, m_.integer_type(32), {shifted}),
                       u32(std::bit_cast<uint32_t>(0.5f)));
  const auto at_least = [&](uint32_t limit) { return test(depth, SpvOp::OpUGreaterThanEqual, magnitude, u32(limit)); };
  Id result = select(depth, DType::u32, at_least(0x38800000), normal, small);
  result = select(depth, DType::u32, at_least(0x477ff000), u32(0x7c00), result);
  result = select(depth, DType::u32, at_least(0x7f800001), u32(0x7e00), result);
  return i32(depth, SpvOp::OpBitwiseOr, sign, result);
}

Id Arithmetic::half_to_float(int depth, Id a) {
  const Id f32 = m_.float_type(32), i = m_.integer_type(32);
  const Id sign = i32(depth, SpvOp::OpShiftLeftLogical, i32(depth, SpvOp::OpBitwiseAnd, a, u32(0x8000)), u32(16));
  const Id magnitude = i32(depth, SpvOp::OpBitwiseAnd, a, u32(0x7fff));
  const Id wide = i32(depth, SpvOp::OpShiftLeftLogical, magnitude, u32(13));
  const Id normal = i32(depth, SpvOp::OpIAdd, wide, u32(112u << 23));
  const Id special = i32(depth, SpvOp::OpBitwiseOr, wide, u32(0x7f800000));
  const Id small_number =
      floating(depth, SpvOp::OpFMul, DType::f32,
               {s_.define(depth, SpvOp::OpConvertUToF, f32, {magnitude}), m_.constant_f32(0x1p-24f)});
  const Id small = s_.define(depth, SpvOp::OpBitcast, i, {small_number});
  Id result = select(depth, DType::u32, test(depth, SpvOp::OpULessThan, magnitude, u32(0x400)), small, normal);
  result = select(depth, DType::u32, test(depth, SpvOp::OpUGreaterThanEqual, magnitude, u32(0x7c00)), special, result);
  return s_.define(depth, SpvOp::OpBitcast, f32, {i32(depth, SpvOp::OpBitwiseOr, sign, result)});
}

Id Arithmetic::bfloat_from_float(int depth, Id a) {
  const Id bits = s_.define(depth, SpvOp::OpBitcast, m_.integer_type(32), {a});
  const Id high = i32(depth, SpvOp::OpShiftRightLogical, bits, u32(16));
  const Id odd = i32(depth, SpvOp::OpBitwiseAnd, high, u32(1));
  const Id sum = i32(depth, SpvOp::OpIAdd, i32(depth, SpvOp::OpIAdd, bits, u32(0x7fff)), odd);
  const Id rounded = i32(depth, SpvOp::OpShiftRightLogical, sum, u32(16));
  const Id nan = i32(depth, SpvOp::OpBitwiseOr, i32(depth, SpvOp::OpBitwiseAnd, high, u32(0x8000)), u32(0x7fc0));
  const Id is_nan =
      test(depth, SpvOp::OpUGreaterThan, i32(depth, SpvOp::OpBitwiseAnd, bits, u32(0x7fffffff)), u32(0x7f800000));
  return select(depth, DType::u32, is_nan, nan, rounded);
}

Id Arithmetic::bitcast(DType to, DType from, int depth, Id a) {
  if (to == DType::i8 || to == DType::u8) return narrow(to, depth, a);
  const Id source = m_.value_type(from), target = m_.value_type(to);
  return source == target ? a : s_.define(depth, SpvOp::OpBitcast, target, {a});
}

Id Arithmetic::from_memory(DType type, int depth, Id loaded) {
  const Id word = m_.integer_type(32);
  switch (type) {
    case DType::boolean:
      return test(depth, SpvOp::OpINotEqual, s_.define(depth, SpvOp::OpUConvert, word, {loaded}), u32(0));
    case DType::i8:
      return narrow(type, depth, s_.define(depth, SpvOp::OpUConvert, word, {loaded}));
    case DType::u8:
    case DType::f16:
    case DType::bf16:
      return s_.define(depth, SpvOp::OpUConvert, word, {loaded});
    default:
      return loaded;
  }
}

Id Arithmetic::to_memory(DType type, int depth, Id value) {
  if (type == DType::boolean) value = select(depth, DType::u32, value, u32(1), u32(0));
  const Id memory = m_.memory_type(type);
  return memory == m_.value_type(type) ? value : s_.define(depth, SpvOp::OpUConvert, memory, {value});
}

Id Arithmetic::from_bits(DType type, int depth, Id bits) {
  if (is_wide(type)) return bits;
  if (type == DType::f64) return s_.define(depth, SpvOp::OpBitcast, m_.float_type(64), {bits});
  const Id word = s_.define(depth, SpvOp::OpUConvert, m_.integer_type(32), {bits});
  switch (type) {
    case DType::f32:
      return s_.define(depth, SpvOp::OpBitcast, m_.float_type(32), {word});
    case DType::boolean:
      return test(depth, SpvOp::OpINotEqual, i32(depth, SpvOp::OpBitwiseAnd, word, u32(1)), u32(0));
    case DType::f16:
    case DType::bf16:
      return i32(depth, SpvOp::OpBitwiseAnd, word, u32(0xffff));
    default:
      return narrow(type, depth, word);
  }
}

}  // namespace sporkle::codegen::spirv
