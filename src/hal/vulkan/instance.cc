#include "hal/vulkan/instance.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "base/log.h"
#include "hal/vulkan/external_memory.h"
#include "hal/vulkan/optional_features.h"
#include "hal/vulkan/vendor.h"

namespace sporkle::hal {
namespace {

constexpr const char* kValidationLayer = "VK_LAYER_KHRONOS_validation";

std::atomic<uint64_t> validation_messages{0};

VKAPI_ATTR VkBool32 VKAPI_CALL on_message(VkDebugUtilsMessageSeverityFlagBitsEXT, VkDebugUtilsMessageTypeFlagsEXT,
                                          const VkDebugUtilsMessengerCallbackDataEXT* data, void*) {
  ++validation_messages;
  log(LogLevel::error, "vulkan", std::string("validation: ") + data->pMessage);
  return VK_FALSE;
}

bool validation_wanted(const VulkanOptions& options) {
  const char* variable = std::getenv("SPORKLE_VULKAN_VALIDATION");
  return options.validation || (variable && std::strcmp(variable, "1") == 0);
}

Status check_validation_layer(const VulkanFunctions& functions) {
  uint32_t count = 0;
  functions.vkEnumerateInstanceLayerProperties(&count, nullptr);
  std::vector<VkLayerProperties> layers(count);
  functions.vkEnumerateInstanceLayerProperties(&count, layers.data());
  for (const VkLayerProperties& layer : layers)
    if (std::strcmp(layer.layerName, kValidationLayer) == 0) return {};
  return unsupported("validation is asked for, but the layer " + std::string(kValidationLayer) +
                     " is not installed: install vulkan-validationlayers");
}

std::string no_driver_message() {
  std::string message =
      "no Vulkan driver was found: install your GPU's (Mesa's: mesa-vulkan-drivers, which also has one for processors)";
  const std::string hint = render_node_hint(
      "/dev/dri", [](const std::filesystem::path& p) { return ::access(p.c_str(), R_OK | W_OK) == 0; });
  return hint.empty() ? message : message + "; " + hint;
}

// The memory type with all of `wanted`, and with as many of `liked` as any; -1 without one.
int find_memory_type(const VkPhysicalDeviceMemoryProperties& memory, VkMemoryPropertyFlags wanted,
                     VkMemoryPropertyFlags liked, VkMemoryPropertyFlags disliked) {
  int best = -1, best_score = 0;
  for (uint32_t i = 0; i < memory.memoryTypeCount; ++i) {
    const VkMemoryPropertyFlags flags = memory.memoryTypes[i].propertyFlags;
    constexpr VkMemoryPropertyFlags kSpecial =
        VK_MEMORY_PROPERTY_PROTECTED_BIT | VK_MEMORY_PROPERTY_LAZILY_ALLOCATED_BIT |
        VK_MEMORY_PROPERTY_DEVICE_COHERENT_BIT_AMD | VK_MEMORY_PROPERTY_DEVICE_UNCACHED_BIT_AMD;
    if ((flags & wanted) != wanted || (flags & kSpecial) != 0) continue;
    const int score = 100 + 2 * __builtin_popcount(flags & liked) - 2 * __builtin_popcount(flags & disliked);
    if (score > best_score) {
      best = static_cast<int>(i);
      best_score = score;
    }
  }
  return best;
}

bool has_extension(const VulkanFunctions& functions, VkPhysicalDevice device, std::string_view name) {
  uint32_t count = 0;
  functions.vkEnumerateDeviceExtensionProperties(device, nullptr, &count, nullptr);
  std::vector<VkExtensionProperties> extensions(count);
  functions.vkEnumerateDeviceExtensionProperties(device, nullptr, &count, extensions.data());
  return std::ranges::any_of(extensions, [&](const VkExtensionProperties& e) { return e.extensionName == name; });
}

Status check_required(const VkPhysicalDeviceProperties& properties, const VkPhysicalDeviceFeatures& features,
                      const VkPhysicalDeviceVulkan12Features& features12) {
  const auto lacks = [&](const std::string& what) {
    return unsupported(std::string(properties.deviceName) + " lacks " + what +
                       ", which Sporkle needs; a newer driver may offer it");
  };
  if (!features.shaderInt64) return lacks("64-bit integers in shaders (shaderInt64)");
  if (!features12.bufferDeviceAddress) return lacks("addresses of buffers (bufferDeviceAddress)");
  if (!features12.timelineSemaphore) return lacks("timeline semaphores (timelineSemaphore)");
  if (properties.limits.maxComputeWorkGroupInvocations < 128) return lacks("workgroups of 128 invocations");
  if (properties.limits.maxPushConstantsSize < 128) return lacks("128 bytes of push constants");
  return {};
}

codegen::VulkanTarget offered(const VkPhysicalDeviceProperties& properties, const VkPhysicalDeviceFeatures& features,
                              const VkPhysicalDeviceVulkan11Features& features11,
                              const VkPhysicalDeviceVulkan12Features& features12,
                              const VkPhysicalDeviceVulkan11Properties& properties11,
                              const VkPhysicalDeviceVulkan12Properties& properties12) {
  codegen::VulkanTarget target;
  target.f64 = features.shaderFloat64;
  target.storage8 = features12.storageBuffer8BitAccess;
  target.storage16 = features11.storageBuffer16BitAccess;
  target.rte32 = properties12.shaderRoundingModeRTEFloat32;
  target.rte64 = target.f64 && properties12.shaderRoundingModeRTEFloat64;
  target.nan32 = properties12.shaderSignedZeroInfNanPreserveFloat32;
  target.nan64 = target.f64 && properties12.shaderSignedZeroInfNanPreserveFloat64;
  target.denormal32 = properties12.shaderDenormPreserveFloat32;
  target.denormal64 = target.f64 && properties12.shaderDenormPreserveFloat64;
  // One width's control may forbid the other's, or demand that both are alike.
  if (properties12.roundingModeIndependence == VK_SHADER_FLOAT_CONTROLS_INDEPENDENCE_NONE && target.f64)
    target.rte32 = target.rte64 = target.rte32 && target.rte64;
  if (properties12.denormBehaviorIndependence == VK_SHADER_FLOAT_CONTROLS_INDEPENDENCE_NONE && target.f64)
    target.denormal32 = target.denormal64 = target.denormal32 && target.denormal64;
  constexpr VkSubgroupFeatureFlags kSubgroup = VK_SUBGROUP_FEATURE_BASIC_BIT | VK_SUBGROUP_FEATURE_SHUFFLE_BIT;
  const bool subgroups = (properties11.subgroupSupportedStages & VK_SHADER_STAGE_COMPUTE_BIT) != 0 &&
                         (properties11.subgroupSupportedOperations & kSubgroup) == kSubgroup;
  target.subgroup = subgroups ? std::min(properties11.subgroupSize, 128u) : 0;
  target.workgroup = std::min(
      {properties.limits.maxComputeWorkGroupInvocations, properties.limits.maxComputeWorkGroupSize[0], 65536u});
  target.shared_kib = std::min(properties.limits.maxComputeSharedMemorySize / 1024, 65536u);
  return target;
}

// One more instance, for the rest of the process: without any the loader unloads the drivers, and NVIDIA's (580) cannot
// be loaded again after a few times.
void keep_drivers(const VulkanFunctions& functions, const VkApplicationInfo& application) {
  static std::once_flag once;
  std::call_once(once, [&] {
    VkInstanceCreateInfo create = {};
    create.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO;
    create.pApplicationInfo = &application;
    static VkInstance kept = nullptr;
    functions.vkCreateInstance(&create, nullptr, &kept);
  });
}

}  // namespace

uint64_t vulkan_validation_messages() { return validation_messages; }

std::string render_node_hint(const std::filesystem::path& folder,
                             const std::function<bool(const std::filesystem::path&)>& may_open) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    if (!entry.path().filename().string().starts_with("renderD") || may_open(entry.path())) continue;
    return "there is no permission on " + entry.path().string() +
           ": add your user to its group (sudo usermod -aG render $USER) and log in again";
  }
  return {};
}

