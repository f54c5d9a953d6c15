// The Vulkan functions in use, as tables of pointers: the loader is opened at run time, so one binary runs where there
// is none. For hal/vulkan's own files.
//
// Plain values. Tests put functions of their own into a table to make a driver fail where it would not.
#pragma once

#define VK_NO_PROTOTYPES
#include <vulkan/vulkan_core.h>

#include <string>

#include "base/status.h"

// Every function, by what it is looked up from.
#define SPORKLE_VULKAN_GLOBAL_FUNCTIONS(X)  \
  X(vkEnumerateInstanceLayerProperties)     \
  X(vkEnumerateInstanceExtensionProperties) \
  X(vkCreateInstance)

#define SPORKLE_VULKAN_INSTANCE_FUNCTIONS(X)     \
  X(vkDestroyInstance)                           \
  X(vkEnumeratePhysicalDevices)                  \
  X(vkGetPhysicalDeviceProperties)               \
  X(vkGetPhysicalDeviceProperties2)              \
  X(vkGetPhysicalDeviceFeatures2)                \
  X(vkGetPhysicalDeviceMemoryProperties2)        \
  X(vkGetPhysicalDeviceQueueFamilyProperties)    \
  X(vkEnumerateDeviceExtensionProperties)        \
  X(vkGetPhysicalDeviceExternalBufferProperties) \
  X(vkCreateDevice)                              \
  X(vkGetDeviceProcAddr)

#define SPORKLE_VULKAN_DEBUG_FUNCTIONS(X) \
  X(vkCreateDebugUtilsMessengerEXT)       \
  X(vkDestroyDebugUtilsMessengerEXT)

#define SPORKLE_VULKAN_DEVICE_FUNCTIONS(X) \
  X(vkDestroyDevice)                       \
  X(vkGetDeviceQueue)                      \
  X(vkDeviceWaitIdle)                      \
  X(vkAllocateMemory)                      \
  X(vkFreeMemory)                          \
  X(vkMapMemory)                           \
  X(vkCreateBuffer)                        \
  X(vkDestroyBuffer)                       \
  X(vkGetBufferMemoryRequirements)         \
  X(vkBindBufferMemory)                    \
  X(vkGetBufferDeviceAddress)              \
  X(vkCreateShaderModule)                  \
  X(vkDestroyShaderModule)                 \
  X(vkCreatePipelineLayout)                \
  X(vkDestroyPipelineLayout)               \
  X(vkCreateComputePipelines)              \
  X(vkDestroyPipeline)                     \
  X(vkCreatePipelineCache)                 \
  X(vkDestroyPipelineCache)                \
  X(vkGetPipelineCacheData)                \
  X(vkCreateCommandPool)                   \
  X(vkDestroyCommandPool)                  \
  X(vkResetCommandPool)                    \
  X(vkAllocateCommandBuffers)              \
  X(vkBeginCommandBuffer)                  \
  X(vkEndCommandBuffer)                    \
  X(vkCmdBindPipeline)                     \
  X(vkCmdPushConstants)                    \
  X(vkCmdDispatch)                         \
  X(vkCmdCopyBuffer)                       \
  X(vkCmdFillBuffer)                       \
  X(vkCmdPipelineBarrier)                  \
  X(vkCmdResetQueryPool)                   \
  X(vkCmdWriteTimestamp)                   \
  X(vkCreateQueryPool)                     \
  X(vkDestroyQueryPool)                    \
  X(vkGetQueryPoolResults)                 \
  X(vkCreateSemaphore)                     \
  X(vkDestroySemaphore)                    \
  X(vkWaitSemaphores)                      \
  X(vkQueueSubmit)

// Of extensions that a device may lack.
#define SPORKLE_VULKAN_OPTIONAL_DEVICE_FUNCTIONS(X) \
  X(vkGetMemoryFdKHR)                               \
  X(vkGetMemoryHostPointerPropertiesEXT)

namespace sporkle::hal {

struct VulkanFunctions {
  PFN_vkGetInstanceProcAddr vkGetInstanceProcAddr = nullptr;
#define SPORKLE_VULKAN_DECLARE(name) PFN_##name name = nullptr;
  SPORKLE_VULKAN_GLOBAL_FUNCTIONS(SPORKLE_VULKAN_DECLARE)
  SPORKLE_VULKAN_INSTANCE_FUNCTIONS(SPORKLE_VULKAN_DECLARE)
  SPORKLE_VULKAN_DEBUG_FUNCTIONS(SPORKLE_VULKAN_DECLARE)
  SPORKLE_VULKAN_DEVICE_FUNCTIONS(SPORKLE_VULKAN_DECLARE)
  SPORKLE_VULKAN_OPTIONAL_DEVICE_FUNCTIONS(SPORKLE_VULKAN_DECLARE)
#undef SPORKLE_VULKAN_DECLARE

  // Opens the loader (empty: $SPORKLE_VULKAN_LIBRARY, else libvulkan.so.1) for the rest of the process: drivers leave
  // threads and thread-local memory behind that must not be unmapped. unsupported says what to install.
  static Result<VulkanFunctions> open_loader(std::string library);
  Status load_instance(VkInstance instance);
  Status load_device(VkDevice device);
};

// device_lost for a lost device, out_of_memory where memory has ended; the message says what was being done.
Status vulkan_status(VkResult result, const std::string& what);

}  // namespace sporkle::hal
