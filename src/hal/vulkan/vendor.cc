#include "hal/vulkan/vendor.h"

namespace sporkle::hal {
namespace {

using codegen::VulkanVendor;

constexpr uint32_t kNvidia = 0x10de, kAmd = 0x1002, kIntel = 0x8086;  // PCI vendors
constexpr auto kNvk = static_cast<VkDriverId>(24);                    // VK_DRIVER_ID_MESA_NVK, newer than Debian 12

}  // namespace

VulkanVendor vendor_of(uint32_t vendor_id, VkDriverId driver, VkPhysicalDeviceType type) {
  if (type == VK_PHYSICAL_DEVICE_TYPE_CPU) return VulkanVendor::processor;
  if (vendor_id == kNvidia) return VulkanVendor::nvidia;
  if (vendor_id == kAmd) return VulkanVendor::amd;
  if (vendor_id == kIntel) return VulkanVendor::intel;
  switch (driver) {
    case VK_DRIVER_ID_NVIDIA_PROPRIETARY:
    case kNvk:
      return VulkanVendor::nvidia;
    case VK_DRIVER_ID_AMD_PROPRIETARY:
    case VK_DRIVER_ID_AMD_OPEN_SOURCE:
    case VK_DRIVER_ID_MESA_RADV:
      return VulkanVendor::amd;
    case VK_DRIVER_ID_INTEL_PROPRIETARY_WINDOWS:
    case VK_DRIVER_ID_INTEL_OPEN_SOURCE_MESA:
      return VulkanVendor::intel;
    case VK_DRIVER_ID_MESA_LLVMPIPE:
    case VK_DRIVER_ID_GOOGLE_SWIFTSHADER:
      return VulkanVendor::processor;
    default:
      return VulkanVendor::other;
  }
}

}  // namespace sporkle::hal
