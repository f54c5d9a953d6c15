#include "hal/vulkan/functions.h"

#include <dlfcn.h>

#include <cstdlib>

namespace sporkle::hal {
namespace {

constexpr const char* kLoader = "libvulkan.so.1";

Status missing(const char* name) {
  return unsupported(std::string("the Vulkan driver lacks ") + name + ": install a newer driver");
}

std::string result_name(VkResult result) {
  switch (result) {
    case VK_ERROR_OUT_OF_HOST_MEMORY:
      return "VK_ERROR_OUT_OF_HOST_MEMORY";
    case VK_ERROR_OUT_OF_DEVICE_MEMORY:
      return "VK_ERROR_OUT_OF_DEVICE_MEMORY";
    case VK_ERROR_INITIALIZATION_FAILED:
      return "VK_ERROR_INITIALIZATION_FAILED";
    case VK_ERROR_DEVICE_LOST:
      return "VK_ERROR_DEVICE_LOST";
    case VK_ERROR_MEMORY_MAP_FAILED:
      return "VK_ERROR_MEMORY_MAP_FAILED";
    case VK_ERROR_LAYER_NOT_PRESENT:
      return "VK_ERROR_LAYER_NOT_PRESENT";
    case VK_ERROR_EXTENSION_NOT_PRESENT:
      return "VK_ERROR_EXTENSION_NOT_PRESENT";
    case VK_ERROR_FEATURE_NOT_PRESENT:
      return "VK_ERROR_FEATURE_NOT_PRESENT";
    case VK_ERROR_INCOMPATIBLE_DRIVER:
      return "VK_ERROR_INCOMPATIBLE_DRIVER";
    case VK_ERROR_TOO_MANY_OBJECTS:
      return "VK_ERROR_TOO_MANY_OBJECTS";
    default:
      return "VkResult " + std::to_string(static_cast<int>(result));
  }
}

}  // namespace

Result<VulkanFunctions> VulkanFunctions::open_loader(std::string library) {
  const char* variable = std::getenv("SPORKLE_VULKAN_LIBRARY");
  if (library.empty()) library = variable && *variable ? variable : kLoader;
  void* handle = ::dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) {
    const char* why = ::dlerror();
    return unsupported("the Vulkan loader was not found (" + std::string(why ? why : library) +
                       "): install libvulkan1 and your GPU's driver (Mesa's: mesa-vulkan-drivers)");
  }
  VulkanFunctions functions;
  functions.vkGetInstanceProcAddr =
      reinterpret_cast<PFN_vkGetInstanceProcAddr>(::dlsym(handle, "vkGetInstanceProcAddr"));
  if (!functions.vkGetInstanceProcAddr)
    return unsupported(library + " is no Vulkan loader: it has no vkGetInstanceProcAddr; install libvulkan1");
#define SPORKLE_VULKAN_LOAD(name)                                                                 \
  functions.name = reinterpret_cast<PFN_##name>(functions.vkGetInstanceProcAddr(nullptr, #name)); \
  if (!functions.name) return missing(#name);
  SPORKLE_VULKAN_GLOBAL_FUNCTIONS(SPORKLE_VULKAN_LOAD)
#undef SPORKLE_VULKAN_LOAD
  return functions;
}

Status VulkanFunctions::load_instance(VkInstance instance) {
#define SPORKLE_VULKAN_LOAD(name)                                              \
  name = reinterpret_cast<PFN_##name>(vkGetInstanceProcAddr(instance, #name)); \
  if (!name) return missing(#name);
  SPORKLE_VULKAN_INSTANCE_FUNCTIONS(SPORKLE_VULKAN_LOAD)
#undef SPORKLE_VULKAN_LOAD
#define SPORKLE_VULKAN_LOAD(name) name = reinterpret_cast<PFN_##name>(vkGetInstanceProcAddr(instance, #name));
  SPORKLE_VULKAN_DEBUG_FUNCTIONS(SPORKLE_VULKAN_LOAD)
#undef SPORKLE_VULKAN_LOAD
  return {};
}

Status VulkanFunctions::load_device(VkDevice device) {
#define SPORKLE_VULKAN_LOAD(name)                                          \
  name = reinterpret_cast<PFN_##name>(vkGetDeviceProcAddr(device, #name)); \
  if (!name) return missing(#name);
  SPORKLE_VULKAN_DEVICE_FUNCTIONS(SPORKLE_VULKAN_LOAD)
#undef SPORKLE_VULKAN_LOAD
#define SPORKLE_VULKAN_LOAD(name) name = reinterpret_cast<PFN_##name>(vkGetDeviceProcAddr(device, #name));
  SPORKLE_VULKAN_OPTIONAL_DEVICE_FUNCTIONS(SPORKLE_VULKAN_LOAD)
#undef SPORKLE_VULKAN_LOAD
  return {};
}

Status vulkan_status(VkResult result, const std::string& what) {
  const std::string message = what + ": " + result_name(result);
  switch (result) {
    case VK_SUCCESS:
      return {};
    case VK_ERROR_DEVICE_LOST:
      return device_lost(message + ": the GPU was reset or taken away; open the device again to go on");
    case VK_ERROR_OUT_OF_HOST_MEMORY:
    case VK_ERROR_OUT_OF_DEVICE_MEMORY:
      return {Code::out_of_memory, message};
    case VK_ERROR_LAYER_NOT_PRESENT:
    case VK_ERROR_EXTENSION_NOT_PRESENT:
    case VK_ERROR_FEATURE_NOT_PRESENT:
    case VK_ERROR_INCOMPATIBLE_DRIVER:
    case VK_ERROR_INITIALIZATION_FAILED:
      return unsupported(message);
    default:
      return {Code::io_error, message};
  }
}

}  // namespace sporkle::hal
