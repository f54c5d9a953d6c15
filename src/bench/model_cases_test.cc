// The cases conv, attention and train: their shapes are read in full, a right result passes, and a wrong one does not.
#include <gtest/gtest.h>

#include <cmath>

#include "bench/cases.h"
#include "bench/convolution_reference.h"
#include "bench/judge.h"

namespace sporkle::bench {
namespace {

Result<std::unique_ptr<Case>> make(const char* name, const std::string& shape, const char* device = "cpu") {
  SPORKLE_ASSIGN_OR_RETURN(const CaseKind* kind, find_case(name));
  Setting setting;
  setting.shape = shape;
  setting.device = device;
  setting.threads = 2;
  return kind->make(setting);
}

void expect_refused(const char* name, const std::string& shape, const std::string& part) {
  const Status status = make(name, shape).status();
  EXPECT_EQ(status.code(), Code::invalid_argument) << shape;
  EXPECT_NE(status.message().find(part), std::string::npos) << status.message() << "\nlacks: " << part;
}

// Prepares and runs a case; its outputs are right and have all been written.
std::unique_ptr<Case> expect_right(const char* name, const std::string& shape, double limit) {
  auto made = make(name, shape);
  EXPECT_TRUE(made.ok()) << made.status().to_string();
  if (!made.ok()) return nullptr;
  std::unique_ptr<Case> subject = std::move(*made);
  const Status prepared = subject->prepare();
  EXPECT_TRUE(prepared.ok()) << shape << ": " << prepared.to_string();
  EXPECT_TRUE(subject->poison_outputs().ok());
  EXPECT_FALSE(subject->check().ok()) << "checked without a run";
  const Result<Sample> sample = subject->run(2 * subject->sets());
  EXPECT_TRUE(sample.ok()) << sample.status().to_string();
  const Result<double> error = subject->check();
  EXPECT_TRUE(error.ok()) << shape << ": " << error.status().to_string();
  if (sample.ok() && error.ok()) {
    EXPECT_GT(sample->wall_seconds, 0);
    EXPECT_LT(*error, limit);
  }
  EXPECT_GT(subject->work().flops, 0);
  EXPECT_NEAR(subject->value(2.0) * 2, subject->value(1.0), 1e-9 * subject->value(1.0));
  return subject;
}

TEST(ConvCase, ReadsItsShapeInFull) {
  expect_refused("conv", "1x3x8x8", "is not of the form");
  expect_refused("conv", "1x3x8:4x3x3", "is not of the form");
  expect_refused("conv", "1x3x8x8:4x3", "is not of the form");
  expect_refused("conv", "1x3x8x8:4x3x3:", "is no part of the form");
  expect_refused("conv", "1x3x8x8:4x3x3:s0", "\":s0\" is no part");
  expect_refused("conv", "1x3x8x8:4x3x3:p-1", "\":p-1\" is no part");
  expect_refused("conv", "1x3x8x8:4x3x3:q1", "\":q1\" is no part");
  expect_refused("conv", "1x3x8x8:4x3x3:s2x", "\":s2x\" is no part");
  expect_refused("conv", "1x3x8x8:4x3x3:g2", "2 groups do not divide 3 channels");
  expect_refused("conv", "1x3x8x8:4x9x3", "larger than the padded images");
  expect_refused("conv", "33554432x1x1x1:1x1x1", "2^24");
  expect_refused("conv", "16777216x1x1x1:16777216x1x1:p65536", "2^50");
  expect_refused("conv", "1000x1000x1000x1000:3x3x3", "of memory");
}

TEST(ConvCase, PassesInEveryDirection) {
  for (const char* pass : {"", ":dx", ":dw"})
    for (const char* shape : {"2x6x9x7:4x3x3:p1:g2", "1x3x17x19:5x5x4:s2:p2", "2x2x11x9:3x3x2:s3:d2:p1"})
      expect_right("conv", std::string(shape) + pass, 1e-5);
}

// One element of a convolution straight from its definition.
double element(const ConvolutionProblem& p, std::span<const float> x, std::span<const float> w, int64_t filter,
               int64_t i, int64_t j) {
  double sum = 0;
  for (int64_t c = 0; c < p.channels; ++c)
    for (int64_t u = 0; u < p.kernel_height; ++u)
      for (int64_t v = 0; v < p.kernel_width; ++v) {
        const int64_t y = i * p.stride - p.padding + u, z = j * p.stride - p.padding + v;
        if (y < 0 || y >= p.height || z < 0 || z >= p.width) continue;
        sum += static_cast<double>(x[static_cast<size_t>((c * p.height + y) * p.width + z)]) *
               w[static_cast<size_t>(((filter * p.channels + c) * p.kernel_height + u) * p.kernel_width + v)];
      }
  return sum;
}

TEST(ConvCase, RefusesARivalsWrongElement) {
  const auto subject = expect_right("conv", "1x2x6x5:3x3x3:s2:p1", 1e-5);
  ASSERT_TRUE(subject);
  ConvolutionProblem p{1, 2, 6, 5, 3, 3, 3};
  p.stride = 2;
  p.padding = 1;
  const Problem& problem = subject->problem();
  const auto x = problem.inputs[0][0]->values<float>(), w = problem.inputs[0][1]->values<float>();
  std::vector<HostArray> outputs{make_array("y", ir::DType::f32, problem.outputs[0].shape)};
  const std::span<float> y = outputs[0].values<float>();
  size_t at = 0;
  for (int64_t f = 0; f < 3; ++f)
    for (int64_t i = 0; i < p.output_height(); ++i)
      for (int64_t j = 0; j < p.output_width(); ++j) y[at++] = static_cast<float>(element(p, x, w, f, i, j));
  ASSERT_EQ(at, y.size());
  EXPECT_TRUE(subject->check_rival(0, outputs).ok()) << subject->check_rival(0, outputs).status().to_string();
  y[7] += 1e-3f;
  EXPECT_EQ(subject->check_rival(0, outputs).status().code(), Code::internal);
  poison(&outputs[0]);
  EXPECT_NE(subject->check_rival(0, outputs).status().message().find("not written"), std::string::npos);
}

TEST(AttentionCase, ReadsItsShapeInFull) {
  expect_refused("attention", "2x3x4", "is not of the form");
  expect_refused("attention", "2x3x4x5:fwd", "is not of the form");
  expect_refused("attention", "1x1x1000000x64", "of memory");
}

TEST(AttentionCase, PassesForwardAndBackward) {
  for (const char* shape : {"1x1x1x1", "2x3x17x8", "1x2x5x33:bwd", "2x1x64x16:bwd"})
    expect_right("attention", shape, 1e-5);
}

TEST(AttentionCase, RefusesARivalThatSeesTheFuture) {
  const auto subject = expect_right("attention", "1x1x3x2", 1e-5);
  ASSERT_TRUE(subject);
  const Problem& problem = subject->problem();
  const auto v = problem.inputs[0][2]->values<float>();
  // The first query sees the first key alone, so its result is the first value; the rest is left to be wrong.
  std::vector<HostArray> outputs{make_array("y", ir::DType::f32, problem.outputs[0].shape)};
  std::ranges::copy(v, outputs[0].values<float>().begin());
  const Status status = subject->check_rival(0, outputs).status();
  EXPECT_EQ(status.code(), Code::internal);
  EXPECT_NE(status.message().find("element [0, 0, 1, "), std::string::npos) << status.message();
}

TEST(TrainCase, ReadsItsShapeInFull) {
  expect_refused("train", "2x32x2x16", "is not of the form");
  expect_refused("train", "2x32x3x16x2", "3 heads do not divide");
  expect_refused("train", "2x32x2x100000x2", "above 65536");
  expect_refused("train", "1000x30000x2x1000x1000", "of memory");
}

TEST(TrainCase, JudgesItsFirstStepInFloat64AndRepeatsEveryLoss) {
  const auto subject = expect_right("train", "2x32x2x16x3", 1e-5);
  ASSERT_TRUE(subject);
  EXPECT_EQ(subject->unit(), "tokens/s");
  EXPECT_DOUBLE_EQ(subject->value(1.0), 48.0);
  ASSERT_TRUE(subject->run(5).ok());
  EXPECT_TRUE(subject->check().ok());
}

TEST(TrainCase, RefusesARivalThatTrainsSomethingElse) {
  const auto subject = expect_right("train", "1x16x2x8x2", 1e-5);
  ASSERT_TRUE(subject);
  std::vector<HostArray> outputs{make_array("report", ir::DType::f64, {3})};
  const auto judge = [&](double steps, double first, double last) {
    const double report[] = {steps, first, last};
    std::ranges::copy(report, outputs[0].values<double>().begin());
    return subject->check_rival(0, outputs).status();
  };
  EXPECT_NE(judge(3, 1.0, 0.9).message().find("before the rival's first step"), std::string::npos);
  EXPECT_NE(judge(0, 5.5, 5.5).message().find("it took 0"), std::string::npos);
  EXPECT_EQ(judge(NAN, NAN, NAN).code(), Code::internal);
  // Near enough to the start for a fresh model of 256 bytes, yet it never learns anything.
  const Status status = judge(40, std::log(256.0), std::log(256.0));
  EXPECT_EQ(status.code(), Code::internal) << "a rival that does not train";
}

TEST(ResNetCase, ReadsItsShapeInFull) {
  expect_refused("resnet", "32x32", "is not of the form");
  expect_refused("resnet", "1x32x4", "2 images or more");
  expect_refused("resnet", "2x32x5000", "above 4096");
}

TEST(ResNetCase, JudgesItsFirstStepInFloat64AndRepeatsEveryLoss) {
  const auto subject = expect_right("resnet", "4x8x2", 1e-4);
  ASSERT_TRUE(subject);
  EXPECT_EQ(subject->unit(), "images/s");
  EXPECT_DOUBLE_EQ(subject->value(2.0), 2.0);
  ASSERT_TRUE(subject->run(4).ok());
  EXPECT_TRUE(subject->check().ok());
  std::vector<HostArray> outputs{make_array("report", ir::DType::f64, {3})};
  const double report[] = {3, 1.0, 0.9};
  std::ranges::copy(report, outputs[0].values<double>().begin());
  EXPECT_NE(subject->check_rival(0, outputs).status().message().find("before the rival's first step"),
            std::string::npos);
}

}  // namespace
}  // namespace sporkle::bench
