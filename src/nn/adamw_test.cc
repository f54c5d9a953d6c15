#include "nn/adamw.h"

#include <limits>

#include "tensor/context.h"
#include "tensor/testing.h"

namespace sporkle::nn {
namespace {

using tensor::Tensor;
using tensor::testing::context;
using tensor::testing::random_tensor;
using tensor::testing::read;

// A matrix that decays between two vectors that do not, of sizes that leave gaps in memory.
std::vector<Parameter> parameters_of(tensor::Context& c) {
  return {{"bias", random_tensor(c, {5}, 1), false},
          {"weight", random_tensor(c, {7, 9}, 2), true},
          {"gain", random_tensor(c, {33}, 3), false}};
}

std::vector<Tensor> gradients_of(tensor::Context& c, uint32_t seed) {
  return {random_tensor(c, {5}, seed), random_tensor(c, {7, 9}, seed + 1), random_tensor(c, {33}, seed + 2)};
}

struct Outcome {
  std::vector<std::vector<float>> values, first, second;
  std::vector<double> norms;
};

void note_state(const AdamW& adamw, std::span<const Parameter> parameters, Outcome* run) {
  for (const Parameter& p : parameters) run->values.push_back(read(p.value));
  for (const Tensor& moment : adamw.first_moments()) run->first.push_back(read(moment));
  for (const Tensor& moment : adamw.second_moments()) run->second.push_back(read(moment));
}

Outcome train(tensor::Context& c, int steps) {
  Outcome run;
  std::vector<Parameter> parameters = parameters_of(c);
  AdamW adamw(c, {}, parameters);
  for (int i = 0; i < steps; ++i) {
    const Tensor norm = adamw.update(parameters, gradients_of(c, static_cast<uint32_t>(10 * i + 4)), 1e-2);
    std::vector<Tensor> wanted{norm};
    adamw.append_state(&wanted);
    EXPECT_TRUE(tensor::realize(wanted).ok());
    run.norms.push_back(*norm.item());
  }
  note_state(adamw, parameters, &run);
  return run;
}

// The definition, one number at a time, in f64.
TEST(AdamWTest, FollowsTheDefinition) {
  tensor::Context& c = context();
  const Outcome run = train(c, 3);
  const std::vector<Parameter> parameters = parameters_of(c);
  std::vector<std::vector<double>> value, first(3), second(3);
  for (size_t p = 0; p < 3; ++p) {
    const std::vector<float> start = read(parameters[p].value);
    value.emplace_back(start.begin(), start.end());
    first[p].resize(start.size());
    second[p].resize(start.size());
  }
  for (int step = 1; step <= 3; ++step) {
    std::vector<std::vector<float>> gradients;
    double square = 0;
    for (const Tensor& g : gradients_of(c, static_cast<uint32_t>(10 * step - 6))) gradients.push_back(read(g));
    for (const auto& g : gradients)
      for (const float x : g) square += double{x} * x;
    EXPECT_NEAR(run.norms[static_cast<size_t>(step - 1)], std::sqrt(square), 1e-5);
    const double clip = std::min(1.0, 1.0 / std::sqrt(square));
    for (size_t p = 0; p < 3; ++p)
      for (size_t i = 0; i < value[p].size(); ++i) {
        const double g = gradients[p][i] * clip;
        first[p][i] = 0.9 * first[p][i] + 0.1 * g;
        second[p][i] = 0.95 * second[p][i] + 0.05 * g * g;
        const double m = first[p][i] / (1 - std::pow(0.9, step)), v = second[p][i] / (1 - std::pow(0.95, step));
        const double decay = p == 1 ? 1 - 1e-2 * 0.1 : 1;
        value[p][i] = value[p][i] * decay - 1e-2 * m / (std::sqrt(v) + 1e-8);
      }
  }
  for (size_t p = 0; p < 3; ++p)
    for (size_t i = 0; i < value[p].size(); ++i) {
      EXPECT_NEAR(run.values[p][i], value[p][i], 1e-5) << parameters[p].name << " " << i;
      EXPECT_NEAR(run.first[p][i], first[p][i], 1e-6);
      EXPECT_NEAR(run.second[p][i], second[p][i], 1e-6);
    }
}

TEST(AdamWTest, GivesTheSameBitsOnEveryDeviceAndThreadCount) {
  const Outcome two = train(context("cpu", 2), 3);
  for (tensor::Context* c : {&context("cpu", 1), &context("reference"), &context("cpu", 2, false)}) {
    const Outcome other = train(*c, 3);
    EXPECT_EQ(other.values, two.values);
    EXPECT_EQ(other.first, two.first);
    EXPECT_EQ(other.second, two.second);
    EXPECT_EQ(other.norms, two.norms);
  }
}

TEST(AdamWTest, WhatIsNotFiniteChangesNothing) {
  tensor::Context& c = context();
  std::vector<Parameter> parameters = parameters_of(c);
  AdamW adamw(c, {}, parameters);
  const auto update = [&](std::vector<Tensor> gradients, const Tensor& guard) {
    std::vector<Tensor> wanted{adamw.update(parameters, gradients, 1e-2, guard)};
    adamw.append_state(&wanted);
    EXPECT_TRUE(tensor::realize(wanted).ok());
  };
  update(gradients_of(c, 4), {});
  Outcome before, after;
  note_state(adamw, parameters, &before);
  std::vector<Tensor> gradients = gradients_of(c, 14);
  gradients[2] = gradients[2] * std::numeric_limits<double>::quiet_NaN();
  update(gradients, {});
  gradients[2] = tensor::full(c, {33}, std::numeric_limits<double>::infinity());
  update(gradients, {});
  const std::vector<float> loss{std::numeric_limits<float>::infinity()};
  update(gradients_of(c, 14), tensor::from_host<float>(c, loss, {}));
  note_state(adamw, parameters, &after);
  EXPECT_EQ(after.values, before.values);
  EXPECT_EQ(after.first, before.first);
  EXPECT_EQ(after.second, before.second);
}

TEST(AdamWTest, UpdatesInPlace) {
  tensor::Context& c = context();
  std::vector<Parameter> parameters{{"weight", random_tensor(c, {1024, 1024}, 1), true}};
  AdamW adamw(c, {}, parameters);
  ASSERT_TRUE(adamw.adopt(parameters).ok());
  c.trim();
  const size_t before = c.counters().allocated_bytes;
  for (uint32_t i = 0; i < 3; ++i) {
    const std::vector<Tensor> gradients{random_tensor(c, {1024, 1024}, i)};
    std::vector<Tensor> wanted{adamw.update(parameters, gradients, 1e-2)};
    adamw.append_state(&wanted);
    ASSERT_TRUE(tensor::realize(wanted).ok());
  }
  EXPECT_LE(c.counters().allocated_bytes, before + size_t{2} * 5 * 1024 * 1024) << "a gradient, and its pack";
}

// Values that were set from outside are moved into the update's memory again.
TEST(AdamWTest, TakesNewValuesAndMoments) {
  tensor::Context& c = context();
  std::vector<Parameter> parameters = parameters_of(c);
  AdamW adamw(c, {}, parameters);
  ASSERT_TRUE(adamw.adopt(parameters).ok());
  const std::vector<Tensor> moments = gradients_of(c, 50);
  ASSERT_TRUE(adamw.set_moments(moments, moments).ok());
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(read(adamw.second_moments()[i]), read(moments[i]));
  EXPECT_EQ(adamw.set_moments(std::span(moments).first(2), moments).code(), Code::invalid_argument);
  parameters[1].value = random_tensor(c, {7, 9}, 77);
  const std::vector<float> set = read(parameters[1].value);
  ASSERT_TRUE(adamw.adopt(parameters).ok());
  EXPECT_EQ(read(parameters[1].value), set);
}

}  // namespace
}  // namespace sporkle::nn
