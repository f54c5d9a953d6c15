#include "codegen/llvm/text.h"

#include <bit>
#include <cstdio>

namespace sporkle::codegen::llvm {
namespace {

using ir::DType;

const char* scalar_type(DType type) {
  switch (type) {
    case DType::boolean:
      return "i1";
    case DType::i8:
    case DType::u8:
      return "i8";
    case DType::i32:
    case DType::u32:
      return "i32";
    case DType::i64:
    case DType::u64:
      return "i64";
    case DType::f16:
    case DType::bf16:
      return "i16";
    case DType::f32:
      return "float";
    case DType::f64:
      return "double";
    case DType::none:
      break;
  }
  return "void";
}

std::string widened(const char* type, int width) {
  return width == 1 ? type : "<" + std::to_string(width) + " x " + type + ">";
}

}  // namespace

std::string lane_picture(int width, const std::function<int(int)>& taken) {
  std::string lanes;
  for (int i = 0; i < width; ++i) lanes += (i > 0 ? ", i32 " : "i32 ") + std::to_string(taken(i));
  return "<" + std::to_string(width) + " x i32> <" + lanes + ">";
}

std::string value_type(DType type, int width) { return widened(scalar_type(type), width); }

std::string memory_type(DType type, int width) {
  return widened(type == DType::boolean ? "i8" : scalar_type(type), width);
}

std::string intrinsic_suffix(DType type, int width) {
  const bool floating = type == DType::f32 || type == DType::f64;
  const std::string element = (floating ? "f" : "i") + std::to_string(8 * ir::dtype_size(type));
  return width == 1 ? element : "v" + std::to_string(width) + element;
}

std::string constant_text(DType type, int64_t bits, int width) {
  std::string element;
  if (type == DType::f32 || type == DType::f64) {
    // LLVM writes a float as the hexadecimal digits of the double with the same value.
    const uint64_t wide =
        type == DType::f64
            ? static_cast<uint64_t>(bits)
            : std::bit_cast<uint64_t>(static_cast<double>(std::bit_cast<float>(static_cast<uint32_t>(bits))));
    char digits[24];
    std::snprintf(digits, sizeof digits, "0x%016llX", static_cast<unsigned long long>(wide));
    element = digits;
  } else if (type == DType::boolean) {
    element = bits ? "true" : "false";
  } else {
    element = std::to_string(bits);
  }
  if (width == 1) return element;
  std::string text = "<";
  for (int i = 0; i < width; ++i) text += (i ? ", " : "") + value_type(type, 1) + " " + element;
  return text + ">";
}

std::string lane_numbers(int width) {
  std::string text = "<";
  for (int i = 0; i < width; ++i) text += (i ? ", i64 " : "i64 ") + std::to_string(i);
  return text + ">";
}

}  // namespace sporkle::codegen::llvm
