#include "codegen/attention_form.h"

#include <gtest/gtest.h>

#include "codegen/compile.h"
#include "codegen/gpu_abi.h"

namespace sporkle::codegen {
namespace {

using Kind = AttentionForm::Kind;

constexpr std::string_view kTarget = "vulkan:storage16,fma32,matrixf16,matrixbf16,subgroup32,workgroup1024,shared48";

ir::Kernel traced(const AttentionForm& form, const std::string& name, ir::Numerics numerics = ir::Numerics::fast) {
  return dsl::trace(
      name, [&](dsl::KernelBuilder& k) { define_attention(k, form); }, numerics);
}

TEST(AttentionForm, IsKnownByItsDefinitionAlone) {
  for (const Kind kind : {Kind::forward, Kind::keys, Kind::queries})
    for (const bool packed : {false, true})
      for (const int64_t size : {16, 64}) {
        const AttentionForm form{kind, size, packed};
        const auto found = find_attention(traced(form, form.name()));
        ASSERT_TRUE(found) << form.name();
        EXPECT_EQ(found->kind, kind);
        EXPECT_EQ(found->size, size);
        EXPECT_EQ(found->packed, packed);
        // The name of another, and no name at all.
        const AttentionForm other{kind, size + 16, packed};
        EXPECT_FALSE(find_attention(traced(form, other.name())));
        EXPECT_FALSE(find_attention(traced(form, "something")));
        EXPECT_FALSE(find_attention(traced(form, "attention_units size")));
        EXPECT_FALSE(find_attention(traced(form, "attention_units size99999999999999999999")));
      }
}

TEST(AttentionForm, RunsOnUnitsWhereTheyAre) {
  for (const Kind kind : {Kind::forward, Kind::keys, Kind::queries})
    for (const bool packed : {false, true})
      for (const int64_t size : {16, 32, 48, 64}) {
        const AttentionForm form{kind, size, packed};
        const auto bytes = compile(traced(form, form.name()), {}, kTarget);
        ASSERT_TRUE(bytes.ok()) << bytes.status().to_string();
        const auto code = decode_gpu_code(*bytes);
        ASSERT_TRUE(code.ok()) << code.status().to_string();
        EXPECT_EQ(code->workgroup_size, 128u);
        EXPECT_EQ(code->iterations_per_workgroup, 1u);
        EXPECT_LE(code->shared_bytes, 48u * 1024) << form.name();
        std::vector<uint64_t> scalars;
        append_attention_scalars(2, 6, 3, 256, 0.5F, &scalars);
        EXPECT_EQ(code->launch.evaluate(scalars).iterations, 2 * (kind == Kind::keys ? 3 : 6) * 4);
      }
}

TEST(AttentionForm, IsAnOrdinaryKernelElsewhere) {
  const AttentionForm form{Kind::forward, 64, true};
  const auto schedule = lower::Schedule::parse("query:thread");
  for (const auto& [target, numerics] :
       {std::pair(std::string_view("vulkan:storage16,fma32,div32,matrixbf16,subgroup32,workgroup1024,shared48"),
                  ir::Numerics::strict),
        std::pair(std::string_view("vulkan:storage16,fma32,subgroup32,workgroup1024,shared48"), ir::Numerics::fast)}) {
    const auto bytes = compile(traced(form, form.name(), numerics), *schedule, target);
    ASSERT_TRUE(bytes.ok()) << bytes.status().to_string();
    EXPECT_EQ(decode_gpu_code(*bytes)->shared_bytes, 0u);
  }
}

TEST(AttentionForm, SaysWhyNot) {
  const VulkanTarget target = *VulkanTarget::parse(kTarget);
  EXPECT_FALSE(attention_refusal(target, 64));
  for (const int64_t size : {8, 40, 128})
    EXPECT_NE(attention_refusal(target, size)->find("heads of size"), std::string::npos);
  EXPECT_NE(attention_refusal(*VulkanTarget::parse("vulkan:storage16"), 64)->find("no matrix units"),
            std::string::npos);
  VulkanTarget small = target;
  small.shared_kib = 32;
  EXPECT_NE(attention_refusal(small, 64)->find("48 KiB"), std::string::npos);
}

}  // namespace
}  // namespace sporkle::codegen
