// What runs together, and that it changes no bit.
#include "tensor/fuse.h"

#include "tensor/autograd.h"
#include "tensor/layers.h"
#include "tensor/random.h"
#include "tensor/testing.h"

namespace sporkle::tensor {
namespace {

using testing::context;
using testing::random_tensor;
using testing::read;
using testing::same_bits;

uint64_t launches_of(Context& c, std::initializer_list<Tensor> tensors) {
  const uint64_t before = c.counters().launches;
  const Status status = realize(tensors);
  EXPECT_TRUE(status.ok()) << status.to_string();
  return c.counters().launches - before;
}

TEST(FuseTest, PointwiseChainsAreOneKernel) {
  Context& c = context();
  const Tensor x = random_tensor(c, {8, 16}, 1), row = random_tensor(c, {16}, 2);
  EXPECT_EQ(launches_of(c, {gelu(x * 2.0 + row) - x.slice(0, 0, 1)}), 1u);
  const Tensor t = tanh(x);
  EXPECT_EQ(launches_of(c, {t * t + t}), 1u) << "a value with several readers in one kernel is computed there once";
}

TEST(FuseTest, ValuesWithSeveralReadersAreStoredUnlessCheap) {
  Context& c = context();
  const Tensor x = random_tensor(c, {8, 16}, 1);
  const Tensor costly = tanh(x), cheap = x + 1.0;
  EXPECT_EQ(launches_of(c, {sum(costly, {1}), sum(costly, {0})}), 3u);
  EXPECT_EQ(launches_of(c, {sum(cheap, {1}), sum(cheap, {0})}), 2u);
}

TEST(FuseTest, ProductsTakeInWhatFollows) {
  Context& c = context();
  const Tensor x = random_tensor(c, {2, 9, 16}, 1), w = random_tensor(c, {16, 24}, 2), b = random_tensor(c, {24}, 3);
  const Tensor residual = random_tensor(c, {2, 9, 24}, 4);
  EXPECT_EQ(launches_of(c, {gelu(matmul(x, w) + b) + residual}), 1u);
  const Tensor batch = random_tensor(c, {2, 3, 9, 9}, 5);
  EXPECT_EQ(launches_of(c, {(matmul(batch, batch) * 2.0).permute({0, 2, 1, 3}).reshape({2, 9, 27})}), 1u)
      << "the result may lie in another order";
  const Tensor product = matmul(x, w);
  EXPECT_EQ(launches_of(c, {product + b, product * 2.0}), 3u) << "a product with two readers is stored";
  EXPECT_EQ(launches_of(c, {matmul(x, w) + matmul(residual, w.transpose(0, 1)).slice(2, 0, 1)}), 2u);
  EXPECT_EQ(launches_of(c, {sum(matmul(x, w) * 2.0)}), 2u);
}

TEST(FuseTest, ReductionsTakeInTheirOperand) {
  Context& c = context();
  const Tensor x = random_tensor(c, {8, 16}, 1), y = random_tensor(c, {16}, 2);
  EXPECT_EQ(launches_of(c, {sum(x * y + 1.0, {1})}), 1u);
  EXPECT_EQ(launches_of(c, {sum((x * y).transpose(0, 1), {1})}), 1u);
}

TEST(FuseTest, NewNumbersCompileNothing) {
  Context& c = context();
  const Tensor x = random_tensor(c, {8, 16}, 1);
  const auto run = [&](const Tensor& operand, double rate, uint64_t step) {
    return read(dropout(operand * rate, 0.1 + rate / 100, {1, 2, step}));
  };
  (void)run(x, 0.5, 1);
  const uint64_t before = c.kernels().counters().compiles + c.kernels().counters().disk_hits;
  (void)run(x, 0.25, 2);
  (void)run(random_tensor(c, {5, 11}, 1), 0.25, 2);
  EXPECT_EQ(c.kernels().counters().compiles + c.kernels().counters().disk_hits, before);
}

// A bit of everything: normalisation, products with epilogues, attention, reductions, random numbers, gradients.
std::vector<std::vector<float>> everything(Context& c) {
  const Tensor x = random_tensor(c, {2, 10, 12}, 1), w = random_tensor(c, {12, 36}, 2, -0.3, 0.3);
  const Tensor b = random_tensor(c, {36}, 3), gain = random_tensor(c, {12}, 4);
  const Tensor h = layer_norm(x, gain, gain, 1e-5);
  const Tensor qkv = (matmul(h, w) + b).reshape({2, 10, 3, 3, 4});
  const auto part = [&](int64_t i) { return qkv.slice(2, i, 1).squeeze(2).permute({0, 2, 1, 3}); };
  const Tensor p = causal_softmax(matmul(part(0), part(1).transpose(-1, -2)), 0.5);
  const Tensor y = matmul(dropout(p, 0.2, {1, 2, 3}), part(2)).permute({0, 2, 1, 3}).reshape({2, 10, 12});
  const Tensor z = gelu(x + y) * 0.5 + max(y, {2}, true);
  const Tensor loss = mean(z * z) + sum(y.slice(1, 2, 3).pad(1, 1, 1)) * 0.01;
  const auto gradients = grad(loss, std::array{x, w, b, gain});
  EXPECT_TRUE(gradients.ok()) << gradients.status().to_string();
  std::vector<Tensor> all{loss, z};
  all.insert(all.end(), gradients->begin(), gradients->end());
  const Status status = realize(all);
  EXPECT_TRUE(status.ok()) << status.to_string();
  std::vector<std::vector<float>> values;
  for (const Tensor& t : all) values.push_back(read(t));
  return values;
}

TEST(FuseTest, FusionThreadsAndDeviceChangeNoBit) {
  const auto expected = everything(context("reference"));
  for (const auto& [device, threads, fuse] :
       {std::tuple{"cpu", 1, true}, {"cpu", 2, true}, {"cpu", 2, false}, {"reference", 2, false}}) {
    const auto values = everything(context(device, threads, fuse));
    ASSERT_EQ(values.size(), expected.size());
    for (size_t i = 0; i < values.size(); ++i)
      EXPECT_TRUE(same_bits(values[i], expected[i]))
          << device << ", " << threads << " threads, fuse " << fuse << ": " << i;
  }
}

}  // namespace
}  // namespace sporkle::tensor
