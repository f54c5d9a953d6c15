// What every device must do, as one suite of tests. A backend's test file instantiates it:
//
//   INSTANTIATE_TEST_SUITE_P(Cpu, hal::Conformance, testing::Values(hal::ConformanceSubject{"cpu"}));
//
// Kernels come from the kernel language through codegen; where the code generator is missing on this machine (no
// libLLVM) the tests that need it are skipped and say so. For tests only; included by test programs.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <bit>
#include <chrono>
#include <cstring>
#include <numeric>
#include <thread>

#include "codegen/compile.h"
#include "dsl/kernel.h"
#include "hal/registry.h"

namespace sporkle::hal {

struct ConformanceSubject {
  std::string id;
  DeviceOptions options = {};
  bool executes = true;  // false: a device without memory, which computes nothing
  friend std::ostream& operator<<(std::ostream& out, const ConformanceSubject& s) { return out << s.id; }
};

class Conformance : public testing::TestWithParam<ConformanceSubject> {
 protected:
  void SetUp() override {
    Result<std::shared_ptr<Device>> opened = open_device(GetParam().id, GetParam().options);
    if (!opened.ok() && opened.status().code() == Code::unsupported) GTEST_SKIP() << opened.status().to_string();
    ASSERT_TRUE(opened.ok()) << opened.status().to_string();
    device_ = *opened;
  }

  BufferRef allocate(size_t size_bytes) {
    Result<BufferRef> buffer = device_->allocate(size_bytes);
    EXPECT_TRUE(buffer.ok()) << buffer.status().to_string();
    return buffer.ok() ? *buffer : nullptr;
  }

  template <typename T>
  BufferRef upload(const std::vector<T>& values) {
    BufferRef buffer = allocate(values.size() * sizeof(T));
    const Status status = device_->write({buffer}, std::as_bytes(std::span(values)));
    EXPECT_TRUE(status.ok()) << status.to_string();
    return buffer;
  }

  template <typename T>
  std::vector<T> download(const BufferRef& buffer) {
    std::vector<T> values(buffer->size_bytes() / sizeof(T));
    const Status status = device_->read({buffer}, std::as_writable_bytes(std::span(values)));
    EXPECT_TRUE(status.ok()) << status.to_string();
    return values;
  }

  // The kernel on this device; nullptr, with the test marked as skipped, without a code generator.
  ExecutableRef load(const ir::Kernel& kernel, std::string_view schedule_text) {
    const Result<lower::Schedule> schedule = lower::Schedule::parse(schedule_text);
    EXPECT_TRUE(schedule.ok()) << schedule.status().to_string();
    if (!schedule.ok()) return nullptr;
    const Result<std::vector<std::byte>> code = codegen::compile(kernel, *schedule, device_->info().target);
    if (code.status().code() == Code::unsupported) {
      [&] { GTEST_SKIP() << code.status().to_string(); }();
      return nullptr;
    }
    EXPECT_TRUE(code.ok()) << code.status().to_string();
    if (!code.ok()) return nullptr;
    Result<ExecutableRef> executable = device_->load(*code);
    EXPECT_TRUE(executable.ok()) << executable.status().to_string();
    return executable.ok() ? *executable : nullptr;
  }

  // y[i] = x[i] + amount for i < n; scalars: n, amount.
  ExecutableRef load_add(std::string_view schedule = "i:thread64") {
    return load(dsl::trace("add",
                           [](dsl::KernelBuilder& k) {
                             const dsl::Expr n = k.size("n"), amount = k.scalar(ir::DType::f32, "amount");
                             const dsl::Buffer x = k.input(ir::DType::f32, "x"), y = k.output(ir::DType::f32, "y");
                             k.range("i", n, [&](dsl::Expr i) { y.store(i, x[i] + amount); });
                           }),
                schedule);
  }
  static std::vector<uint64_t> add_scalars(uint64_t n, float amount) { return {n, std::bit_cast<uint32_t>(amount)}; }

  SemaphoreRef semaphore(uint64_t initial_value = 0) { return *device_->create_semaphore(initial_value); }

