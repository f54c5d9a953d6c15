// Which operations a Vulkan device rounds correctly by itself: what the other half of its target says. Vulkan allows a
// fused multiply-add to round twice, and division and square root to be off by units in the last place, so each is
// tried; where one is not exact, the code generator uses sequences that are.
#pragma once

#include <filesystem>

#include "codegen/vulkan_target.h"
#include "hal/device.h"

namespace sporkle::hal {

// `offered` with the flags of the exact operations set. Remembered in `folder` for each device, driver and version of
// the code generator; a file that does not check out is ignored and written anew.
Result<codegen::VulkanTarget> find_exact_operations(Device& device, const codegen::VulkanTarget& offered,
                                                    const std::filesystem::path& folder);

}  // namespace sporkle::hal
