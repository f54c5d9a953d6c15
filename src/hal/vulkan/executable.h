// A kernel as a Vulkan pipeline, and how long it takes. Thread-safe.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "codegen/gpu_abi.h"
#include "hal/vulkan/context.h"

namespace sporkle::hal {

class VulkanExecutable final : public Executable {
 public:
  // corrupt_data when `bytes` are no GPU code; unsupported when it needs more than the device has.
  static Result<std::shared_ptr<VulkanExecutable>> load(std::shared_ptr<VulkanContext> context,
                                                        std::span<const std::byte> bytes);
  ~VulkanExecutable() override;
  VulkanExecutable(const VulkanExecutable&) = delete;
  VulkanExecutable& operator=(const VulkanExecutable&) = delete;

  const VulkanContext* context() const { return context_.get(); }
  const codegen::GpuCode& code() const { return code_; }
  VkPipeline pipeline() const { return pipeline_; }
  VkPipelineLayout layout() const { return layout_; }
  // invalid_argument when the arguments do not fit the kernel.
  Status check(const DispatchCommand& command) const;

  // What one iteration took with these scalars, once that is measured.
  std::optional<double> seconds_per_iteration(const std::vector<uint64_t>& scalars) const;
  void measured(const std::vector<uint64_t>& scalars, double seconds_per_iteration);

 private:
  VulkanExecutable(std::shared_ptr<VulkanContext> context, codegen::GpuCode code)
      : context_(std::move(context)), code_(std::move(code)) {}
  Status create_pipeline();

  const std::shared_ptr<VulkanContext> context_;
  codegen::GpuCode code_;
  std::vector<int> element_sizes_;
  VkPipelineLayout layout_ = VK_NULL_HANDLE;
  VkPipeline pipeline_ = VK_NULL_HANDLE;
  mutable std::mutex mutex_;
  std::map<std::vector<uint64_t>, double> seconds_per_iteration_;
};

}  // namespace sporkle::hal