Result<std::shared_ptr<VulkanInstance>> VulkanInstance::open(const VulkanOptions& options) {
  std::shared_ptr<VulkanInstance> instance(new VulkanInstance);
  VulkanFunctions& functions = instance->functions_;
  SPORKLE_ASSIGN_OR_RETURN(functions, VulkanFunctions::open_loader(options.library));
  if (options.intercept) options.intercept(functions);

  VkApplicationInfo application = {};
  application.sType = VK_STRUCTURE_TYPE_APPLICATION_INFO;
  application.pApplicationName = "sporkle";
  application.apiVersion = VK_API_VERSION_1_2;
  VkInstanceCreateInfo create = {};
  create.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO;
  create.pApplicationInfo = &application;
  VkDebugUtilsMessengerCreateInfoEXT messenger = {};
  const char* extension = VK_EXT_DEBUG_UTILS_EXTENSION_NAME;
  const bool validation = validation_wanted(options);
  if (validation) {
    SPORKLE_RETURN_IF_ERROR(check_validation_layer(functions));
    messenger.sType = VK_STRUCTURE_TYPE_DEBUG_UTILS_MESSENGER_CREATE_INFO_EXT;
    messenger.messageSeverity =
        VK_DEBUG_UTILS_MESSAGE_SEVERITY_WARNING_BIT_EXT | VK_DEBUG_UTILS_MESSAGE_SEVERITY_ERROR_BIT_EXT;
    messenger.messageType = VK_DEBUG_UTILS_MESSAGE_TYPE_VALIDATION_BIT_EXT;
    messenger.pfnUserCallback = on_message;
    create.pNext = &messenger;
    create.enabledLayerCount = 1;
    create.ppEnabledLayerNames = &kValidationLayer;
    create.enabledExtensionCount = 1;
    create.ppEnabledExtensionNames = &extension;
  }
  keep_drivers(functions, application);
  const VkResult created = functions.vkCreateInstance(&create, nullptr, &instance->instance_);
  if (created == VK_ERROR_INCOMPATIBLE_DRIVER) return unsupported(no_driver_message());
  SPORKLE_RETURN_IF_ERROR(vulkan_status(created, "starting Vulkan"));
  SPORKLE_RETURN_IF_ERROR(functions.load_instance(instance->instance_));
  if (options.intercept) options.intercept(functions);
  if (validation && functions.vkCreateDebugUtilsMessengerEXT)
    functions.vkCreateDebugUtilsMessengerEXT(instance->instance_, &messenger, nullptr, &instance->messenger_);
  return instance;
}

