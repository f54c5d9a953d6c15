// Dot products of packed numbers: the instruction where the processor has one, else its definition in plain operations.
#include "codegen/llvm/function_emitter.h"
#include "codegen/llvm/text.h"

namespace sporkle::codegen::llvm {

std::string Emitter::fma(DType type, int width, int depth, const std::string& a, const std::string& b,
                         const std::string& c) {
  // A call of the C library for every element is what exactness costs; `fast` does not ask for it.
  if (kernel_.numerics == ir::Numerics::fast && !target_.has_fma())
    return binary_text(Op::add, type, width, depth, binary_text(Op::mul, type, width, depth, a, b), c);
  return intrinsic(depth, "fma", type, width, {a, b, c});
}

std::string Emitter::part_of(DType type, int width, int depth, const std::string& a, int first, int count) {
  const std::string vector = value_type(type, width);
  std::string picks;
  for (int i = 0; i < count; ++i) picks += (i ? ", i32 " : "i32 ") + std::to_string(first + i);
  return define(depth, "shufflevector " + vector + " " + a + ", " + vector + " poison, <" + std::to_string(count) +
                           " x i32> <" + picks + ">");
}

std::string Emitter::dot(DType type, int width, int depth, const std::string& a, const std::string& b,
                         const std::string& c) {
  // In pieces as wide as the registers, then joined again.
  const int widest = target_.vector_width();
  if (width <= widest) return dot_of_register(type, width, depth, a, b, c);
  const int half = width / 2;
  std::string parts[2];
  for (int p = 0; p < 2; ++p)
    parts[p] =
        dot(type, half, depth, part_of(DType::u32, width, depth, a, p * half, half),
            part_of(DType::u32, width, depth, b, p * half, half), part_of(type, width, depth, c, p * half, half));
  const std::string vector = value_type(type, half);
  std::string picks;
  for (int i = 0; i < width; ++i) picks += (i ? ", i32 " : "i32 ") + std::to_string(i);
  return define(depth, "shufflevector " + vector + " " + parts[0] + ", " + vector + " " + parts[1] + ", <" +
                           std::to_string(width) + " x i32> <" + picks + ">");
}

std::string Emitter::dot_of_register(DType type, int width, int depth, const std::string& a, const std::string& b,
                                     const std::string& c) {
  const bool whole = target_.is_x86() && (width == 4 || width == 8 || width == 16);
  const std::string bits = std::to_string(32 * width), word = value_type(DType::u32, width);
  if (type == DType::f32) {
    if (!whole || !target_.bf16) return dot_of_pairs(width, depth, a, b, c);
    const std::string real = value_type(DType::f32, width), pairs = "<" + std::to_string(2 * width) + " x bfloat>";
    const std::string name = "@llvm.x86.avx512bf16.dpbf16ps." + bits;
    declare("declare " + real + " " + name + "(" + real + ", " + pairs + ", " + pairs + ")");
    const auto as_pairs = [&](const std::string& words) {
      return define(depth, "bitcast " + word + " " + words + " to " + pairs);
    };
    return define(depth, "call " + real + " " + name + "(" + real + " " + c + ", " + pairs + " " + as_pairs(a) + ", " +
                             pairs + " " + as_pairs(b) + ")");
  }
  if (!whole || !target_.vnni) return dot_of_bytes(width, depth, a, b, c);
  const std::string name = "@llvm.x86.avx512.vpdpbusd." + bits;
  declare("declare " + word + " " + name + "(" + word + ", " + word + ", " + word + ")");
  return define(
      depth, "call " + word + " " + name + "(" + word + " " + c + ", " + word + " " + a + ", " + word + " " + b + ")");
}

std::string Emitter::dot_of_pairs(int width, int depth, const std::string& a, const std::string& b,
                                  const std::string& c) {
  const std::string word = value_type(DType::u32, width), real = value_type(DType::f32, width);
  // A bf16 is the upper half of the f32 with its value.
  const auto part = [&](const std::string& words, bool high) {
    const std::string bits =
        high ? define(depth, "and " + word + " " + words + ", " + constant_text(DType::u32, 0xffff0000, width))
             : define(depth, "shl " + word + " " + words + ", " + constant_text(DType::u32, 16, width));
    return define(depth, "bitcast " + word + " " + bits + " to " + real);
  };
  const std::string low = fma(DType::f32, width, depth, part(a, false), part(b, false), c);
  return fma(DType::f32, width, depth, part(a, true), part(b, true), low);
}

std::string Emitter::dot_of_bytes(int width, int depth, const std::string& a, const std::string& b,
                                  const std::string& c) {
  const std::string word = value_type(DType::u32, width);
  const bool has_pairs =
      target_.is_x86() && (width == 4 || width == 8 || (width == 16 && target_.vector_width() == 16));
  std::string sum = c;
  if (has_pairs) {
    // The even bytes, then the odd ones, as pairs of 16-bit numbers whose products are added exactly.
    const std::string pairs = "<" + std::to_string(2 * width) + " x i16>";
    const std::string name = width == 4   ? "@llvm.x86.sse2.pmadd.wd"
                             : width == 8 ? "@llvm.x86.avx2.pmadd.wd"
                                          : "@llvm.x86.avx512.pmaddw.d.512";
    declare("declare " + word + " " + name + "(" + pairs + ", " + pairs + ")");
    std::string eight = "<";
    for (int i = 0; i < 2 * width; ++i) eight += i ? ", i16 8" : "i16 8";
    eight += ">";
    const auto as_pairs = [&](const std::string& words) {
      return define(depth, "bitcast " + word + " " + words + " to " + pairs);
    };
    const std::string wide_a = as_pairs(a), wide_b = as_pairs(b);
    for (const bool odd : {false, true}) {
      std::string x = wide_a, y = wide_b;
      if (!odd) {
        x = define(depth, "shl " + pairs + " " + x + ", " + eight);
        y = define(depth, "shl " + pairs + " " + y + ", " + eight);
      }
      x = define(depth, "lshr " + pairs + " " + x + ", " + eight);
      y = define(depth, "ashr " + pairs + " " + y + ", " + eight);
      const std::string products =
          define(depth, "call " + word + " " + name + "(" + pairs + " " + x + ", " + pairs + " " + y + ")");
      sum = define(depth, "add " + word + " " + sum + ", " + products);
    }
    return sum;
  }
  for (int i = 0; i < 4; ++i) {
    const auto shifted = [&](const char* how, const std::string& words, int count) {
      return define(depth,
                    std::string(how) + " " + word + " " + words + ", " + constant_text(DType::u32, count, width));
    };
    const std::string x = shifted("lshr", shifted("shl", a, 24 - 8 * i), 24);
    const std::string y = shifted("ashr", shifted("shl", b, 24 - 8 * i), 24);
    sum = define(depth, "add " + word + " " + sum + ", " + define(depth, "mul " + word + " " + x + ", " + y));
  }
  return sum;
}

}  // namespace sporkle::codegen::llvm
