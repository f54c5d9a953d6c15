// The method's own errors: clocks that disagree, too few rounds, rivals that lack, die, or talk nonsense.
#include "bench/measure.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "base/temporary_folder.h"
#include "bench/cases.h"
#include "bench/judge.h"
#include "bench/process_rival.h"
#include "bench/rivals.h"
#include "bench/shared_array.h"
#include "hal/testing_device.h"

namespace sporkle::bench {
namespace {

void expect_error(const Status& status, Code code, const std::string& part) {
  EXPECT_EQ(status.code(), code) << status.to_string();
  EXPECT_NE(status.message().find(part), std::string::npos) << status.message() << "\nlacks: " << part;
}

TEST(CheckClocks, AgreeWithinTheTolerance) {
  EXPECT_TRUE(check_clocks({.wall_seconds = 1}, 0.05).ok()) << "a device without a clock";
  EXPECT_TRUE(check_clocks({.wall_seconds = 1, .host_seconds = 0.02, .device_seconds = 0.97}, 0.05).ok());
  EXPECT_TRUE(check_clocks({.wall_seconds = 1, .host_seconds = 0.5, .device_seconds = 1.0}, 0.05).ok());
  EXPECT_TRUE(check_clocks({.wall_seconds = 1e-4, .device_seconds = 1e-5}, 0.05).ok()) << "100 us are free";
  const Sample steps{.wall_seconds = 0.02, .host_seconds = 0.001, .device_seconds = 0.015, .waits = 100};
  EXPECT_TRUE(check_clocks(steps, 0.05).ok()) << "every wait costs the host a little";
  expect_error(check_clocks({.wall_seconds = 0.02, .device_seconds = 0.015}, 0.05), Code::internal, "nobody was busy");
  expect_error(check_clocks({.wall_seconds = 1, .device_seconds = 1.2}, 0.05), Code::internal, "busy for longer");
  expect_error(check_clocks({.wall_seconds = 1, .host_seconds = 0.1, .device_seconds = 0.5}, 0.05), Code::internal,
               "the wall clock says 1000000 us, the device 500000 us and the host 100000 us");
}

HostArray floats(std::vector<int64_t> shape, const std::vector<float>& values) {
  HostArray array = make_array("y", ir::DType::f32, std::move(shape));
  std::ranges::copy(values, array.values<float>().begin());
  return array;
}

TEST(Judge, NamesWhatIsWrong) {
  const HostArray array = floats({2, 3}, {1, 2, 3, 1, 2, 3});
  const std::vector<float> whole = {1, 2, 3, 1, 2, 3}, period = {1, 2, 3}, other = {1, 2, 3, 1, 5, 3};
  EXPECT_TRUE(compare_bits<float>(array, whole).ok());
  EXPECT_TRUE(compare_bits<float>(array, period).ok()) << "what is expected repeats";
  EXPECT_TRUE(compare_bits<float>(floats({5}, {1, 2, 3, 1, 2}), period).ok()) << "and its end may lack";
  expect_error(compare_bits<float>(floats({5}, {1, 2, 3, 1, 9}), period), Code::internal, "element [4] of output y");
  expect_error(compare_bits<float>(array, other), Code::internal, "element [1, 1] of output y is 2 and its");
  expect_error(compare_bits<float>(array, {}), Code::internal, "0 were expected");
  expect_error(compare_bits<float>(floats({1}, {1}), period), Code::internal, "has 1 elements, and 3 were expected");
  const std::vector<float> minus_zero = {-0.0f};
  expect_error(compare_bits<float>(floats({1}, {0}), minus_zero), Code::internal, "0 units in the last place");

  const std::vector<double> close = {1, 2, 3.003}, nan_expected = {1, 2, 3};
  EXPECT_NEAR(*compare_values(array, close, 0.01), 0.003 / 3.003, 1e-6);
  expect_error(compare_values(array, close, 1e-4).status(), Code::internal, "element [0, 2] of output y is 3 where");
  expect_error(compare_values(floats({3}, {1, NAN, 3}), nan_expected, 1).status(), Code::internal, "element [1]");
  expect_error(compare_values(floats({2}, {1, 2}), nan_expected, 1).status(), Code::internal, "3 were expected");
  HostArray poisoned = floats({3}, {1, 2, 3});
  poison(&poisoned);
  expect_error(compare_values(poisoned, nan_expected, 1).status(), Code::internal,
               "element [0] of output y is not written");
  expect_error(compare_values(make_array("n", ir::DType::i32, {3}), nan_expected, 1).status(), Code::internal, "i32");
}

TEST(SharedArrays, AreSeenThroughTheirPath) {
  Result<SharedArray> array = SharedArray::create(64);
  ASSERT_TRUE(array.ok()) << array.status().to_string();
  Result<SharedArray> other = SharedArray::open(array->path(), 64);
  ASSERT_TRUE(other.ok()) << other.status().to_string();
  array->bytes()[63] = std::byte{42};
  EXPECT_EQ(other->bytes()[63], std::byte{42});
  expect_error(SharedArray::open(array->path(), 65).status(), Code::invalid_argument, "holds 64 bytes, not the 65");
  EXPECT_EQ(SharedArray::open("/proc/self/fd/none", 1).status().code(), Code::not_found);
  const SharedArray moved = std::move(*array);
  EXPECT_EQ(moved.bytes()[63], std::byte{42});
}

class RivalTest : public testing::Test {
 protected:
  void SetUp() override {
    kind_ = *find_case("gemm");
    setting_.shape = "3x4x5";
    // Without a clock that must agree with the wall's: a busy machine can make that a matter of luck in small cases.
    auto folder = TemporaryFolder::create("sporkle-measure");
    auto device = hal::open_device("cpu", {.threads = 1});
    ASSERT_TRUE(folder.ok() && device.ok());
    folder_.emplace(std::move(*folder));
    device_.emplace(std::shared_ptr<hal::Device>(std::move(*device)), hal::testing::Fault{});
    kernels_.emplace(*device_, folder_->path());
    setting_.open_context = [this] { return std::make_unique<tensor::Context>(*device_, *kernels_); };
    auto made = kind_->make(setting_);
    ASSERT_TRUE(made.ok()) << made.status().to_string();
    subject_ = std::move(*made);
    const Status prepared = subject_->prepare();
    ASSERT_TRUE(prepared.ok()) << prepared.to_string();
  }
  // A rival that is a shell's script; its first line of input is the request to open.
  Result<std::unique_ptr<Rival>> start(const std::string& script) {
    ChildOptions child;
    child.program = "/bin/sh";
    child.arguments = {"-c", script};
    return start_process_rival(std::move(child), *subject_, 1);
  }
  Result<std::vector<Record>> measured(std::vector<Challenger> challengers, int rounds = kLeastRounds) {
    return measure(*kind_, setting_, *subject_, challengers, nullptr, {.rounds = rounds, .sample_seconds = 0});
  }

