#include "hal/vulkan/external_memory.h"

#include <algorithm>
#include <bit>
#include <span>
#include <vector>

#include "base/sha256.h"

namespace sporkle::hal {

ExternalMemory find_external_memory(const VulkanFunctions& functions, VkPhysicalDevice device,
                                    const VkPhysicalDeviceVulkan11Properties& properties) {
  ExternalMemory result;
  std::ranges::copy(properties.deviceUUID, result.device_uuid.begin());
  std::ranges::copy(properties.driverUUID, result.driver_uuid.begin());
  uint32_t count = 0;
  functions.vkEnumerateDeviceExtensionProperties(device, nullptr, &count, nullptr);
  std::vector<VkExtensionProperties> extensions(count);
  functions.vkEnumerateDeviceExtensionProperties(device, nullptr, &count, extensions.data());
  const auto has = [&](std::string_view name) {
    return std::ranges::any_of(extensions, [&](const VkExtensionProperties& e) { return e.extensionName == name; });
  };
  const auto features = [&](VkExternalMemoryHandleTypeFlagBits type) {
    VkPhysicalDeviceExternalBufferInfo info = {};
    info.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_EXTERNAL_BUFFER_INFO;
    info.usage = kBufferUsage;
    info.handleType = type;
    VkExternalBufferProperties offered = {};
    offered.sType = VK_STRUCTURE_TYPE_EXTERNAL_BUFFER_PROPERTIES;
    functions.vkGetPhysicalDeviceExternalBufferProperties(device, &info, &offered);
    return offered.externalMemoryProperties.externalMemoryFeatures;
  };
  constexpr VkExternalMemoryFeatureFlags kBoth =
      VK_EXTERNAL_MEMORY_FEATURE_EXPORTABLE_BIT | VK_EXTERNAL_MEMORY_FEATURE_IMPORTABLE_BIT;
  result.opaque_fd = has(VK_KHR_EXTERNAL_MEMORY_FD_EXTENSION_NAME) &&
                     (features(VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT) & kBoth) == kBoth;
  if (has(VK_EXT_EXTERNAL_MEMORY_HOST_EXTENSION_NAME) &&
      (features(VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT) & VK_EXTERNAL_MEMORY_FEATURE_IMPORTABLE_BIT)) {
    VkPhysicalDeviceExternalMemoryHostPropertiesEXT host = {};
    host.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_EXTERNAL_MEMORY_HOST_PROPERTIES_EXT;
    VkPhysicalDeviceProperties2 properties2 = {};
    properties2.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2;
    properties2.pNext = &host;
    functions.vkGetPhysicalDeviceProperties2(device, &properties2);
    result.host_alignment = host.minImportedHostPointerAlignment;
  }
  return result;
}

std::string sharing_id_of(const ExternalMemory& external) {
  if (!external.opaque_fd) return {};
  return "opaque-fd " + to_hex(std::as_bytes(std::span(external.driver_uuid))) + " " +
         to_hex(std::as_bytes(std::span(external.device_uuid)));
}

Result<VulkanBufferRef> allocate_exported(const std::shared_ptr<VulkanContext>& context, size_t size_bytes,
                                          MemoryHandle* handle) {
  const VulkanDescription& description = context->description();
  if (!description.external.opaque_fd) return unsupported("device " + context->id() + " shares no memory");
  auto memory = std::make_shared<VulkanMemory>(context, description.memory_type, /*host_visible=*/false, UINT64_MAX,
                                               MemorySource{.kind = MemorySource::Kind::exported});
  SPORKLE_ASSIGN_OR_RETURN(const VulkanMemory::Part part, memory->allocate_whole(size_bytes));
  VkMemoryGetFdInfoKHR get = {};
  get.sType = VK_STRUCTURE_TYPE_MEMORY_GET_FD_INFO_KHR;
  get.memory = part.chunk->memory;
  get.handleType = VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT;
  int descriptor = -1;
  SPORKLE_RETURN_IF_ERROR(context->status(context->functions().vkGetMemoryFdKHR(context->device(), &get, &descriptor),
                                          "sharing its memory"));
  *handle = MemoryHandle(descriptor, part.chunk->allocation_bytes);
  return std::make_shared<VulkanBuffer>(std::move(memory), part, size_bytes);
}

Result<VulkanBufferRef> open_exported(const std::shared_ptr<VulkanContext>& context, MemoryHandle handle,
                                      size_t size_bytes) {
  const VulkanDescription& description = context->description();
  if (!description.external.opaque_fd) return unsupported("device " + context->id() + " opens no other's memory");
  MemorySource source{.kind = MemorySource::Kind::opened};
  source.handle = &handle;
  auto memory = std::make_shared<VulkanMemory>(context, description.memory_type, /*host_visible=*/false, UINT64_MAX,
                                               std::move(source));
  SPORKLE_ASSIGN_OR_RETURN(const VulkanMemory::Part part, memory->allocate_whole(size_bytes));
  return std::make_shared<VulkanBuffer>(std::move(memory), part, size_bytes);
}

Result<VulkanBufferRef> import_host_memory(const std::shared_ptr<VulkanContext>& context, std::byte* pointer,
                                           size_t size_bytes) {
  const VulkanDescription& description = context->description();
  const uint64_t alignment = description.external.host_alignment;
  if (alignment == 0) return unsupported("device " + context->id() + " imports no host memory");
  if (reinterpret_cast<uintptr_t>(pointer) % alignment != 0 || size_bytes % alignment != 0)
    return invalid_argument("device " + context->id() + " imports host memory at multiples of " +
                            std::to_string(alignment) + " bytes");
  VkMemoryHostPointerPropertiesEXT properties = {};
  properties.sType = VK_STRUCTURE_TYPE_MEMORY_HOST_POINTER_PROPERTIES_EXT;
  const VkResult asked = context->functions().vkGetMemoryHostPointerPropertiesEXT(
      context->device(), VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT, pointer, &properties);
  if (asked != VK_SUCCESS || properties.memoryTypeBits == 0)
    return unsupported("device " + context->id() + "'s driver cannot import this host memory");
  const uint32_t usual = description.host_memory_type;
  const uint32_t type = properties.memoryTypeBits >> usual & 1
                            ? usual
                            : static_cast<uint32_t>(std::countr_zero(properties.memoryTypeBits));
  auto memory = std::make_shared<VulkanMemory>(context, type, /*host_visible=*/false, UINT64_MAX,
                                               MemorySource{.kind = MemorySource::Kind::host, .host = pointer});
  Result<VulkanMemory::Part> part = memory->allocate_whole(size_bytes);
  // Limits on locked pages and the like: another way is found then.
  if (!part.ok() && part.status().code() != Code::device_lost) return unsupported(part.status().message());
  if (!part.ok()) return part.status();
  return std::make_shared<VulkanBuffer>(std::move(memory), *part, size_bytes);
}

}  // namespace sporkle::hal