  Status submit(const std::function<void(CommandBuffer&)>& record, std::vector<SemaphorePoint> wait = {},
                std::vector<SemaphorePoint> signal = {}) {
    CommandBuffer commands;
    record(commands);
    return device_->submit(commands, wait, signal);
  }

  // Submits, waits, and expects success.
  void run(const std::function<void(CommandBuffer&)>& record) {
    const Status submitted = submit(record);
    EXPECT_TRUE(submitted.ok()) << submitted.to_string();
    const Status idle = device_->wait_idle();
    EXPECT_TRUE(idle.ok()) << idle.to_string();
  }

  std::shared_ptr<Device> device_;
};

inline void expect_refused(const Status& status, std::string_view part) {
  EXPECT_EQ(status.code(), Code::invalid_argument) << status.to_string();
  EXPECT_NE(status.message().find(part), std::string::npos) << status.message() << "\nlacks: " << part;
}

TEST_P(Conformance, InfoSaysWhatItIs) {
  const DeviceInfo& info = device_->info();
  EXPECT_EQ(info.id, GetParam().id);
  EXPECT_FALSE(info.name.empty());
  EXPECT_FALSE(info.driver.empty());
  EXPECT_FALSE(info.target.empty());
  EXPECT_GE(info.threads, 1);
}

TEST_P(Conformance, BuffersHaveTheirSizeAndAlignment) {
  std::vector<BufferRef> buffers;
  for (const size_t size : {0, 1, 63, 64, 65, 4096, 100'000, 3 << 20}) {
    buffers.push_back(allocate(size));
    EXPECT_EQ(buffers.back()->size_bytes(), size);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffers.back()->host_pointer()) % 64, 0u);
  }
  if (!GetParam().executes) return;
  // Live buffers never overlap.
  for (size_t i = 0; i < buffers.size(); ++i) {
    const std::vector<std::byte> content(buffers[i]->size_bytes(), static_cast<std::byte>(i + 1));
    ASSERT_TRUE(device_->write({buffers[i]}, content).ok());
  }
  for (size_t i = 0; i < buffers.size(); ++i) {
    const std::vector<std::byte> expected(buffers[i]->size_bytes(), static_cast<std::byte>(i + 1));
    EXPECT_EQ(download<std::byte>(buffers[i]), expected) << i;
  }
}

TEST_P(Conformance, WritesAndReadsAtOffsets) {
  const BufferRef buffer = upload<uint32_t>({1, 2, 3, 4});
  const uint32_t replacement = 7;
  ASSERT_TRUE(device_->write({buffer, 8}, std::as_bytes(std::span(&replacement, 1))).ok());
  uint32_t tail[2] = {99, 99};
  ASSERT_TRUE(device_->read({buffer, 8}, std::as_writable_bytes(std::span(tail))).ok());
  if (GetParam().executes) {
    EXPECT_EQ(download<uint32_t>(buffer), (std::vector<uint32_t>{1, 2, 7, 4}));
    EXPECT_EQ(tail[0], 7u);
    EXPECT_EQ(tail[1], 4u);
  } else {
    EXPECT_EQ(tail[0] | tail[1], 0u);
  }
}

TEST_P(Conformance, RefusesRangesPastTheEnd) {
  const BufferRef buffer = upload<uint32_t>({1, 2, 3, 4});
  std::byte bytes[8] = {};
  expect_refused(device_->write({buffer, 12}, bytes), "8 bytes at offset 12 pass the end of a buffer of 16");
  expect_refused(device_->read({buffer, UINT64_MAX}, bytes), "pass the end");
  expect_refused(device_->read({nullptr, 0}, bytes), "no buffer is given");
  const BufferRef other = upload<uint32_t>({0, 0});
  expect_refused(submit([&](CommandBuffer& c) { c.copy({buffer}, {other}, 16); }), "destination of a copy");
  expect_refused(submit([&](CommandBuffer& c) { c.copy({other}, {buffer}, UINT64_MAX); }), "source of a copy");
  expect_refused(submit([&](CommandBuffer& c) { c.fill({buffer, 4}, 16, 0); }), "fill");
  expect_refused(submit([&](CommandBuffer& c) { c.fill({buffer}, 6, 0); }), "multiples of 4");
  expect_refused(submit([&](CommandBuffer& c) { c.copy({buffer}, {buffer, 4}, 8); }), "overlap");
}

