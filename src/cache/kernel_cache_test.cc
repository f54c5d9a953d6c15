#include "cache/kernel_cache.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <thread>
#include <vector>

#include "dsl/kernel.h"
#include "hal/registry.h"

namespace sporkle::cache {
namespace {

namespace fs = std::filesystem;

// y[i] = x[i] + amount; the amount is part of the kernel.
ir::Kernel make_kernel(float amount, const char* name = "add") {
  return dsl::trace(name, [&](dsl::KernelBuilder& k) {
    const dsl::Buffer x = k.input(ir::DType::f32, "x"), y = k.output(ir::DType::f32, "y");
    k.range("i", k.size("n"), [&](dsl::Expr i) { y.store(i, x[i] + dsl::constant(ir::DType::f32, amount)); });
  });
}

lower::Schedule schedule(std::string_view text = "i:thread64") { return *lower::Schedule::parse(text); }

class KernelCacheTest : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = fs::path(testing::TempDir()) / ("sporkle_cache_" + std::to_string(::getpid()) + "_" +
                                                 testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(directory_);
    device_ = *hal::open_device("reference");
  }
  void TearDown() override {
    std::error_code error;
    fs::remove_all(directory_, error);
  }

  std::vector<fs::path> files() const {
    std::vector<fs::path> found;
    if (!fs::exists(directory_)) return found;
    for (const auto& entry : fs::recursive_directory_iterator(directory_)) {
      if (entry.is_regular_file()) found.push_back(entry.path());
    }
    return found;
  }

  // What the executable makes of 1.
  float run(const hal::ExecutableRef& executable, hal::Device& device) {
    const float one = 1;
    const hal::BufferRef x = *device.allocate(sizeof one), y = *device.allocate(sizeof one);
    EXPECT_TRUE(device.write({x}, std::as_bytes(std::span(&one, 1))).ok());
    hal::CommandBuffer commands;
    commands.dispatch(executable, {{x}, {y}}, {1});
    const Status status = device.submit(commands);
    EXPECT_TRUE(status.ok()) << status.to_string();
    float result = 0;
    EXPECT_TRUE(device.read({y}, std::as_writable_bytes(std::span(&result, 1))).ok());
    return result;
  }
  float run(const Result<hal::ExecutableRef>& executable) {
    EXPECT_TRUE(executable.ok()) << executable.status().to_string();
    return executable.ok() ? run(*executable, *device_) : NAN;
  }

