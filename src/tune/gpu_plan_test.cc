#include "tune/gpu_plan.h"

#include <gtest/gtest.h>

namespace sporkle::tune {
namespace {

using codegen::VulkanTarget;
using codegen::VulkanVendor;

ProductShape shape(int64_t rows, int64_t columns, int64_t depth, int element_bytes = 4) {
  return {element_bytes, 1, rows, columns, depth, true, true, element_bytes * columns};
}

VulkanTarget target(std::string_view words) { return *VulkanTarget::parse("vulkan:" + std::string(words)); }

const std::string_view kDevices[] = {
    "nvidia,fma32,fma64,subgroup32,workgroup1024,shared48",  // H100
    "amd,fma32,fma64,subgroup64,workgroup1024,shared64",     // RX 7900 XTX under RADV
    "amd,fma32,fma64,subgroup64,workgroup1024,shared32",     // the same under AMD's older driver
    "intel,fma32,subgroup32,workgroup1024,shared64",         // Arc A770 under Mesa
    "processor,fma32,fma64,subgroup8,workgroup1024,shared32",
    "fma32,fma64,subgroup32,workgroup256,shared32",
    "fma32,fma64,workgroup128,shared16",  // the least that Vulkan allows
    "amd,fma32,fma64,workgroup128,shared16",
    "intel,workgroup512,shared16",
};

TEST(GpuPlan, TextRoundTrips) {
  const GpuPlan plan{false, {128, 256, 8, 16, 8}};
  EXPECT_EQ(plan.text(), "tile128x256 depth8 own16x8");
  EXPECT_EQ(*GpuPlan::parse(plan.text()), plan);
  EXPECT_TRUE(GpuPlan::parse("elements")->by_element);
}

TEST(GpuPlan, ParseSaysWhatIsWrong) {
  const auto message = [](std::string_view text) { return GpuPlan::parse(text).status().message(); };
  EXPECT_NE(message("packed 5x4").find("is not what follows"), std::string::npos);
  EXPECT_NE(message("tile128x256 depth8").find("\"\" is not what follows"), std::string::npos);
  EXPECT_NE(message("tile96x256 depth8 own8x8").find("96 is no power of two"), std::string::npos);
  EXPECT_NE(message("tile0x256 depth8 own8x8").find("0 is no power of two"), std::string::npos);
  EXPECT_NE(message("tile4096x256 depth8 own8x8").find("from 1 to 1024"), std::string::npos);
  EXPECT_NE(message("tile8x8 depth8 own16x8").find("owns more"), std::string::npos);
  EXPECT_NE(message("tile16x16 depth8 own2x2 more").find("\" more\""), std::string::npos);
}

TEST(GpuPreset, IsPickedByTheVendor) {
  EXPECT_EQ(gpu_preset(target("nvidia")).name, "NVIDIA");
  EXPECT_EQ(gpu_preset(target("amd")).name, "AMD");
  EXPECT_EQ(gpu_preset(target("intel")).name, "Intel");
  EXPECT_EQ(gpu_preset(target("processor")).vendor, VulkanVendor::processor);
  EXPECT_EQ(gpu_preset(target("")).vendor, VulkanVendor::other);
  // What nobody has run says so.
  for (const GpuPreset& preset : gpu_presets()) {
    const bool tested = preset.vendor == VulkanVendor::nvidia || preset.vendor == VulkanVendor::processor;
    EXPECT_EQ(!preset.tested_on.empty(), tested) << preset.name;
    EXPECT_NE(preset.text().find("tile64x64"), std::string::npos) << preset.text();
  }
}

// The schedule that was measured on an H100: no tile, and no bound, may change unnoticed.
TEST(GpuPreset, NvidiasIsTheMeasuredOne) {
  const VulkanTarget h100 = target(kDevices[0]);
  const auto plan = [&](const ProductShape& s) { return preset_gpu_plan(s, h100).text(); };
  EXPECT_EQ(plan(shape(4096, 4096, 4096)), "tile128x256 depth8 own16x8");
  EXPECT_EQ(plan(shape(1280, 1280, 64)), "tile128x128 depth8 own8x8");
  EXPECT_EQ(plan(shape(1024, 1024, 64)), "tile64x128 depth8 own8x8");
  EXPECT_EQ(plan(shape(640, 640, 640)), "tile64x64 depth8 own4x4");
  EXPECT_EQ(plan(shape(100, 100, 100)), "tile32x32 depth16 own2x2");
  EXPECT_EQ(plan(shape(4096, 4096, 4096, 8)), "tile64x64 depth8 own4x4");
  EXPECT_EQ(plan(shape(4, 4096, 4096)), "elements");
  EXPECT_EQ(plan(shape(4096, 4, 4096)), "elements");
  EXPECT_EQ(preset_gpu_plan(shape(4096, 4096, 64), target("nvidia,workgroup1024,shared48")).text(),
            "tile16x16 depth8 own2x2");  // no fused multiply-add
  for (const char* text :
       {"outer:thread outer:group32", "r:thread r:group256", "r:thread r:group64 c:vec16", "i0:thread lane:pack4", ""})
    EXPECT_EQ(fit_schedule(*lower::Schedule::parse(text), h100).text(), text);
}

TEST(GpuPreset, AppliesToEveryShapeOnEveryDevice) {
  for (const std::string_view device : kDevices)
    for (const int64_t m : {1, 5, 33, 100, 1000, 50257})
      for (const int64_t n : {1, 5, 33, 100, 1000, 50257})
        for (const int64_t k : {0, 1, 7, 3000})
          for (const int bytes : {4, 8}) {
            const ProductShape s = shape(m, n, k, bytes);
            const GpuPlan plan = preset_gpu_plan(s, target(device));
            ASSERT_TRUE(gpu_plan_applies(plan, s, target(device))) << device << " " << s.key() << " " << plan.text();
            ASSERT_EQ(*GpuPlan::parse(plan.text()), plan);
          }
}

TEST(GpuPreset, FollowsTheDevicesLimits) {
  const ProductShape large = shape(4096, 4096, 4096);
  EXPECT_EQ(preset_gpu_plan(large, target(kDevices[1])).text(), "tile128x128 depth8 own8x8");
  EXPECT_EQ(preset_gpu_plan(large, target(kDevices[3])).text(), "tile64x128 depth8 own4x8");
  // 17 KiB of workgroup memory are too much for this one, and 256 invocations for the next.
  EXPECT_EQ(preset_gpu_plan(large, target("amd,fma32,workgroup256,shared16")).text(), "tile128x64 depth8 own8x8");
  EXPECT_EQ(preset_gpu_plan(large, target("intel,fma32,workgroup128,shared16")).text(), "tile32x32 depth16 own4x2");
}

TEST(GpuPreset, GroupsFitTheDevice) {
  const auto fitted = [](std::string_view device, std::string_view text) {
    return fit_schedule(*lower::Schedule::parse(text), target(device)).text();
  };
  // A row is shared by a whole wave of AMD's, and by no more than a workgroup may have.
  EXPECT_EQ(fitted(kDevices[1], "outer:thread outer:group32"), "outer:thread outer:group64");
  EXPECT_EQ(fitted("amd,workgroup128", "r:thread r:group256"), "r:thread r:group128");
  EXPECT_EQ(fitted(kDevices[4], "r:thread r:group256"), "r:thread r:group64");
  // Elementwise kernels.
  EXPECT_EQ(fitted(kDevices[1], "i0:thread lane:pack4"), "i0:thread lane:pack4 i0:workgroup256");
  EXPECT_EQ(fitted("amd,workgroup128", "i0:thread lane:pack4"), "i0:thread lane:pack4");
  EXPECT_EQ(fitted(kDevices[3], "i0:thread lane:pack4"), "i0:thread lane:pack4");
  EXPECT_EQ(fitted(kDevices[1], ""), "");
}

TEST(GpuKey, HasNoBars) {
  EXPECT_EQ(gpu_key("A|B\nC", target("workgroup256,shared32")), "vulkan A B C workgroup256 shared32");
}

}  // namespace
}  // namespace sporkle::tune
