#include "codegen/spirv/module.h"

#include <bit>

#include "codegen/spirv/cooperative.h"

namespace sporkle::codegen::spirv {
namespace {

constexpr uint32_t kVersion = 0x00010500;  // SPIR-V 1.5: Vulkan 1.2

uint32_t number(auto enumerator) { return static_cast<uint32_t>(enumerator); }

}  // namespace

void append(Words& to, spv::Op op, std::initializer_list<uint32_t> operands, std::span<const uint32_t> more) {
  to.push_back(static_cast<uint32_t>(1 + operands.size() + more.size()) << 16 | number(op));
  to.insert(to.end(), operands);
  to.insert(to.end(), more.begin(), more.end());
}

Words literal(std::string_view text) {
  Words words(text.size() / 4 + 1);  // ends in a zero byte at least
  for (size_t i = 0; i < text.size(); ++i) words[i / 4] |= uint32_t{static_cast<uint8_t>(text[i])} << (i % 4 * 8);
  return words;
}

void Module::execution_mode(Id entry, spv::ExecutionMode mode, std::initializer_list<uint32_t> operands) {
  append(modes_, spv::Op::OpExecutionMode, {entry, number(mode)}, std::span(operands.begin(), operands.size()));
}

void Module::fast_math_default(Id entry, bool f64) {
  constexpr auto float_controls2 = static_cast<spv::Capability>(6029);
  constexpr auto fast_math_default_mode = static_cast<spv::ExecutionMode>(6028);
  capability(float_controls2);
  extension("SPV_KHR_float_controls2");
  for (const uint32_t bits : {32u, 64u})
    if (bits == 32 || f64)
      append(modes_, spv::Op::OpExecutionModeId,
             {entry, number(fast_math_default_mode), float_type(bits), constant_u32(0)});
}

void Module::decorate(Id target, spv::Decoration decoration, std::initializer_list<uint32_t> operands) {
  append(decorations_, spv::Op::OpDecorate, {target, number(decoration)}, std::span(operands.begin(), operands.size()));
}

void Module::decorate_member(Id target, uint32_t member, spv::Decoration decoration, uint32_t operand) {
  append(decorations_, spv::Op::OpMemberDecorate, {target, member, number(decoration), operand});
}

Id Module::unique(spv::Op op, std::initializer_list<uint32_t> before, std::initializer_list<uint32_t> after) {
  std::vector<uint32_t> key{number(op)};
  key.insert(key.end(), before);
  key.insert(key.end(), after);
  const auto [found, is_new] = known_.try_emplace(std::move(key), next_id_);
  if (!is_new) return found->second;
  Words operands(before);
  operands.push_back(fresh());
  operands.insert(operands.end(), after);
  append(globals_, op, {}, operands);
  return found->second;
}

Id Module::integer_type(uint32_t bits) {
  if (bits == 8) capability(spv::Capability::StorageBuffer8BitAccess);
  if (bits == 16) capability(spv::Capability::StorageBuffer16BitAccess);
  if (bits == 64) capability(spv::Capability::Int64);
  return unique(spv::Op::OpTypeInt, {}, {bits, 0});
}

Id Module::float_type(uint32_t bits) {
  if (bits == 64) capability(spv::Capability::Float64);
  return unique(spv::Op::OpTypeFloat, {}, {bits});
}

Id Module::bfloat16_type() { return unique(spv::Op::OpTypeFloat, {}, {16, cooperative::kBFloat16Encoding}); }

void Module::use_vulkan_memory_model() {
  vulkan_memory_model_ = true;
  capability(spv::Capability::VulkanMemoryModel);
}

Id Module::runtime_array_block(Id element, uint32_t stride_bytes) {
  Id& block = blocks_[{element, stride_bytes}];
  if (block != 0) return block;
  const Id array = define_global(spv::Op::OpTypeRuntimeArray, {element});
  decorate(array, spv::Decoration::ArrayStride, {stride_bytes});
  block = define_global(spv::Op::OpTypeStruct, {array});
  decorate(block, spv::Decoration::Block);
  decorate_member(block, 0, spv::Decoration::Offset, 0);
  return block;
}

Id Module::array_type(Id element, uint32_t count, uint32_t stride_bytes) {
  const Id length = constant_u32(count);
  if (stride_bytes == 0) return unique(spv::Op::OpTypeArray, {}, {element, length});
  const Id array = define_global(spv::Op::OpTypeArray, {element, length});
  decorate(array, spv::Decoration::ArrayStride, {stride_bytes});
  return array;
}

Id Module::define_global(spv::Op op, std::initializer_list<uint32_t> operands) {
  const Id id = fresh();
  append(globals_, op, {id}, std::span(operands.begin(), operands.size()));
  return id;
}

Id Module::value_type(ir::DType type) {
  switch (type) {
    case ir::DType::boolean:
      return bool_type();
    case ir::DType::i64:
    case ir::DType::u64:
      return integer_type(64);
    case ir::DType::f32:
      return float_type(32);
    case ir::DType::f64:
      return float_type(64);
    default:
      return integer_type(32);
  }
}

Id Module::memory_type(ir::DType type) {
  switch (type) {
    case ir::DType::boolean:
    case ir::DType::i8:
    case ir::DType::u8:
      return integer_type(8);
    case ir::DType::f16:
    case ir::DType::bf16:
      return integer_type(16);
    default:
      return value_type(type);
  }
}

Id Module::constant_u32(uint32_t value) {
  const Id id = unique(spv::Op::OpConstant, {integer_type(32)}, {value});
  integer_constants_.emplace(id, value);
  return id;
}

Id Module::constant_u64(uint64_t value) {
  const Id id = unique(spv::Op::OpConstant, {integer_type(64)},
                       {static_cast<uint32_t>(value), static_cast<uint32_t>(value >> 32)});
  integer_constants_.emplace(id, value);
  return id;
}

std::optional<uint64_t> Module::integer_constant(Id id) const {
  const auto found = integer_constants_.find(id);
  return found == integer_constants_.end() ? std::nullopt : std::optional(found->second);
}

Id Module::constant_f32(float value) {
  return unique(spv::Op::OpConstant, {float_type(32)}, {std::bit_cast<uint32_t>(value)});
}

Id Module::constant_f64(double value) {
  const uint64_t bits = std::bit_cast<uint64_t>(value);
  return unique(spv::Op::OpConstant, {float_type(64)},
                {static_cast<uint32_t>(bits), static_cast<uint32_t>(bits >> 32)});
}

Id Module::constant(ir::DType type, int64_t bits) {
  const uint64_t b = static_cast<uint64_t>(bits);
  if (type == ir::DType::boolean) return constant_bool(b != 0);
  if (type == ir::DType::f32) return constant_f32(std::bit_cast<float>(static_cast<uint32_t>(b)));
  if (type == ir::DType::f64) return constant_f64(std::bit_cast<double>(b));
  return ir::dtype_size(type) == 8 ? constant_u64(b) : constant_u32(static_cast<uint32_t>(b));
}

Id Module::global_variable(spv::StorageClass storage, Id pointee) {
  const Id type = pointer_type(storage, pointee), variable = fresh();
  append(globals_, spv::Op::OpVariable, {type, variable, number(storage)});
  variables_.push_back(variable);
  return variable;
}

Id Module::builtin(Id type, spv::BuiltIn what) {
  const Id variable = global_variable(spv::StorageClass::Input, type);
  decorate(variable, spv::Decoration::BuiltIn, {number(what)});
  return variable;
}

Id Module::glsl() {
  if (glsl_ == 0) glsl_ = fresh();
  return glsl_;
}

Words Module::assemble(Id entry, uint32_t workgroup_size) const {
  Words words{spv::MagicNumber, kVersion, 0, next_id_, 0};
  for (const uint32_t capability : capabilities_) append(words, spv::Op::OpCapability, {capability});
  for (const std::string& name : extensions_) append(words, spv::Op::OpExtension, {}, literal(name));
  if (glsl_ != 0) append(words, spv::Op::OpExtInstImport, {glsl_}, literal("GLSL.std.450"));
  append(words, spv::Op::OpMemoryModel,
         {number(spv::AddressingModel::PhysicalStorageBuffer64),
          number(vulkan_memory_model_ ? spv::MemoryModel::Vulkan : spv::MemoryModel::GLSL450)});
  Words interface = literal("main");
  interface.insert(interface.end(), variables_.begin(), variables_.end());
  append(words, spv::Op::OpEntryPoint, {number(spv::ExecutionModel::GLCompute), entry}, interface);
  append(words, spv::Op::OpExecutionMode, {entry, number(spv::ExecutionMode::LocalSize), workgroup_size, 1, 1});
  for (const Words* section : {&modes_, &decorations_, &globals_, &functions_})
    words.insert(words.end(), section->begin(), section->end());
  return words;
}

}  // namespace sporkle::codegen::spirv