TEST_P(Conformance, RefusesBuffersOfAnotherDevice) {
  const auto other_device = open_device("reference");
  ASSERT_TRUE(other_device.ok());
  const BufferRef foreign = *(*other_device)->allocate(16);
  const BufferRef own = allocate(16);
  std::byte bytes[4] = {};
  expect_refused(device_->read({foreign}, bytes), "belongs to another device");
  expect_refused(submit([&](CommandBuffer& c) { c.copy({own}, {foreign}, 4); }), "belongs to another device");
}

TEST_P(Conformance, AnArgumentErrorExecutesNothing) {
  const BufferRef buffer = upload<uint32_t>({1, 2});
  const SemaphoreRef done = semaphore();
  expect_refused(submit(
                     [&](CommandBuffer& c) {
                       c.fill({buffer}, 8, 9);
                       c.fill({buffer, 8}, 8, 9);
                     },
                     {}, {{done, 1}}),
                 "pass the end");
  EXPECT_EQ(done->value(), 0u);
  EXPECT_TRUE(done->signal(1).ok());  // not failed: nothing was submitted
  if (GetParam().executes) {
    EXPECT_EQ(download<uint32_t>(buffer), (std::vector<uint32_t>{1, 2}));
  }
}

TEST_P(Conformance, FillsAndCopies) {
  const BufferRef a = upload<uint32_t>({1, 2, 3, 4, 5, 6}), b = upload<uint32_t>({0, 0, 0, 0, 0, 0});
  run([&](CommandBuffer& c) {
    c.copy({a, 4}, {b, 8}, 12);
    c.fill({a, 8}, 8, 0x01020304);
    c.fill({a, 20}, 4, 0xffffffff);
    c.copy({b, 8}, {b, 20}, 4);
    c.copy({a}, {b}, 0);
  });
  if (!GetParam().executes) return;
  EXPECT_EQ(download<uint32_t>(a), (std::vector<uint32_t>{1, 2, 0x01020304, 0x01020304, 5, 0xffffffff}));
  EXPECT_EQ(download<uint32_t>(b), (std::vector<uint32_t>{0, 0, 2, 3, 4, 2}));
}

TEST_P(Conformance, RunsAKernel) {
  const ExecutableRef add = load_add();
  if (!add) return;
  // Extents around the schedule's block and around vectors, and none at all.
  for (const size_t n : {0u, 1u, 7u, 63u, 64u, 65u, 1000u}) {
    std::vector<float> x(n + 1), expected(n + 1, -1);
    std::iota(x.begin(), x.end(), 0.0f);
    for (size_t i = 0; i < n; ++i) expected[i] = x[i] + 0.5f;
    const BufferRef in = upload(x), out = upload(std::vector<float>(n + 1, -1));
    run([&](CommandBuffer& c) { c.dispatch(add, {{in}, {out}}, add_scalars(n, 0.5f)); });
    if (GetParam().executes) {
      EXPECT_EQ(download<float>(out), expected) << n;
    }
  }
}

TEST_P(Conformance, BindsAtOffsets) {
  const ExecutableRef add = load_add();
  if (!add) return;
  const BufferRef data = upload<float>({1, 2, 3, 4, 5, 6});
  run([&](CommandBuffer& c) { c.dispatch(add, {{data, 4}, {data, 16}}, add_scalars(2, 10)); });
  if (!GetParam().executes) return;
  EXPECT_EQ(download<float>(data), (std::vector<float>{1, 2, 3, 4, 12, 13}));
}

