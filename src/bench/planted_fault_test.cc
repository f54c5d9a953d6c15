// What benchmarks promise to find is planted here, and must be found: a wrong element, an unwritten tail, a sum in
// another order, a drift of two units in the last place; and a slowdown of 15 %, by the rule of `bench compare`.
#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <optional>

#include "base/temporary_folder.h"
#include "bench/cases.h"
#include "bench/compare.h"
#include "bench/judge.h"
#include "bench/measure.h"
#include "hal/testing_device.h"

namespace sporkle::bench {
namespace {

// Kernels as the compiler made them; a fault in code is planted when they are loaded.
const TemporaryFolder& cache_folder() {
  static const Result<TemporaryFolder> folder = TemporaryFolder::create("sporkle-fault");
  return *folder;
}

// A tensor context over a device with a fault.
struct FaultyContext {
  explicit FaultyContext(const char* id, hal::testing::Fault fault) {
    auto device = hal::open_device(id, {.threads = 1});
    if (!device.ok()) {
      ADD_FAILURE() << device.status().to_string();
      std::abort();
    }
    faulty.emplace(std::shared_ptr<hal::Device>(std::move(*device)), std::move(fault));
    kernels.emplace(*faulty, cache_folder().path());
  }

  std::optional<hal::testing::FaultyDevice> faulty;
  std::optional<cache::KernelCache> kernels;
};

// measure() of one case on a device with a fault.
Result<std::vector<Record>> measure_with(const char* name, const std::string& shape, hal::testing::Fault fault,
                                         const char* device = "cpu") {
  FaultyContext faulty(device, std::move(fault));
  SPORKLE_ASSIGN_OR_RETURN(const CaseKind* kind, find_case(name));
  Setting setting;
  setting.shape = shape;
  setting.device = device;
  setting.open_context = [&] { return std::make_unique<tensor::Context>(*faulty.faulty, *faulty.kernels); };
  SPORKLE_ASSIGN_OR_RETURN(const std::unique_ptr<Case> subject, kind->make(setting));
  SPORKLE_RETURN_IF_ERROR(subject->prepare());
  std::vector<Challenger> nobody;
  MeasureOptions options;
  options.rounds = kLeastRounds;
  options.sample_seconds = 0;
  return measure(*kind, setting, *subject, nobody, nullptr, options);
}

void expect_found(const Result<std::vector<Record>>& measured, const std::vector<std::string>& parts) {
  ASSERT_FALSE(measured.ok()) << "the fault was not found: " << parts[0];
  EXPECT_EQ(measured.status().code(), Code::internal);
  for (const std::string& part : parts)
    EXPECT_NE(measured.status().message().find(part), std::string::npos)
        << measured.status().message() << "\nlacks: " << part;
}

hal::testing::Fault in_values(std::function<void(std::span<float>)> change) {
  return {.in_read = hal::testing::in_floats(std::move(change)), .in_code = {}, .submission_seconds = {}};
}

constexpr const char* kTrain = "1x16x2x8x2";

TEST(PlantedFaults, WithoutOneEverythingPasses) {
  for (const auto& [name, shape] :
       {std::pair("gemm", "7x9x11"), {"conv", "2x3x6x5:4x3x3:p1"}, {"attention", "1x2x9x8:bwd"}, {"train", kTrain}}) {
    const auto measured = measure_with(name, shape, {});
    EXPECT_TRUE(measured.ok()) << measured.status().to_string();
  }
}

// In a training step, from the first loss on: until then the host reads where it starts.
hal::testing::Fault in_training(std::function<void(std::span<float>)> change) {
  return in_values([change = std::move(change), started = false](std::span<float> values) mutable {
    started |= values.size() == 1;
    if (started && values.size() > 40) change(values);
  });
}

TEST(PlantedFaults, AWrongElementIsNamed) {
  const auto wrong = [](std::span<float> values) { values[38] += 0.5f; };
  expect_found(measure_with("gemm", "7x9x11", in_values(wrong)),
               {"gemm 7x9x11: element [4, 2] of output c is ", "its definition gives "});
  expect_found(measure_with("gemv", "1x60x11", in_values(wrong)), {"element [0, 38] of output c"});
  expect_found(measure_with("elementwise", "5x9", in_values(wrong)), {"element [4, 2] of output y"});
  expect_found(measure_with("reduce", "40x9:max", in_values(wrong)), {"element [38] of output y"});
  expect_found(measure_with("copy", "60", in_values(wrong)), {"element [38] of output y"});
  expect_found(measure_with("conv", "2x3x6x5:4x3x3:p1", in_values(wrong)), {"of output y is "});
  expect_found(measure_with("conv", "2x3x6x5:4x3x3:p1:dx", in_values(wrong)), {"of output dx is "});
  expect_found(measure_with("conv", "2x3x6x5:4x3x3:p1:dw", in_values(wrong)), {"of output dw is "});
  expect_found(measure_with("attention", "1x2x9x8", in_values(wrong)), {"element [0, 0, 4, 6] of output y is "});
  expect_found(measure_with("attention", "1x2x9x8:bwd", in_values(wrong)), {"element [0, 0, 4, 6] of output y is "});
  expect_found(measure_with("train", kTrain, in_training(wrong)), {"element 38 of ", " after a step is "});
  expect_found(measure_with("launch", "chain", in_values([](std::span<float> values) { values[0] += 1; })),
               {"element [0] of output count is 1018 and its definition gives 1017"});
}

TEST(PlantedFaults, AnUnwrittenTailIsNamed) {
  const auto unwritten = [](std::span<float> values) {
    std::ranges::fill(values.last(3), std::bit_cast<float>(kPoison));
  };
  expect_found(measure_with("gemm", "7x9x11", in_values(unwritten)), {"element [6, 6] of output c is not written"});
  expect_found(measure_with("elementwise", "5x9", in_values(unwritten)), {"element [4, 6] of output y is not written"});
  expect_found(measure_with("reduce", "40x9", in_values(unwritten)), {"element [37] of output y is not written"});
  expect_found(measure_with("copy", "60", in_values(unwritten)), {"element [57] of output y is not written"});
  expect_found(measure_with("conv", "2x3x6x5:4x3x3:p1", in_values(unwritten)),
               {"element [1, 3, 5, 2] of output y is not written"});
  expect_found(measure_with("attention", "1x2x9x8:bwd", in_values(unwritten)),
               {"element [0, 1, 8, 5] of output y is not written"});
  expect_found(measure_with("train", kTrain, in_training(unwritten)), {"is not written by a step"});
}

// A gradient alone is wrong: the result before it is right.
TEST(PlantedFaults, AWrongGradientOfAttentionIsNamed) {
  int reads = 0;
  const auto wrong = [&reads](std::span<float> values) {
    if (reads++ % 4 == 2) values[38] += 0.5f;
  };
  expect_found(measure_with("attention", "1x2x9x8:bwd", in_values(wrong)), {"of output dk is "});
}

TEST(PlantedFaults, ADriftOfTwoUnitsIsFound) {
  const auto drift = [](std::span<float> values) {
    values[20] = std::bit_cast<float>(std::bit_cast<uint32_t>(values[20]) + 2);
  };
  for (const auto& [name, shape] : {std::pair("gemm", "7x9x11"),
                                    {"elementwise", "5x9"},
                                    {"reduce", "40x9"},
                                    {"conv", "2x3x6x5:4x3x3:p1"},
                                    {"conv", "2x3x6x5:4x3x3:p1:dw"},
                                    {"attention", "1x2x9x8"},
                                    {"attention", "1x2x9x8:bwd"}})
    expect_found(measure_with(name, shape, in_values(drift)), {"2 units in the last place away", "`strict`"});
}

TEST(PlantedFaults, ADriftOfTwoUnitsInATrainingStepIsFound) {
  const auto drift = [](std::span<float> values) {
    values[20] = std::bit_cast<float>(std::bit_cast<uint32_t>(values[20]) + 2);
  };
  expect_found(measure_with("train", kTrain, in_training(drift)), {"2 units in the last place away", "`strict`"});
}

class ReorderedSum : public testing::TestWithParam<std::pair<const char*, const char*>> {};

TEST_P(ReorderedSum, IsFound) {
  const auto [name, shape] = GetParam();
  EXPECT_TRUE(measure_with(name, shape, {}, "reference").ok());
  int edits = 0;
  const auto reordered = [&edits](std::string code) {
    for (const std::string_view lanes : {"lanes=16", "lanes=4"})
      for (size_t at; (at = code.find(lanes)) != std::string::npos; ++edits) code.replace(at, lanes.size(), "lanes=1");
    return code;
  };
  const auto measured =
      measure_with(name, shape, {.in_read = {}, .in_code = reordered, .submission_seconds = {}}, "reference");
  EXPECT_GT(edits, 0) << "nothing was planted";
  expect_found(measured, {"of output y", "units in the last place away", "`strict` means the same bits"});
}

INSTANTIATE_TEST_SUITE_P(PlantedFaults, ReorderedSum,
                         testing::Values(std::pair("reduce", "5x301:sum"), std::pair("attention", "1x1x20x4")),
                         [](const auto& parameter) { return std::string(parameter.param.first); });

// A case whose wall clock is its device's.
class ByDeviceClock final : public Case {
 public:
  explicit ByDeviceClock(Case& inner) : inner_(inner) {}
  Status prepare() override { return inner_.prepare(); }
  Work work() const override { return inner_.work(); }
  std::string unit() const override { return inner_.unit(); }
  double value(double seconds) const override { return inner_.value(seconds); }
  int sets() const override { return inner_.sets(); }
  Result<Sample> run(int repetitions) override {
    SPORKLE_ASSIGN_OR_RETURN(Sample sample, inner_.run(repetitions));
    if (!sample.device_seconds) return internal_error("the device has no clock");
    sample.wall_seconds = *sample.device_seconds;
    sample.host_seconds = 0;
    return sample;
  }
  Status poison_outputs() override { return inner_.poison_outputs(); }
  Result<double> check() override { return inner_.check(); }
  const Problem& problem() const override { return inner_.problem(); }
  Result<double> check_rival(int set, std::span<const HostArray> outputs) override {
    return inner_.check_rival(set, outputs);
  }

