#include "hal/vulkan/optional_features.h"

#include <algorithm>
#include <string_view>
#include <vector>

namespace sporkle::hal {
namespace {

constexpr uint32_t kPiece = 16;

template <typename Properties, typename Function>
std::vector<Properties> list(Function get, VkPhysicalDevice device) {
  uint32_t count = 0;
  if (!get || get(device, &count, nullptr) != VK_SUCCESS) return {};
  std::vector<Properties> properties(count);
  if (get(device, &count, properties.data()) < VK_SUCCESS) return {};
  properties.resize(count);
  return properties;
}

}  // namespace

void find_optional_features(const VulkanFunctions& functions, VkInstance instance, VkPhysicalDevice device,
                            codegen::VulkanTarget* target) {
  uint32_t count = 0;
  functions.vkEnumerateDeviceExtensionProperties(device, nullptr, &count, nullptr);
  std::vector<VkExtensionProperties> extensions(count);
  functions.vkEnumerateDeviceExtensionProperties(device, nullptr, &count, extensions.data());
  const auto has = [&](std::string_view name) {
    return std::ranges::any_of(extensions, [&](const VkExtensionProperties& e) { return e.extensionName == name; });
  };
  FloatControls2Features controls2;
  BFloat16Features bfloat16;
  CooperativeMatrixFeatures matrix;
  VkPhysicalDeviceVulkan12Features features12 = {};
  features12.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES;
  void** end = &features12.pNext;
  const auto ask = [&](std::string_view extension, auto& features) {
    if (!has(extension)) return;
    *end = &features;
    end = &features.pNext;
  };
  ask(kFloatControls2Extension, controls2);
  ask(kCooperativeMatrixExtension, matrix);
  ask(kBFloat16Extension, bfloat16);
  VkPhysicalDeviceFeatures2 features2 = {};
  features2.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2;
  features2.pNext = &features12;
  functions.vkGetPhysicalDeviceFeatures2(device, &features2);
  target->controls2 = controls2.float_controls2;
  if (!matrix.cooperative_matrix || !features12.vulkanMemoryModel || target->subgroup == 0 || !target->storage16)
    return;

  const auto lookup = [&](const char* name) { return functions.vkGetInstanceProcAddr(instance, name); };
  const auto pieces = list<CooperativeMatrixProperties>(
      reinterpret_cast<GetCooperativeMatrixProperties>(lookup("vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR")),
      device);
  const auto multiplies = [&](MatrixComponent type) {
    return std::ranges::any_of(pieces, [&](const CooperativeMatrixProperties& p) {
      return p.m == kPiece && p.n == kPiece && p.k == kPiece && p.a == type && p.b == type &&
             p.c == MatrixComponent::f32 && p.result == MatrixComponent::f32 && p.scope == MatrixScope::subgroup;
    });
  };
  target->matrix_f16 = features12.shaderFloat16 && multiplies(MatrixComponent::f16);
  target->matrix_bf16 = bfloat16.type && bfloat16.cooperative_matrix && multiplies(MatrixComponent::bf16);
}

OptionalFeatures::OptionalFeatures(const codegen::VulkanTarget& target, void* next) : chain_(next) {
  const auto add = [&](auto& features, const char* extension) {
    features.pNext = chain_;
    chain_ = &features;
    extensions_.push_back(extension);
  };
  if (target.controls2) {
    controls2_.float_controls2 = VK_TRUE;
    add(controls2_, kFloatControls2Extension);
  }
  if (!target.matrix_f16 && !target.matrix_bf16) return;
  matrix_.cooperative_matrix = VK_TRUE;
  add(matrix_, kCooperativeMatrixExtension);
  if (target.matrix_bf16) {
    bfloat16_.type = bfloat16_.cooperative_matrix = VK_TRUE;
    add(bfloat16_, kBFloat16Extension);
  }
}

}  // namespace sporkle::hal
