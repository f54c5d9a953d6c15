// Every pointwise operation against plain loops in f64, over shapes and views; and the gradient of every operation, not
// only the pointwise ones, against central differences in f64.
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

// An operand of this shape, seen through a view, with the elements it shows.
struct Operand {
  Tensor tensor;
  std::vector<double> values;
};

template <typename T>
Operand make_operand(Context& c, const Shape& shape, int view, uint32_t seed, double low, double high) {
  Shape stored = shape;
  const int rank = shape.rank();
  if (rank == 0) view = 0;
  if (view == 1) std::reverse(&stored[0], &stored[0] + rank);  // transposed
  if (view == 2) stored[0] = 1;                                // broadcast
  if (view == 3) stored[rank - 1] += 3;                        // a slice
  const std::vector<T> values = random_values<T>(element_count(stored), seed, low, high);
  Tensor x = from_host<T>(c, values, stored);
  const Strides strides = contiguous_strides(stored);
  if (view == 1) {
    Dims axes;
    for (int i = rank - 1; i >= 0; --i) axes.push_back(i);
    x = x.permute(axes);
  }
  if (view == 2) x = x.expand(shape);
  if (view == 3) x = x.slice(-1, 2, shape[rank - 1]);

  Operand operand{x, {}};
  Dims position = Dims::filled(rank, 0);
  for (int64_t i = 0; i < element_count(shape); ++i) {
    int64_t at = view == 3 ? 2 : 0;
    for (int d = 0; d < rank; ++d) {
      if (view == 1) at += position[d] * strides[rank - 1 - d];
      if (view == 2) at += d == 0 ? 0 : position[d] * strides[d];
      if (view == 0 || view == 3) at += position[d] * strides[d];
    }
    operand.values.push_back(static_cast<double>(values[static_cast<size_t>(at)]));
    for (int d = rank - 1; d >= 0 && ++position[d] == shape[d]; --d) position[d] = 0;
  }
  return operand;
}

template <typename T>
void check_pointwise(Context& c, double tolerance, std::span<const Shape> shapes) {
  for (const PointwiseCase& test : pointwise_cases()) {
    for (const Shape& shape : shapes) {
      for (int view = 0; view < 4; ++view) {
        std::vector<Operand> operands;
        std::vector<Tensor> tensors;
        for (int i = 0; i < test.arity; ++i) {
          // The first operand through the view, the others through the following ones.
          operands.push_back(
              make_operand<T>(c, shape, (view + i) % 4, static_cast<uint32_t>(i + 1), test.low, test.high));
          tensors.push_back(operands.back().tensor);
        }
        const Tensor result = test.apply(tensors);
        ASSERT_TRUE(result.ok()) << test.name << ": " << result.status().to_string();
        const std::vector<double> values = read_numbers(result);
        ASSERT_EQ(values.size(), static_cast<size_t>(element_count(shape)));
        for (size_t i = 0; i < values.size(); ++i) {
          double x[3] = {};
          for (size_t j = 0; j < operands.size(); ++j) x[j] = operands[j].values[i];
          const double expected = test.expected(x);
          ASSERT_NEAR(values[i], expected, tolerance * (1 + std::abs(expected)))
              << test.name << " " << to_string(shape) << " view " << view << " element " << i;
        }
      }
    }
  }
}

const Shape kShapes[] = {{}, {1}, {7}, {3, 5}, {2, 3, 4}, {17, 33}, {2, 1, 3, 2}, {0, 3}, {100}};
const Shape kFewShapes[] = {{7}, {2, 3, 4}, {0, 3}};

