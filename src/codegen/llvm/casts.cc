// Conversions between types. f16 and bf16 are their bits, as integers of 16: every processor rounds alike when the
// steps are integer operations.
#include <bit>

#include "codegen/llvm/function_emitter.h"
#include "codegen/llvm/text.h"

namespace sporkle::codegen::llvm {

std::string Emitter::cast(DType to, DType from, int width, int depth, const std::string& a) {
  if (from == to) return a;
  // The 16-bit formats convert to and from f32; every other cast of theirs goes through f32.
  if (from == DType::f16) return cast(to, DType::f32, width, depth, half_to_float(width, depth, a));
  if (from == DType::bf16) return cast(to, DType::f32, width, depth, bfloat16_to_float(width, depth, a));
  if (to == DType::f16) return float_to_half(width, depth, cast(DType::f32, from, width, depth, a));
  if (to == DType::bf16) return float_to_bfloat16(width, depth, cast(DType::f32, from, width, depth, a));
  const std::string source = value_type(from, width), target = value_type(to, width);
  const auto convert = [&](const char* how) {
    return define(depth, std::string(how) + " " + source + " " + a + " to " + target);
  };
  if (to == DType::boolean)
    return define(depth, (ir::is_float(from) ? "fcmp une " : "icmp ne ") + source + " " + a + ", " +
                             constant_text(from, 0, width));
  if (ir::is_float(from) && ir::is_float(to)) return convert(from == DType::f32 ? "fpext" : "fptrunc");
  if (ir::is_float(to)) return convert(ir::is_signed(from) ? "sitofp" : "uitofp");
  if (ir::is_float(from)) {
    const std::string name = std::string("@llvm.fpto") + (ir::is_signed(to) ? "si" : "ui") + ".sat." +
                             intrinsic_suffix(to, width) + "." + intrinsic_suffix(from, width);
    declare("declare " + target + " " + name + "(" + source + ")");
    return define(depth, "call " + target + " " + name + "(" + source + " " + a + ")");
  }
  const int before = from == DType::boolean ? 0 : ir::dtype_size(from), after = ir::dtype_size(to);
  if (before == after) return a;
  return convert(after < before ? "trunc" : ir::is_signed(from) ? "sext" : "zext");
}

namespace {

// Writes the steps of a conversion on 32-bit integers and floats.
struct Steps {
  std::function<std::string(const std::string&)> define;
  int width;

  std::string word() const { return value_type(DType::u32, width); }
  std::string number(uint32_t value) const { return constant_text(DType::u32, value, width); }
  std::string real(float value) const {
    return constant_text(DType::f32, static_cast<int64_t>(std::bit_cast<uint32_t>(value)), width);
  }
  std::string binary(const char* instruction, const std::string& a, const std::string& b) const {
    return define(std::string(instruction) + " " + word() + " " + a + ", " + b);
  }
  std::string select(const char* comparison, const std::string& a, uint32_t limit, const std::string& yes,
                     const std::string& no) const {
    const std::string holds = define(std::string("icmp ") + comparison + " " + word() + " " + a + ", " + number(limit));
    return define("select " + value_type(DType::boolean, width) + " " + holds + ", " + word() + " " + yes + ", " +
                  word() + " " + no);
  }
  std::string bits_of(const std::string& a) const {
    return define("bitcast " + value_type(DType::f32, width) + " " + a + " to " + word());
  }
  std::string real_of(const std::string& a) const {
    return define("bitcast " + word() + " " + a + " to " + value_type(DType::f32, width));
  }
  std::string narrow(const std::string& a) const {
    return define("trunc " + word() + " " + a + " to " + value_type(DType::f16, width));
  }
  std::string widen(const std::string& a) const {
    return define("zext " + value_type(DType::f16, width) + " " + a + " to " + word());
  }
};

}  // namespace

// The steps are those of ir/float16.cc.
std::string Emitter::float_to_half(int width, int depth, const std::string& a) {
  const Steps s{[&](const std::string& text) { return define(depth, text); }, width};
  const std::string bits = s.bits_of(a), real = value_type(DType::f32, width);
  const std::string sign = s.binary("and", s.binary("lshr", bits, s.number(16)), s.number(0x8000));
  const std::string magnitude = s.binary("and", bits, s.number(0x7fffffff));
  const std::string odd = s.binary("and", s.binary("lshr", magnitude, s.number(13)), s.number(1));
  const std::string rounded = s.binary("add", s.binary("add", magnitude, odd), s.number(0xfff - (112u << 23)));
  const std::string normal = s.binary("lshr", rounded, s.number(13));
  // Below 2^-14, halves are multiples of 2^-24, the last place of 0.5.
  const std::string shifted = define(depth, "fadd " + real + " " + s.real_of(magnitude) + ", " + s.real(0.5f));
  const std::string small = s.binary("sub", s.bits_of(shifted), s.number(std::bit_cast<uint32_t>(0.5f)));
  std::string result = s.select("uge", magnitude, 0x38800000, normal, small);
  result = s.select("uge", magnitude, 0x477ff000, s.number(0x7c00), result);
  result = s.select("uge", magnitude, 0x7f800001, s.number(0x7e00), result);
  return s.narrow(s.binary("or", sign, result));
}

std::string Emitter::half_to_float(int width, int depth, const std::string& a) {
  const Steps s{[&](const std::string& text) { return define(depth, text); }, width};
  const std::string wide = s.widen(a), real = value_type(DType::f32, width);
  const std::string sign = s.binary("shl", s.binary("and", wide, s.number(0x8000)), s.number(16));
  const std::string magnitude = s.binary("and", wide, s.number(0x7fff));
  const std::string shifted = s.binary("shl", magnitude, s.number(13));
  const std::string normal = s.binary("add", shifted, s.number(112u << 23));
  const std::string special = s.binary("or", shifted, s.number(0x7f800000));
  // From 0 to 0x7fff, so that a signed conversion does, of which every processor has one.
  const std::string counted = define(depth, "sitofp " + s.word() + " " + magnitude + " to " + real);
  const std::string small = s.bits_of(define(depth, "fmul " + real + " " + counted + ", " + s.real(0x1p-24f)));
  std::string result = s.select("ult", magnitude, 0x400, small, normal);
  result = s.select("uge", magnitude, 0x7c00, special, result);
  return s.real_of(s.binary("or", sign, result));
}

std::string Emitter::float_to_bfloat16(int width, int depth, const std::string& a) {
  const Steps s{[&](const std::string& text) { return define(depth, text); }, width};
  const std::string bits = s.bits_of(a), high = s.binary("lshr", bits, s.number(16));
  const std::string odd = s.binary("and", high, s.number(1));
  const std::string sum = s.binary("add", s.binary("add", bits, s.number(0x7fff)), odd);
  const std::string rounded = s.binary("lshr", sum, s.number(16));
  const std::string nan = s.binary("or", s.binary("and", high, s.number(0x8000)), s.number(0x7fc0));
  const std::string magnitude = s.binary("and", bits, s.number(0x7fffffff));
  return s.narrow(s.select("ugt", magnitude, 0x7f800000, nan, rounded));
}

std::string Emitter::bfloat16_to_float(int width, int depth, const std::string& a) {
  const Steps s{[&](const std::string& text) { return define(depth, text); }, width};
  return s.real_of(s.binary("shl", s.widen(a), s.number(16)));
}

}  // namespace sporkle::codegen::llvm
