// A connection to the Vulkan loader, and what it says about the machine's devices. Thread-safe; shared by the devices
// opened through it.
#pragma once

#include <array>
#include <filesystem>
#include <memory>
#include <vector>

#include "codegen/vulkan_target.h"
#include "hal/vulkan/functions.h"
#include "hal/vulkan/vulkan_device.h"

namespace sporkle::hal {

class VulkanInstance {
 public:
  static Result<std::shared_ptr<VulkanInstance>> open(const VulkanOptions& options);
  ~VulkanInstance();
  VulkanInstance(const VulkanInstance&) = delete;
  VulkanInstance& operator=(const VulkanInstance&) = delete;

  const VulkanFunctions& functions() const { return functions_; }
  VkInstance handle() const { return instance_; }
  Result<std::vector<VkPhysicalDevice>> devices() const;

 private:
  VulkanInstance() = default;

  VulkanFunctions functions_;
  VkInstance instance_ = nullptr;
  VkDebugUtilsMessengerEXT messenger_ = nullptr;
};

// Memory beyond the device's own, for copies between devices.
struct ExternalMemory {
  bool opaque_fd = false;       // buffers may be exported to, and imported from, another VkDevice of the same UUIDs
  uint64_t host_alignment = 0;  // of host memory that can be imported; 0: none can
  std::array<uint8_t, VK_UUID_SIZE> device_uuid = {}, driver_uuid = {};
};

// One device as its driver describes it.
struct VulkanDescription {
  VkPhysicalDeviceProperties properties = {};
  std::string driver;            // "llvmpipe, Mesa 22.3.6 (LLVM 15.0.6)"
  codegen::VulkanTarget target;  // what it offers; nothing that a probe has to find out
  uint32_t queue_family = 0;
  uint32_t memory_type = 0;       // for buffers
  uint32_t host_memory_type = 0;  // for what the host writes and reads
  bool buffers_host_visible = false;
  uint64_t memory_bytes = 0;  // of the heap that buffers lie in
  uint64_t largest_allocation_bytes = 0;
  bool memory_budget = false;  // VK_EXT_memory_budget
  ExternalMemory external;
};

// unsupported names what the device lacks.
Result<VulkanDescription> describe(const VulkanInstance& instance, const VulkanFunctions& functions,
                                   VkPhysicalDevice device, const VulkanOptions& options);

// Why there may be no GPU although the machine has one: a sentence about the first render node in `folder` (/dev/dri)
// that `may_open` refuses, or "".
std::string render_node_hint(const std::filesystem::path& folder,
                             const std::function<bool(const std::filesystem::path&)>& may_open);

}  // namespace sporkle::hal
