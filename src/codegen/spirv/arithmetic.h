// The IR's arithmetic in SPIR-V: what ir/arithmetic.h defines, bit for bit, where the device keeps the promises of its
// VulkanTarget.
//
// Every floating-point operation is decorated NoContraction, so no driver may fuse it with another. The 16-bit formats
// are converted by integer operations. Belongs to one emission.
#pragma once

#include <span>

#include "base/status.h"
#include "codegen/spirv/scopes.h"
#include "codegen/vulkan_target.h"
#include "ir/node.h"

namespace sporkle::codegen::spirv {

class Arithmetic {
 public:
  // `contracts`: a fused multiply-add of f32 may be written as a product and a sum that the target is known to contract
  // (VulkanTarget::contract32).
  Arithmetic(Scopes& scopes, const VulkanTarget& target, bool contracts = false)
      : s_(scopes), m_(scopes.module()), target_(target), contracts_(contracts && target.contract32) {}

  // The operations from add to bitcast in ir::Op; arguments as ir::apply takes them. Emitted to scope `depth`.
  Id apply(ir::Op op, ir::DType type, ir::DType from, int depth, std::span<const Id> v);

  // a % b of integers whose quotient, as apply gives it, is there already.
  Id remainder(ir::DType type, int depth, Id a, Id b, Id quotient);

  // Between what memory holds (Module::memory_type) and values.
  Id from_memory(ir::DType type, int depth, Id loaded);
  Id to_memory(ir::DType type, int depth, Id value);
  // A scalar argument from its 64 bits.
  Id from_bits(ir::DType type, int depth, Id bits);

  // unsupported once something was asked for that the target cannot do exactly.
  const Status& status() const { return status_; }

 private:
  Id floating(int depth, spv::Op op, ir::DType type, std::initializer_list<Id> operands);
  Id extended(int depth, uint32_t instruction, ir::DType type, std::span<const Id> operands);
  Id select(int depth, ir::DType type, Id condition, Id a, Id b);
  Id test(int depth, spv::Op op, Id a, Id b) { return s_.define(depth, op, m_.bool_type(), {a, b}); }
  Id i32(int depth, spv::Op op, Id a, Id b) { return s_.define(depth, op, m_.integer_type(32), {a, b}); }
  Id u32(uint32_t value) { return m_.constant_u32(value); }
  // Back to the range of an 8-bit integer.
  Id narrow(ir::DType type, int depth, Id wide);

  Id apply_float(ir::Op op, ir::DType type, int depth, std::span<const Id> v);
  Id apply_integer(ir::Op op, ir::DType type, int depth, std::span<const Id> v);
  Id apply_boolean(ir::Op op, int depth, std::span<const Id> v);
  Id compare(ir::Op op, ir::DType type, int depth, Id a, Id b);
  // The same for f32 where the device's comparisons take denormal numbers for zeros.
  Id compare_by_difference(ir::Op op, int depth, Id a, Id b);
  Id extremum(ir::Op op, ir::DType type, int depth, Id a, Id b);
  Id divide(ir::DType type, int depth, Id a, Id b);
  Id divide_indices(int depth, Id a, Id b);
  Id divide_floats(ir::DType type, int depth, Id a, Id b);
  Id square_root(ir::DType type, int depth, Id a);
  Id fused_multiply_add(ir::DType type, int depth, std::span<const Id> v);
  Id exact_fma32();
  Id with_bits(int depth, spv::Op op, Id a, uint32_t mask);
  Id widen(int depth, Id a);  // f32 to f64

  Id cast(ir::DType to, ir::DType from, int depth, Id a);
  Id bitcast(ir::DType to, ir::DType from, int depth, Id a);
  Id float_to_integer(ir::DType to, ir::DType from, int depth, Id a);
  Id integer_to_integer(ir::DType to, ir::DType from, int depth, Id a);
  Id half_from_float(int depth, Id a);
  Id half_to_float(int depth, Id a);
  Id bfloat_from_float(int depth, Id a);

  void fail(const std::string& message) {
    if (status_.ok()) status_ = unsupported(message);
  }

  Scopes& s_;
  Module& m_;
  const VulkanTarget& target_;
  const bool contracts_;
  Id exact_fma32_ = 0;  // the function, once it is there
  Status status_;
};

}  // namespace sporkle::codegen::spirv
