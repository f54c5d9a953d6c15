// Extensions of Vulkan that are newer than the headers of Debian 12, as their specifications (Khronos) have them:
// VK_KHR_cooperative_matrix, VK_KHR_shader_bfloat16 and VK_KHR_shader_float_controls2. For hal/vulkan's own files.
#pragma once

#include "hal/vulkan/functions.h"

namespace sporkle::hal {

inline constexpr const char* kCooperativeMatrixExtension = "VK_KHR_cooperative_matrix";
inline constexpr const char* kBFloat16Extension = "VK_KHR_shader_bfloat16";

inline constexpr const char* kFloatControls2Extension = "VK_KHR_shader_float_controls2";

inline constexpr auto kFloatControls2FeaturesType = static_cast<VkStructureType>(1000528000);
inline constexpr auto kBFloat16FeaturesType = static_cast<VkStructureType>(1000141000);
inline constexpr auto kCooperativeMatrixFeaturesType = static_cast<VkStructureType>(1000506000);
inline constexpr auto kCooperativeMatrixPropertiesType = static_cast<VkStructureType>(1000506001);

enum class MatrixComponent : uint32_t { f16 = 0, f32 = 1, bf16 = 1000141000 };
enum class MatrixScope : uint32_t { workgroup = 2, subgroup = 3 };

struct FloatControls2Features {
  VkStructureType sType = kFloatControls2FeaturesType;
  void* pNext = nullptr;
  VkBool32 float_controls2 = VK_FALSE;
};

struct BFloat16Features {
  VkStructureType sType = kBFloat16FeaturesType;
  void* pNext = nullptr;
  VkBool32 type = VK_FALSE, dot_product = VK_FALSE, cooperative_matrix = VK_FALSE;
};

struct CooperativeMatrixFeatures {
  VkStructureType sType = kCooperativeMatrixFeaturesType;
  void* pNext = nullptr;
  VkBool32 cooperative_matrix = VK_FALSE, robust_buffer_access = VK_FALSE;
};

// One combination of types and sizes that a device multiplies.
struct CooperativeMatrixProperties {
  VkStructureType sType = kCooperativeMatrixPropertiesType;
  void* pNext = nullptr;
  uint32_t m = 0, n = 0, k = 0;
  MatrixComponent a = {}, b = {}, c = {}, result = {};
  VkBool32 saturating = VK_FALSE;
  MatrixScope scope = {};
};

using GetCooperativeMatrixProperties = VkResult(VKAPI_PTR*)(VkPhysicalDevice, uint32_t*, CooperativeMatrixProperties*);

}  // namespace sporkle::hal
