#include "hal/registry.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "codegen/compile.h"
#include "hal/host/float_environment.h"
#include "hal/host/host_device.h"
#include "hal/host/system.h"

namespace sporkle::hal {
namespace {

// Sets an environment variable for one test.
class ScopedVariable {
 public:
  ScopedVariable(const char* name, const char* value) : name_(name) {
    if (const char* old = std::getenv(name)) saved_ = old;
    if (value) {
      ::setenv(name, value, 1);
    } else {
      ::unsetenv(name);
    }
  }
  ~ScopedVariable() {
    if (saved_.empty()) {
      ::unsetenv(name_);
    } else {
      ::setenv(name_, saved_.c_str(), 1);
    }
  }

 private:
  const char* name_;
  std::string saved_;
};

TEST(Registry, OpensById) {
  for (const char* id : {"cpu", "reference", "null"}) {
    const auto device = open_device(id, {.threads = 1});
    ASSERT_TRUE(device.ok()) << device.status().to_string();
    EXPECT_EQ((*device)->info().id, id);
  }
}

TEST(Registry, TheDefaultIsTheVariableAndThenTheProcessor) {
  {
    const ScopedVariable unset("SPORKLE_DEVICE", nullptr);
    const auto device = open_device();
    ASSERT_TRUE(device.ok()) << device.status().to_string();
    EXPECT_EQ((*device)->info().id, "cpu");
  }
  const ScopedVariable variable("SPORKLE_DEVICE", "null");
  EXPECT_EQ((*open_device())->info().id, "null");
  EXPECT_EQ((*open_device("reference"))->info().id, "reference");
}

TEST(Registry, AnUnknownIdListsTheKnownOnes) {
  const Status status = open_device("referense").status();
  EXPECT_EQ(status.code(), Code::not_found);
  EXPECT_EQ(status.message(),
            "unknown device \"referense\"; did you mean \"reference\"? (known: cpu reference null vulkan)");
  const ScopedVariable variable("SPORKLE_DEVICE", "quantum-computer");
  EXPECT_EQ(open_device().status().message(),
            "unknown device \"quantum-computer\" in SPORKLE_DEVICE (known: cpu reference null vulkan)");
}

TEST(Registry, ListsEveryDevice) {
  const std::vector<DeviceListing> listings = list_devices();
  ASSERT_GE(listings.size(), 4u);
  EXPECT_EQ(listings[0].id, "cpu");
  for (const DeviceListing& listing : listings) {
    if (listing.id == "vulkan" && listing.status.code() == Code::unsupported) continue;  // no driver here
    EXPECT_TRUE(listing.status.ok()) << listing.status.to_string();
    EXPECT_EQ(listing.info.id, listing.id);
  }
}

TEST(Registry, ListsTheReasonOfADeviceThatCannotOpen) {
  const ScopedVariable variable("SPORKLE_CPU_TARGET", "z80");
  const std::vector<DeviceListing> listings = list_devices();
  EXPECT_FALSE(listings[0].status.ok());
  EXPECT_NE(listings[0].status.message().find("z80"), std::string::npos) << listings[0].status.message();
  EXPECT_TRUE(listings[1].status.ok());
}

TEST(Registry, TheProcessorsTargetComesFromTheOptionsThenTheVariable) {
  const ScopedVariable variable("SPORKLE_CPU_TARGET", "z80");
  for (const std::string& level : codegen::host_cpu_levels()) {
    const auto device = open_device("cpu", {.cpu_target = std::string(level)});
    ASSERT_TRUE(device.ok()) << device.status().to_string();
    EXPECT_EQ((*device)->info().target, "cpu:" + std::string(level));
  }
  const Status unknown = open_device("cpu", {.cpu_target = "6502"}).status();
  EXPECT_EQ(unknown.code(), Code::invalid_argument);
  EXPECT_NE(unknown.message().find("CPU target 6502 is not known"), std::string::npos) << unknown.message();
}

TEST(Registry, ThreadsComeFromTheOptionsThenTheVariable) {
  const ScopedVariable variable("SPORKLE_THREADS", "3");
  EXPECT_EQ((*open_device("cpu"))->info().threads, 3);
  EXPECT_EQ((*open_device("cpu", {.threads = 2}))->info().threads, 2);
  EXPECT_EQ(open_device("cpu", {.threads = -1}).status().code(), Code::invalid_argument);
  EXPECT_EQ(open_device("cpu", {.threads = 100'000}).status().code(), Code::invalid_argument);
}

TEST(Registry, ThreadsThatAreNoNumberAreAnError) {
  for (const char* text : {"many", "0", "-2", "3x", "99999999999999999999"}) {
    const ScopedVariable variable("SPORKLE_THREADS", text);
    const Status status = open_device("cpu").status();
    EXPECT_EQ(status.code(), Code::invalid_argument) << text;
    EXPECT_NE(status.message().find("SPORKLE_THREADS is \"" + std::string(text) + "\""), std::string::npos)
        << status.message();
  }
}

TEST(Registry, TheMemoryLimitHolds) {
  const auto device = open_device("cpu", {.threads = 1, .memory_limit_bytes = 1 << 20});
  ASSERT_TRUE(device.ok());
  EXPECT_EQ((*device)->info().memory_bytes, 1u << 20);
  const Status status = (*device)->allocate(2 << 20).status();
  EXPECT_EQ(status.code(), Code::out_of_memory);
  EXPECT_NE(status.message().find("device cpu: cannot allocate 2 MiB"), std::string::npos) << status.message();
  const BufferRef buffer = *(*device)->allocate(1000);
  EXPECT_GE(static_cast<HostDevice&>(**device).memory_statistics().in_use_bytes, 1000u);
}

TEST(System, KnowsTheMachine) {
  EXPECT_FALSE(processor_name().empty());
  EXPECT_GE(usable_cores(), 1);
  EXPECT_GE(usable_memory_bytes(), uint64_t{64} << 20);
}

#if defined(__x86_64__)
TEST(StrictFloatEnvironment, SetsAndRestores) {
  constexpr unsigned kFlushToZero = 0x8000, kDenormalsAreZero = 0x0040, kTowardsZero = 0x6000;
  const unsigned before = _mm_getcsr();
  const unsigned careless = before | kFlushToZero | kDenormalsAreZero | kTowardsZero;
  _mm_setcsr(careless);
  {
    const StrictFloatEnvironment environment;
    EXPECT_EQ(_mm_getcsr() & (kFlushToZero | kDenormalsAreZero | kTowardsZero), 0u);
  }
  EXPECT_EQ(_mm_getcsr(), careless);
  _mm_setcsr(before);
}
#endif

}  // namespace
}  // namespace sporkle::hal
