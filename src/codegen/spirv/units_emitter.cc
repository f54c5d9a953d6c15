#include "codegen/spirv/units_emitter.h"

#include <array>

namespace sporkle::codegen::spirv {

Id UnitsEmitter::value(const Node* node) {
  if (const Value* known = s_.find(node)) return known->id;
  if (node->is_constant()) return m_.constant(node->type, node->value);
  Id result;
  if (node->op == ir::Op::scalar) {
    result = arithmetic_.from_bits(node->type, 0,
                                   arguments_.bits(kernel_.buffers.size() + static_cast<size_t>(node->value)));
  } else {
    std::array<Id, 3> v{};
    for (size_t n = 0; n < node->source_count; ++n) v[n] = value(node->src(n));
    result = arithmetic_.apply(node->op, node->type, node->src(0)->type, 0, v);
  }
  s_.remember(node, {result, 0});
  return result;
}

Id UnitsEmitter::element_type(DType type) {
  if (type == DType::f32) return f32();
  return type == DType::bf16 ? m_.bfloat16_type() : m_.float16_type();
}

Id UnitsEmitter::matrix_type(DType type, Use use) {
  return m_.type(cooperative::OpTypeCooperativeMatrix,
                 {element_type(type), c(number(spv::Scope::Subgroup)), c(kPiece), c(kPiece), c(number(use))});
}

Id UnitsEmitter::variable(Id type) {
  const Id result = m_.fresh();
  append(variables_, SpvOp::OpVariable,
         {m_.pointer_type(spv::StorageClass::Function, type), result, number(spv::StorageClass::Function)});
  return result;
}

Id UnitsEmitter::pointer(Id type, uint32_t stride_bytes, Id address) {
  const Id block = m_.runtime_array_block(type, stride_bytes);
  const int depth = s_.innermost();
  const Id base = s_.define(depth, SpvOp::OpConvertUToPtr,
                            m_.pointer_type(spv::StorageClass::PhysicalStorageBuffer, block), {address});
  return s_.define(depth, SpvOp::OpAccessChain, m_.pointer_type(spv::StorageClass::PhysicalStorageBuffer, type),
                   {base, c(0), c(0)});
}

Id UnitsEmitter::read_vector(Id address) {
  return s_.define(
      s_.innermost(), SpvOp::OpLoad, vector_type(),
      {pointer(vector_type(), kVectorBytes, address), number(spv::MemoryAccessMask::Aligned), kVectorBytes});
}

void UnitsEmitter::barrier(spv::Scope scope) {
  const auto semantics = spv::MemorySemanticsMask::AcquireRelease | spv::MemorySemanticsMask::WorkgroupMemory;
  s_.line(s_.innermost(), SpvOp::OpControlBarrier, {c(number(scope)), c(number(scope)), c(number(semantics))});
}

void UnitsEmitter::find_invocation() {
  m_.capability(spv::Capability::GroupNonUniform);
  const Id local_number = m_.builtin(u32(), spv::BuiltIn::LocalInvocationIndex);
  const Id subgroup_number = m_.builtin(u32(), spv::BuiltIn::SubgroupId);
  local_ = s_.define(0, SpvOp::OpLoad, u32(), {local_number});
  subgroup_ = s_.define(0, SpvOp::OpLoad, u32(), {subgroup_number});
}

void UnitsEmitter::declare_units(DType type) {
  m_.capability(spv::Capability::Shader);
  m_.capability(spv::Capability::PhysicalStorageBufferAddresses);
  m_.capability(cooperative::CapabilityMatrix);
  m_.extension("SPV_KHR_cooperative_matrix");
  if (type == DType::bf16) {
    m_.capability(cooperative::CapabilityBFloat16Type);
    m_.capability(cooperative::CapabilityBFloat16Matrix);
    m_.extension("SPV_KHR_bfloat16");
  } else {
    m_.capability(spv::Capability::Float16);
  }
  m_.use_vulkan_memory_model();
}

Id UnitsEmitter::begin_function() {
  const Id group = m_.builtin(m_.vector_type(u32(), 3), spv::BuiltIn::WorkgroupId);
  const Id entry = m_.fresh();
  function_ = m_.fresh();
  s_.open(entry);
  s_.start_block(0, entry);
  const Id at = s_.define(0, SpvOp::OpLoad, m_.vector_type(u32(), 3), {group});
  const Id within = s_.define(0, SpvOp::OpUConvert, u64(), {s_.define(0, SpvOp::OpCompositeExtract, u32(), {at, 0})});
  // As many workgroups as iterations: none is past the end.
  return s_.define(0, SpvOp::OpIAdd, u64(), {arguments_.word(0), within});
}

Result<GpuCode> UnitsEmitter::finish(uint32_t invocations, const Node* iterations) {
  s_.line(0, SpvOp::OpReturn, {});
  Words text;
  append(text, SpvOp::OpFunction, {m_.void_type(), function_, 0, m_.function_type({m_.void_type()})});
  const Words& body = s_.at(0).text;
  constexpr ptrdiff_t label_words = 2;
  text.insert(text.end(), body.begin(), body.begin() + label_words);
  text.insert(text.end(), variables_.begin(), variables_.end());
  text.insert(text.end(), body.begin() + label_words, body.end());
  append(text, SpvOp::OpFunctionEnd, {});
  m_.add_function(text);
  SPORKLE_RETURN_IF_ERROR(arithmetic_.status());

  GpuCode code;
  for (const ir::BufferArgument& buffer : kernel_.buffers) {
    const auto size = static_cast<uint32_t>(ir::dtype_size(buffer.type));
    code.buffers.push_back({size, buffer.access, kVectorBytes});
  }
  code.arguments_inline = arguments_.are_inline();
  code.workgroup_size = invocations;
  code.iterations_per_workgroup = 1;
  code.shared_bytes = shared_bytes_;
  SPORKLE_ASSIGN_OR_RETURN(code.launch, LaunchFormula::make(kernel_, iterations, builder_.integer(0)));
  code.spirv = m_.assemble(function_, code.workgroup_size);
  return code;
}

}  // namespace sporkle::codegen::spirv
