// A SPIR-V module under construction: types, constants and decorations, each made once, and the text of functions.
//
// Belongs to one emission, on one thread. "SPIR-V Specification, version 1.5" (Khronos) is the source of all numbers.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <spirv/unified1/spirv.hpp11>
#include <string>
#include <string_view>
#include <vector>

#include "ir/node.h"

namespace sporkle::codegen::spirv {

using Id = uint32_t;
using Words = std::vector<uint32_t>;

// Appends one instruction: its word count and number, then the operands.
void append(Words& to, spv::Op op, std::initializer_list<uint32_t> operands, std::span<const uint32_t> more = {});
// The words of a literal string.
Words literal(std::string_view text);

class Module {
 public:
  Id fresh() { return next_id_++; }
  void capability(spv::Capability capability) { capabilities_.insert(static_cast<uint32_t>(capability)); }
  void extension(std::string_view name) { extensions_.emplace(name); }
  // Instead of GLSL's; cooperative matrices demand it.
  void use_vulkan_memory_model();
  void execution_mode(Id entry, spv::ExecutionMode mode, std::initializer_list<uint32_t> operands);
  // Unless an operation says otherwise, it is neither contracted nor rearranged and keeps NaN, infinity and the sign of
  // zero (SPV_KHR_float_controls2): for f32 and, with `f64`, f64.
  void fast_math_default(Id entry, bool f64);
  void decorate(Id target, spv::Decoration decoration, std::initializer_list<uint32_t> operands = {});
  void decorate_member(Id target, uint32_t member, spv::Decoration decoration, uint32_t operand);

  // ---- Types ----
  Id void_type() { return unique(spv::Op::OpTypeVoid, {}, {}); }
  Id bool_type() { return unique(spv::Op::OpTypeBool, {}, {}); }
  // All integers are declared unsigned; operations say how they take them.
  // 8 and 16 bits are for memory alone, which is all that their capabilities allow.
  Id integer_type(uint32_t bits);
  Id float_type(uint32_t bits);
  // For arithmetic, unlike those that value_type gives; the capabilities are the caller's.
  Id float16_type() { return unique(spv::Op::OpTypeFloat, {}, {16}); }
  Id bfloat16_type();
  Id vector_type(Id element, uint32_t count) { return unique(spv::Op::OpTypeVector, {}, {element, count}); }
  Id pointer_type(spv::StorageClass storage, Id pointee) {
    return unique(spv::Op::OpTypePointer, {}, {static_cast<uint32_t>(storage), pointee});
  }
  // `stride_bytes` 0: without a layout, for memory of a workgroup.
  Id array_type(Id element, uint32_t count, uint32_t stride_bytes = 0);
  // A block of one array without end, for a pointer into device memory.
  Id runtime_array_block(Id element, uint32_t stride_bytes);
  // A type by its instruction and operands.
  Id type(spv::Op op, std::initializer_list<uint32_t> operands) { return unique(op, {}, operands); }
  // The result's type, then the parameters'.
  Id function_type(std::initializer_list<uint32_t> types) { return unique(spv::Op::OpTypeFunction, {}, types); }
  // A type or constant that is equal to no other, such as a block.
  Id define_global(spv::Op op, std::initializer_list<uint32_t> operands);

  // The type of a value while it is computed with. i8, u8, f16 and bf16 are held in 32-bit integers as in constant
  // nodes (sign- or zero-extended); memory holds them in memory_type, booleans as bytes.
  Id value_type(ir::DType type);
  Id memory_type(ir::DType type);

  // ---- Constants ----
  Id constant_u32(uint32_t value);
  Id constant_u64(uint64_t value);
  Id constant_f32(float value);
  Id constant_f64(double value);
  Id constant_bool(bool value) {
    return unique(value ? spv::Op::OpConstantTrue : spv::Op::OpConstantFalse, {bool_type()}, {});
  }
  Id null(Id type) { return unique(spv::Op::OpConstantNull, {type}, {}); }
  // From its bits as in ir::Node::value.
  Id constant(ir::DType type, int64_t bits);
  // The bits of an integer constant of any type (of 32 bits: zero-extended), where `id` is one.
  std::optional<uint64_t> integer_constant(Id id) const;

  // ---- Variables and functions ----
  Id global_variable(spv::StorageClass storage, Id pointee);
  Id builtin(Id type, spv::BuiltIn what);
  void add_function(const Words& words) { functions_.insert(functions_.end(), words.begin(), words.end()); }
  // The extended instructions GLSL.std.450.
  Id glsl();

  // The binary, with one compute entry point "main" of this workgroup size.
  Words assemble(Id entry, uint32_t workgroup_size) const;

 private:
  // The one result of this instruction: its operands before and after the result's id.
  Id unique(spv::Op op, std::initializer_list<uint32_t> before, std::initializer_list<uint32_t> after);

  Id next_id_ = 1;
  std::set<uint32_t> capabilities_;
  std::set<std::string, std::less<>> extensions_;
  bool vulkan_memory_model_ = false;
  Id glsl_ = 0;
  Words modes_, decorations_, globals_, functions_;
  std::vector<Id> variables_;
  std::map<Id, uint64_t> integer_constants_;
  std::map<std::pair<Id, uint32_t>, Id> blocks_;
  std::map<std::vector<uint32_t>, Id> known_;  // of types and constants, by what defines them
};

}  // namespace sporkle::codegen::spirv
