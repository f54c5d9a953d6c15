// 16-bit formats and dot products of packed numbers, for every level of this processor.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "codegen/compile.h"
#include "dsl/kernel.h"
#include "hal/registry.h"
#include "ir/interpreter.h"

namespace sporkle::hal {
namespace {

using dsl::Expr;
using ir::DType;

using Bytes = std::vector<std::byte>;

template <typename T>
Bytes bytes_of(const std::vector<T>& values) {
  Bytes bytes(values.size() * sizeof(T));
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

// The kernel's buffers after it ran on the processor at a level.
Bytes run_on(const std::string& level, const ir::Kernel& kernel, const std::string& schedule,
             const std::vector<Bytes>& inputs, size_t result_bytes, const std::vector<uint64_t>& scalars) {
  const auto device = open_device("cpu", {.threads = 1, .cpu_target = level});
  EXPECT_TRUE(device.ok()) << device.status().to_string();
  const auto code = codegen::compile(kernel, *lower::Schedule::parse(schedule), (*device)->info().target);
  EXPECT_TRUE(code.ok()) << code.status().to_string();
  if (!code.ok()) return {};
  CommandBuffer commands;
  std::vector<Binding> bindings;
  for (const Bytes& input : inputs) {
    bindings.push_back({*(*device)->allocate(input.size())});
    EXPECT_TRUE((*device)->write(bindings.back(), input).ok());
  }
  bindings.push_back({*(*device)->allocate(result_bytes)});
  commands.dispatch(*(*device)->load(*code), bindings, scalars);
  EXPECT_TRUE((*device)->submit(commands).ok());
  EXPECT_TRUE((*device)->wait_idle().ok());
  Bytes result(result_bytes);
  EXPECT_TRUE((*device)->read(bindings.back(), result).ok());
  return result;
}

Bytes interpreted(const ir::Kernel& kernel, std::vector<Bytes> inputs, size_t result_bytes,
                  const std::vector<uint64_t>& scalars) {
  inputs.emplace_back(result_bytes);
  std::vector<ir::InterpreterBuffer> buffers;
  for (Bytes& input : inputs) buffers.push_back({input.data(), input.size()});
  const Status status = ir::interpret(kernel, buffers, scalars);
  EXPECT_TRUE(status.ok()) << status.to_string();
  return inputs.back();
}

ir::Kernel cast_kernel(DType from, DType to) {
  return dsl::trace("cast", [&](dsl::KernelBuilder& k) {
    const dsl::Buffer x = k.input(from, "x"), y = k.output(to, "y");
    k.range("i", k.size("n"), [&](Expr i) { y.store(i, dsl::cast(to, x[i])); });
  });
}

TEST(LowPrecision, EveryLevelConvertsLikeTheInterpreter) {
  constexpr size_t kCount = 65536 + 5;
  std::mt19937_64 random(1);
  std::vector<uint16_t> halves;
  std::vector<uint32_t> words;
  for (size_t i = 0; i < kCount; ++i) {
    halves.push_back(static_cast<uint16_t>(i));
    // Whole f32 patterns, and those that lie on or beside the edges of the 16-bit formats.
    const auto bits = static_cast<uint32_t>(random());
    words.push_back(i % 3 == 0 ? bits : (bits & 0xffff0000) | (i % 3 == 1 ? 0x8000 : 0x7fff + i % 7));
  }
  for (size_t i = 0; i < 2000; ++i) words[i] = (words[i] & 0x80001fff) | (0x38000000 - static_cast<uint32_t>(i) * 8192);
  for (const DType type : {DType::f16, DType::bf16}) {
    const ir::Kernel narrow = cast_kernel(DType::f32, type), widen = cast_kernel(type, DType::f32);
    const auto narrowed = interpreted(narrow, {bytes_of(words)}, 2 * kCount, {kCount});
    auto widened = interpreted(widen, {bytes_of(halves)}, 4 * kCount, {kCount});
    const auto to_whole = cast_kernel(type, DType::i32);
    const auto whole = interpreted(to_whole, {bytes_of(halves)}, 4 * kCount, {kCount});
    for (const std::string& level : codegen::host_cpu_levels())
      for (const char* schedule : {"", "i:vec8", "i:vec16x2"}) {
        SCOPED_TRACE(level + " " + std::string(ir::dtype_name(type)) + " " + schedule);
        EXPECT_EQ(run_on(level, narrow, schedule, {bytes_of(words)}, 2 * kCount, {kCount}), narrowed);
        EXPECT_EQ(run_on(level, widen, schedule, {bytes_of(halves)}, 4 * kCount, {kCount}), widened);
        EXPECT_EQ(run_on(level, to_whole, schedule, {bytes_of(halves)}, 4 * kCount, {kCount}), whole);
      }
  }
}

// y[i] = the dot products of row x[i] with column w[., i], over packed words.
ir::Kernel dot_kernel(DType type) {
  return dsl::trace(
      "dots",
      [&](dsl::KernelBuilder& k) {
        const dsl::Buffer x = k.input(DType::u32, "x"), w = k.input(DType::u32, "w"), y = k.output(type, "y");
        const Expr rows = k.size("rows"), columns = k.size("columns"), depth = k.size("depth");
        k.range("m", rows, [&](Expr m) {
          k.range("n", columns, [&](Expr n) {
            y.store(m * columns + n, k.dot_chain("k", depth, dsl::constant(type, 1), [&](Expr i) {
              return std::pair(x[m * depth + i], w[i * columns + n]);
            }));
          });
        });
      },
      type == DType::f32 ? ir::Numerics::fast : ir::Numerics::strict);
}

constexpr size_t kRows = 5, kColumns = 101, kDepth = 33;
const std::vector<uint64_t> kScalars{kRows, kColumns, kDepth};
constexpr const char* kSchedules[] = {"", "m:tile2 n:vec4 k:unroll2", "n:vec8x2", "m:tile4 n:vec16x2 k:unroll4",
                                      "n:vec32"};

TEST(LowPrecision, EveryLevelAddsProductsOfBytesExactly) {
  std::mt19937 random(2);
  std::vector<uint32_t> x(kRows * kDepth), w(kDepth * kColumns);
  for (uint32_t& v : x) v = random() % 4 ? random() : 0xffffffff;
  for (uint32_t& v : w) v = random() % 4 ? random() : 0x80807f7f;
  const ir::Kernel kernel = dot_kernel(DType::i32);
  const auto expected = interpreted(kernel, {bytes_of(x), bytes_of(w)}, 4 * kRows * kColumns, kScalars);
  for (const std::string& level : codegen::host_cpu_levels())
    for (const char* schedule : kSchedules)
      EXPECT_EQ(run_on(level, kernel, schedule, {bytes_of(x), bytes_of(w)}, 4 * kRows * kColumns, kScalars), expected)
          << level << " " << schedule;
}

TEST(LowPrecision, EveryLevelAddsProductsOfPairsInSinglePrecision) {
  std::mt19937 random(3);
  const auto pair = [&] {
    const auto one = [&] {
      const float value = std::uniform_real_distribution<float>(-1, 1)(random);
      uint32_t bits = 0;
      std::memcpy(&bits, &value, sizeof bits);
      return bits >> 16;
    };
    const uint32_t low = one();
    return low | one() << 16;
  };
  std::vector<uint32_t> x(kRows * kDepth), w(kDepth * kColumns);
  for (uint32_t& v : x) v = pair();
  for (uint32_t& v : w) v = pair();
  const ir::Kernel kernel = dot_kernel(DType::f32);
  const size_t size = 4 * kRows * kColumns;
  const Bytes defined = interpreted(kernel, {bytes_of(x), bytes_of(w)}, size, kScalars);
  std::vector<float> expected(kRows * kColumns), found(kRows * kColumns);
  std::memcpy(expected.data(), defined.data(), size);
  for (const std::string& level : codegen::host_cpu_levels())
    for (const char* schedule : kSchedules) {
      const Bytes result = run_on(level, kernel, schedule, {bytes_of(x), bytes_of(w)}, size, kScalars);
      ASSERT_EQ(result.size(), size);
      std::memcpy(found.data(), result.data(), size);
      // 66 products below 1 in size: each of the roundings is at most 2^-24 of a sum that stays below 32.
      for (size_t i = 0; i < found.size(); ++i)
        ASSERT_NEAR(found[i], expected[i], 2 * 66 * 0x1p-24 * 32) << level << " " << schedule << " " << i;
    }
}

}  // namespace
}  // namespace sporkle::hal
