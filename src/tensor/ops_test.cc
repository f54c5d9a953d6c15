// What `sporkle validate` and its test leave open. They compare every operation of the table, over shapes, views, types
// and devices, with the same expression in f64, and its gradient with finite differences. So here: that each pointwise
// expression means what its name says, by plain C++; and gradients where operations meet.
#include <functional>
#include <set>

#include "tensor/attention.h"
#include "tensor/autograd.h"
#include "tensor/convolution.h"
#include "tensor/layers.h"
#include "tensor/pointwise.h"
#include "tensor/random.h"
#include "tensor/testing.h"

namespace sporkle::tensor {
namespace {

using testing::context;
using testing::random_tensor;
using testing::random_values;
using testing::read_numbers;

using Tensors = std::span<const Tensor>;

// ---- Values of pointwise operations ----

struct PointwiseCase {
  const char* name;  // as in the table
  int arity;
  std::function<Tensor(Tensors)> apply;
  std::function<double(const double*)> expected;
  double low = -2, high = 2;  // of the operands
};

double gelu_of(double x) { return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))); }

const std::vector<PointwiseCase>& pointwise_cases() {
  static const std::vector<PointwiseCase> cases = {
      {"copy", 1, [](Tensors x) { return x[0].contiguous(); }, [](const double* x) { return x[0]; }},
      {"neg", 1, [](Tensors x) { return -x[0]; }, [](const double* x) { return -x[0]; }},
      {"sqrt", 1, [](Tensors x) { return sqrt(x[0]); }, [](const double* x) { return std::sqrt(x[0]); }, 0, 9},
      {"abs", 1, [](Tensors x) { return abs(x[0]); }, [](const double* x) { return std::abs(x[0]); }},
      {"floor", 1, [](Tensors x) { return floor(x[0]); }, [](const double* x) { return std::floor(x[0]); }, -9, 9},
      {"exp", 1, [](Tensors x) { return exp(x[0]); }, [](const double* x) { return std::exp(x[0]); }, -9, 9},
      {"log", 1, [](Tensors x) { return log(x[0]); }, [](const double* x) { return std::log(x[0]); }, 0.01, 9},
      {"tanh", 1, [](Tensors x) { return tanh(x[0]); }, [](const double* x) { return std::tanh(x[0]); }},
      {"sin", 1, [](Tensors x) { return sin(x[0]); }, [](const double* x) { return std::sin(x[0]); }, -9, 9},
      {"cos", 1, [](Tensors x) { return cos(x[0]); }, [](const double* x) { return std::cos(x[0]); }, -9, 9},
      {"erf", 1, [](Tensors x) { return erf(x[0]); }, [](const double* x) { return std::erf(x[0]); }, -3, 3},
      {"rsqrt", 1, [](Tensors x) { return rsqrt(x[0]); }, [](const double* x) { return 1 / std::sqrt(x[0]); }, 0.1, 9},
      {"gelu", 1, [](Tensors x) { return gelu(x[0]); }, [](const double* x) { return gelu_of(x[0]); }},
      {"cast", 1, [](Tensors x) { return x[0].cast(DType::i32).cast(x[0].dtype()); },
       [](const double* x) { return std::trunc(x[0]); }, -9, 9},
      {"add", 2, [](Tensors x) { return x[0] + x[1]; }, [](const double* x) { return x[0] + x[1]; }},
      {"sub", 2, [](Tensors x) { return x[0] - x[1]; }, [](const double* x) { return x[0] - x[1]; }},
      {"mul", 2, [](Tensors x) { return x[0] * x[1]; }, [](const double* x) { return x[0] * x[1]; }},
      {"div", 2, [](Tensors x) { return x[0] / x[1]; }, [](const double* x) { return x[0] / x[1]; }, 0.5, 2},
      {"minimum", 2, [](Tensors x) { return minimum(x[0], x[1]); },
       [](const double* x) { return std::min(x[0], x[1]); }},
      {"maximum", 2, [](Tensors x) { return maximum(x[0], x[1]); },
       [](const double* x) { return std::max(x[0], x[1]); }},
      {"less", 2, [](Tensors x) { return less(x[0], x[1]); }, [](const double* x) { return x[0] < x[1]; }},
      {"less_equal", 2, [](Tensors x) { return less_equal(x[0], x[1]); }, [](const double* x) { return x[0] <= x[1]; }},
      {"equal", 2, [](Tensors x) { return equal(floor(x[0]), floor(x[1])); },
       [](const double* x) { return std::floor(x[0]) == std::floor(x[1]); }},
      {"not_equal", 2, [](Tensors x) { return not_equal(floor(x[0]), floor(x[1])); },
       [](const double* x) { return std::floor(x[0]) != std::floor(x[1]); }},
      {"logical_and", 2, [](Tensors x) { return logical_and(less(x[0], x[1]), less(-x[0], x[1])); },
       [](const double* x) { return x[0] < x[1] && -x[0] < x[1]; }},
      {"logical_or", 2, [](Tensors x) { return logical_or(less(x[0], x[1]), less(-x[0], x[1])); },
       [](const double* x) { return x[0] < x[1] || -x[0] < x[1]; }},
      {"where", 3, [](Tensors x) { return where(less(x[0], x[1]), x[1], x[2]); },
       [](const double* x) { return x[0] < x[1] ? x[1] : x[2]; }},
      {"fma", 3, [](Tensors x) { return fma(x[0], x[1], x[2]); },
       [](const double* x) { return std::fma(x[0], x[1], x[2]); }},
      {"uniform", 1,
       [](Tensors x) {
         return x[0] + uniform(x[0].context(), x[0].shape(), {1, 2, 3}, x[0].dtype()) * 0.0;
       },
       [](const double* x) { return x[0]; }},
      {"normal", 1,
       [](Tensors x) {
         return x[0] + normal(x[0].context(), x[0].shape(), {1, 2, 3}, x[0].dtype()) * 0.0;
       },
       [](const double* x) { return x[0]; }},
  };
  return cases;
}