VulkanInstance::~VulkanInstance() {
  if (messenger_) functions_.vkDestroyDebugUtilsMessengerEXT(instance_, messenger_, nullptr);
  if (instance_ && functions_.vkDestroyInstance) functions_.vkDestroyInstance(instance_, nullptr);
}

Result<std::vector<VkPhysicalDevice>> VulkanInstance::devices() const {
  uint32_t count = 0;
  SPORKLE_RETURN_IF_ERROR(
      vulkan_status(functions_.vkEnumeratePhysicalDevices(instance_, &count, nullptr), "counting Vulkan devices"));
  std::vector<VkPhysicalDevice> devices(count);
  SPORKLE_RETURN_IF_ERROR(vulkan_status(functions_.vkEnumeratePhysicalDevices(instance_, &count, devices.data()),
                                        "listing Vulkan devices"));
  devices.resize(count);
  if (devices.empty()) return unsupported(no_driver_message());
  return devices;
}

Result<VulkanDescription> describe(const VulkanInstance& instance, const VulkanFunctions& functions,
                                   VkPhysicalDevice device, const VulkanOptions& options) {
  VulkanDescription result;
  functions.vkGetPhysicalDeviceProperties(device, &result.properties);
  const VkPhysicalDeviceProperties& properties = result.properties;
  if (properties.apiVersion < VK_API_VERSION_1_2)
    return unsupported(std::string(properties.deviceName) + " has a driver for Vulkan " +
                       std::to_string(VK_API_VERSION_MAJOR(properties.apiVersion)) + "." +
                       std::to_string(VK_API_VERSION_MINOR(properties.apiVersion)) +
                       "; Sporkle needs 1.2: install a newer driver");

  VkPhysicalDeviceVulkan12Properties properties12 = {};
  properties12.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_PROPERTIES;
  VkPhysicalDeviceVulkan11Properties properties11 = {};
  properties11.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_PROPERTIES;
  properties11.pNext = &properties12;
  VkPhysicalDeviceProperties2 properties2 = {};
  properties2.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2;
  properties2.pNext = &properties11;
  functions.vkGetPhysicalDeviceProperties2(device, &properties2);

  VkPhysicalDeviceVulkan12Features features12 = {};
  features12.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES;
  VkPhysicalDeviceVulkan11Features features11 = {};
  features11.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_FEATURES;
  features11.pNext = &features12;
  VkPhysicalDeviceFeatures2 features2 = {};
  features2.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2;
  features2.pNext = &features11;
  functions.vkGetPhysicalDeviceFeatures2(device, &features2);

  SPORKLE_RETURN_IF_ERROR(check_required(properties, features2.features, features12));
  result.external = find_external_memory(functions, device, properties11);
  result.target = offered(properties, features2.features, features11, features12, properties11, properties12);
  result.target.vendor = vendor_of(properties.vendorID, properties12.driverID, properties.deviceType);
  find_optional_features(functions, instance.handle(), device, &result.target);
  result.driver = std::string(properties12.driverName) + ", " + properties12.driverInfo;
  result.largest_allocation_bytes = properties11.maxMemoryAllocationSize;
  result.memory_budget = has_extension(functions, device, VK_EXT_MEMORY_BUDGET_EXTENSION_NAME);

  uint32_t family_count = 0;
  functions.vkGetPhysicalDeviceQueueFamilyProperties(device, &family_count, nullptr);
  std::vector<VkQueueFamilyProperties> families(family_count);
  functions.vkGetPhysicalDeviceQueueFamilyProperties(device, &family_count, families.data());
  // A family without graphics leaves the desktop's own queue alone.
  int family = -1;
  for (uint32_t i = 0; i < family_count; ++i) {
    if (!(families[i].queueFlags & VK_QUEUE_COMPUTE_BIT) || families[i].timestampValidBits == 0) continue;
    const bool graphics = (families[i].queueFlags & VK_QUEUE_GRAPHICS_BIT) != 0;
    if (family < 0 || !graphics) family = static_cast<int>(i);
    if (!graphics) break;
  }
  if (family < 0)
    return unsupported(std::string(properties.deviceName) + " has no queue for computing that also has a clock");
  result.queue_family = static_cast<uint32_t>(family);

  VkPhysicalDeviceMemoryProperties2 memory2 = {};
  memory2.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_PROPERTIES_2;
  functions.vkGetPhysicalDeviceMemoryProperties2(device, &memory2);
  const VkPhysicalDeviceMemoryProperties& memory = memory2.memoryProperties;
  constexpr VkMemoryPropertyFlags kHost = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
  // A card's own memory is best left to the card; where host and device share theirs, both may as well reach it.
  const bool shares_memory = properties.deviceType != VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU;
  const int own = find_memory_type(memory, VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT,
                                   shares_memory ? kHost | VK_MEMORY_PROPERTY_HOST_CACHED_BIT : 0,
                                   shares_memory ? 0 : kHost | VK_MEMORY_PROPERTY_HOST_CACHED_BIT);
  const int host = find_memory_type(memory, kHost, VK_MEMORY_PROPERTY_HOST_CACHED_BIT,
                                    shares_memory ? 0 : VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT);
  if (own < 0 || host < 0)
    return unsupported(std::string(properties.deviceName) + " offers no memory that it and this machine can reach");
  result.memory_type = static_cast<uint32_t>(own);
  result.host_memory_type = static_cast<uint32_t>(host);
  result.buffers_host_visible =
      options.host_visible && shares_memory && (memory.memoryTypes[own].propertyFlags & kHost) == kHost;
  result.memory_bytes = memory.memoryHeaps[memory.memoryTypes[own].heapIndex].size;
  if (!options.external_memory) result.external = {};
  return result;
}

}  // namespace sporkle::hal
