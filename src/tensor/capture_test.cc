#include "tensor/capture.h"

#include "tensor/autograd.h"
#include "tensor/layers.h"
#include "tensor/testing.h"

namespace sporkle::tensor {
namespace {

using testing::context;
using testing::random_tensor;
using testing::read;

// A step of gradient descent: data and weight to loss and weight.
std::vector<Tensor> step_of(const Tensor& x, const Tensor& weight) {
  const Tensor loss = mean(gelu(matmul(x, weight)) * 0.5);
  const auto gradients = grad(loss, std::array{weight});
  EXPECT_TRUE(gradients.ok());
  return {loss, (weight - (*gradients)[0] * 0.1).detach()};
}

TEST(CaptureTest, ReplaysGiveTheBitsOfRealize) {
  Context& c = context();
  const Tensor start = random_tensor(c, {32, 16}, 100);
  const auto data = [&](int step) { return random_tensor(c, {64, 32}, static_cast<uint32_t>(step)); };
  std::vector<std::vector<float>> losses, captured;
  Tensor weight = start;
  for (int i = 0; i < 4; ++i) {
    const std::vector<Tensor> results = step_of(data(i), weight);
    ASSERT_TRUE(realize(results).ok());
    losses.push_back(read(results[0]));
    weight = results[1];
  }

  Tensor current = start;
  std::vector<Tensor> first = step_of(data(0), current);
  const Tensor inputs[] = {data(0), current};
  first = step_of(inputs[0], inputs[1]);
  auto capture = Capture::record(inputs, first);
  ASSERT_TRUE(capture.ok()) << capture.status().to_string();
  captured.push_back(read(first[0]));
  current = first[1];
  const uint64_t plans = c.counters().plans;
  for (int i = 1; i < 4; ++i) {
    const Tensor next[] = {data(i), current};
    auto results = capture->replay(next);
    ASSERT_TRUE(results.ok()) << results.status().to_string();
    captured.push_back(read((*results)[0]));
    current = (*results)[1];
  }
  EXPECT_EQ(c.counters().plans, plans);
  EXPECT_EQ(captured, losses);
  EXPECT_EQ(read(current), read(weight));
  EXPECT_GT(capture->host_seconds(), 0);
}

TEST(CaptureTest, SaysWhatIsNoInputAndNoOutput) {
  Context& c = context();
  const Tensor x = random_tensor(c, {4, 8}, 1), y = random_tensor(c, {4, 8}, 2);
  const auto error = [](std::span<const Tensor> inputs, std::span<const Tensor> outputs) {
    const auto capture = Capture::record(inputs, outputs);
    return capture.ok() ? std::string("none") : capture.status().message();
  };
  const Tensor just_x[] = {x}, sum_of_both[] = {x + y}, lazy[] = {x * 2.0}, view[] = {x.transpose(0, 1)};
  EXPECT_NE(error(just_x, sum_of_both).find("not among the inputs"), std::string::npos);
  EXPECT_NE(error(lazy, sum_of_both).find("has no value yet"), std::string::npos);
  EXPECT_NE(error(view, sum_of_both).find("is a view"), std::string::npos);
  EXPECT_NE(error(just_x, view).find("is a view"), std::string::npos);
  EXPECT_NE(error({}, sum_of_both).find("needs inputs"), std::string::npos);
  // Equal constants become one tensor, of which no replay could say which one it is given.
  const Tensor zeros[] = {full(c, {4, 8}, 0), full(c, {4, 8}, 0)};
  ASSERT_TRUE(realize(zeros).ok());
  const Tensor of_zeros[] = {zeros[0] * 2.0 + zeros[1]};
  EXPECT_NE(error(zeros, of_zeros).find("input 1, f32[4, 8], shares its memory with input 0"), std::string::npos);

  const Tensor twice[] = {x * 2.0};
  auto capture = Capture::record(just_x, twice);
  ASSERT_TRUE(capture.ok()) << capture.status().to_string();
  const Tensor other[] = {random_tensor(c, {4, 9}, 3)}, two[] = {x, y};
  EXPECT_NE(capture->replay(other).status().message().find("f32[4, 8]"), std::string::npos);
  EXPECT_NE(capture->replay(two).status().message().find("1 inputs, not 2"), std::string::npos);
  const Tensor ys[] = {y};
  const auto replayed = capture->replay(ys);
  ASSERT_TRUE(replayed.ok());
  EXPECT_EQ(read((*replayed)[0]), read(y * 2.0));
}

TEST(CaptureTest, KeepsDataThatIsNoInput) {
  Context& c = context();
  std::optional<Capture> capture;
  const Tensor x = random_tensor(c, {4, 8}, 1), expected = x * random_tensor(c, {8}, 2) + 1.0;
  {
    const Tensor weight = random_tensor(c, {8}, 2), inputs[] = {x * 2.0};
    ASSERT_TRUE(realize(inputs).ok());
    const Tensor outputs[] = {inputs[0] * weight + 1.0};
    auto recorded = Capture::record(inputs, outputs, Capture::Others::keep);
    ASSERT_TRUE(recorded.ok()) << recorded.status().to_string();
    capture = std::move(*recorded);
  }
  const Tensor given[] = {x};
  const auto replayed = capture->replay(given);
  ASSERT_TRUE(replayed.ok()) << replayed.status().to_string();
  EXPECT_EQ(read((*replayed)[0]), read(expected));
}

// A capture goes on when its plan has left the cache, and when the context has given memory back.
TEST(CaptureTest, OwnsItsPlan) {
  Context& c = context();
  const Tensor x = random_tensor(c, {100}, 1);
  const Tensor inputs[] = {x}, outputs[] = {sum(exp(x) * 3.0)};
  auto capture = Capture::record(inputs, outputs);
  ASSERT_TRUE(capture.ok());
  for (int64_t n = 1; n <= 200; ++n) ASSERT_TRUE(realize({random_tensor(c, {n}, 1) * 7.0}).ok());
  c.trim();
  const auto replayed = capture->replay(inputs);
  ASSERT_TRUE(replayed.ok()) << replayed.status().to_string();
  EXPECT_EQ(read((*replayed)[0]), read(outputs[0]));
}

}  // namespace
}  // namespace sporkle::tensor
