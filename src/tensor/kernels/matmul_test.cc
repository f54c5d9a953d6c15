// Matrix products equal the plain loop of fused multiply-adds bit for bit, whatever the shapes, strides, device and
// number of threads.
#include "hal/registry.h"
#include "tensor/random.h"
#include "tensor/testing.h"
#include "tune/search.h"

namespace sporkle::tensor {
namespace {

using testing::context;
using testing::random_values;
using testing::read;
using testing::same_bits;

struct Matrices {
  int64_t m, k, n;
  bool a_transposed, b_transposed;
};

template <typename T>
std::vector<T> plain(const Matrices& s, const std::vector<T>& a, const std::vector<T>& b, int64_t batches = 1) {
  std::vector<T> c(static_cast<size_t>(batches * s.m * s.n));
  for (int64_t batch = 0; batch < batches; ++batch)
    for (int64_t i = 0; i < s.m; ++i)
      for (int64_t j = 0; j < s.n; ++j) {
        T sum = 0;
        for (int64_t p = 0; p < s.k; ++p) {
          const int64_t ai = batch * s.m * s.k + (s.a_transposed ? p * s.m + i : i * s.k + p);
          const int64_t bi = batch * s.k * s.n + (s.b_transposed ? j * s.k + p : p * s.n + j);
          sum = std::fma(a[static_cast<size_t>(ai)], b[static_cast<size_t>(bi)], sum);
        }
        c[static_cast<size_t>((batch * s.m + i) * s.n + j)] = sum;
      }
  return c;
}

template <typename T>
Tensor operand(Context& c, const std::vector<T>& values, int64_t rows, int64_t columns, bool transposed) {
  const Tensor x = from_host<T>(c, values, transposed ? Shape{columns, rows} : Shape{rows, columns});
  return transposed ? x.transpose(0, 1) : x;
}

template <typename T>
void check(Context& c, const Matrices& s) {
  const auto a = random_values<T>(s.m * s.k, 1), b = random_values<T>(s.k * s.n, 2);
  const Tensor product = matmul(operand(c, a, s.m, s.k, s.a_transposed), operand(c, b, s.k, s.n, s.b_transposed));
  EXPECT_TRUE(same_bits(read<T>(product), plain(s, a, b)))
      << s.m << "x" << s.k << "x" << s.n << (s.a_transposed ? " A transposed" : "")
      << (s.b_transposed ? " B transposed" : "");
}

const Matrices kShapes[] = {
    {1, 1, 1, false, false},     {1, 7, 5, false, false},     {3, 64, 200, false, false},  {4, 100, 33, false, true},
    {5, 3, 64, false, false},    {6, 17, 65, true, false},    {7, 96, 16, false, true},    {13, 31, 30, true, true},
    {64, 64, 64, false, false},  {100, 50, 130, false, true}, {130, 70, 100, true, false}, {31, 0, 7, false, false},
    {200, 5, 17, true, true},    {96, 2500, 40, true, false}, {2, 5000, 70, false, false}, {9, 4100, 64, false, true},
    {1, 300, 301, false, false}, {203, 300, 1, false, false}, {203, 300, 1, true, false},  {5, 9000, 1, false, false},
    {1, 300, 77, false, true},   {2, 47, 160, false, true},   {4, 64, 64, true, true},     {1, 16, 16, false, true},
};

TEST(MatmulTest, EqualsThePlainLoopBitForBit) {
  for (const Matrices& s : kShapes) check<float>(context("cpu"), s);
}

TEST(MatmulTest, EqualsThePlainLoopBitForBitInF64) {
  for (const Matrices& s : kShapes) check<double>(context("cpu"), s);
}

TEST(MatmulTest, EqualsThePlainLoopOnOneThread) {
  for (const Matrices& s : kShapes) check<float>(context("cpu", 1), s);
}

TEST(MatmulTest, EqualsThePlainLoopOnTheReference) {
  for (const Matrices& s : kShapes)
    if (s.m * s.k * s.n < 20000) check<float>(context("reference"), s);
}

TEST(MatmulTest, MultipliesBatchesSeenThroughViews) {
  // As in attention: [batch, time, heads, size] seen as [batch, heads, time, size].
  Context& c = context();
  const int64_t batch = 2, time = 19, heads = 3, size = 8;
  const Shape stored{batch, time, heads, size};
  const Tensor q = testing::random_tensor(c, stored, 1).permute({0, 2, 1, 3});
  const Tensor k = testing::random_tensor(c, stored, 2).permute({0, 2, 1, 3});
  const Tensor scores = matmul(q, k.transpose(-1, -2));
  ASSERT_EQ(scores.shape(), (Shape{batch, heads, time, time}));
  const Matrices s{time, size, time, false, true};
  EXPECT_TRUE(same_bits(read(scores), plain(s, read(q.contiguous()), read(k.contiguous()), batch * heads)));
}

TEST(MatmulTest, BroadcastsTheAxesInFront) {
  Context& c = context();
  const Tensor a = testing::random_tensor(c, {3, 1, 5, 4}, 1), b = testing::random_tensor(c, {2, 4, 6}, 2);
  const Tensor product = matmul(a, b);
  ASSERT_EQ(product.shape(), (Shape{3, 2, 5, 6}));
  const Tensor copied = matmul(a.expand({3, 2, 5, 4}).contiguous().reshape({6, 5, 4}),
                               b.expand({3, 2, 4, 6}).contiguous().reshape({6, 4, 6}));
  EXPECT_TRUE(same_bits(read(product), read(copied)));
}

// Runs as the transposed matrix times a column, with the epilogue's axes exchanged as well.
TEST(MatmulTest, ARowTimesATransposedMatrixTakesItsEpilogueAlong) {
  Context& c = context();
  const int64_t batch = 3, inner = 40, n = 77;
  const Tensor x = testing::random_tensor(c, {batch, 1, inner}, 1), w = testing::random_tensor(c, {batch, n, inner}, 2);
  const Tensor bias = testing::random_tensor(c, {n}, 3), residual = testing::random_tensor(c, {n, batch}, 4);
  const Tensor product = matmul(x, w.transpose(1, 2));
  const Tensor finished = (matmul(x, w.transpose(1, 2)) + bias) * residual.transpose(0, 1).reshape({batch, 1, n});
  const auto plain_product = read(product), b = read(bias), r = read(residual), found = read(finished);
  EXPECT_TRUE(same_bits(plain_product, plain(Matrices{1, inner, n, false, true}, read(x), read(w), batch)));
  for (int64_t i = 0; i < batch; ++i)
    for (int64_t j = 0; j < n; ++j) {
      const auto at = static_cast<size_t>(i * n + j);
      ASSERT_EQ(found[at], (plain_product[at] + b[static_cast<size_t>(j)]) * r[static_cast<size_t>(j * batch + i)]);
    }
}

// What makes an operand runs where the product packs or reads it, whatever the product's way: the bits are those of
// the product of stored operands.
TEST(MatmulTest, ComputesOperandsThatItReadsOnce) {
  struct Case {
    Matrices s;
    bool a_computed;
    const char* what;
  };
  const Case cases[] = {
      {{64, 96, 128, false, false}, false, "packed, whole panels"},
      {{64, 2500, 77, false, false}, false, "packed, in passes, with an edge"},
      {{1, 300, 301, false, false}, false, "slabs"},
      {{1, 300, 700, false, true}, false, "a row times columns"},
      {{203, 300, 1, false, false}, true, "a column"},
      {{130, 70, 40, false, false}, true, "one panel"},
  };
  for (const int threads : {1, 2})
    for (const Case& test : cases) {
      Context& c = context("cpu", threads);
      const Matrices& s = test.s;
      const auto a = random_values<float>(s.m * s.k, 1), b = random_values<float>(s.k * s.n, 2);
      const Tensor x = operand(c, a, s.m, s.k, s.a_transposed), y = operand(c, b, s.k, s.n, s.b_transposed);
      const Tensor rows = testing::random_tensor(c, {s.k, 1}, 3), columns = testing::random_tensor(c, {s.k}, 4);
      const auto made = [&] { return test.a_computed ? (x - columns) * 0.5 : (y + rows) * 0.5; };
      const auto product = [&](const Tensor& t) { return test.a_computed ? matmul(t, y) : matmul(x, t); };
      const Tensor stored = made();
      ASSERT_TRUE(realize({stored}).ok());
      const auto expected = read(product(stored));
      const uint64_t before = c.counters().launches;
      EXPECT_TRUE(same_bits(read(product(made())), expected)) << test.what;
      EXPECT_EQ(c.counters().launches, before + 1 + static_cast<uint64_t>(s.k > 2048)) << test.what;
      const auto finished = read(product(made()) * 2.0 + 1.0);
      for (size_t i = 0; i < expected.size(); ++i) ASSERT_EQ(finished[i], expected[i] * 2.0f + 1.0f) << test.what;
    }
}

TEST(MatmulTest, ComputedOperandsMayBePaddedAndRandom) {
  Context& c = context("cpu", 1);
  const auto product = [&](bool store) {
    const Tensor x = testing::random_tensor(c, {24, 2600}, 1), w = testing::random_tensor(c, {2500, 50}, 2);
    const Tensor made = dropout(w, 0.25, {1, 2, 3}).pad(0, 40, 60);
    if (store) {
      EXPECT_TRUE(realize({made}).ok());
    }
    return read(matmul(x, made));
  };
  EXPECT_TRUE(same_bits(product(false), product(true)));
}

TEST(MatmulTest, StoresOperandsThatItReadsOften) {
  Context& c = context("cpu", 1);
  const Tensor x = testing::random_tensor(c, {200, 64}, 1), w = testing::random_tensor(c, {64, 400}, 2);
  const uint64_t before = c.counters().launches;
  (void)read(matmul(tanh(x), w));
  EXPECT_EQ(c.counters().launches, before + 2) << "A is read for every panel";
  (void)read(matmul(x, tanh(testing::random_tensor(c, {400, 64}, 2)).transpose(0, 1)));
  EXPECT_EQ(c.counters().launches, before + 4) << "B is transposed on the way";
}

TEST(MatmulTest, GivesEmptyResults) {
  Context& c = context();
  EXPECT_EQ(read(matmul(full(c, {0, 3}, 1), full(c, {3, 2}, 1))).size(), 0u);
  EXPECT_EQ(read(matmul(full(c, {2, 0}, 1), full(c, {0, 2}, 1)) + 1.0), (std::vector<float>{1, 1, 1, 1}));
}

TEST(MatmulTest, RefusesWhatDoesNotFit) {
  Context& c = context();
  const auto code = [](const Tensor& t) { return t.status().code(); };
  EXPECT_EQ(code(matmul(full(c, {2, 3}, 1), full(c, {2, 3}, 1))), Code::invalid_argument);
  EXPECT_EQ(code(matmul(full(c, {3}, 1), full(c, {3, 3}, 1))), Code::invalid_argument);
  EXPECT_EQ(code(matmul(full(c, {2, 3}, 1), full(c, {3, 3}, 1, DType::f64))), Code::invalid_argument);
  EXPECT_EQ(code(matmul(full(c, {2, 2, 3}, 1), full(c, {3, 3, 3}, 1))), Code::invalid_argument);
}

TEST(MatmulPlans, EveryPlanGivesTheSameBits) {
  const auto device = hal::open_device("cpu", {.threads = 2, .cpu_target = {}});
  ASSERT_TRUE(device.ok()) << device.status().to_string();
  cache::KernelCache kernels(**device);
  std::optional<tune::ProductPlan> plan;
  tune::Processor processor;
  ContextOptions options;
  options.choose_product = [&](const tune::ProductShape&, const tune::Processor& asked) {
    processor = asked;
    return plan;
  };
  for (const Matrices& s :
       {Matrices{19, 45, 100, false, false}, Matrices{4, 37, 300, false, false}, Matrices{33, 70, 52, true, true}}) {
    const auto a = random_values<float>(s.m * s.k, 1), b = random_values<float>(s.k * s.n, 2);
    const std::vector<float> expected = plain(s, a, b);
    const auto found = [&] {
      Context c(**device, kernels, options);
      const Tensor x = operand(c, a, s.m, s.k, s.a_transposed), y = operand(c, b, s.k, s.n, s.b_transposed);
      return std::pair(read<float>(matmul(x, y)), read<float>(matmul(x, y) * 2.0 + 1.0));
    };
    plan.reset();
    EXPECT_TRUE(same_bits(found().first, expected));
    const tune::ProductShape shape{
        4, 1, s.m, s.n, s.k, !s.a_transposed, !s.b_transposed, 4 * (s.b_transposed ? 1 : s.n)};
    const std::vector<tune::ProductPlan> plans =
        tune::neighbours(tune::preset_plan(shape, processor), shape, processor);
    ASSERT_GT(plans.size(), 10u);
    for (size_t i = 0; i < plans.size(); i += plans.size() / 10) {
      plan = plans[i];
      const auto [product, with_epilogue] = found();
      EXPECT_TRUE(same_bits(product, expected)) << shape.key() << " " << plan->text();
      for (size_t j = 0; j < expected.size(); ++j) ASSERT_EQ(with_epilogue[j], expected[j] * 2.0f + 1.0f) << j;
    }
  }
}

}  // namespace
}  // namespace sporkle::tensor