TEST_P(Conformance, CommandsRunInOrder) {
  const ExecutableRef add = load_add("");
  if (!add) return;
  const BufferRef a = upload<float>({0, 0}), b = upload<float>({0, 0});
  CommandBuffer commands;
  for (int i = 0; i < 10; ++i) {
    commands.dispatch(add, {{a}, {b}}, add_scalars(2, 1));
    commands.copy({b}, {a}, 8);
  }
  commands.fill({a, 4}, 4, 0);
  // Submitted as often as wanted.
  ASSERT_TRUE(device_->submit(commands).ok());
  ASSERT_TRUE(device_->wait_idle().ok());
  ASSERT_TRUE(device_->submit(commands).ok());
  ASSERT_TRUE(device_->wait_idle().ok());
  if (!GetParam().executes) return;
  EXPECT_EQ(download<float>(a), (std::vector<float>{20, 0}));
  EXPECT_EQ(download<float>(b), (std::vector<float>{20, 10}));
}

TEST_P(Conformance, KernelsHaveScratchAndReductions) {
  // Each row is doubled into scratch, then summed from there: rows must not share scratch.
  const ir::Kernel kernel = dsl::trace("rows", [](dsl::KernelBuilder& k) {
    const dsl::Expr rows = k.size("rows"), columns = k.size("columns");
    const dsl::Buffer x = k.input(ir::DType::f32, "x"), y = k.output(ir::DType::f32, "y");
    const dsl::Buffer row = k.scratch(ir::DType::f32, "row", columns);
    k.range("r", rows, [&](dsl::Expr r) {
      k.range("c", columns, [&](dsl::Expr c) { row.store(c, x[r * columns + c] * 2); });
      y.store(r, k.sum("s", columns, ir::DType::f32, [&](dsl::Expr s) { return row[s]; }));
    });
  });
  const ExecutableRef executable = load(kernel, "r:thread");
  if (!executable) return;
  const size_t rows = 200, columns = 33;
  std::vector<float> x(rows * columns), expected(rows);
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] = static_cast<float>(i % 17);
    expected[i / columns] += 2 * x[i];
  }
  const BufferRef in = upload(x), out = upload(std::vector<float>(rows));
  for (int repetition = 0; repetition < 3; ++repetition) {
    run([&](CommandBuffer& c) { c.dispatch(executable, {{in}, {out}}, {rows, columns}); });
    if (GetParam().executes) {
      EXPECT_EQ(download<float>(out), expected);
    }
  }
}

TEST_P(Conformance, SubnormalNumbersSurvive) {
  const ExecutableRef add = load_add();
  if (!add) return;
  const float tiny = std::bit_cast<float>(3u);  // three times the smallest subnormal
  const BufferRef in = upload(std::vector<float>(300, tiny)), out = upload(std::vector<float>(300));
  run([&](CommandBuffer& c) { c.dispatch(add, {{in}, {out}}, add_scalars(300, tiny)); });
  if (!GetParam().executes) return;
  for (const float y : download<float>(out)) ASSERT_EQ(std::bit_cast<uint32_t>(y), 6u);
}

TEST_P(Conformance, RefusesWrongLaunches) {
  const BufferRef buffer = upload(std::vector<float>(4));
  const ExecutableRef none;
  expect_refused(submit([&](CommandBuffer& c) { c.dispatch(none, {}, {}); }), "was not loaded by this device");
  const ExecutableRef add = load_add();
  if (!add) return;
  expect_refused(submit([&](CommandBuffer& c) {
                   c.dispatch(add, {{buffer, 20}, {buffer}}, add_scalars(1, 1));
                 }),
                 "pass the end");
  const auto other_device = open_device(GetParam().id, GetParam().options);
  ASSERT_TRUE(other_device.ok());
  const BufferRef foreign = *(*other_device)->allocate(16);
  CommandBuffer commands;
  commands.dispatch(add, {{foreign}, {foreign}}, add_scalars(1, 1));
  expect_refused((*other_device)->submit(commands), "was not loaded by this device");
  if (!GetParam().executes) return;
  expect_refused(submit([&](CommandBuffer& c) { c.dispatch(add, {{buffer}}, add_scalars(1, 1)); }), "takes 2 buffers");
  expect_refused(submit([&](CommandBuffer& c) { c.dispatch(add, {{buffer}, {buffer}}, {1}); }), "2 scalars");
  expect_refused(submit([&](CommandBuffer& c) {
                   c.dispatch(add, {{buffer, 2}, {buffer}}, add_scalars(1, 1));
                 }),
                 "no multiple of the element size 4");
}