TEST(PointwiseTest, EveryRowOfTheTableHasACase) {
  std::set<std::string_view> names;
  for (const PointwiseCase& c : pointwise_cases()) names.insert(c.name);
  for (const PointwiseRow& row : pointwise_table()) EXPECT_TRUE(names.count(row.name)) << row.name;
}

TEST(PointwiseTest, MeansWhatItsNameSays) {
  Context& c = context();
  const Shape shape{9, 7};
  for (const PointwiseCase& test : pointwise_cases()) {
    std::vector<std::vector<double>> values;
    std::vector<Tensor> tensors;
    for (int i = 0; i < test.arity; ++i) {
      values.push_back(random_values<double>(element_count(shape), static_cast<uint32_t>(i + 1), test.low, test.high));
      tensors.push_back(from_host<double>(c, values.back(), shape));
    }
    const Tensor result = test.apply(tensors);
    ASSERT_TRUE(result.ok()) << test.name << ": " << result.status().to_string();
    const std::vector<double> found = read_numbers(result);
    ASSERT_EQ(found.size(), values[0].size());
    for (size_t i = 0; i < found.size(); ++i) {
      double x[3] = {};
      for (size_t j = 0; j < values.size(); ++j) x[j] = values[j][i];
      const double expected = test.expected(x);
      ASSERT_NEAR(found[i], expected, 1e-14 * (1 + std::abs(expected))) << test.name << ", element " << i;
    }
  }
}

// ---- Gradients ----

struct GradientCase {
  std::string name;
  std::vector<Shape> shapes;
  std::function<Tensor(Tensors)> apply;
  double low = -2, high = 2;
};

std::vector<GradientCase> gradient_cases() {
  const Shape square{3, 4};
  std::vector<GradientCase> cases = {
      {"gelu_erf", {square}, [](Tensors x) { return gelu_erf(x[0]); }},
      {"cast", {square}, [](Tensors x) { return x[0].cast(DType::f64) * x[0]; }},
      {"uniform",
       {square},
       [](Tensors x) {
         return x[0] * uniform(x[0].context(), x[0].shape(), {1, 2, 3}, DType::f64);
       }},
      {"normal",
       {square},
       [](Tensors x) {
         return x[0] * normal(x[0].context(), x[0].shape(), {1, 2, 3}, DType::f64);
       }},
      {"broadcast", {square, {4}, {3, 1}}, [](Tensors x) { return x[0] * x[1] + x[2] * x[2]; }},
      {"broadcast of a new axis", {{2, 3, 4}, {3, 4}, {}}, [](Tensors x) { return x[0] * x[1] * x[2]; }},
      {"pad of a sum", {{3, 2}}, [](Tensors x) { return exp(x[0]).pad(1, 2, 1) * 2.0; }},
      {"unsqueeze, squeeze", {{3, 1, 2}}, [](Tensors x) { return x[0].squeeze(1).unsqueeze(0) * 3.0; }},
      {"contiguous", {{3, 4}}, [](Tensors x) { return x[0].transpose(0, 1).contiguous() * 2.0; }},
      {"sum of rows", {square}, [](Tensors x) { return sum(x[0] * x[0], {1}); }},
      {"matmul, broadcast left", {{3, 2}, {2, 2, 4}}, [](Tensors x) { return matmul(x[0], x[1]); }},
      {"matmul with epilogue", {{5, 4}, {4, 6}, {6}}, [](Tensors x) { return gelu(matmul(x[0], x[1]) + x[2]); }},
      {"causal_softmax after a cache", {{2, 5}}, [](Tensors x) { return causal_softmax(x[0], 0.7); }},
      {"attention",
       {{1, 4, 3, 2}, {1, 2, 5, 2}, {1, 2, 5, 2}},
       [](Tensors x) {
         return attention(x[0], x[1], x[2], {0.7, 0.25, {1, 2, 3}});
       }},
      {"packed_attention", {{2, 3, 8}}, [](Tensors x) { return packed_attention(x[0], 2, 1, {0.7}); }},
      {"rms_norm", {{3, 5}, {5}}, [](Tensors x) { return rms_norm(x[0], x[1], 1e-5); }},
      {"swiglu", {{3, 5}, {3, 5}}, [](Tensors x) { return swiglu(x[0], x[1]); }},
      {"rotary",
       {{2, 3, 14}},
       [](Tensors x) {
         const RotaryTables tables = rotary_tables(x[0].context(), 4, 4, 100.0, x[0].dtype());
         return rotary(x[0], tables, 3, 1);
       }},
      {"linear_cross_entropy",
       {{3, 2}, {5, 2}},
       [](Tensors x) {
         const Tensor targets = from_host<int32_t>(x[0].context(), std::vector<int32_t>{4, 0, 2}, {3});
         return linear_cross_entropy(x[0], x[1], targets);
       }},
      {"detach", {square}, [](Tensors x) { return x[0] * 2.0 + x[0].detach() * 0.0; }},
  };
  return cases;
}

