// The loss of a projection in parts against the same at once. What single values are, ops_test.cc checks.
#include <array>

#include "tensor/autograd.h"
#include "tensor/layers.h"
#include "tensor/testing.h"

namespace sporkle::tensor {
namespace {

using testing::context;
using testing::random_tensor;
using testing::read;

TEST(LinearCrossEntropyTest, PartsAreTheWhole) {
  Context& c = context("cpu", 1);
  // Logits of 9 million elements: two parts.
  const int64_t rows = 150, classes = 60000, width = 3;
  const Tensor x = random_tensor(c, {rows, width}, 1), w = random_tensor(c, {classes, width}, 2);
  std::vector<int32_t> values;
  for (int64_t i = 0; i < rows; ++i) values.push_back(static_cast<int32_t>(i * 397 % classes));
  const Tensor targets = from_host<int32_t>(c, values, {rows});
  const auto run = [&](const Tensor& loss, size_t* peak_bytes) {
    const auto gradients = grad(loss, std::array{x, w});
    EXPECT_TRUE(gradients.ok()) << gradients.status().to_string();
    c.trim();
    const size_t before = c.counters().peak_bytes;
    EXPECT_TRUE(realize({loss, (*gradients)[0], (*gradients)[1]}).ok());
    *peak_bytes = c.counters().peak_bytes - std::min(before, c.counters().peak_bytes);
    return std::array{read(loss), read((*gradients)[0]), read((*gradients)[1])};
  };
  size_t bytes_in_parts = 0, bytes_at_once = 0;
  const auto parts = run(linear_cross_entropy(x, w, targets), &bytes_in_parts);
  const auto whole = run(cross_entropy(matmul(x, w.transpose(0, 1)), targets), &bytes_at_once);
  EXPECT_GT(bytes_at_once, 0u) << "the whole logits take more memory than the parts did";
  EXPECT_NEAR(parts[0][0], whole[0][0], 1e-5 * whole[0][0]);
  for (size_t result = 1; result < 3; ++result)
    for (size_t i = 0; i < whole[result].size(); ++i)
      ASSERT_NEAR(parts[result][i], whole[result][i], 1e-7 + 1e-4 * std::abs(whole[result][i])) << result << " " << i;
  // A part's rows are computed as always: the same bits.
  EXPECT_TRUE(testing::same_bits(parts[1], whole[1]));
}

TEST(LinearCrossEntropyTest, ErrorsSayWhatIsWrong) {
  Context& c = context();
  const Tensor targets = zeros(c, {3}, DType::i32);
  const auto message = [](const Tensor& t) { return t.status().to_string(); };
  EXPECT_NE(message(linear_cross_entropy(zeros(c, {3, 4}), zeros(c, {9, 5}), targets)).find("[classes, width]"),
            std::string::npos);
  EXPECT_NE(message(linear_cross_entropy(zeros(c, {2, 4}), zeros(c, {9, 4}), targets)).find("targets [rows]"),
            std::string::npos);
}

}  // namespace
}  // namespace sporkle::tensor