TEST_P(Conformance, RefusesCodeThatIsNone) {
  if (!GetParam().executes) return;  // a device that executes nothing takes anything
  for (const std::string_view code : {"", "not code",
                                      "\x7f"
                                      "ELF"}) {
    const auto loaded = device_->load(std::as_bytes(std::span(code)));
    EXPECT_EQ(loaded.status().code(), Code::corrupt_data) << loaded.status().to_string();
  }
}

TEST_P(Conformance, ExecutablesAndBuffersLiveWhileRecorded) {
  ExecutableRef add = load_add();
  if (!add) return;
  const BufferRef out = upload(std::vector<float>(8));
  CommandBuffer commands;
  {
    const BufferRef in = upload(std::vector<float>(8, 2));
    commands.dispatch(std::move(add), {{in}, {out}}, add_scalars(8, 3));
  }
  const std::vector<BufferRef> others = {upload(std::vector<float>(8, 77)), upload(std::vector<float>(8, 78))};
  ASSERT_TRUE(device_->submit(commands).ok());
  ASSERT_TRUE(device_->wait_idle().ok());
  if (!GetParam().executes) return;
  EXPECT_EQ(download<float>(out), std::vector<float>(8, 5));
}

TEST_P(Conformance, SemaphoresCountUp) {
  const SemaphoreRef s = semaphore(5);
  EXPECT_EQ(s->value(), 5u);
  EXPECT_TRUE(s->wait(5, 0).ok());
  EXPECT_EQ(s->wait(6, 0).code(), Code::deadline_exceeded);
  EXPECT_EQ(s->wait(6, 5).code(), Code::deadline_exceeded);
  expect_refused(s->signal(5), "only grows");
  EXPECT_TRUE(s->signal(9).ok());
  EXPECT_TRUE(s->wait(7, -1).ok());
  expect_refused(submit([](CommandBuffer&) {}, {}, {{s, 9}}), "only grows");
  expect_refused(submit([](CommandBuffer&) {}, {{nullptr, 1}}), "no semaphore is given");
}

