#include "hal/vulkan/vendor.h"

#include <gtest/gtest.h>

namespace sporkle::hal {
namespace {

using codegen::VulkanVendor;

TEST(VulkanVendor, FollowsFromTypeVendorAndDriver) {
  const auto gpu = VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU;
  EXPECT_EQ(vendor_of(0x10de, VK_DRIVER_ID_NVIDIA_PROPRIETARY, gpu), VulkanVendor::nvidia);
  EXPECT_EQ(vendor_of(0x1002, VK_DRIVER_ID_MESA_RADV, gpu), VulkanVendor::amd);
  EXPECT_EQ(vendor_of(0x8086, VK_DRIVER_ID_INTEL_OPEN_SOURCE_MESA, VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU),
            VulkanVendor::intel);
  // MoltenVK on a Mac with an AMD card, and on one with Apple's own.
  EXPECT_EQ(vendor_of(0x1002, VK_DRIVER_ID_MOLTENVK, gpu), VulkanVendor::amd);
  EXPECT_EQ(vendor_of(0x106b, VK_DRIVER_ID_MOLTENVK, gpu), VulkanVendor::other);
  // Mesa's driver for processors, and another with a processor maker's ID.
  EXPECT_EQ(vendor_of(0x10005, VK_DRIVER_ID_MESA_LLVMPIPE, VK_PHYSICAL_DEVICE_TYPE_CPU), VulkanVendor::processor);
  EXPECT_EQ(vendor_of(0x8086, VK_DRIVER_ID_GOOGLE_SWIFTSHADER, VK_PHYSICAL_DEVICE_TYPE_CPU), VulkanVendor::processor);
  // A vendor that is not known, with a driver that is.
  EXPECT_EQ(vendor_of(0x10005, VK_DRIVER_ID_MESA_RADV, VK_PHYSICAL_DEVICE_TYPE_VIRTUAL_GPU), VulkanVendor::amd);
  EXPECT_EQ(vendor_of(0x13b5, VK_DRIVER_ID_ARM_PROPRIETARY, gpu), VulkanVendor::other);
}

}  // namespace
}  // namespace sporkle::hal
