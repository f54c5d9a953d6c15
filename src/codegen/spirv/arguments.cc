#include "codegen/spirv/arguments.h"

#include "codegen/gpu_abi.h"

namespace sporkle::codegen::spirv {

using SpvOp = spv::Op;

Arguments::Arguments(Scopes& scopes, const ir::Kernel& kernel) : s_(scopes), m_(scopes.module()) {
  const size_t count = kernel.buffers.size() + kernel.scalars.size();
  inline_ = count <= kMaxInlineArguments;
  const uint32_t words = static_cast<uint32_t>(kPushConstantHeaderWords + (inline_ ? count : 1));
  const Id type = m_.define_global(SpvOp::OpTypeStruct, {m_.array_type(m_.integer_type(64), words, 8)});
  m_.decorate(type, spv::Decoration::Block);
  m_.decorate_member(type, 0, spv::Decoration::Offset, 0);
  block_ = m_.global_variable(spv::StorageClass::PushConstant, type);
}

Id Arguments::word(uint32_t number) {
  if (const auto found = words_.find(number); found != words_.end()) return found->second;
  const Id u64 = m_.integer_type(64);
  const Id at = s_.define(0, SpvOp::OpAccessChain, m_.pointer_type(spv::StorageClass::PushConstant, u64),
                          {block_, m_.constant_u32(0), m_.constant_u32(number)});
  return words_[number] = s_.define(0, SpvOp::OpLoad, u64, {at});
}

Id Arguments::bits(size_t number) {
  constexpr uint32_t header = kPushConstantHeaderWords;
  if (inline_) return word(header + static_cast<uint32_t>(number));
  const Id u64 = m_.integer_type(64);
  const Id address = s_.define(0, SpvOp::OpIAdd, u64, {word(header), m_.constant_u64(8 * number)});
  const Id at =
      s_.define(0, SpvOp::OpConvertUToPtr, m_.pointer_type(spv::StorageClass::PhysicalStorageBuffer, u64), {address});
  return s_.define(0, SpvOp::OpLoad, u64, {at, static_cast<uint32_t>(spv::MemoryAccessMask::Aligned), 8});
}

}  // namespace sporkle::codegen::spirv
