#include "tensor/random.h"

#include "dsl/kernel.h"
#include "tensor/kernel_call.h"
#include "tensor/testing.h"

namespace sporkle::tensor {
namespace {

using testing::context;
using testing::read;
using testing::same_bits;

TEST(PhiloxTest, GivesTheKnownAnswers) {
  // From the test vectors of the authors' Random123 library, philox2x32 with 10 rounds.
  struct Answer {
    uint32_t low, high, key, first, second;
  };
  for (const Answer& a :
       {Answer{0, 0, 0, 0xff1dae59, 0x6cd10df2}, Answer{0xffffffff, 0xffffffff, 0xffffffff, 0x2c3f628b, 0xab4fd7ad},
        Answer{0x243f6a88, 0x85a308d3, 0x13198a2e, 0xdd7ce038, 0xf62a4c12}}) {
    const Philox result = philox2x32(a.low, a.high, a.key);
    EXPECT_EQ(result.low, a.first);
    EXPECT_EQ(result.high, a.second);
  }
}

TEST(PhiloxTest, IsTheSameInAKernel) {
  Context& c = context();
  KernelCall call;
  call.key = "philox test";
  call.define = [](dsl::KernelBuilder& k) {
    const dsl::Buffer in = k.input(DType::i32, "in"), out = k.output(DType::i32, "out");
    const dsl::Expr n = k.size("n");
    k.range("i", n, [&](dsl::Expr i) {
      const auto word = [&](int j) { return dsl::cast(DType::u32, in[i * 3 + j]); };
      dsl::Expr low = word(0), high = word(1);
      philox2x32(&low, &high, word(2));
      out.store(i * 2, dsl::cast(DType::i32, low));
      out.store(i * 2 + 1, dsl::cast(DType::i32, high));
    });
  };
  call.results = {{DType::i32, {40, 2}}};
  call.scalars = {scalar_bits(40)};
  std::vector<int32_t> counters;
  for (int i = 0; i < 120; ++i) counters.push_back(static_cast<int32_t>(static_cast<uint32_t>(i) * 0x3779B97F));
  const Tensor input = from_host<int32_t>(c, counters, {40, 3});
  const std::vector<int32_t> values = read<int32_t>(call_kernel(call, {&input, 1})[0]);
  for (size_t i = 0; i < 40; ++i) {
    const auto word = [&](size_t j) { return static_cast<uint32_t>(counters[3 * i + j]); };
    const Philox expected = philox2x32(word(0), word(1), word(2));
    EXPECT_EQ(static_cast<uint32_t>(values[2 * i]), expected.low);
    EXPECT_EQ(static_cast<uint32_t>(values[2 * i + 1]), expected.high);
  }
}

// Mean and deviation of x, and of products of neighbours.
void check_moments(const std::vector<float>& x, double mean, double deviation) {
  double sum = 0, squares = 0, products = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double d = x[i] - mean;
    sum += d;
    squares += d * d;
    if (i > 0) products += d * (x[i - 1] - mean);
  }
  const double n = static_cast<double>(x.size()), five = 5 / std::sqrt(n);  // five standard errors
  EXPECT_NEAR(sum / n, 0, five * deviation);
  EXPECT_NEAR(squares / n, deviation * deviation, five * deviation * deviation * 1.5);
  EXPECT_NEAR(products / n, 0, five * deviation * deviation);
}

TEST(RandomTest, UniformNumbersAreUniform) {
  const std::vector<float> x = read(uniform(context(), {400, 500}, {7, 1, 0}));
  check_moments(x, 0.5, std::sqrt(1.0 / 12));
  std::array<int, 10> counts{};
  for (const float v : x) {
    ASSERT_GE(v, 0);
    ASSERT_LT(v, 1);
    ++counts[static_cast<size_t>(v * 10)];
  }
  for (const int count : counts) EXPECT_NEAR(count, 20000, 5 * std::sqrt(20000.0));
}

TEST(RandomTest, NormalNumbersAreNormal) {
  const std::vector<float> x = read(normal(context(), {400, 500}, {7, 2, 0}));
  check_moments(x, 0, 1);
  int inside = 0;
  for (const float v : x) {
    ASSERT_LT(std::abs(v), 5.8f);
    inside += std::abs(v) < 1;
  }
  EXPECT_NEAR(inside / 200000.0, 0.6827, 0.006);
}

TEST(RandomTest, DependsOnTheKeyAlone) {
  Context& c = context();
  const std::vector<float> x = read(uniform(c, {30, 7}, {1, 2, 3}));
  EXPECT_TRUE(same_bits(read(uniform(c, {30, 7}, {1, 2, 3})), x));
  EXPECT_TRUE(same_bits(read(uniform(context("reference"), {30, 7}, {1, 2, 3})), x));
  EXPECT_TRUE(same_bits(read(uniform(c, {7, 30}, {1, 2, 3})), x)) << "numbered in row-major order";
  for (const RandomKey other : {RandomKey{2, 2, 3}, RandomKey{1, 3, 3}, RandomKey{1, 2, 4}})
    EXPECT_FALSE(same_bits(read(uniform(c, {30, 7}, other)), x));
  const std::vector<double> wide = read<double>(normal(c, {50}, {1, 2, 3}, DType::f64));
  const std::vector<float> narrow = read(normal(c, {50}, {1, 2, 3}));
  EXPECT_TRUE(std::equal(wide.begin(), wide.end(), narrow.begin()));
}

TEST(DropoutTest, KeepsTheExpectedShareAndScalesIt) {
  const Tensor x = full(context(), {300, 300}, 2.0);
  const std::vector<float> y = read(dropout(x, 0.3, {1, 2, 3}));
  int kept = 0;
  for (const float v : y) {
    EXPECT_TRUE(v == 0 || std::abs(v - 2 / 0.7f) < 1e-6f);
    kept += v != 0;
  }
  EXPECT_NEAR(kept / 90000.0, 0.7, 0.01);
  EXPECT_EQ(dropout(x, 0, {1, 2, 3}).node(), x.node());
}

TEST(DropoutTest, RefusesWhatIsNoProbability) {
  const Tensor x = full(context(), {3}, 2.0);
  for (const double p : {-0.1, 1.0, std::nan("")})
    EXPECT_EQ(dropout(x, p, {}).status().code(), Code::invalid_argument) << p;
  EXPECT_EQ(uniform(context(), {1 << 20, 1 << 13}, {}).status().code(), Code::invalid_argument);
  EXPECT_EQ(uniform(context(), {2}, {}, DType::i32).status().code(), Code::invalid_argument);
}

}  // namespace
}  // namespace sporkle::tensor