 private:
  Case& inner_;
};

// Measures a case on a device whose submissions take `seconds`, give or take 3 %.
ResultsFile results_at(const char* name, const char* shape, double seconds, uint64_t seed) {
  uint64_t state = seed;
  hal::testing::Fault slow;
  slow.submission_seconds = [&state, seconds] {
    std::array<double, 1> noise;
    fill_random<double>(noise, ++state * 7919, -0.03, 0.03);
    return seconds * (1 + noise[0]);
  };
  FaultyContext faulty("cpu", std::move(slow));
  Setting setting;
  setting.shape = shape;
  setting.open_context = [&] { return std::make_unique<tensor::Context>(*faulty.faulty, *faulty.kernels); };
  const Result<const CaseKind*> kind = find_case(name);
  const auto made = (*kind)->make(setting);
  EXPECT_TRUE(made.ok()) << made.status().to_string();
  ByDeviceClock subject(**made);
  const Status prepared = subject.prepare();
  EXPECT_TRUE(prepared.ok()) << prepared.to_string();
  std::vector<Challenger> nobody;
  const auto records = measure(**kind, setting, subject, nobody, nullptr, {.rounds = 9, .sample_seconds = 0});
  EXPECT_TRUE(records.ok()) << records.status().to_string();
  return {"results.jsonl", {{std::nullopt, records.ok() ? *records : std::vector<Record>()}}};
}

class Slowdown : public testing::TestWithParam<std::pair<const char*, const char*>> {};

TEST_P(Slowdown, Of15PercentIsFoundAndNoneIsNot) {
  const auto [name, shape] = GetParam();
  const ResultsFile before = results_at(name, shape, 1e-3, 1);
  for (uint64_t seed = 2; seed < 5; ++seed) {
    const Result<Comparison> same = compare(before, results_at(name, shape, 1e-3, seed), {});
    ASSERT_TRUE(same.ok()) << same.status().to_string();
    EXPECT_EQ(same->count(Verdict::unchanged), 1u) << same->changes[0].slowdown;
    const Result<Comparison> slow = compare(before, results_at(name, shape, 1.15e-3, seed), {});
    ASSERT_TRUE(slow.ok()) << slow.status().to_string();
    EXPECT_EQ(slow->count(Verdict::slower), 1u) << slow->changes[0].slowdown;
    const Result<Comparison> fast = compare(before, results_at(name, shape, 1e-3 / 1.15, seed), {});
    ASSERT_TRUE(fast.ok()) << fast.status().to_string();
    EXPECT_EQ(fast->count(Verdict::faster), 1u) << fast->changes[0].slowdown;
  }
}

INSTANTIATE_TEST_SUITE_P(PlantedFaults, Slowdown,
                         testing::Values(std::pair("gemm", "7x9x11"), std::pair("gemv", "1x60x11"),
                                         std::pair("conv", "2x3x6x5:4x3x3:p1"), std::pair("attention", "1x2x9x8:bwd"),
                                         std::pair("elementwise", "5x9"), std::pair("reduce", "40x9"),
                                         std::pair("train", kTrain)),
                         [](const auto& parameter) { return std::string(parameter.param.first); });

}  // namespace
}  // namespace sporkle::bench