  fs::path directory_;
  std::shared_ptr<hal::Device> device_;
};

TEST_F(KernelCacheTest, CompilesOnceAndThenFindsItInMemory) {
  KernelCache cache(*device_, directory_);
  EXPECT_EQ(run(cache.get(make_kernel(2), schedule())), 3);
  EXPECT_EQ(cache.counters().compiles, 1u);
  EXPECT_GT(cache.counters().compile_seconds, 0);
  const auto again = cache.get(make_kernel(2), schedule());
  EXPECT_EQ(run(again), 3);
  EXPECT_EQ(*again, *cache.get(make_kernel(2), schedule()));
  EXPECT_EQ(cache.counters().compiles, 1u);
  EXPECT_EQ(cache.counters().memory_hits, 2u);
  EXPECT_EQ(cache.counters().disk_hits, 0u);
}

TEST_F(KernelCacheTest, AWarmStartCompilesNothing) {
  constexpr int kKernels = 5;
  for (const bool warm : {false, true}) {
    KernelCache cache(*device_, directory_);
    for (int i = 0; i < kKernels; ++i) {
      EXPECT_EQ(run(cache.get(make_kernel(static_cast<float>(i)), schedule())), static_cast<float>(1 + i));
    }
    EXPECT_EQ(cache.counters().compiles, warm ? 0u : kKernels);
    EXPECT_EQ(cache.counters().disk_hits, warm ? kKernels : 0u);
    EXPECT_EQ(cache.counters().corrupt_files, 0u);
    EXPECT_EQ(files().size(), size_t{kKernels});
  }
}

TEST_F(KernelCacheTest, AStructuralKeyMakesItsKernelOnce) {
  int made = 0;
  const auto make = [&] {
    ++made;
    return KernelCache::Source{make_kernel(4), schedule()};
  };
  KernelCache cache(*device_, directory_);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(run(cache.get("add 4", make)), 5);
  EXPECT_EQ(made, 1);
  EXPECT_EQ(cache.counters().compiles, 1u);
  EXPECT_EQ(cache.counters().memory_hits, 2u);
  // Another key for the same kernel shares the code.
  EXPECT_EQ(*cache.get("four", make), *cache.get("add 4", make));
  EXPECT_EQ(cache.counters().compiles, 1u);

  // Another program may make another kernel under that key: the disk goes by the kernel.
  KernelCache other(*device_, directory_);
  EXPECT_EQ(run(other.get("add 4", [] { return KernelCache::Source{make_kernel(40), schedule()}; })), 41);
  EXPECT_EQ(other.counters().compiles, 1u);
}

TEST_F(KernelCacheTest, EverythingThatShapesCodeIsInTheKey) {
  const auto compiles = [&](hal::Device& device, const ir::Kernel& kernel, std::string_view schedule_text,
                            std::string_view version) {
    KernelCache cache(device, directory_, version);
    const auto executable = cache.get(kernel, schedule(schedule_text));
    EXPECT_TRUE(executable.ok()) << executable.status().to_string();
    return cache.counters().compiles;
  };
  EXPECT_EQ(compiles(*device_, make_kernel(1), "i:thread64", "v1"), 1u);
  EXPECT_EQ(compiles(*device_, make_kernel(1), "i:thread64", "v1"), 0u);
  EXPECT_EQ(compiles(*device_, make_kernel(2), "i:thread64", "v1"), 1u);
  EXPECT_EQ(compiles(*device_, make_kernel(1, "other"), "i:thread64", "v1"), 1u);
  EXPECT_EQ(compiles(*device_, make_kernel(1), "i:thread32", "v1"), 1u);
  EXPECT_EQ(compiles(*device_, make_kernel(1), "i:thread64", "v2"), 1u);
  const auto null_device = *hal::open_device("null");
  EXPECT_EQ(compiles(*null_device, make_kernel(1), "i:thread64", "v1"), 1u);
  EXPECT_EQ(files().size(), 6u);
}

TEST_F(KernelCacheTest, DamagedFilesAreIgnoredAndRewritten) {
  {
    KernelCache cache(*device_, directory_);
    ASSERT_TRUE(cache.get(make_kernel(1), schedule()).ok());
  }
  ASSERT_EQ(files().size(), 1u);
  const fs::path path = files()[0];
  const std::string good = *read_file(path);
  std::vector<std::string> damaged = {
      "", "x", good.substr(0, 79), good.substr(0, 80), good.substr(0, good.size() - 1), good + "x"};
  for (size_t position = 0; position < good.size(); position += 13) {
    damaged.push_back(good);
    damaged.back()[position] = static_cast<char>(damaged.back()[position] ^ 0x10);
  }
  for (const std::string& content : damaged) {
    ASSERT_TRUE(write_file_atomically(path, content).ok());
    KernelCache cache(*device_, directory_);
    EXPECT_EQ(run(cache.get(make_kernel(1), schedule())), 2);
    EXPECT_EQ(cache.counters().compiles, 1u);
    EXPECT_EQ(cache.counters().corrupt_files, 1u);
    EXPECT_EQ(*read_file(path), good);
  }
}

TEST_F(KernelCacheTest, AFileOfAnotherKernelIsIgnored) {
  KernelCache first(*device_, directory_);
  ASSERT_TRUE(first.get(make_kernel(1), schedule()).ok());
  const fs::path one = files()[0];
  ASSERT_TRUE(first.get(make_kernel(2), schedule()).ok());
  const fs::path two = files()[0] == one ? files()[1] : files()[0];
  fs::copy_file(two, one, fs::copy_options::overwrite_existing);
  KernelCache cache(*device_, directory_);
  EXPECT_EQ(run(cache.get(make_kernel(1), schedule())), 2);
  EXPECT_EQ(cache.counters().corrupt_files, 1u);
}

TEST_F(KernelCacheTest, WorksWithoutAWritableDirectory) {
  // A file where the directory should be; unlike permissions, it stops root too.
  ASSERT_TRUE(write_file_atomically(directory_, std::string_view("in the way")).ok());
  KernelCache cache(*device_, directory_);
  testing::internal::CaptureStderr();
  EXPECT_EQ(run(cache.get(make_kernel(1), schedule())), 2);
  EXPECT_EQ(run(cache.get(make_kernel(2), schedule())), 3);
  const std::string output = testing::internal::GetCapturedStderr();
  EXPECT_EQ(cache.counters().compiles, 2u);
  EXPECT_EQ(cache.counters().write_failures, 2u);
  const size_t warning = output.find("compiled kernels are not kept");
  EXPECT_NE(warning, std::string::npos) << output;
  EXPECT_EQ(output.find("compiled kernels are not kept", warning + 1), std::string::npos) << "warned twice: " << output;
}

TEST_F(KernelCacheTest, AFailedCompilationIsReportedAndTriedAgain) {
  class Unbuildable final : public hal::Device {
   public:
    explicit Unbuildable(std::shared_ptr<hal::Device> inner) : inner_(std::move(inner)), info_(inner_->info()) {}
    const hal::DeviceInfo& info() const override { return info_; }
    void set_target(std::string target) { info_.target = std::move(target); }
    Result<hal::BufferRef> allocate(size_t n) override { return inner_->allocate(n); }
    Status write(const hal::Binding& b, std::span<const std::byte> d) override { return inner_->write(b, d); }
    Status read(const hal::Binding& b, std::span<std::byte> d) override { return inner_->read(b, d); }
    Result<hal::ExecutableRef> load(std::span<const std::byte> code) override { return inner_->load(code); }
    Result<hal::SemaphoreRef> create_semaphore(uint64_t v) override { return inner_->create_semaphore(v); }
    Status submit(const hal::CommandBuffer& c, std::span<const hal::SemaphorePoint> w,
                  std::span<const hal::SemaphorePoint> s) override {
      return inner_->submit(c, w, s);
    }
    Status wait_idle() override { return inner_->wait_idle(); }

   private:
    std::shared_ptr<hal::Device> inner_;
    hal::DeviceInfo info_;
  };
  Unbuildable device(device_);
  device.set_target("abacus");
  KernelCache cache(device, directory_);
  const auto make = [] { return KernelCache::Source{make_kernel(1), schedule()}; };
  const Status status = cache.get("key", make).status();
  EXPECT_EQ(status.code(), Code::unsupported) << status.to_string();
  EXPECT_NE(status.message().find("abacus"), std::string::npos) << status.message();
  EXPECT_TRUE(files().empty());
  device.set_target("reference");
  EXPECT_EQ(run(cache.get("key", make)), 2);
}

TEST_F(KernelCacheTest, ThreadsThatAskTogetherCompileOnce) {
  KernelCache cache(*device_, directory_);
  std::atomic<int> made{0}, failures{0};
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 8; ++t) {
      threads.emplace_back([&, t] {
        for (int round = 0; round < 20; ++round) {
          const float amount = static_cast<float>((round + t) % 5);
          const auto make = [&] {
            ++made;
            return KernelCache::Source{make_kernel(amount), schedule()};
          };
          if (!cache.get("add " + std::to_string(amount), make).ok()) ++failures;
          if (!cache.get(make_kernel(amount), schedule()).ok()) ++failures;
        }
      });
    }
  }
  EXPECT_EQ(failures, 0);
  EXPECT_EQ(made, 5);
  EXPECT_EQ(cache.counters().compiles, 5u);
  EXPECT_EQ(files().size(), 5u);
}

