// An open Vulkan device and what everything made from it needs: its functions, its description, whether it is lost.
// Shared by buffers, executables and the queue, so that the VkDevice goes last. Thread-safe.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "hal/vulkan/instance.h"
#include "hal/vulkan/pipeline_cache.h"

namespace sporkle::hal {

class VulkanContext {
 public:
  static Result<std::shared_ptr<VulkanContext>> open(std::shared_ptr<VulkanInstance> instance, VkPhysicalDevice device,
                                                     size_t index, const VulkanOptions& options);
  ~VulkanContext();
  VulkanContext(const VulkanContext&) = delete;
  VulkanContext& operator=(const VulkanContext&) = delete;

  const std::string& id() const { return id_; }
  const VulkanFunctions& functions() const { return functions_; }
  const VulkanDescription& description() const { return description_; }
  VkPhysicalDevice physical_device() const { return physical_device_; }
  VkDevice device() const { return device_; }
  VkQueue queue() const { return queue_; }
  VkPipelineCache pipeline_cache() const { return pipeline_cache_->handle(); }

  // The status of `result`; a lost device is remembered.
  Status status(VkResult result, const std::string& what) const;
  // device_lost once it is.
  Status alive() const;

 private:
  VulkanContext() = default;

  std::shared_ptr<VulkanInstance> instance_;
  std::string id_;
  VulkanFunctions functions_;
  VulkanDescription description_;
  VkPhysicalDevice physical_device_ = nullptr;
  VkDevice device_ = nullptr;
  VkQueue queue_ = nullptr;
  std::unique_ptr<PipelineCache> pipeline_cache_;
  mutable std::atomic<bool> lost_{false};
};

}  // namespace sporkle::hal
