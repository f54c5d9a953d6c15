// Memory that a Vulkan device shares with others, and host memory that it reaches by itself: VK_KHR_external_memory_fd
// and VK_EXT_external_memory_host. For hal/vulkan's own files.
#pragma once

#include "hal/vulkan/instance.h"
#include "hal/vulkan/memory.h"

namespace sporkle::hal {

// What the driver offers for buffers.
ExternalMemory find_external_memory(const VulkanFunctions& functions, VkPhysicalDevice device,
                                    const VkPhysicalDeviceVulkan11Properties& properties);

// The same text for two devices exactly where Vulkan lets one open the other's memory: both UUIDs, of card and driver,
// are equal. Empty where it cannot be shared.
std::string sharing_id_of(const ExternalMemory& external);

// Of the device's own memory, for others to open. `handle` gets the descriptor.
Result<VulkanBufferRef> allocate_exported(const std::shared_ptr<VulkanContext>& context, size_t size_bytes,
                                          MemoryHandle* handle);
Result<VulkanBufferRef> open_exported(const std::shared_ptr<VulkanContext>& context, MemoryHandle handle,
                                      size_t size_bytes);
// `memory` and size are multiples of the device's host alignment.
Result<VulkanBufferRef> import_host_memory(const std::shared_ptr<VulkanContext>& context, std::byte* memory,
                                           size_t size_bytes);

}  // namespace sporkle::hal
