#include "hal/vulkan/executable.h"

#include <algorithm>

#include "hal/host/command_checks.h"

namespace sporkle::hal {
namespace {

constexpr size_t kMostMeasurements = 1024;  // of one kernel; forgotten together beyond that

}  // namespace

Result<std::shared_ptr<VulkanExecutable>> VulkanExecutable::load(std::shared_ptr<VulkanContext> context,
                                                                 std::span<const std::byte> bytes) {
  SPORKLE_RETURN_IF_ERROR(context->alive());
  auto code = codegen::decode_gpu_code(bytes);
  if (!code.ok()) return code.status().with_context("device " + context->id());
  const codegen::VulkanTarget& target = context->description().target;
  if (code->workgroup_size > target.workgroup || code->shared_bytes > target.shared_kib * 1024)
    return unsupported("device " + context->id() + ": a kernel needs workgroups of " +
                       std::to_string(code->workgroup_size) + " invocations and " + std::to_string(code->shared_bytes) +
                       " bytes; the device has " + std::to_string(target.workgroup) + " and " +
                       std::to_string(target.shared_kib * 1024));
  std::shared_ptr<VulkanExecutable> executable(new VulkanExecutable(std::move(context), std::move(*code)));
  for (const codegen::GpuBuffer& buffer : executable->code_.buffers)
    executable->element_sizes_.push_back(static_cast<int>(std::max(buffer.element_bytes, buffer.alignment_bytes)));
  SPORKLE_RETURN_IF_ERROR(executable->create_pipeline());
  return executable;
}

Status VulkanExecutable::create_pipeline() {
  const VulkanFunctions& functions = context_->functions();
  const VkDevice device = context_->device();
  VkPushConstantRange range = {};
  range.stageFlags = VK_SHADER_STAGE_COMPUTE_BIT;
  range.size = static_cast<uint32_t>(code_.push_constant_bytes());
  VkPipelineLayoutCreateInfo layout = {};
  layout.sType = VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO;
  layout.pushConstantRangeCount = 1;
  layout.pPushConstantRanges = &range;
  SPORKLE_RETURN_IF_ERROR(context_->status(functions.vkCreatePipelineLayout(device, &layout, nullptr, &layout_),
                                           "creating a pipeline's layout"));
  VkShaderModuleCreateInfo module_info = {};
  module_info.sType = VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO;
  module_info.codeSize = code_.spirv.size() * sizeof(uint32_t);
  module_info.pCode = code_.spirv.data();
  VkShaderModule module = VK_NULL_HANDLE;
  SPORKLE_RETURN_IF_ERROR(
      context_->status(functions.vkCreateShaderModule(device, &module_info, nullptr, &module), "loading a kernel"));
  VkComputePipelineCreateInfo create = {};
  create.sType = VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO;
  create.stage.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO;
  create.stage.stage = VK_SHADER_STAGE_COMPUTE_BIT;
  create.stage.module = module;
  create.stage.pName = "main";
  create.layout = layout_;
  const VkResult created =
      functions.vkCreateComputePipelines(device, context_->pipeline_cache(), 1, &create, nullptr, &pipeline_);
  functions.vkDestroyShaderModule(device, module, nullptr);
  code_.spirv = {};
  return context_->status(created, "compiling a kernel");
}

VulkanExecutable::~VulkanExecutable() {
  const VulkanFunctions& functions = context_->functions();
  if (pipeline_) functions.vkDestroyPipeline(context_->device(), pipeline_, nullptr);
  if (layout_) functions.vkDestroyPipelineLayout(context_->device(), layout_, nullptr);
}

Status VulkanExecutable::check(const DispatchCommand& command) const {
  return check_arguments("on device " + context_->id(), element_sizes_, code_.launch.scalar_count(), command.bindings,
                         command.scalars);
}

std::optional<double> VulkanExecutable::seconds_per_iteration(const std::vector<uint64_t>& scalars) const {
  std::lock_guard lock(mutex_);
  const auto found = seconds_per_iteration_.find(scalars);
  return found == seconds_per_iteration_.end() ? std::nullopt : std::optional(found->second);
}

void VulkanExecutable::measured(const std::vector<uint64_t>& scalars, double seconds_per_iteration) {
  std::lock_guard lock(mutex_);
  if (seconds_per_iteration_.size() >= kMostMeasurements) seconds_per_iteration_.clear();
  seconds_per_iteration_[scalars] = seconds_per_iteration;
}

}  // namespace sporkle::hal
