#include "codegen/spirv/copy_emitter.h"

#include <vector>

#include "codegen/spirv/arguments.h"
#include "codegen/spirv/scopes.h"
#include "dsl/kernel.h"
#include "ir/builder.h"

namespace sporkle::codegen::spirv {
namespace {

using ir::DType;
using SpvOp = spv::Op;

constexpr uint32_t kInvocations = 128;
constexpr uint32_t kVectorBytes = 16;
constexpr uint32_t kVectors =
    kCopyBlockBytes / kVectorBytes / kInvocations;  // of an invocation, all on their way at once

}  // namespace

Result<GpuCode> emit_copy() {
  const ir::Node* blocks = nullptr;
  // What the code below does.
  const ir::Kernel kernel = dsl::trace("copy", [&](dsl::KernelBuilder& k) {
    const dsl::Buffer from = k.input(DType::u32, "from"), to = k.output(DType::u32, "to");
    const dsl::Expr count = k.size("blocks");
    blocks = count.node();
    k.range("i", count * static_cast<int64_t>(kCopyBlockBytes / 4), [&](dsl::Expr i) { to.store(i, from[i]); });
  });

  Module m;
  Scopes s(m);
  Arguments arguments(s, kernel);
  m.capability(spv::Capability::Shader);
  m.capability(spv::Capability::PhysicalStorageBufferAddresses);
  const Id u32 = m.integer_type(32), u64 = m.integer_type(64), vector = m.vector_type(u32, 4);
  const Id group = m.builtin(m.vector_type(u32, 3), spv::BuiltIn::WorkgroupId);
  const Id local = m.builtin(u32, spv::BuiltIn::LocalInvocationIndex);
  const Id function = m.fresh(), entry = m.fresh();
  s.open(entry);
  s.start_block(0, entry);
  const auto define = [&](SpvOp op, Id type, std::initializer_list<uint32_t> operands) {
    return s.define(0, op, type, operands);
  };
  const Id at = define(SpvOp::OpLoad, m.vector_type(u32, 3), {group});
  const Id in_dispatch = define(SpvOp::OpUConvert, u64, {define(SpvOp::OpCompositeExtract, u32, {at, 0})});
  const Id block = define(SpvOp::OpIAdd, u64, {arguments.word(0), in_dispatch});
  const Id lane = define(SpvOp::OpUConvert, u64, {define(SpvOp::OpLoad, u32, {local})});
  const Id start = define(SpvOp::OpIAdd, u64,
                          {define(SpvOp::OpIMul, u64, {block, m.constant_u64(kCopyBlockBytes)}),
                           define(SpvOp::OpIMul, u64, {lane, m.constant_u64(kVectorBytes)})});
  const auto storage = spv::StorageClass::PhysicalStorageBuffer;
  const Id array = m.runtime_array_block(vector, kVectorBytes);
  const auto aligned = static_cast<uint32_t>(spv::MemoryAccessMask::Aligned);
  // Invocations side by side move vectors side by side.
  const auto place = [&](size_t buffer, uint32_t number) {
    const Id bytes =
        define(SpvOp::OpIAdd, u64, {start, m.constant_u64(uint64_t{number} * kInvocations * kVectorBytes)});
    const Id address = define(SpvOp::OpIAdd, u64, {arguments.bits(buffer), bytes});
    const Id base = define(SpvOp::OpConvertUToPtr, m.pointer_type(storage, array), {address});
    return define(SpvOp::OpAccessChain, m.pointer_type(storage, vector), {base, m.constant_u32(0), m.constant_u32(0)});
  };
  std::vector<Id> moved;
  for (uint32_t n = 0; n < kVectors; ++n)
    moved.push_back(define(SpvOp::OpLoad, vector, {place(0, n), aligned, kVectorBytes}));
  for (uint32_t n = 0; n < kVectors; ++n) s.line(0, SpvOp::OpStore, {place(1, n), moved[n], aligned, kVectorBytes});
  s.line(0, SpvOp::OpReturn, {});

  Words text;
  append(text, SpvOp::OpFunction, {m.void_type(), function, 0, m.function_type({m.void_type()})});
  const Words& body = s.at(0).text;
  text.insert(text.end(), body.begin(), body.end());
  append(text, SpvOp::OpFunctionEnd, {});
  m.add_function(text);

  GpuCode code;
  for (const ir::BufferArgument& buffer : kernel.buffers)
    code.buffers.push_back({static_cast<uint32_t>(ir::dtype_size(buffer.type)), buffer.access, kVectorBytes});
  code.arguments_inline = arguments.are_inline();
  code.workgroup_size = kInvocations;
  code.iterations_per_workgroup = 1;
  ir::Builder builder(*kernel.context);
  SPORKLE_ASSIGN_OR_RETURN(code.launch, LaunchFormula::make(kernel, blocks, builder.integer(0)));
  code.spirv = m.assemble(function, code.workgroup_size);
  return code;
}

}  // namespace sporkle::codegen::spirv
