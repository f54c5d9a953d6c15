#include "codegen/vulkan_target.h"

#include <gtest/gtest.h>

namespace sporkle::codegen {
namespace {

TEST(VulkanTarget, TextAndBack) {
  VulkanTarget target;
  EXPECT_EQ(target.text(), "vulkan:subgroup0,workgroup128,shared16");
  target.f64 = target.storage16 = target.fma32 = target.sqrt64 = true;
  target.subgroup = 32;
  target.workgroup = 1024;
  target.shared_kib = 48;
  EXPECT_EQ(target.text(), "vulkan:f64,storage16,fma32,sqrt64,subgroup32,workgroup1024,shared48");
  const auto parsed = VulkanTarget::parse(target.text());
  ASSERT_TRUE(parsed.ok()) << parsed.status().to_string();
  EXPECT_EQ(*parsed, target);
  const std::string_view hopper =
      "vulkan:f64,controls2,fma32normal,contract32,matrixf16,matrixbf16,subgroup32,workgroup1024,shared48";
  EXPECT_EQ(VulkanTarget::parse(hopper)->text(), hopper);
}

TEST(VulkanTarget, NothingButThePrefixIsTheLeastDevice) {
  const auto parsed = VulkanTarget::parse("vulkan:");
  ASSERT_TRUE(parsed.ok());
  EXPECT_EQ(*parsed, VulkanTarget());
}

TEST(VulkanTarget, NamesTheVendorWhereItIsKnown) {
  const auto amd = VulkanTarget::parse("vulkan:f64,amd,subgroup64");
  ASSERT_TRUE(amd.ok()) << amd.status().to_string();
  EXPECT_EQ(amd->vendor, VulkanVendor::amd);
  EXPECT_EQ(amd->text(), "vulkan:amd,f64,subgroup64,workgroup128,shared16");
  EXPECT_EQ(VulkanTarget::parse("vulkan:processor")->vendor, VulkanVendor::processor);
  EXPECT_FALSE(VulkanTarget::parse("vulkan:amd,nvidia").ok());
}

TEST(VulkanTarget, OrderIsFree) {
  EXPECT_EQ(VulkanTarget::parse("vulkan:shared32,rte32,f64")->text(),
            "vulkan:f64,rte32,subgroup0,workgroup128,shared32");
}

TEST(VulkanTarget, RefusesWhatItDoesNotKnow) {
  const std::pair<std::string_view, std::string_view> cases[] = {
      {"cpu:x86-64", "does not begin"},         {"vulkan:f65", "\"f65\" is no feature"},
      {"vulkan:f64,,rte32", "\"\" is no"},      {"vulkan:f64,", "ends in a comma"},
      {"vulkan:f64,f64", "\"f64\" stands"},     {"vulkan:shared32,shared48", "\"shared\" stands"},
      {"vulkan:shared", "\"shared\" is no"},    {"vulkan:shared8", "\"shared8\" is no"},
      {"vulkan:workgroup-1", "is no feature"},  {"vulkan:subgroup32x", "is no feature"},
      {"vulkan:workgroup99999999999", "is no"},
  };
  for (const auto& [text, message] : cases) {
    const auto parsed = VulkanTarget::parse(text);
    ASSERT_FALSE(parsed.ok()) << text;
    EXPECT_EQ(parsed.status().code(), Code::invalid_argument);
    EXPECT_NE(parsed.status().message().find(message), std::string::npos) << parsed.status().to_string();
  }
}

}  // namespace
}  // namespace sporkle::codegen
