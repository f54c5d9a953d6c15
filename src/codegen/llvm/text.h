// How types and constants are written in LLVM's textual IR.
#pragma once

#include <functional>
#include <string>

#include "ir/node.h"

namespace sporkle::codegen::llvm {

// "float", or "<16 x float>" for a width above 1. Booleans are i1 as values and i8 in memory; f16 and
// bf16 are their bits, i16.
std::string value_type(ir::DType type, int width);
// The mask of a shufflevector that takes lane taken(i) for lane i.
std::string lane_picture(int width, const std::function<int(int)>& taken);
std::string memory_type(ir::DType type, int width);
// The suffix of an overloaded intrinsic: "f32", "v16f32".
std::string intrinsic_suffix(ir::DType type, int width);
// A constant's operand text from its bits as in ir::Node::value, splatted over `width`.
std::string constant_text(ir::DType type, int64_t bits, int width);
// "<i64 0, i64 1, ...>"
std::string lane_numbers(int width);

}  // namespace sporkle::codegen::llvm
