// Attention on a GPU beside a processor's: the same bits, or close ones where `fast` numerics allow it.
#include "tensor/composed_attention.h"

#include <gtest/gtest.h>

#include <array>

#include "codegen/vulkan_target.h"
#include "tensor/autograd.h"
#include "tensor/testing_units.h"

namespace sporkle::tensor {
namespace {

using testing::difference;
using testing::random_tensor;
using testing::read;

struct Case {
  int64_t rows, heads, kv_heads, queries, keys, size;
};
// More queries than a block has, and rows that are and are not whole packs.
const Case kCases[] = {{1, 2, 1, 300, 300, 8}, {1, 1, 1, 257, 301, 4}, {2, 2, 2, 70, 90, 8}, {1, 1, 1, 512, 512, 16}};

std::vector<std::vector<float>> all_results(Context& c, const Case& s, const AttentionOptions& options) {
  const Shape of_q{s.rows, s.heads, s.queries, s.size}, of_k{s.rows, s.kv_heads, s.keys, s.size};
  const Tensor q = random_tensor(c, of_q, 1), k = random_tensor(c, of_k, 2), v = random_tensor(c, of_k, 3);
  const Tensor y = attention(q, k, v, options);
  const auto gradients = grad(sum(y * random_tensor(c, of_q, 4)), std::array{q, k, v});
  EXPECT_TRUE(gradients.ok()) << gradients.status().to_string();
  return {read(y), read((*gradients)[0]), read((*gradients)[1]), read((*gradients)[2])};
}

TEST(ComposedAttention, HasTheBitsOfAProcessors) {
  auto device = hal::open_device("vulkan:0");
  if (!device.ok()) GTEST_SKIP() << device.status().message();
  cache::KernelCache kernels(**device);
  Context gpu(**device, kernels);
  for (const Case& s : kCases)
    for (const double dropped : {0.0, 0.25}) {
      if (dropped > 0 && s.queries > 100) continue;
      const AttentionOptions options{0.4, dropped, {7, 8, 9}};
      const auto found = all_results(gpu, s, options), expected = all_results(testing::context(), s, options);
      for (size_t i = 0; i < found.size(); ++i)
        EXPECT_TRUE(testing::same_bits(found[i], expected[i])) << i << ": " << s.queries << " x " << s.keys;
    }
}

TEST(ComposedAttention, IsCloseUnderFastNumerics) {
  auto device = hal::open_device("vulkan:0");
  if (!device.ok()) GTEST_SKIP() << device.status().message();
  auto target = *codegen::VulkanTarget::parse((*device)->info().target);
  cache::KernelCache kernels(**device);
  Context fast(**device, kernels, {.numerics = ir::Numerics::fast});
  target.matrix_bf16 = true;
  if (target.subgroup == 0) target.subgroup = 32;
  testing::MachineWithUnits machine(*device, target.text());
  for (const Case& s : kCases) {
    const auto expected = all_results(testing::context(), s, {0.4});
    const auto in_f32 = all_results(fast, s, {0.4});
    for (size_t i = 0; i < expected.size(); ++i) EXPECT_LT(difference(in_f32[i], expected[i]), 1e-5) << i;
    if (!target.storage16) continue;
    const auto in_bf16 = all_results(*machine.context, s, {0.4});
    for (size_t i = 0; i < expected.size(); ++i) EXPECT_LT(difference(in_bf16[i], expected[i]), 0.02) << i;
  }
  if (target.storage16) {
    EXPECT_GE(machine.count("call attention_slopes.f32 bf16"), 1);
  }
}

}  // namespace
}  // namespace sporkle::tensor
