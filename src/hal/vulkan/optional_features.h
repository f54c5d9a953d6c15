// What a Vulkan device offers beyond what Sporkle needs, in extensions newer than Vulkan 1.2: matrix units, and control
// over contraction. For hal/vulkan's own files.
#pragma once

#include <vector>

#include "codegen/vulkan_target.h"
#include "hal/vulkan/functions.h"
#include "hal/vulkan/newer_extensions.h"

namespace sporkle::hal {

// Sets target.controls2, and target.matrix_* where the device multiplies with sums in f32, by subgroups as
// 16 x 16 x 16. `instance` is what the functions were loaded from.
void find_optional_features(const VulkanFunctions& functions, VkInstance instance, VkPhysicalDevice device,
                            codegen::VulkanTarget* target);

// The features and extensions that these need when a device is opened: a chain that ends in `next`.
class OptionalFeatures {
 public:
  OptionalFeatures(const codegen::VulkanTarget& target, void* next);
  OptionalFeatures(const OptionalFeatures&) = delete;
  OptionalFeatures& operator=(const OptionalFeatures&) = delete;

  void* chain() { return chain_; }
  const std::vector<const char*>& extensions() const { return extensions_; }

 private:
  FloatControls2Features controls2_;
  CooperativeMatrixFeatures matrix_;
  BFloat16Features bfloat16_;
  void* chain_;
  std::vector<const char*> extensions_;
};

}  // namespace sporkle::hal
