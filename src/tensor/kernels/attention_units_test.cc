// Attention on matrix units beside a processor's in f32. Where a device has no such units, by the kernels' definition.
#include <array>

#include "codegen/vulkan_target.h"
#include "tensor/attention.h"
#include "tensor/autograd.h"
#include "tensor/testing_units.h"

namespace sporkle::tensor {
namespace {

using testing::difference;
using testing::random_tensor;
using testing::read;
using Values = std::vector<std::vector<float>>;

struct Case {
  int64_t rows, heads, kv_heads, length, size;
};

std::unique_ptr<testing::MachineWithUnits> machine() {
  auto device = hal::open_device("vulkan:0");
  if (!device.ok()) return nullptr;
  auto target = *codegen::VulkanTarget::parse((*device)->info().target);
  if (!target.storage16) return nullptr;
  target.matrix_bf16 = true;
  if (target.subgroup == 0) target.subgroup = 32;
  target.shared_kib = std::max(target.shared_kib, 48u);
  target.workgroup = std::max(target.workgroup, 4 * target.subgroup);
  return std::make_unique<testing::MachineWithUnits>(*device, target.text());
}

Values with_gradients(const Tensor& y, std::span<const Tensor> inputs) {
  const auto gradients = grad(sum(y * random_tensor(y.context(), y.shape(), 4)), inputs);
  EXPECT_TRUE(gradients.ok()) << gradients.status().to_string();
  Values all{read(y)};
  for (const Tensor& g : *gradients) all.push_back(read(g));
  return all;
}

Values separate(Context& c, const Case& s) {
  const Shape of_k{s.rows, s.kv_heads, s.length, s.size};
  const std::array all{random_tensor(c, {s.rows, s.heads, s.length, s.size}, 1), random_tensor(c, of_k, 2),
                       random_tensor(c, of_k, 3)};
  return with_gradients(attention(all[0], all[1], all[2], {0.3}), all);
}

Values packed(Context& c, const Case& s) {
  const std::array all{random_tensor(c, {s.rows, s.length, (s.heads + 2 * s.kv_heads) * s.size}, 1)};
  return with_gradients(packed_attention(all[0], s.heads, s.kv_heads, {0.3}), all);
}

void expect_close(const Values& found, const Values& expected, const std::string& what) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    ASSERT_EQ(found[i].size(), expected[i].size());
    EXPECT_LT(difference(found[i], expected[i]), 0.02) << what << ", result " << i;
  }
}

TEST(AttentionOnUnits, IsCloseToTheSameInF32) {
  const auto units = machine();
  if (!units) GTEST_SKIP() << "no device vulkan:0 with buffers of 16-bit numbers";
  // Mesa's driver for processors leaves loops after 65535 rounds in all, which the definition of larger ones has.
  std::vector<Case> cases{
      {1, 1, 1, 64, 16}, {2, 2, 2, 128, 32}, {1, 4, 2, 128, 16}, {2, 3, 1, 64, 48}, {1, 1, 1, 64, 64}};
  if (units->device.inner().info().target.find("matrixbf16") != std::string::npos)
    cases.insert(cases.end(), {{2, 4, 2, 192, 64}, {1, 2, 2, 1024, 64}});
  for (const Case& s : cases) {
    const std::string what = std::to_string(s.length) + " x " + std::to_string(s.size);
    expect_close(packed(*units->context, s), packed(testing::context(), s), what + " packed");
    expect_close(separate(*units->context, s), separate(testing::context(), s), what);
  }
  EXPECT_GE(units->count("call attention_units packed size64"), 1);
  EXPECT_GE(units->count("call attention_units_keys size48"), 1);
  EXPECT_GE(units->count("call attention_units_queries packed size16"), 1);
  EXPECT_EQ(units->count("call attention_weights"), 0);
}

TEST(AttentionOnUnits, IsComposedWhereItDoesNotFit) {
  const auto units = machine();
  if (!units) GTEST_SKIP() << "no device vulkan:0 with buffers of 16-bit numbers";
  for (const Case& s : {Case{1, 1, 1, 80, 16}, {1, 1, 1, 64, 8}})
    expect_close(packed(*units->context, s), packed(testing::context(), s), std::to_string(s.length));
  EXPECT_EQ(units->count("call attention_units"), 0);
}

}  // namespace
}  // namespace sporkle::tensor