TEST_P(Conformance, SubmissionsSignalWhenDone) {
  const BufferRef buffer = upload<uint32_t>({0});
  const SemaphoreRef s = semaphore();
  ASSERT_TRUE(submit([&](CommandBuffer& c) { c.fill({buffer}, 4, 1); }, {}, {{s, 1}}).ok());
  ASSERT_TRUE(submit([&](CommandBuffer& c) { c.fill({buffer}, 4, 2); }, {{s, 1}}, {{s, 2}}).ok());
  ASSERT_TRUE(s->wait(2, 10'000).ok());
  if (GetParam().executes) {
    EXPECT_EQ(download<uint32_t>(buffer), (std::vector<uint32_t>{2}));
  }
}

TEST_P(Conformance, ASubmissionWaitsForWhatTheHostSignalsLater) {
  const BufferRef buffer = upload<uint32_t>({0});
  const SemaphoreRef go = semaphore(), done = semaphore();
  ASSERT_TRUE(submit([&](CommandBuffer& c) { c.fill({buffer}, 4, 2); }, {{go, 2}}, {{done, 2}}).ok());
  ASSERT_TRUE(submit([&](CommandBuffer& c) { c.fill({buffer}, 4, 1); }, {{go, 1}}, {{done, 1}}).ok());
  EXPECT_EQ(done->wait(1, 20).code(), Code::deadline_exceeded);
  if (GetParam().executes) {
    EXPECT_EQ(download<uint32_t>(buffer), (std::vector<uint32_t>{0}));
  }
  ASSERT_TRUE(go->signal(1).ok());
  ASSERT_TRUE(done->wait(1, 10'000).ok());
  ASSERT_TRUE(go->signal(2).ok());
  // A read waits for what can run, without any semaphore.
  if (GetParam().executes) {
    EXPECT_EQ(download<uint32_t>(buffer), (std::vector<uint32_t>{2}));
  }
  ASSERT_TRUE(device_->wait_idle().ok());
  EXPECT_EQ(done->value(), 2u);
}

TEST_P(Conformance, ADeviceMayCloseWhileASubmissionWaits) {
  const SemaphoreRef never = semaphore(), done = semaphore();
  std::shared_ptr<Device> device = *open_device(GetParam().id, GetParam().options);
  const SemaphorePoint wait[] = {{never, 1}}, signal[] = {{done, 1}};
  ASSERT_TRUE(device->submit(CommandBuffer(), wait, signal).ok());
  device.reset();
  EXPECT_EQ(done->wait(1, 10'000).code(), Code::cancelled);
}

TEST_P(Conformance, ThreadsMaySubmitAtOnce) {
  const ExecutableRef add = load_add();
  if (!add) return;
  constexpr int kThreads = 4, kRounds = 50;
  constexpr uint64_t kCount = 500;
  std::vector<std::vector<float>> results(kThreads);
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        const BufferRef a = upload(std::vector<float>(kCount, static_cast<float>(t)));
        const BufferRef b = upload(std::vector<float>(kCount));
        const SemaphoreRef s = semaphore();
        for (uint64_t round = 0; round < kRounds; ++round) {
          CommandBuffer commands;
          commands.dispatch(add, {{a}, {b}}, add_scalars(kCount, 1));
          commands.copy({b}, {a}, kCount * sizeof(float));
          const SemaphorePoint wait[] = {{s, round}}, signal[] = {{s, round + 1}};
          EXPECT_TRUE(device_->submit(commands, wait, signal).ok());
        }
        EXPECT_TRUE(s->wait(kRounds, 60'000).ok());
        results[static_cast<size_t>(t)] = download<float>(b);
      });
    }
  }
  if (!GetParam().executes) return;
  for (int t = 0; t < kThreads; ++t) {
    EXPECT_EQ(results[static_cast<size_t>(t)], std::vector<float>(kCount, static_cast<float>(t + kRounds))) << t;
  }
}

TEST_P(Conformance, ThreadsMayAllocateAtOnce) {
  std::atomic<int> wrong{0};
  {
    std::vector<std::jthread> threads;
    for (unsigned t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        for (uint32_t i = 0; i < 200; ++i) {
          const uint32_t mark = t << 16 | i;
          const std::vector<uint32_t> content(1 + i % 40 * 30, mark);
          const BufferRef buffer = upload(content);
          if (GetParam().executes && download<uint32_t>(buffer) != content) ++wrong;
        }
      });
    }
  }
  EXPECT_EQ(wrong, 0);
}

TEST_P(Conformance, CountsTheTimeItIsBusy) {
  const auto busy_seconds = [&] {
    const Result<double> seconds = device_->busy_seconds();
    EXPECT_TRUE(seconds.ok()) << seconds.status().to_string();
    return seconds.ok() ? *seconds : 0;
  };
  if (device_->busy_seconds().status().code() == Code::unsupported) GTEST_SKIP() << "this device has no clock";
  const BufferRef buffer = allocate(1 << 20);

  // It grows by what the device does, and by no more than the time that passes.
  const auto start = std::chrono::steady_clock::now();
  const double before = busy_seconds();
  run([&](CommandBuffer& c) {
    for (uint32_t i = 0; i < 20; ++i) c.fill({buffer}, 1 << 20, 0x01020300 + i);
  });
  const double after = busy_seconds();
  const double passed = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  EXPECT_GT(after, before);
  EXPECT_LE(after - before, passed);
  EXPECT_EQ(busy_seconds(), after);

  // Waiting is no work.
  const SemaphoreRef go = semaphore(), done = semaphore();
  ASSERT_TRUE(submit([&](CommandBuffer& c) { c.fill({buffer}, 64, 1); }, {{go, 1}}, {{done, 1}}).ok());
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  ASSERT_TRUE(go->signal(1).ok());
  ASSERT_TRUE(done->wait(1, 10'000).ok());
  ASSERT_TRUE(device_->wait_idle().ok());
  EXPECT_LT(busy_seconds() - after, 0.25);
}

}  // namespace sporkle::hal
