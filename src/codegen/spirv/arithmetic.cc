#include "codegen/spirv/arithmetic.h"

#include <spirv/unified1/GLSL.std.450.h>

#include <bit>

namespace sporkle::codegen::spirv {
namespace {

using ir::DType;
using ir::Op;
using SpvOp = spv::Op;

constexpr uint32_t kAllowContract = 0x10000;  // of FPFastMathMode, with SPV_KHR_float_controls2

}  // namespace

Id Arithmetic::floating(int depth, SpvOp op, DType type, std::initializer_list<Id> operands) {
  const Id result = s_.define(depth, op, m_.value_type(type), operands);
  if (!target_.controls2) m_.decorate(result, spv::Decoration::NoContraction);
  return result;
}

Id Arithmetic::extended(int depth, uint32_t instruction, DType type, std::span<const Id> operands) {
  return s_.define(depth, SpvOp::OpExtInst, m_.value_type(type), {m_.glsl(), instruction}, operands);
}

Id Arithmetic::select(int depth, DType type, Id condition, Id a, Id b) {
  return s_.define(depth, SpvOp::OpSelect, m_.value_type(type), {condition, a, b});
}

Id Arithmetic::narrow(DType type, int depth, Id wide) {
  if (type == DType::u8) return i32(depth, SpvOp::OpBitwiseAnd, wide, u32(0xff));
  if (type == DType::i8) {
    const Id low = i32(depth, SpvOp::OpBitwiseAnd, wide, u32(0xff));
    return i32(depth, SpvOp::OpISub, i32(depth, SpvOp::OpBitwiseXor, low, u32(0x80)), u32(0x80));
  }
  return wide;
}

Id Arithmetic::apply(Op op, DType type, DType from, int depth, std::span<const Id> v) {
  switch (op) {
    case Op::select:
      return select(depth, type, v[0], v[1], v[2]);
    case Op::cast:
      return cast(type, from, depth, v[0]);
    case Op::bitcast:
      return bitcast(type, from, depth, v[0]);
    case Op::less:
    case Op::less_equal:
    case Op::equal:
    case Op::not_equal:
      return compare(op, from, depth, v[0], v[1]);
    case Op::min:
    case Op::max:
      return extremum(op, type, depth, v[0], v[1]);
    default:
      break;
  }
  if (ir::is_float(type)) return apply_float(op, type, depth, v);
  if (type == DType::boolean) return apply_boolean(op, depth, v);
  return apply_integer(op, type, depth, v);
}

Id Arithmetic::apply_float(Op op, DType type, int depth, std::span<const Id> v) {
  switch (op) {
    case Op::add:
      return floating(depth, SpvOp::OpFAdd, type, {v[0], v[1]});
    case Op::sub:
      return floating(depth, SpvOp::OpFSub, type, {v[0], v[1]});
    case Op::mul:
      return floating(depth, SpvOp::OpFMul, type, {v[0], v[1]});
    case Op::div:
      return divide_floats(type, depth, v[0], v[1]);
    case Op::neg:
      if (type == DType::f32 && !target_.compare32) return with_bits(depth, SpvOp::OpBitwiseXor, v[0], 0x80000000);
      return floating(depth, SpvOp::OpFNegate, type, {v[0]});
    case Op::abs:
      if (type == DType::f32 && !target_.compare32) return with_bits(depth, SpvOp::OpBitwiseAnd, v[0], 0x7fffffff);
      return extended(depth, GLSLstd450FAbs, type, v.first(1));
    case Op::sqrt:
      return square_root(type, depth, v[0]);
    case Op::fma:
      return fused_multiply_add(type, depth, v);
    default:
      fail("the GPU code generator met " + std::string(ir::op_name(op)) + " of " + std::string(ir::dtype_name(type)) +
           ", which lowering should have removed");
      return v[0];
  }
}

// An f32 whose bits are changed: a device that flushes denormal numbers may do so even where only a sign changes.
Id Arithmetic::with_bits(int depth, SpvOp op, Id a, uint32_t mask) {
  const Id bits = s_.define(depth, SpvOp::OpBitcast, m_.integer_type(32), {a});
  return s_.define(depth, SpvOp::OpBitcast, m_.float_type(32), {i32(depth, op, bits, u32(mask))});
}

Id Arithmetic::apply_boolean(Op op, int depth, std::span<const Id> v) {
  const SpvOp instruction = op == Op::bit_and  ? SpvOp::OpLogicalAnd
                            : op == Op::bit_or ? SpvOp::OpLogicalOr
                                               : SpvOp::OpLogicalNotEqual;
  return test(depth, instruction, v[0], v[1]);
}

Id Arithmetic::apply_integer(Op op, DType type, int depth, std::span<const Id> v) {
  const Id t = m_.value_type(type);
  const auto two = [&](SpvOp instruction) {
    return narrow(type, depth, s_.define(depth, instruction, t, {v[0], v[1]}));
  };
  switch (op) {
    case Op::add:
      return two(SpvOp::OpIAdd);
    case Op::sub:
      return two(SpvOp::OpISub);
    case Op::mul:
      return two(SpvOp::OpIMul);
    case Op::div:
      return divide(type, depth, v[0], v[1]);
    case Op::mod:
      return remainder(type, depth, v[0], v[1], divide(type, depth, v[0], v[1]));
    case Op::bit_and:
      return two(SpvOp::OpBitwiseAnd);
    case Op::bit_or:
      return two(SpvOp::OpBitwiseOr);
    case Op::bit_xor:
      return two(SpvOp::OpBitwiseXor);
    case Op::shl:
    case Op::shr: {
      const Id count =
          s_.define(depth, SpvOp::OpBitwiseAnd, t, {v[1], m_.constant(type, 8 * ir::dtype_size(type) - 1)});
      const SpvOp shift = op == Op::shl         ? SpvOp::OpShiftLeftLogical
                          : ir::is_signed(type) ? SpvOp::OpShiftRightArithmetic
                                                : SpvOp::OpShiftRightLogical;
      return narrow(type, depth, s_.define(depth, shift, t, {v[0], count}));
    }
    case Op::neg:
    case Op::abs: {
      if (op == Op::abs && !ir::is_signed(type)) return v[0];
      const Id zero = m_.constant(type, 0);
      const Id negated = narrow(type, depth, s_.define(depth, SpvOp::OpISub, t, {zero, v[0]}));
      if (op == Op::neg) return negated;
      return select(depth, type, test(depth, SpvOp::OpSLessThan, v[0], zero), negated, v[0]);
    }
    default:
      fail("the GPU code generator met " + std::string(ir::op_name(op)) + " of " + std::string(ir::dtype_name(type)) +
           ", which lowering should have removed");
      return v[0];
  }
}

Id Arithmetic::compare(Op op, DType type, int depth, Id a, Id b) {
  if (type == DType::f32 && !target_.compare32) return compare_by_difference(op, depth, a, b);
  if (ir::is_float(type)) {
    switch (op) {
      case Op::less:
        return test(depth, SpvOp::OpFOrdLessThan, a, b);
      case Op::less_equal:
        return test(depth, SpvOp::OpFOrdLessThanEqual, a, b);
      case Op::equal:
        return test(depth, SpvOp::OpFOrdEqual, a, b);
      default:
        return test(depth, SpvOp::OpFUnordNotEqual, a, b);
    }
  }
  const bool is_signed = ir::is_signed(type);
  switch (op) {
    case Op::less:
      return test(depth, is_signed ? SpvOp::OpSLessThan : SpvOp::OpULessThan, a, b);
    case Op::less_equal:
      return test(depth, is_signed ? SpvOp::OpSLessThanEqual : SpvOp::OpULessThanEqual, a, b);
    case Op::equal:
      return test(depth, type == DType::boolean ? SpvOp::OpLogicalEqual : SpvOp::OpIEqual, a, b);
    default:
      return test(depth, type == DType::boolean ? SpvOp::OpLogicalNotEqual : SpvOp::OpINotEqual, a, b);
  }
}

// With gradual underflow a - b is zero only where a equals b, so the bits of the difference say what a comparison that
// flushes denormal numbers cannot; it is NaN for NaN and for infinities that are equal.
Id Arithmetic::compare_by_difference(Op op, int depth, Id a, Id b) {
  const auto bits = [&](Id x, Id y) {
    return s_.define(depth, SpvOp::OpBitcast, m_.integer_type(32),
                     {floating(depth, SpvOp::OpFSub, DType::f32, {x, y})});
  };
  // Bits 0x80000001 to 0xff800000: below zero.
  const auto less = [&](Id x, Id y) {
    return test(depth, SpvOp::OpULessThan, i32(depth, SpvOp::OpISub, bits(x, y), u32(0x80000001)), u32(0x7f800000));
  };
  if (op == Op::less) return less(a, b);
  if (op == Op::less_equal)
    return test(depth, SpvOp::OpLogicalAnd, test(depth, SpvOp::OpFOrdLessThanEqual, a, b),
                s_.define(depth, SpvOp::OpLogicalNot, m_.bool_type(), {less(b, a)}));
  const Id magnitude = i32(depth, SpvOp::OpBitwiseAnd, bits(a, b), u32(0x7fffffff));
  const Id differs = test(depth, SpvOp::OpULessThan, i32(depth, SpvOp::OpISub, magnitude, u32(1)), u32(0x7f800000));
  if (op == Op::not_equal) return test(depth, SpvOp::OpLogicalOr, test(depth, SpvOp::OpFUnordNotEqual, a, b), differs);
  return test(depth, SpvOp::OpLogicalAnd, test(depth, SpvOp::OpFOrdEqual, a, b),
              s_.define(depth, SpvOp::OpLogicalNot, m_.bool_type(), {differs}));
}

// a wins where it is the smaller (larger) or NaN; see ir/node.h.
Id Arithmetic::extremum(Op op, DType type, int depth, Id a, Id b) {
  Id wins = op == Op::min ? compare(Op::less, type, depth, a, b) : compare(Op::less, type, depth, b, a);
  if (ir::is_float(type)) wins = test(depth, SpvOp::OpLogicalOr, wins, compare(Op::not_equal, type, depth, a, a));
  return select(depth, type, wins, a, b);
}

// x / 0 = x % 0 = 0, and the lowest integer / -1 wraps; SPIR-V leaves both undefined, and the remainder of negative
// numbers as well.
Id Arithmetic::divide(DType type, int depth, Id a, Id b) {
  const Id zero = m_.constant(type, 0), one = m_.constant(type, 1);
  const bool is_signed = ir::is_signed(type);
  const std::optional<uint64_t> known = m_.integer_constant(b);
  if (known == 0) return zero;
  Id by_zero = 0, by_minus_one = 0, divisor = b;
  if (!known) {
    by_zero = test(depth, SpvOp::OpIEqual, b, zero);
    divisor = select(depth, type, by_zero, one, divisor);
  }
  if (is_signed && (!known || known == m_.integer_constant(m_.constant(type, -1)))) {
    by_minus_one = test(depth, SpvOp::OpIEqual, b, m_.constant(type, -1));
    divisor = select(depth, type, by_minus_one, one, divisor);
  }
  const bool is_shift = known && std::has_single_bit(*known);
  Id result = type == DType::i64 && !is_shift
                  ? divide_indices(depth, a, divisor)
                  : s_.define(depth, is_signed ? SpvOp::OpSDiv : SpvOp::OpUDiv, m_.value_type(type), {a, divisor});
  if (by_minus_one != 0) {
    const Id negated = narrow(type, depth, s_.define(depth, SpvOp::OpISub, m_.value_type(type), {zero, a}));
    result = select(depth, type, by_minus_one, negated, result);
  }
  if (by_zero != 0) result = select(depth, type, by_zero, zero, result);
  return result;
}

// GPUs have no instruction that divides 64 bits: they take a hundred others for it, and about fifteen for 32 bits,
// which almost every index fits in. `b` is neither 0 nor -1.
Id Arithmetic::divide_indices(int depth, Id a, Id b) {
  const Id t = m_.integer_type(64);
  const auto low = [&](Id x) { return s_.define(depth, SpvOp::OpUConvert, m_.integer_type(32), {x}); };
  const Id both = s_.define(depth, SpvOp::OpBitwiseOr, t, {a, b});
  const Id is_wide = test(depth, SpvOp::OpUGreaterThan, both, m_.constant_u64(0xffffffff));
  const Id divisor = s_.define(depth, SpvOp::OpSelect, m_.integer_type(32), {is_wide, u32(1), low(b)});
  const Id narrow = i32(depth, SpvOp::OpUDiv, low(a), divisor);
  return s_.choose(depth, is_wide, t, s_.define(depth, SpvOp::OpUConvert, t, {narrow}), [&] {
    return s_.define(depth, SpvOp::OpSDiv, t, {a, b});
  });
}

Id Arithmetic::remainder(DType type, int depth, Id a, Id b, Id quotient) {
  const Id t = m_.value_type(type), zero = m_.constant(type, 0);
  const std::optional<uint64_t> known = m_.integer_constant(b);
  if (known == 0) return zero;
  // For -1 the product wraps to a.
  const Id whole = s_.define(depth, SpvOp::OpIMul, t, {quotient, b});
  const Id result = narrow(type, depth, s_.define(depth, SpvOp::OpISub, t, {a, whole}));
  return known ? result : select(depth, type, test(depth, SpvOp::OpIEqual, b, zero), zero, result);
}

Id Arithmetic::divide_floats(DType type, int depth, Id a, Id b) {
  const bool native = type == DType::f32 ? target_.div32 : target_.div64;
  if (native) return floating(depth, SpvOp::OpFDiv, type, {a, b});
  if (type == DType::f32 && target_.div64) {
    // The quotient of two f32, rounded to f64 and then to f32, is the one rounded once: 53 >= 2 * 24 + 2 (Figueroa,
    // "When is double rounding innocuous?", 1995).
    const Id wide = floating(depth, SpvOp::OpFDiv, DType::f64,
                             {cast(DType::f64, type, depth, a), cast(DType::f64, type, depth, b)});
    return cast(DType::f32, DType::f64, depth, wide);
  }
  fail("this device does not round the division of " + std::string(ir::dtype_name(type)) + " correctly");
  return a;
}

Id Arithmetic::square_root(DType type, int depth, Id a) {
  const bool native = type == DType::f32 ? target_.sqrt32 : target_.sqrt64;
  if (native) return extended(depth, GLSLstd450Sqrt, type, std::array{a});
  if (type == DType::f32 && target_.sqrt64) {  // as for the division
    const Id wide = extended(depth, GLSLstd450Sqrt, DType::f64, std::array{cast(DType::f64, type, depth, a)});
    return cast(DType::f32, DType::f64, depth, wide);
  }
  fail("this device does not round the square root of " + std::string(ir::dtype_name(type)) + " correctly");
  return a;
}

Id Arithmetic::fused_multiply_add(DType type, int depth, std::span<const Id> v) {
  if (type == DType::f32 && contracts_) {
    const Id t = m_.float_type(32);
    const Id product = s_.define(depth, SpvOp::OpFMul, t, {v[0], v[1]});
    const Id sum = s_.define(depth, SpvOp::OpFAdd, t, {product, v[2]});
    if (target_.controls2) {
      m_.decorate(product, spv::Decoration::FPFastMathMode, {kAllowContract});
      m_.decorate(sum, spv::Decoration::FPFastMathMode, {kAllowContract});
    }
    return sum;
  }
  const bool native = type == DType::f32 ? target_.fma32 || target_.fma32_normal : target_.fma64;
  const auto exact = [&] {
    return s_.define(depth, SpvOp::OpFunctionCall, m_.float_type(32), {exact_fma32()}, v.first(3));
  };
  if (native) {
    const Id result = extended(depth, GLSLstd450Fma, type, v.first(3));
    if (!target_.controls2) m_.decorate(result, spv::Decoration::NoContraction);
    if (type == DType::f64 || target_.fma32 || !target_.f64) return result;
    // It is right unless an operand is a denormal number or the result is one, or would be but for the last rounding.
    const auto magnitude = [&](Id x) {
      return i32(depth, SpvOp::OpBitwiseAnd, s_.define(depth, SpvOp::OpBitcast, m_.integer_type(32), {x}),
                 u32(0x7fffffff));
    };
    Id doubtful = test(depth, SpvOp::OpULessThan, magnitude(result), u32(0x00800000));
    for (const Id x : v.first(3))
      doubtful =
          test(depth, SpvOp::OpLogicalOr, doubtful,
               test(depth, SpvOp::OpULessThan, i32(depth, SpvOp::OpISub, magnitude(x), u32(1)), u32(0x007fffff)));
    return s_.choose(depth, doubtful, m_.float_type(32), result, exact);
  }
  if (type == DType::f32 && target_.f64) return exact();
  fail("this device has no fused multiply-add of " + std::string(ir::dtype_name(type)) +
       (type == DType::f32 ? ", and no f64 to make one of" : ""));
  return v[0];
}

// Exact. Of a denormal number, which some devices take for zero, the fraction is converted as the integer that it is.
Id Arithmetic::widen(int depth, Id a) {
  const Id f64 = m_.float_type(64);
  const Id wide = s_.define(depth, SpvOp::OpFConvert, f64, {a});
  if (target_.widen32) return wide;
  const Id bits = s_.define(depth, SpvOp::OpBitcast, m_.integer_type(32), {a});
  const Id magnitude = i32(depth, SpvOp::OpBitwiseAnd, bits, u32(0x7fffffff));
  const Id unsigned_value =
      floating(depth, SpvOp::OpFMul, DType::f64,
               {s_.define(depth, SpvOp::OpConvertUToF, f64, {magnitude}), m_.constant_f64(0x1p-149)});
  const Id negative = test(depth, SpvOp::OpINotEqual, bits, magnitude);
  const Id small = select(depth, DType::f64, negative, floating(depth, SpvOp::OpFNegate, DType::f64, {unsigned_value}),
                          unsigned_value);
  return select(depth, DType::f64, test(depth, SpvOp::OpULessThan, magnitude, u32(0x00800000)), small, wide);
}

// fma in f32 by f64 alone: the product is exact there; the sum is rounded to odd, which makes the rounding to f32 that
// follows the only one that counts (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008).
Id Arithmetic::exact_fma32() {
  if (exact_fma32_ != 0) return exact_fma32_;
  exact_fma32_ = m_.fresh();
  const Id f32 = m_.float_type(32), f64 = m_.float_type(64), u64 = m_.integer_type(64);
  Words function;
  append(function, SpvOp::OpFunction, {f32, exact_fma32_, 0, m_.function_type({f32, f32, f32, f32})});
  Id arguments[3];
  for (Id& argument : arguments) {
    argument = m_.fresh();
    append(function, SpvOp::OpFunctionParameter, {f32, argument});
  }
  Scopes scopes(m_);
  Arithmetic in(scopes, target_);
  const Id entry = m_.fresh();
  scopes.open(entry);
  scopes.start_block(0, entry);
  Id wide[3];
  for (size_t i = 0; i < 3; ++i) wide[i] = in.widen(0, arguments[i]);
  const auto f = [&](SpvOp op, Id a, Id b) { return in.floating(0, op, DType::f64, {a, b}); };
  const Id product = f(SpvOp::OpFMul, wide[0], wide[1]), sum = f(SpvOp::OpFAdd, product, wide[2]);
  // The rounding error of the sum (Knuth's TwoSum); NaN where the sum is no number.
  const Id back = f(SpvOp::OpFSub, sum, product);
  const Id error =
      f(SpvOp::OpFAdd, f(SpvOp::OpFSub, product, f(SpvOp::OpFSub, sum, back)), f(SpvOp::OpFSub, wide[2], back));
  const Id zero = m_.constant_f64(0.0);
  const Id bits = scopes.define(0, SpvOp::OpBitcast, u64, {sum});
  const Id even = in.test(0, SpvOp::OpIEqual, scopes.define(0, SpvOp::OpBitwiseAnd, u64, {bits, m_.constant_u64(1)}),
                          m_.constant_u64(0));
  const Id inexact = in.test(0, SpvOp::OpFOrdNotEqual, error, zero);
  const Id outward = in.test(0, SpvOp::OpLogicalEqual, in.test(0, SpvOp::OpFOrdGreaterThan, error, zero),
                             in.test(0, SpvOp::OpFOrdGreaterThan, sum, zero));
  const Id step = scopes.define(0, SpvOp::OpSelect, u64, {outward, m_.constant_u64(1), m_.constant_u64(~uint64_t{0})});
  const Id moved = scopes.define(0, SpvOp::OpIAdd, u64, {bits, step});
  const Id odd = scopes.define(0, SpvOp::OpSelect, u64, {in.test(0, SpvOp::OpLogicalAnd, even, inexact), moved, bits});
  const Id result = scopes.define(0, SpvOp::OpFConvert, f32, {scopes.define(0, SpvOp::OpBitcast, f64, {odd})});
  scopes.line(0, SpvOp::OpReturnValue, {result});
  const Words& text = scopes.at(0).text;
  function.insert(function.end(), text.begin(), text.end());
  append(function, SpvOp::OpFunctionEnd, {});
  m_.add_function(function);
  return exact_fma32_;
}

}  // namespace sporkle::codegen::spirv
