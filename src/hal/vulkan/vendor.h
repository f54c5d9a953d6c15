// Whose device a driver drives, from what Vulkan says about both. Pure; for hal/vulkan's own files.
#pragma once

#include "codegen/vulkan_target.h"
#include "hal/vulkan/functions.h"

namespace sporkle::hal {

// A processor's driver says so by its type; else the PCI vendor decides, which layered drivers (MoltenVK, Venus) pass
// through, else the driver.
codegen::VulkanVendor vendor_of(uint32_t vendor_id, VkDriverId driver, VkPhysicalDeviceType type);

}  // namespace sporkle::hal
