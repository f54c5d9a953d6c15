#include "hal/vulkan/context.h"

#include "base/file.h"
#include "hal/vulkan/optional_features.h"

namespace sporkle::hal {

Result<std::shared_ptr<VulkanContext>> VulkanContext::open(std::shared_ptr<VulkanInstance> instance,
                                                           VkPhysicalDevice device, size_t index,
                                                           const VulkanOptions& options) {
  std::shared_ptr<VulkanContext> context(new VulkanContext);
  context->id_ = "vulkan:" + std::to_string(index);
  context->functions_ = instance->functions();
  context->physical_device_ = device;
  SPORKLE_ASSIGN_OR_RETURN(context->description_, describe(*instance, context->functions_, device, options));
  const VulkanDescription& description = context->description_;
  const codegen::VulkanTarget& target = description.target;

  VkPhysicalDeviceVulkan12Features features12 = {};
  features12.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES;
  features12.bufferDeviceAddress = VK_TRUE;
  features12.timelineSemaphore = VK_TRUE;
  features12.storageBuffer8BitAccess = target.storage8;
  OptionalFeatures optional(target, nullptr);
  features12.pNext = optional.chain();
  features12.vulkanMemoryModel = target.matrix_f16 || target.matrix_bf16;
  features12.shaderFloat16 = target.matrix_f16;
  VkPhysicalDeviceVulkan11Features features11 = {};
  features11.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_FEATURES;
  features11.pNext = &features12;
  features11.storageBuffer16BitAccess = target.storage16;
  VkPhysicalDeviceFeatures2 features2 = {};
  features2.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2;
  features2.pNext = &features11;
  features2.features.shaderInt64 = VK_TRUE;
  features2.features.shaderFloat64 = target.f64;

  const float priority = 1.0f;
  VkDeviceQueueCreateInfo queue = {};
  queue.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO;
  queue.queueFamilyIndex = description.queue_family;
  queue.queueCount = 1;
  queue.pQueuePriorities = &priority;
  std::vector<const char*> extensions = optional.extensions();
  if (description.memory_budget) extensions.push_back(VK_EXT_MEMORY_BUDGET_EXTENSION_NAME);
  if (description.external.opaque_fd) extensions.push_back(VK_KHR_EXTERNAL_MEMORY_FD_EXTENSION_NAME);
  if (description.external.host_alignment > 0) extensions.push_back(VK_EXT_EXTERNAL_MEMORY_HOST_EXTENSION_NAME);
  VkDeviceCreateInfo create = {};
  create.sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO;
  create.pNext = &features2;
  create.queueCreateInfoCount = 1;
  create.pQueueCreateInfos = &queue;
  create.enabledExtensionCount = static_cast<uint32_t>(extensions.size());
  create.ppEnabledExtensionNames = extensions.data();
  SPORKLE_RETURN_IF_ERROR(vulkan_status(context->functions_.vkCreateDevice(device, &create, nullptr, &context->device_),
                                        "opening " + std::string(description.properties.deviceName)));
  SPORKLE_RETURN_IF_ERROR(context->functions_.load_device(context->device_));
  // A driver that names an extension and lacks its functions does not have it.
  if (!context->functions_.vkGetMemoryFdKHR) context->description_.external.opaque_fd = false;
  if (!context->functions_.vkGetMemoryHostPointerPropertiesEXT) context->description_.external.host_alignment = 0;
  if (options.intercept) options.intercept(context->functions_);
  context->instance_ = std::move(instance);
  context->functions_.vkGetDeviceQueue(context->device_, description.queue_family, 0, &context->queue_);
  const std::filesystem::path folder = options.cache.empty() ? sporkle::cache_directory() : options.cache;
  context->pipeline_cache_ =
      std::make_unique<PipelineCache>(context->functions_, context->device_, description.properties, folder);
  return context;
}

VulkanContext::~VulkanContext() {
  if (!device_ || !functions_.vkDestroyDevice) return;
  if (pipeline_cache_ && !lost_) pipeline_cache_->save();
  pipeline_cache_.reset();
  functions_.vkDestroyDevice(device_, nullptr);
}

Status VulkanContext::status(VkResult result, const std::string& what) const {
  if (result == VK_ERROR_DEVICE_LOST) lost_ = true;
  return result == VK_SUCCESS ? Status() : vulkan_status(result, "device " + id_ + ", " + what);
}

Status VulkanContext::alive() const {
  return lost_ ? device_lost("device " + id_ + " was lost: open it again to go on") : Status();
}

}  // namespace sporkle::hal