TEST_F(KernelCacheTest, ProcessesMayShareADirectory) {
  constexpr int kProcesses = 4, kKernels = 10;
  std::vector<pid_t> children;
  for (int p = 0; p < kProcesses; ++p) {
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      KernelCache cache(*device_, directory_);
      int failures = 0;
      for (int i = 0; i < kKernels; ++i) {
        const auto executable = cache.get(make_kernel(static_cast<float>(i)), schedule());
        if (!executable.ok() || run(*executable, *device_) != static_cast<float>(i + 1)) ++failures;
      }
      ::_exit(failures + static_cast<int>(cache.counters().corrupt_files + cache.counters().write_failures));
    }
    children.push_back(child);
  }
  for (const pid_t child : children) {
    int status = -1;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 0);
  }
  KernelCache cache(*device_, directory_);
  for (int i = 0; i < kKernels; ++i) {
    EXPECT_EQ(run(cache.get(make_kernel(static_cast<float>(i)), schedule())), static_cast<float>(i + 1));
  }
  EXPECT_EQ(cache.counters().compiles, 0u);
  EXPECT_EQ(files().size(), size_t{kKernels});
}

TEST_F(KernelCacheTest, MachineCodeComesBackFromDisk) {
  const auto cpu = hal::open_device("cpu", {.threads = 1});
  ASSERT_TRUE(cpu.ok()) << cpu.status().to_string();
  for (const bool warm : {false, true}) {
    KernelCache cache(**cpu, directory_);
    const auto executable = cache.get(make_kernel(7), schedule());
    if (executable.status().code() == Code::unsupported) GTEST_SKIP() << executable.status().to_string();
    ASSERT_TRUE(executable.ok()) << executable.status().to_string();
    EXPECT_EQ(run(*executable, **cpu), 8);
    EXPECT_EQ(cache.counters().disk_hits, warm ? 1u : 0u);
    EXPECT_EQ(cache.counters().compiles, warm ? 0u : 1u);
  }
}

}  // namespace
}  // namespace sporkle::cache
