#include "tensor/tensor.h"

#include <cstring>

#include "tensor/testing.h"

namespace sporkle::tensor {
namespace {

using testing::context;
using testing::random_tensor;
using testing::random_values;
using testing::read;

Tensor count_up(Context& c, const Shape& shape) {
  std::vector<float> values;
  for (int64_t i = 0; i < element_count(shape); ++i) values.push_back(static_cast<float>(i));
  return from_host<float>(c, values, shape);
}

TEST(TensorTest, GoesToTheDeviceAndBack) {
  Context& c = context();
  const std::vector<float> values = random_values(24, 1);
  EXPECT_EQ(read(from_host<float>(c, values, {2, 3, 4})), values);
  EXPECT_EQ(read<int32_t>(from_host<int32_t>(c, std::vector<int32_t>{-1, 7}, {2})), (std::vector<int32_t>{-1, 7}));
  EXPECT_EQ(read<uint8_t>(from_host<uint8_t>(c, std::vector<uint8_t>{1, 0, 1}, {3})), (std::vector<uint8_t>{1, 0, 1}));
  EXPECT_EQ(read<double>(full(c, {2}, 0.1, DType::f64)), (std::vector<double>{0.1, 0.1}));
  EXPECT_EQ(*full(c, {}, 3.5).item(), 3.5);
  EXPECT_EQ(read(zeros(c, {0, 4})).size(), 0u);
}

TEST(TensorTest, ViewsShowTheirElements) {
  Context& c = context();
  const Tensor x = count_up(c, {2, 3});
  EXPECT_EQ(read(x.transpose(0, 1)), (std::vector<float>{0, 3, 1, 4, 2, 5}));
  EXPECT_EQ(read(x.reshape({3, -1})), read(x));
  EXPECT_EQ(read(x.transpose(0, 1).reshape({6})), (std::vector<float>{0, 3, 1, 4, 2, 5}));
  EXPECT_EQ(read(x.slice(1, 1, 2)), (std::vector<float>{1, 2, 4, 5}));
  EXPECT_EQ(read(x.slice(-1, 2, 1).squeeze(1)), (std::vector<float>{2, 5}));
  EXPECT_EQ(read(x.unsqueeze(1).expand({2, 2, 3})), (std::vector<float>{0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5}));
  EXPECT_EQ(read(x.pad(1, 1, 0).pad(0, 0, 1)), (std::vector<float>{0, 0, 1, 2, 0, 3, 4, 5, 0, 0, 0, 0}));
  EXPECT_EQ(read((x + 1.0).pad(1, 0, 1)), (std::vector<float>{1, 2, 3, 0, 4, 5, 6, 0}));
  EXPECT_EQ(read(concatenate(x, x.slice(1, 0, 1) * 10.0, 1)), (std::vector<float>{0, 1, 2, 0, 3, 4, 5, 30}));
  EXPECT_EQ(read<int32_t>(index(c, {2, 3}, 1).transpose(0, 1)), (std::vector<int32_t>{0, 0, 1, 1, 2, 2}));
  EXPECT_EQ(read(x.expand({2, 2, 3}).transpose(0, 2).contiguous()),
            (std::vector<float>{0, 0, 3, 3, 1, 1, 4, 4, 2, 2, 5, 5}));
}

TEST(TensorTest, ViewsCopyNothing) {
  Context& c = context();
  const Tensor x = count_up(c, {4, 6});
  const uint64_t before = c.counters().launches;
  (void)read(x.transpose(0, 1).slice(0, 1, 2).unsqueeze(0));
  EXPECT_EQ(c.counters().launches, before);
}

TEST(TensorTest, PointwiseOperationsReadThroughAnyMixOfViews) {
  Context& c = context();
  const Tensor x = count_up(c, {2, 3, 4});
  // A reshape that the permuted leaf has no strides for, in the middle of a chain.
  const Tensor y = ((x.permute({2, 0, 1}) + 1.0) * 2.0).reshape({6, 4}) + 0.5;
  const std::vector<float> permuted = read(x.permute({2, 0, 1}));
  std::vector<float> expected;
  for (const float v : permuted) expected.push_back((v + 1) * 2 + 0.5f);
  EXPECT_EQ(read(y), expected);
  EXPECT_EQ(read((index(c, {3, 4}, 0) + index(c, {3, 4}, 1)).reshape({2, 6}).cast(DType::f32)),
            (std::vector<float>{0, 1, 2, 3, 1, 2, 3, 4, 2, 3, 4, 5}));
}

// A result so large that it passes the caches has the bits of its parts, which do not; with a rest below a vector.
TEST(TensorTest, ALargeResultHasTheBitsOfItsParts) {
  Context& c = context();
  const int64_t count = (int64_t{17} << 20) + 5, half = int64_t{8} << 20;
  const Tensor x = testing::random_tensor(c, {1 << 16}, 1);
  const auto piece = [&](int64_t first, int64_t n) {  // of the numbers' indices, so that little is uploaded
    const Tensor i = index(c, {n}, 0).cast(DType::f32) + static_cast<double>(first);
    return gelu(i * 1e-7 + x.slice(0, 7, 1).expand({n}));
  };
  const std::vector<float> whole = read(piece(0, count));
  std::vector<float> parts = read(piece(0, half));
  for (const int64_t first : {half, 2 * half})
    for (const float value : read(piece(first, std::min(half, count - first)))) parts.push_back(value);
  ASSERT_EQ(parts.size(), whole.size());
  EXPECT_EQ(std::memcmp(parts.data(), whole.data(), whole.size() * sizeof(float)), 0);
}

// Loads and stores whose lanes lie two apart, under a mask or not, with a rest below a vector.
TEST(TensorTest, EverySecondElementIsReadAndWritten) {
  Context &fast = context(), &plain = context("reference");
  for (const int64_t n : {3, 16, 32, 37, 83}) {
    const auto results = [&](Context& c) {
      const Tensor x = random_tensor(c, {5, 2 * n}, 1);
      const Tensor pairs = x.reshape({5, n, 2});
      const Tensor odd = gelu(pairs.slice(2, 1, 1).reshape({5, n}).pad(1, 3, 2));
      const Tensor lines = gelu(pairs.permute({2, 0, 1}));                           // [2, 5, n]
      const Tensor woven = gelu(random_tensor(c, {2, 5, n}, 2).permute({1, 2, 0}));  // [5, n, 2]
      return std::vector<std::vector<float>>{read(odd), read(lines), read(woven)};
    };
    EXPECT_EQ(results(fast), results(plain)) << n;
  }
}

TEST(ReduceTest, MatchesPlainLoops) {
  Context& c = context();
  struct Case {
    Shape shape;
    Dims axes;
  };
  const Case cases[] = {{{5}, {0}},          {{1}, {0}},          {{3, 40}, {1}},    {{40, 3}, {0}}, {{2, 3, 4}, {1}},
                        {{2, 3, 4}, {0, 2}}, {{2, 3, 4}, {0, 1}}, {{2, 3, 4}, {}},   {{0, 3}, {0}},  {{3, 0}, {1}},
                        {{700, 5}, {0}},     {{3, 600, 2}, {1}},  {{2, 70000}, {1}}, {{70001}, {0}}, {{70000, 2}, {0}},
                        {{9, 17}, {-1}},     {{6, 1, 5}, {1}},    {{300, 2, 3}, {0}}};
  for (const Case& test : cases) {
    for (const bool transposed : {false, true}) {
      Shape stored = test.shape;
      Dims order;
      for (int i = stored.rank() - 1; i >= 0; --i) order.push_back(i);
      if (transposed) std::reverse(&stored[0], &stored[0] + stored.rank());
      const Tensor base = random_tensor<double>(c, stored, 3);
      const Tensor x = transposed ? base.permute(order) : base;
      const std::vector<double> values = read<double>(x);
      std::array<bool, kMaxRank> reduced{};
      for (int64_t axis : test.axes) reduced[static_cast<size_t>(axis < 0 ? axis + x.rank() : axis)] = true;
      if (test.axes.rank() == 0) reduced.fill(true);
      Shape kept;
      for (int i = 0; i < x.rank(); ++i) kept.push_back(reduced[static_cast<size_t>(i)] ? 1 : x.shape()[i]);
      std::vector<double> sums(static_cast<size_t>(element_count(kept)), 0.0);
      std::vector<double> maxima(sums.size(), -1e300);
      Dims position = Dims::filled(x.rank(), 0);
      for (const double v : values) {
        int64_t at = 0;
        for (int d = 0; d < x.rank(); ++d) at = at * kept[d] + (kept[d] == 1 ? 0 : position[d]);
        sums[static_cast<size_t>(at)] += v;
        maxima[static_cast<size_t>(at)] = std::max(maxima[static_cast<size_t>(at)], v);
        for (int d = x.rank() - 1; d >= 0 && ++position[d] == x.shape()[d]; --d) position[d] = 0;
      }
      const std::vector<double> got = read<double>(sum(x, test.axes, true));
      ASSERT_EQ(got.size(), sums.size());
      for (size_t i = 0; i < got.size(); ++i)
        ASSERT_NEAR(got[i], sums[i], 1e-10 * (1 + std::abs(sums[i]))) << to_string(test.shape);
      if (!values.empty()) {
        EXPECT_EQ(read<double>(max(x, test.axes)), maxima) << to_string(test.shape);
      }
    }
  }
  EXPECT_EQ(read<int32_t>(sum(index(c, {4, 300}, 1), {1})), (std::vector<int32_t>(4, 299 * 150)));
  EXPECT_EQ(*mean(count_up(c, {2, 4})).item(), 3.5);
}

TEST(ErrorTest, NamesWhatDoesNotFit) {
  Context& c = context();
  const Tensor x = full(c, {2, 3}, 1.0);
  const auto expect = [](const Tensor& t, std::string_view part) {
    EXPECT_EQ(t.status().code(), Code::invalid_argument);
    EXPECT_NE(t.status().message().find(part), std::string::npos) << t.status().message();
  };
  expect(x + full(c, {4}, 1.0), "do not broadcast");
  expect(x + full(c, {3}, 1.0, DType::f64), "element types differ");
  expect(exp(index(c, {3}, 0)), "needs f32 or f64");
  expect(logical_and(x, x), "needs booleans");
  expect(where(x, x, x), "must be boolean");
  expect(sum(less(x, x)), "cast");
  expect(x.reshape({4, 2}), "does not fit");
  expect(x.reshape({-1, -1}), "does not fit");
  expect(x.reshape({INT64_MAX, 4, -1}), "does not fit");
  expect(x.reshape({-2}), "does not fit");
  expect(x.pad(0, INT64_MAX, INT64_MAX), "cannot add");
  expect(x.permute({0, 0}), "no permutation");
  expect(x.transpose(0, 5), "has no axis 5");
  expect(x.expand({3, 3}), "does not stretch");
  expect(x.slice(0, 1, 2), "do not lie in");
  expect(x.slice(0, 1, INT64_MAX), "do not lie in");
  expect(x.squeeze(0), "is not 1");
  expect(x.pad(0, -1, 0), "cannot add");
  expect(x.cast(DType::u64), "do not exist");
  expect(sum(x, {7}), "has no axis 7");
  expect(max(zeros(c, {0, 2}), {0}), "no elements");
  expect(mean(index(c, {3}, 0)), "needs f32 or f64");
  expect(concatenate(x, full(c, {3, 2}, 1.0), 0), "differ in more than axis 0");
  expect(index(c, {2}, 1), "has no axis 1");
  expect(full(c, {-1}, 0.0), "negative");
  expect(full(c, {int64_t{1} << 40, 1 << 20}, 0.0), "2^40");
  expect(full(c, {1, 1, 1, 1, 1, 1, 1, 1, 1}, 0.0), "at most 8");
  expect(from_host<float>(c, std::vector<float>(3), {2}), "do not fill");
  expect(x + full(context("reference"), {2, 3}, 1.0), "two contexts");
}

TEST(ErrorTest, PassesThroughEverythingMadeFromIt) {
  Context& c = context();
  const Tensor wrong = full(c, {2}, 1.0) + full(c, {3}, 1.0);
  const Tensor later = sum(exp(wrong.reshape({1, 2}) * 2.0).transpose(0, 1), {0});
  EXPECT_EQ(later.status().message(), wrong.status().message());
  EXPECT_EQ(realize({full(c, {2}, 1.0), later}).message(), wrong.status().message());
  EXPECT_EQ(later.to_host<float>().status().message(), wrong.status().message());
  EXPECT_EQ(Tensor().item().status().code(), Code::invalid_argument);
  EXPECT_EQ((Tensor() + wrong).status().code(), Code::invalid_argument);
  EXPECT_EQ(Tensor().reshape({2}).status().code(), Code::invalid_argument);
  EXPECT_EQ(full(c, {2}, 1.0).to_host<double>().status().code(), Code::invalid_argument);
  EXPECT_EQ(full(c, {2}, 1.0).item().status().code(), Code::invalid_argument);
  EXPECT_EQ(realize({full(c, {2}, 1.0), full(context("reference"), {2}, 1.0)}).code(), Code::invalid_argument);
}

TEST(MemoryTest, IntermediatesShareBuffers) {
  Context& c = context();
  constexpr int64_t kCount = 1 << 18;  // 1 MiB
  Tensor x = random_tensor(c, {kCount}, 1);
  c.trim();
  const size_t before = c.counters().allocated_bytes;
  for (int i = 0; i < 40; ++i) {
    // Too long for one kernel: the intermediate results are stored, at most two at a time.
    for (int j = 0; j < 10; ++j) x = sin(x) * cos(x) + x;
  }
  ASSERT_TRUE(realize({x}).ok());
  // A few at a time, and the result, which has memory of its own.
  EXPECT_LE(c.counters().allocated_bytes - before, size_t{5} * kCount * sizeof(float));
}

TEST(MemoryTest, UnusedMemoryCanBeFilledAndUsedMemoryIsLeftAlone) {
  Context& c = context();
  const std::vector<float> values = random_values(1000, 7);
  const Tensor kept = from_host<float>(c, values, {1000});
  hal::BufferRef buffer;
  {
    const Tensor gone = kept * 2.0;
    ASSERT_TRUE(realize({gone}).ok());
    buffer = gone.node()->storage->buffer();
  }
  ASSERT_TRUE(c.fill_unused(0x7ff5a5a5).ok());
  std::vector<uint32_t> words(1000);
  ASSERT_TRUE(c.device().read({buffer, 0}, std::as_writable_bytes(std::span(words))).ok());
  EXPECT_EQ(words, std::vector<uint32_t>(1000, 0x7ff5a5a5));
  EXPECT_EQ(read(kept), values);
}

TEST(MemoryTest, DetachedResultsForgetTheirHistory) {
  Context& c = context();
  Tensor x = random_tensor(c, {1 << 18}, 1);
  for (int i = 0; i < 5; ++i) {
    x = (x * 0.5).detach();
    ASSERT_TRUE(realize({x}).ok());
  }
  c.trim();
  const size_t before = c.counters().allocated_bytes;
  for (int i = 0; i < 50; ++i) {
    x = (x * 0.5).detach();
    ASSERT_TRUE(realize({x}).ok());
  }
  EXPECT_LE(c.counters().allocated_bytes, before + (2 << 20));
}

TEST(MemoryTest, LongChainsNeitherOverflowTheStackNorGrowKernels) {
  Context& c = context();
  Tensor x = from_host<float>(c, std::vector<float>(3), {3});
  for (int i = 0; i < 20000; ++i) x = x + 1.0;
  EXPECT_EQ(read(x), (std::vector<float>{20000, 20000, 20000}));
  Tensor unused = full(c, {3}, 0.0);
  for (int i = 0; i < 200000; ++i) unused = -unused;
}

}  // namespace
}  // namespace sporkle::tensor