  std::optional<TemporaryFolder> folder_;
  std::optional<hal::testing::FaultyDevice> device_;
  std::optional<cache::KernelCache> kernels_;
  const CaseKind* kind_ = nullptr;
  Setting setting_;
  std::unique_ptr<Case> subject_;
};

constexpr const char* kOpens = "read a; echo '{\"version\":\"shell 1\"}'; read a; ";

TEST_F(RivalTest, TooFewRoundsAreRefused) {
  expect_error(measured({}, 6).status(), Code::invalid_argument, "6 rounds are too few");
}

TEST_F(RivalTest, AMissingOneIsInTheRecord) {
  std::vector<Challenger> challengers;
  challengers.push_back({"OpenBLAS", unavailable("not found: libopenblas.so.0; install libopenblas0")});
  const auto records = measured(std::move(challengers));
  ASSERT_TRUE(records.ok()) << records.status().to_string();
  ASSERT_EQ(records->size(), 1u);
  EXPECT_EQ((*records)[0].rival, "OpenBLAS");
  EXPECT_NE((*records)[0].rival_version.find("install libopenblas0"), std::string::npos);
  EXPECT_FALSE((*records)[0].ratio);
  EXPECT_GT((*records)[0].value, 0);
}

TEST_F(RivalTest, OnesThatDoNotOpenSayWhy) {
  expect_error(start("read a; echo '{\"error\":\"no such library\"}'").status(), Code::unavailable, "no such library");
  expect_error(start("read a; echo broken >&2; exit 3").status(), Code::unavailable, "ended or did not answer: broken");
  expect_error(start("read a; echo garbage").status(), Code::internal, "its process answered \"garbage\"");
  expect_error(start("read a; echo '{\"version\":7}'").status(), Code::internal,
               "its process answered {\"version\":7}");
  ChildOptions nothing;
  nothing.program = "/no/such/program";
  EXPECT_FALSE(start_process_rival(std::move(nothing), *subject_, 1).ok());
}

TEST_F(RivalTest, OnesThatFailLaterFailTheCase) {
  const std::pair<std::string, std::string> ends[] = {
      {"echo fell over >&2", "gemm 3x4x5, shell: its process ended or did not answer: fell over"},
      {"echo '{\"seconds\":1e9}'; read a", "it says that its runs took 1000000000"},
      {"echo '{\"seconds\":\"fast\"}'; read a", "its process answered {\"seconds\":\"fast\"}"},
      {"echo '[1]'; read a", "its process answered \"[1]\""},
      // Never writes its outputs, and says that all is well.
      {"echo '{\"seconds\":1e-9}'; read a; echo '{}'; read a", "element [0, 0] of output c is not written"}};
  for (const auto& [script, part] : ends) {
    auto rival = start(kOpens + script);
    ASSERT_TRUE(rival.ok()) << rival.status().to_string();
    EXPECT_EQ((*rival)->version(), "shell 1");
    std::vector<Challenger> challengers;
    challengers.push_back({"shell", std::move(rival)});
    const Status status = measured(std::move(challengers)).status();
    EXPECT_FALSE(status.ok()) << script;
    EXPECT_NE(status.message().find(part), std::string::npos) << status.message() << "\nlacks: " << part;
  }
}

TEST_F(RivalTest, AreChosenByName) {
  expect_error(choose_rivals(*kind_, {"OpenBLASS"}).status(), Code::invalid_argument, "did you mean \"OpenBLAS\"?");
  EXPECT_TRUE(choose_rivals(*kind_, {"none"})->empty());
  EXPECT_EQ(*choose_rivals(*kind_, {}), kind_->default_rivals);
  Setting elsewhere = setting_;
  elsewhere.device = "vulkan:0";
  expect_error(open_challenger("OpenBLAS", *subject_, elsewhere, {}).rival.status(), Code::unsupported,
               "runs on the processor only, and this case on vulkan:0");
}

}  // namespace
}  // namespace sporkle::bench
