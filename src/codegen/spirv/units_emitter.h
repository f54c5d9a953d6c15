// What the emitters of kernels for a GPU's matrix units share: cooperative matrices of 16 x 16, arithmetic on indices,
// variables, and the module around the one function. Each emission is one object, on one thread.
#pragma once

#include <string_view>
#include <vector>

#include "codegen/gpu_abi.h"
#include "codegen/spirv/arguments.h"
#include "codegen/spirv/arithmetic.h"
#include "codegen/spirv/cooperative.h"
#include "codegen/vulkan_target.h"
#include "ir/builder.h"

namespace sporkle::codegen::spirv {

class UnitsEmitter {
 protected:
  using DType = ir::DType;
  using Node = ir::Node;
  using SpvOp = spv::Op;
  using Use = cooperative::Use;
  using Layout = cooperative::Layout;

  static constexpr uint32_t kPiece = 16;        // rows, columns and depth of a subgroup's matrix
  static constexpr uint32_t kVectorBytes = 16;  // that invocations move at once
  static constexpr uint32_t kVector = 8;        // 16-bit elements of such a vector

  UnitsEmitter(const ir::Kernel& kernel, const VulkanTarget& target)
      : kernel_(kernel),
        target_(target),
        builder_(*kernel.context),
        s_(m_),
        arguments_(s_, kernel),
        arithmetic_(s_, target) {}

  static uint32_t number(auto enumerator) { return static_cast<uint32_t>(enumerator); }

  // ---- Values of the innermost scope, or with a depth ----
  Id value(const Node* node);  // of scalars and constants, i64, in scope 0
  Id value32(const Node* node) { return narrow(0, value(node)); }
  Id narrow(int depth, Id wide) { return s_.define(depth, SpvOp::OpUConvert, u32(), {wide}); }
  Id widen(Id narrow_id) { return wide(SpvOp::OpUConvert, {narrow_id}); }
  Id u32() { return m_.integer_type(32); }
  Id u64() { return m_.integer_type(64); }
  Id f32() { return m_.float_type(32); }
  Id c(uint32_t value) { return m_.constant_u32(value); }
  Id i(SpvOp op, Id a, Id b, int depth = -1) {
    return s_.define(depth < 0 ? s_.innermost() : depth, op, u32(), {a, b});
  }
  Id wide(SpvOp op, std::initializer_list<uint32_t> operands) { return s_.define(s_.innermost(), op, u64(), operands); }
  Id add(Id a, Id b) { return i(SpvOp::OpIAdd, a, b); }
  Id mul(Id a, Id b) { return i(SpvOp::OpIMul, a, b); }
  Id less(Id a, Id b) { return s_.define(s_.innermost(), SpvOp::OpULessThan, m_.bool_type(), {a, b}); }

  // ---- Types and memory ----
  Id element_type(DType type);
  Id vector_type() { return m_.vector_type(u32(), 4); }
  // Of a subgroup.
  Id matrix_type(DType type, Use use);
  Id variable(Id type);
  // A pointer to the first element of an array of `type` in device memory.
  Id pointer(Id type, uint32_t stride_bytes, Id address);
  Id read_vector(Id address);  // 16 bytes of device memory
  void barrier(spv::Scope scope = spv::Scope::Workgroup);

  // The invocation's number and its subgroup's, which are known from here on.
  void find_invocation();

  // The declarations that such a module begins with; `type`: of the factors.
  void declare_units(DType type);
  // The workgroup's number, from which on the function is written, as 64 bits.
  Id begin_function();
  // The module of the function that was written; iterations: of kernel's scalars, a workgroup each.
  Result<GpuCode> finish(uint32_t invocations, const Node* iterations);

  const ir::Kernel& kernel_;
  const VulkanTarget& target_;
  ir::Builder builder_;
  Module m_;
  Scopes s_;
  Arguments arguments_;
  Arithmetic arithmetic_;
  Id local_ = 0, subgroup_ = 0;
  uint32_t shared_bytes_ = 0;

 private:
  Words variables_;
  Id function_ = 0;
};

}  // namespace sporkle::codegen::spirv
