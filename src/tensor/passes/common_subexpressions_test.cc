#include "tensor/kernel_call.h"
#include "tensor/layers.h"
#include "tensor/passes/testing.h"
#include "tensor/random.h"

namespace sporkle::tensor {
namespace {

using testing::context;
using testing::count;
using testing::planning_of;

void merge(Planning& planning) {
  ASSERT_TRUE(merge_common_subexpressions(planning).ok());
  ASSERT_TRUE(drop_dead_code(planning).ok());
}

TEST(CommonSubexpressionsTest, EqualOperationsRunOnce) {
  Context& c = context("reference");
  const Tensor x = testing::random_tensor(c, {4, 4}, 1);
  Planning planning = planning_of({exp(matmul(x, x)) + exp(matmul(x, x)), sum(exp(matmul(x, x)))});
  merge(planning);
  EXPECT_EQ(count(planning, Op::matmul), 1);
  EXPECT_EQ(count(planning, Op::exp), 1);
}

TEST(CommonSubexpressionsTest, DifferentOnesStay) {
  Context& c = context("reference");
  const Tensor x = testing::random_tensor(c, {4, 4}, 1), z = testing::random_tensor(c, {4, 4}, 2);
  Planning planning = planning_of({exp(x) + exp(z), x - z, z - x, x * 2.0, x * 3.0, sum(x, {0}, true),
                                   sum(x, {1}, true), uniform(c, {4}, {1, 2, 3}), uniform(c, {4}, {1, 2, 4})});
  const size_t before = planning.graph.nodes().size();
  merge(planning);
  EXPECT_EQ(planning.graph.nodes().size(), before);
}

TEST(CommonSubexpressionsTest, CallsAndRandomNumbersMergeByWhatTheyDependOn) {
  Context& c = context("reference");
  const Tensor x = testing::random_tensor(c, {4, 8}, 1), weight = testing::random_tensor(c, {8}, 2);
  const auto norm = [&](double epsilon) { return layer_norm(x, weight, weight, epsilon); };
  Planning planning = planning_of({norm(1e-5) * norm(1e-5), norm(1e-4), dropout(x, 0.5, {1}), dropout(x, 0.5, {1})});
  merge(planning);
  EXPECT_EQ(count(planning, Op::call), 2);
  EXPECT_EQ(count(planning, Op::uniform), 1);
}

// Of two calls that become one, each may have had a reader of another result.
TEST(CommonSubexpressionsTest, ResultsOfMergedCallsAreComputed) {
  const auto call = [] {
    KernelCall two;
    two.key = "plus_and_minus_one";
    two.define = [](dsl::KernelBuilder& k) {
      const auto x = k.input(DType::f32, "x");
      const auto more = k.output(DType::f32, "more"), less = k.output(DType::f32, "less");
      const dsl::Expr n = k.size("n"), one = dsl::constant(DType::f32, 1);
      k.range("i", n, [&](dsl::Expr i) {
        more.store(i, x[i] + one);
        less.store(i, x[i] - one);
      });
    };
    two.results = {{DType::f32, {3}}, {DType::f32, {3}}};
    two.scalars = {scalar_bits(int64_t{3})};
    return two;
  };
  Context& c = testing::context_without("");
  const Tensor x = from_host<float>(c, std::vector<float>{1, 2, 3}, {3});
  const Tensor more = call_kernel(call(), {&x, 1})[0], less = call_kernel(call(), {&x, 1})[1];
  const uint64_t before = c.counters().launches;
  ASSERT_TRUE(realize({more, less}).ok());
  EXPECT_EQ(c.counters().launches, before + 1);
  EXPECT_EQ(testing::read(more), (std::vector<float>{2, 3, 4}));
  EXPECT_EQ(testing::read(less), (std::vector<float>{0, 1, 2}));
}

}  // namespace
}  // namespace sporkle::tensor
