#include "codegen/cpu_target.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "codegen/compile.h"
#include "dsl/kernel.h"

namespace sporkle::codegen {
namespace {

TEST(CpuTarget, NamesReadBack) {
  for (const char* name : {"x86-64", "x86-64-v3", "x86-64-v3+vnni", "x86-64-v4", "x86-64-v4+bf16", "x86-64-v4+vnni",
                           "x86-64-v4+bf16+vnni", "aarch64"}) {
    const auto target = CpuTarget::from_name(name);
    ASSERT_TRUE(target.ok()) << target.status().to_string();
    EXPECT_EQ(target->name(), name);
    EXPECT_EQ(*CpuTarget::parse("cpu:" + std::string(name)), *target);
  }
}

TEST(CpuTarget, WhatIsNoTargetIsAnError) {
  for (const char* name : {"", "x86-64-v2", "x86-64+bf16", "x86-64-v3+bf16", "aarch64+vnni", "x86-64-v4+vnni+bf16",
                           "x86-64-v4+", "cpu:x86-64"}) {
    const Status status = CpuTarget::from_name(name).status();
    EXPECT_EQ(status.code(), Code::invalid_argument) << name;
    EXPECT_NE(status.message().find("is not known; use x86-64"), std::string::npos) << status.message();
  }
  EXPECT_FALSE(CpuTarget::parse("x86-64").ok());
  EXPECT_FALSE(CpuTarget::parse("vulkan:f64").ok());
}

TEST(CpuTarget, VectorsAreAsWideAsTheRegisters) {
  EXPECT_EQ(vector_width_of("cpu:x86-64"), 4);
  EXPECT_EQ(vector_width_of("cpu:x86-64-v3+vnni"), 8);
  EXPECT_EQ(vector_width_of("cpu:x86-64-v4+bf16+vnni"), 16);
  EXPECT_EQ(vector_width_of("cpu:aarch64"), 4);
  EXPECT_EQ(vector_width_of("reference"), 4);
}

TEST(CpuTarget, ThisMachinesLevelsRiseToTheBest) {
  const std::vector<std::string> levels = host_cpu_levels();
  ASSERT_FALSE(levels.empty());
  EXPECT_EQ(levels.back(), host_cpu().name());
  for (const std::string& level : levels) EXPECT_EQ(*host_cpu_target(level), "cpu:" + level);
  const Status other = host_cpu_target(host_cpu().is_x86() ? "aarch64" : "x86-64").status();
  EXPECT_EQ(other.code(), Code::unsupported);
  EXPECT_NE(other.message().find("but this CPU reaches only " + levels.back()), std::string::npos) << other.message();
}

std::string assembly_for(const ir::Kernel& kernel, const std::string& schedule, const std::string& target) {
  std::string result;
  const auto code = compile(kernel, *lower::Schedule::parse(schedule), target, [&](auto stage, std::string_view text) {
    if (stage == "assembly") result = text;
  });
  EXPECT_TRUE(code.ok()) << code.status().to_string();
  return result;
}

ir::Kernel dots(ir::DType type) {
  return dsl::trace(
      "dots",
      [&](dsl::KernelBuilder& k) {
        const dsl::Buffer x = k.input(ir::DType::u32, "x"), y = k.output(type, "y");
        k.range("i", k.size("n"), [&](dsl::Expr i) { y.store(i, dsl::dot(x[i], x[i + 1], dsl::constant(type, 0))); });
      },
      ir::Numerics::fast);
}

// The instruction is used where the target has it, and nowhere else.
TEST(CpuTarget, DotProductsUseTheProcessorsInstructions) {
  const ir::Kernel pairs = dots(ir::DType::f32), bytes = dots(ir::DType::i32);
  EXPECT_NE(assembly_for(pairs, "i:vec16", "cpu:x86-64-v4+bf16").find("vdpbf16ps"), std::string::npos);
  EXPECT_EQ(assembly_for(pairs, "i:vec16", "cpu:x86-64-v4").find("vdpbf16ps"), std::string::npos);
  EXPECT_NE(assembly_for(bytes, "i:vec16", "cpu:x86-64-v4+vnni").find("vpdpbusd"), std::string::npos);
  EXPECT_NE(assembly_for(bytes, "i:vec8", "cpu:x86-64-v3+vnni").find("vpdpbusd"), std::string::npos);
  EXPECT_NE(assembly_for(bytes, "i:vec8", "cpu:x86-64-v3").find("vpmaddwd"), std::string::npos);
  // Without fused instructions `fast` does not call the C library for each element.
  EXPECT_EQ(assembly_for(pairs, "i:vec4", "cpu:x86-64").find("fmaf"), std::string::npos);
}

}  // namespace
}  // namespace sporkle::codegen