class GradientTest : public ::testing::TestWithParam<int> {};

TEST_P(GradientTest, MatchesCentralDifferences) {
  const GradientCase test = gradient_cases()[static_cast<size_t>(GetParam())];
  Context& c = context();
  std::vector<std::vector<double>> values;
  for (size_t i = 0; i < test.shapes.size(); ++i)
    values.push_back(
        random_values<double>(element_count(test.shapes[i]), static_cast<uint32_t>(11 + i), test.low, test.high));
  // A loss in which every element of the result has a weight of its own.
  const auto loss_of = [&](const std::vector<Tensor>& inputs) {
    const Tensor y = test.apply(inputs);
    return sum(y * random_tensor<double>(c, y.shape(), 99, 0.5, 1.5));
  };
  const auto tensors = [&] {
    std::vector<Tensor> inputs;
    for (size_t i = 0; i < values.size(); ++i) inputs.push_back(from_host<double>(c, values[i], test.shapes[i]));
    return inputs;
  };

  const std::vector<Tensor> inputs = tensors();
  const Tensor loss = loss_of(inputs);
  ASSERT_TRUE(loss.ok()) << loss.status().to_string();
  const auto gradients = grad(loss, inputs);
  ASSERT_TRUE(gradients.ok()) << gradients.status().to_string();
  ASSERT_EQ(gradients->size(), inputs.size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    ASSERT_EQ((*gradients)[i].shape(), inputs[i].shape());
    const std::vector<double> gradient = read_numbers((*gradients)[i]);
    for (size_t j = 0; j < gradient.size(); ++j) {
      constexpr double kStep = 1e-5;
      const double x = values[i][j];
      values[i][j] = x + kStep;
      const double above = *loss_of(tensors()).item();
      values[i][j] = x - kStep;
      const double below = *loss_of(tensors()).item();
      values[i][j] = x;
      const double expected = (above - below) / (2 * kStep);
      EXPECT_NEAR(gradient[j], expected, 1e-7 * (1 + std::abs(expected))) << "input " << i << ", element " << j;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(EveryOperation, GradientTest, ::testing::Range(0, static_cast<int>(gradient_cases().size())),
                         [](const auto& parameter) {
                           std::string name = gradient_cases()[static_cast<size_t>(parameter.param)].name;
                           for (char& ch : name)
                             if (!std::isalnum(static_cast<unsigned char>(ch))) ch = '_';
                           return name;
                         });

TEST(GradTest, OfAGradient) {
  Context& c = context();
  const Tensor x = from_host<double>(c, std::vector<double>{1.5}, {1});
  const auto first = grad(sum(x * x * x), std::array{x});
  ASSERT_TRUE(first.ok());
  const auto second = grad(sum((*first)[0]), std::array{x});
  ASSERT_TRUE(second.ok());
  EXPECT_DOUBLE_EQ(*(*first)[0].item(), 3 * 1.5 * 1.5);
  EXPECT_DOUBLE_EQ(*(*second)[0].item(), 6 * 1.5);
}

TEST(GradTest, IsZeroWhereTheLossDoesNotReach) {
  Context& c = context();
  const Tensor x = full(c, {2}, 3.0), other = full(c, {3}, 1.0);
  const auto gradients = grad(sum(x * x.detach()), std::array{x, other});
  ASSERT_TRUE(gradients.ok());
  EXPECT_EQ(read_numbers((*gradients)[0]), (std::vector<double>{3, 3}));
  EXPECT_EQ(read_numbers((*gradients)[1]), (std::vector<double>{0, 0, 0}));
}

TEST(GradTest, RefusesWhatHasNoGradient) {
  Context& c = context();
  const Tensor x = full(c, {2}, 3.0);
  EXPECT_EQ(grad(x, std::array{x}).status().code(), Code::invalid_argument);
  EXPECT_EQ(grad(sum(index(c, {3}, 0)), std::array{x}).status().code(), Code::invalid_argument);
  EXPECT_EQ(grad(sum(x), std::array{index(c, {3}, 0)}).status().code(), Code::invalid_argument);
  EXPECT_EQ(grad(sum(x + full(c, {3}, 1.0)), std::array{x}).status().code(), Code::invalid_argument);
  EXPECT_EQ(grad(Tensor(), std::array{x}).status().code(), Code::invalid_argument);
}

}  // namespace
}  // namespace sporkle::tensor
