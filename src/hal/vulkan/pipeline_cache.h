// What a driver has compiled, kept on disk so that a later start need not compile it again.
//
// A file for each device and driver; it carries a hash of its content. One that does not check out is ignored and
// written anew. The folder may be deleted at any time; without a writable one everything works, only slower.
// Thread-safe. The device must outlive it.
#pragma once

#include <filesystem>

#include "hal/vulkan/functions.h"

namespace sporkle::hal {

class PipelineCache {
 public:
  PipelineCache(const VulkanFunctions& functions, VkDevice device, const VkPhysicalDeviceProperties& properties,
                const std::filesystem::path& folder);
  ~PipelineCache();
  PipelineCache(const PipelineCache&) = delete;
  PipelineCache& operator=(const PipelineCache&) = delete;

  VkPipelineCache handle() const { return cache_; }
  const std::filesystem::path& path() const { return path_; }
  // Writes the file if there is anything new.
  void save();

 private:
  const VulkanFunctions& functions_;
  VkDevice device_;
  std::filesystem::path path_;
  VkPipelineCache cache_ = VK_NULL_HANDLE;
  size_t loaded_bytes_ = 0;
};

// The content of such a file, and its reverse: corrupt_data when `file` is no such file or made for another device.
std::string wrap_pipelines(std::string_view pipelines);
Result<std::string> unwrap_pipelines(std::string_view file, const VkPhysicalDeviceProperties& properties);

}  // namespace sporkle::hal
