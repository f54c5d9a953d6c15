// Convolutions on a GPU, as one product of workgroups' tiles: a processor's bits, forward and both gradients.
#include <gtest/gtest.h>

#include <array>

#include "tensor/autograd.h"
#include "tensor/convolution.h"
#include "tensor/testing.h"

namespace sporkle::tensor {
namespace {

using testing::random_tensor;
using testing::read;
using testing::same_bits;

struct Case {
  int64_t images, channels, height, width, filters, kernel_height, kernel_width;
  ConvolutionOptions options;
};

struct Results {
  std::vector<float> y, dx, dw;
};

Results compute(Context& c, const Case& s) {
  const Tensor x = random_tensor(c, {s.images, s.channels, s.height, s.width}, 1);
  const Tensor w = random_tensor(c, {s.filters, s.channels / s.options.groups, s.kernel_height, s.kernel_width}, 2);
  const Tensor y = conv2d(x, w, s.options);
  const auto gradients = grad(sum(y * random_tensor(c, y.shape(), 3)), std::array{x, w});
  EXPECT_TRUE(gradients.ok()) << gradients.status().to_string();
  if (!gradients.ok()) return {};
  return {read(y), read((*gradients)[0]), read((*gradients)[1])};
}

TEST(ConvolutionOnAGpu, HasTheBitsOfAProcessors) {
  const auto gpu = Context::open("vulkan:0");
  if (!gpu.ok()) GTEST_SKIP() << gpu.status().message();
  const Case cases[] = {
      {1, 3, 8, 8, 8, 3, 3, {}},
      {2, 5, 9, 11, 7, 3, 3, {.padding = {1, 1}}},
      {2, 3, 17, 15, 8, 5, 3, {.stride = {2, 2}, .padding = {2, 1}}},
      {1, 4, 14, 14, 6, 3, 3, {.padding = {2, 2}, .dilation = {2, 2}}},
      {2, 20, 5, 6, 24, 1, 1, {}},
      {2, 12, 7, 7, 18, 3, 3, {.stride = {1, 2}, .padding = {1, 1}, .groups = 2}},
      {3, 6, 6, 5, 6, 3, 3, {.padding = {1, 1}, .groups = 6}},  // a filter for each channel: not in tiles
      {1, 40, 4, 4, 33, 3, 3, {.padding = {1, 1}, .layout = Layout::nchw}},
  };
  for (const Case& s : cases) {
    SCOPED_TRACE(std::to_string(s.channels) + " channels, " + std::to_string(s.filters) + " filters");
    const Results found = compute(**gpu, s), expected = compute(testing::context(), s);
    EXPECT_TRUE(same_bits(found.y, expected.y));
    EXPECT_TRUE(same_bits(found.dx, expected.dx));
    EXPECT_TRUE(same_bits(found.dw, expected.dw));
  }
}

TEST(ConvolutionOnAGpu, RunsInTilesWhereThereAreFiltersEnough) {
  std::vector<std::string> keys;
  ContextOptions options;
  options.choose_schedule = [&](std::string_view key, const lower::Schedule& usual) {
    keys.emplace_back(key);
    return usual;
  };
  const auto count = [&](int64_t filters, int64_t groups, std::string_view part) {
    keys.clear();
    const auto gpu = Context::open("vulkan:0", {}, options);
    if (!gpu.ok()) return int64_t{-1};
    (void)compute(**gpu, {2, 8, 9, 9, filters, 3, 3, {.padding = {1, 1}, .groups = groups}});
    return std::ranges::count_if(keys, [&](const std::string& key) { return key.find(part) != std::string::npos; });
  };
  if (const int64_t forward = count(16, 1, "conv2d_tiles"); forward < 0) {
    GTEST_SKIP() << "no device vulkan:0";
  } else {
    EXPECT_GE(forward, 1);
  }
  EXPECT_EQ(count(16, 1, "conv2d_dw_tiles"), 1);
  EXPECT_EQ(count(8, 8, "_tiles"), 0);
}

}  // namespace
}  // namespace sporkle::tensor