TEST(PointwiseTest, MatchesPlainLoopsInF32) { check_pointwise<float>(context("cpu"), 1e-6, kShapes); }
TEST(PointwiseTest, MatchesPlainLoopsInF64) { check_pointwise<double>(context("cpu"), 1e-14, kFewShapes); }
TEST(PointwiseTest, MatchesPlainLoopsOnTheReference) { check_pointwise<float>(context("reference"), 1e-6, kFewShapes); }

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
      {"copy",
       {square},
       [](Tensors x) {
         return x[0].permute({1, 0}).reshape({12});
       }},
      {"neg", {square}, [](Tensors x) { return -x[0]; }},
      {"sqrt", {square}, [](Tensors x) { return sqrt(x[0]); }, 0.5, 4},
      {"abs", {square}, [](Tensors x) { return abs(x[0]); }},
      {"floor", {square}, [](Tensors x) { return floor(x[0]) * x[0]; }},
      {"exp", {square}, [](Tensors x) { return exp(x[0]); }},
      {"log", {square}, [](Tensors x) { return log(x[0]); }, 0.5, 4},
      {"tanh", {square}, [](Tensors x) { return tanh(x[0]); }},
      {"sin", {square}, [](Tensors x) { return sin(x[0]); }},
      {"cos", {square}, [](Tensors x) { return cos(x[0]); }},
      {"erf", {square}, [](Tensors x) { return erf(x[0]); }},
      {"rsqrt", {square}, [](Tensors x) { return rsqrt(x[0] * x[0] + 0.5); }},
      {"gelu_erf", {square}, [](Tensors x) { return gelu_erf(x[0]); }},
      {"gelu", {square}, [](Tensors x) { return gelu(x[0]); }},
      {"cast", {square}, [](Tensors x) { return x[0].cast(DType::f64) * x[0]; }},
      {"add", {square, square}, [](Tensors x) { return x[0] + x[1]; }},
      {"sub", {square, square}, [](Tensors x) { return x[0] - x[1]; }},
      {"mul", {square, square}, [](Tensors x) { return x[0] * x[1]; }},
      {"div", {square, square}, [](Tensors x) { return x[0] / x[1]; }, 0.5, 2},
      {"minimum", {square, square}, [](Tensors x) { return minimum(x[0], x[1]); }},
      {"maximum", {square, square}, [](Tensors x) { return maximum(x[0], x[1]); }},
      {"less", {square, square}, [](Tensors x) { return where(less(x[0], x[1]), x[0], x[1] * x[1]); }},
      {"less_equal", {square, square}, [](Tensors x) { return where(less_equal(x[0], x[1]), x[0], x[1] * x[1]); }},
      {"equal", {square, square}, [](Tensors x) { return where(equal(x[0], x[1]), x[0], x[1] * x[1]); }},
      {"not_equal", {square, square}, [](Tensors x) { return where(not_equal(x[0], x[1]), x[0], x[1] * x[1]); }},
      {"logical_and",
       {square, square},
       [](Tensors x) { return where(logical_and(less(x[0], x[1]), less(-x[0], x[1])), x[0], x[1]); }},
      {"logical_or",
       {square, square},
       [](Tensors x) { return where(logical_or(less(x[0], x[1]), less(-x[0], x[1])), x[0], x[1]); }},
      {"where", {square, square, square}, [](Tensors x) { return where(less(x[0], x[1]), x[1] * x[0], x[2]); }},
      {"fma", {square, square, square}, [](Tensors x) { return fma(x[0], x[1], x[2]); }},
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
      {"reshape",
       {{2, 6}},
       [](Tensors x) {
         return x[0].reshape({3, 4}) * x[0].reshape({3, 4});
       }},
      {"permute",
       {{2, 3, 2}},
       [](Tensors x) {
         return x[0].permute({2, 0, 1}) * x[0].permute({2, 0, 1});
       }},
      {"expand",
       {{1, 3}},
       [](Tensors x) {
         return x[0].expand({2, 4, 3}) * x[0];
       }},
      {"slice", {{3, 5}}, [](Tensors x) { return x[0].slice(1, 1, 3) * x[0].slice(1, 2, 3); }},
      {"pad", {{3, 2}}, [](Tensors x) { return x[0].pad(1, 2, 1).pad(0, 0, 1) * x[0].pad(1, 1, 2).pad(0, 1, 0); }},
      {"pad of a sum", {{3, 2}}, [](Tensors x) { return exp(x[0]).pad(1, 2, 1) * 2.0; }},
      {"concatenate", {{2, 3}, {2, 2}}, [](Tensors x) { return exp(concatenate(x[0], x[1], 1)); }},
      {"unsqueeze, squeeze", {{3, 1, 2}}, [](Tensors x) { return x[0].squeeze(1).unsqueeze(0) * 3.0; }},
      {"contiguous", {{3, 4}}, [](Tensors x) { return x[0].transpose(0, 1).contiguous() * 2.0; }},

      {"sum of rows", {square}, [](Tensors x) { return sum(x[0] * x[0], {1}); }},
      {"sum of columns", {square}, [](Tensors x) { return sum(exp(x[0]), {0}, true); }},
      {"sum of all", {square}, [](Tensors x) { return sum(x[0] * x[0]); }},
      {"sum of outer axes",
       {{2, 2, 3, 2}},
       [](Tensors x) {
         return sum(x[0] * x[0], {0, 2});
       }},
      {"max", {{3, 5}}, [](Tensors x) { return max(x[0], {1}) * 2.0; }},
      {"mean", {{2, 3, 2}}, [](Tensors x) { return mean(x[0] * x[0], {1}); }},

      {"matmul", {{3, 4}, {4, 2}}, [](Tensors x) { return matmul(x[0], x[1]); }},
      {"matmul transposed",
       {{4, 3}, {2, 4}},
       [](Tensors x) { return matmul(x[0].transpose(0, 1), x[1].transpose(0, 1)); }},
      {"matmul of batches", {{2, 2, 3, 2}, {2, 2, 2, 3}}, [](Tensors x) { return matmul(x[0], x[1]); }},
      {"matmul, one matrix for all", {{2, 3, 4}, {4, 2}}, [](Tensors x) { return matmul(x[0], x[1]); }},
      {"matmul, broadcast left", {{3, 2}, {2, 2, 4}}, [](Tensors x) { return matmul(x[0], x[1]); }},
      {"matmul with epilogue", {{5, 4}, {4, 6}, {6}}, [](Tensors x) { return gelu(matmul(x[0], x[1]) + x[2]); }},

      {"layer_norm", {{3, 5}, {5}, {5}}, [](Tensors x) { return layer_norm(x[0], x[1], x[2], 1e-5); }},
      {"causal_softmax", {{2, 3, 3}}, [](Tensors x) { return causal_softmax(x[0], 0.7); }},
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
      {"cross_entropy",
       {{3, 5}},
       [](Tensors x) {
         return cross_entropy(x[0], from_host<int32_t>(x[0].context(), std::vector<int32_t>{4, 0, 2}, {3}));
       }},
      {"linear_cross_entropy",
       {{3, 2}, {5, 2}},
       [](Tensors x) {
         const Tensor targets = from_host<int32_t>(x[0].context(), std::vector<int32_t>{4, 0, 2}, {3});
         return linear_cross_entropy(x[0], x[1], targets);
       }},
      {"embedding",
       {{4, 3}},
       [](Tensors x) {
         const Tensor y = embedding(x[0], from_host<int32_t>(x[0].context(), std::vector<int32_t>{3, 1, 1, 0}, {2, 2}));
         return y * y;
       }},
      {"conv2d",
       {{2, 3, 4, 5}, {4, 3, 3, 3}, {4}},
       [](Tensors x) {
         return conv2d(x[0], x[1], x[2], {{1, 1}, {1, 1}});
       }},
      {"conv2d, strided, dilated, in groups",
       {{1, 4, 7, 6}, {2, 2, 3, 2}},
       [](Tensors x) {
         return conv2d(x[0], x[1], {{2, 3}, {1, 2}, {2, 1}, 2, Layout::nchw});
       }},
      {"conv2d of nhwc",
       {{2, 4, 4, 2}, {3, 2, 3, 3}},
       [](Tensors x) {
         return conv2d(x[0], x[1], {{2, 2}, {1, 1}, {1, 1}, 1, Layout::nhwc});
       }},
      {"max_pool2d",
       {{1, 2, 5, 6}},
       [](Tensors x) {
         return max_pool2d(x[0], {{3, 3}, {2, 2}, {1, 1}});
       }},
      {"average_pool2d",
       {{1, 2, 5, 6}},
       [](Tensors x) {
         return average_pool2d(x[0], {{3, 2}, {2, 1}, {1, 1}});
       }},
      {"average_pool2d of nhwc",
       {{1, 4, 4, 2}},
       [](Tensors x) {
         return average_pool2d(x[0], {{2, 2}, {2, 2}, {0, 0}, Layout::nhwc});
       }},
      {"batch_norm",
       {{2, 3, 2, 3}, {3}, {3}},
       [](Tensors x) { return batch_norm(x[0], x[1], x[2], full_like(x[1], 0.3), full_like(x[1], 0.7)).y; }},
      {"batch_norm_inference",
       {{2, 3, 2, 3}, {3}, {3}},
       [](Tensors x) { return batch_norm_inference(x[0], x[1], x[2], full_like(x[1], 0.3), full_like(x[1], 0.7)); }},
      {"dropout",
       {{4, 6}},
       [](Tensors x) {
         return dropout(x[0], 0.3, {5, 6, 7});
       }},
      {"detach", {square}, [](Tensors x) { return x[0] * 2.0 + x[0].detach() * 0.0; }},
      {"relu", {square}, [](Tensors x) { return relu(x[0]); }},
  };
  return cases;
}

class GradientTest : public ::testing::TestWithParam<int> {};

TEST(GradientTableTest, NamesEveryPointwiseOperation) {
  std::set<std::string> names;
  for (const GradientCase& c : gradient_cases()) names.insert(c.name);
  for (const PointwiseRow& row : pointwise_table()) EXPECT_TRUE(names.count(std::string(row.name))) << row.name;
}

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
