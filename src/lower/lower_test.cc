#include "lower/lower.h"

#include <gtest/gtest.h>

#include <random>

#include "dsl/kernel.h"
#include "ir/interpreter.h"
#include "ir/verifier.h"

namespace sporkle::lower {
namespace {

using dsl::Buffer;
using dsl::Expr;
using dsl::KernelBuilder;
using ir::Combine;
using ir::DType;

TEST(Schedule, TextRoundTrips) {
  for (const char* text : {"t:thread m:tile6 n:vec16x4 k:unroll2", "i:thread1024 i:vec16 i:stream", ""}) {
    const auto schedule = Schedule::parse(text);
    ASSERT_TRUE(schedule.ok()) << schedule.status().to_string();
    EXPECT_EQ(schedule->text(), text);
  }
}

TEST(Schedule, EveryMistakeHasItsMessage) {
  const std::pair<const char*, const char*> cases[] = {
      {"thread", "no range name"}, {"i:vec12", "power of two"},    {"i:vec16x0", "count"},
      {"i:threadx", "above 0"},    {"i:tile0", "from 1 to 64"},    {"i:frob", "unknown kind"},
      {"i:vec16y", "left over"},   {"k:unroll99", "from 1 to 64"}, {":vec16", "no range name"},
  };
  for (const auto& [text, expected] : cases) {
    const auto schedule = Schedule::parse(text);
    ASSERT_FALSE(schedule.ok()) << text;
    EXPECT_NE(schedule.status().message().find(expected), std::string::npos) << schedule.status().to_string();
  }
}

// Runs the kernel as written and as lowered on the same data; every byte of every buffer must agree.
void expect_same_bits(const ir::Kernel& kernel, const char* schedule_text, std::vector<size_t> sizes,
                      std::vector<uint64_t> scalars) {
  SCOPED_TRACE(std::string(kernel.name) + " with " + schedule_text);
  const auto schedule = Schedule::parse(schedule_text);
  ASSERT_TRUE(schedule.ok());
  ASSERT_TRUE(ir::verify(kernel).ok()) << ir::verify(kernel).to_string();
  const auto lowered = lower(kernel, *schedule);
  ASSERT_TRUE(lowered.ok()) << lowered.status().to_string();
  ASSERT_TRUE(ir::verify(lowered->kernel).ok()) << ir::verify(lowered->kernel).to_string();
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  std::vector<std::vector<float>> original, changed;
  for (const size_t size : sizes) {
    std::vector<float>& data = original.emplace_back(size);
    for (float& x : data) x = normal(random);
  }
  changed = original;
  const auto run = [&](const ir::Kernel& k, std::vector<std::vector<float>>& data) {
    std::vector<ir::InterpreterBuffer> buffers;
    for (auto& d : data) buffers.push_back({reinterpret_cast<std::byte*>(d.data()), d.size() * sizeof(float)});
    return ir::interpret(k, buffers, scalars);
  };
  const Status before = run(kernel, original), after = run(lowered->kernel, changed);
  ASSERT_TRUE(before.ok()) << before.to_string();
  ASSERT_TRUE(after.ok()) << after.to_string();
  for (size_t b = 0; b < sizes.size(); ++b)
    for (size_t i = 0; i < sizes[b]; ++i)
      ASSERT_EQ(std::bit_cast<uint32_t>(original[b][i]), std::bit_cast<uint32_t>(changed[b][i]))
          << "buffer " << b << " element " << i;
}

ir::Kernel scaled_sum() {
  return dsl::trace("scaled_sum", [](KernelBuilder& k) {
    const Expr n = k.size("n");
    const Buffer x = k.input(DType::f32, "x"), y = k.in_out(DType::f32, "y");
    k.range("i", n, [&](Expr i) { y.store(i, fma(x[i], x[i], y[i])); });
  });
}

TEST(ApplySchedule, LoopsOfEverySize) {
  for (const char* schedule :
       {"", "i:thread", "i:thread5", "i:vec4", "i:vec4x2", "i:thread32 i:vec4x4", "i:tile3", "i:tile6", "i:tile1"})
    for (const size_t n : {1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 64, 67})
      expect_same_bits(scaled_sum(), schedule, {n, n}, {n});
}

ir::Kernel row_statistics() {
  return dsl::trace("row_statistics", [](KernelBuilder& k) {
    const Expr rows = k.size("rows"), columns = k.size("columns");
    const Buffer x = k.input(DType::f32, "x"), y = k.output(DType::f32, "y"), top = k.output(DType::f32, "top");
    k.range("r", rows, [&](Expr r) {
      const auto at = [&](Expr c) { return x[r * columns + c]; };
      const Expr mean = k.sum("a", columns, DType::f32, at) / cast(DType::f32, columns);
      const Expr variance = k.sum("b", columns, DType::f32, [&](Expr c) {
        const Expr d = at(c) - mean;
        return d * d;
      });
      top.store(r, k.maximum("m", columns, DType::f32, at));
      k.range("c", columns, [&](Expr c) { y.store(r * columns + c, (at(c) - mean) / sqrt(variance)); });
    });
  });
}

TEST(ExpandLanes, RowReductions) {
  for (const char* schedule : {"", "r:thread c:vec8", "r:thread2 c:vec4x2"})
    for (const size_t columns : {1, 15, 16, 17, 48, 67})
      expect_same_bits(row_statistics(), schedule, {3 * columns, 3 * columns, 3}, {3, columns});
}

ir::Kernel column_sums(int lanes) {
  return dsl::trace("column_sums", [lanes](KernelBuilder& k) {
    const Expr rows = k.size("rows"), columns = k.size("columns");
    const Buffer x = k.input(DType::f32, "x"), y = k.output(DType::f32, "y");
    k.range("c", columns, [&](Expr c) {
      y.store(c, k.reduce("r", Combine::add, lanes, rows, dsl::constant(DType::f32, 0),
                          [&](Expr r) { return x[r * columns + c]; }));
    });
  });
}

TEST(ExpandLanes, InsideAVector) {
  for (const int lanes : {1, 4, 16})
    for (const char* schedule : {"", "c:vec8", "c:thread8 c:vec4x2 r:unroll3"})
      for (const size_t rows : {1, 3, 16, 21})
        expect_same_bits(column_sums(lanes), schedule, {rows * 13, 13}, {rows, 13});
}

ir::Kernel packed_gemm() {
  return dsl::trace("packed_gemm", [](KernelBuilder& k) {
    const Expr m_size = k.size("M"), n_size = k.size("N"), k_size = k.size("K");
    const Buffer a = k.input(DType::f32, "a"), b = k.input(DType::f32, "b"), c = k.output(DType::f32, "c");
    const Buffer panel = k.scratch(DType::f32, "panel", k_size * 8);
    k.range("t", (n_size + 7) / 8, [&](Expr t) {
      const Expr n0 = t * 8;
      k.range("pk", k_size, [&](Expr kk) {
        k.range("pn", 8, [&](Expr n) { panel.store(kk * 8 + n, b.load(kk * n_size + n0 + n, n0 + n < n_size, 0)); });
      });
      k.range("m", m_size, [&](Expr m) {
        k.range("n", 8, [&](Expr n) {
          const Expr acc = k.fma_chain("k", k_size, dsl::constant(DType::f32, 0),
                                       [&](Expr kk) { return std::pair(a[m * k_size + kk], panel[kk * 8 + n]); });
          c.store(m * n_size + n0 + n, tanh(acc), n0 + n < n_size);
        });
      });
    });
  });
}

TEST(ApplySchedule, GemmTiles) {
  for (const char* schedule : {"", "t:thread pn:vec4x2 m:tile3 n:vec4x2 k:unroll2", "t:thread m:tile4 n:vec8"})
    for (const auto& [m, n, k] : {std::tuple{1, 1, 1}, {5, 9, 3}, {7, 17, 10}}) {
      const auto u = [](int x) { return static_cast<size_t>(x); };
      expect_same_bits(packed_gemm(), schedule, {u(m * k), u(k * n), u(m * n)}, {u(m), u(n), u(k)});
    }
}

ir::Kernel continued_gemm() {
  return dsl::trace("continued_gemm", [](KernelBuilder& k) {
    const Expr rows = k.size("M"), columns = k.size("N"), depth = k.size("K");
    const Buffer a = k.input(DType::f32, "a"), b = k.input(DType::f32, "b"), c = k.in_out(DType::f32, "c");
    k.range("m", rows, [&](Expr m) {
      k.range("n", columns, [&](Expr n) {
        const Expr at = m * columns + n;
        c.store(at, k.fma_chain("k", depth, c[at],
                                [&](Expr i) { return std::pair(a[m * depth + i], b[i * columns + n]); }));
      });
    });
  });
}

TEST(ApplySchedule, IterationsThatReadTheirOwnResultStoreTogether) {
  for (const auto& [m, n, k] : {std::tuple{1, 1, 1}, {5, 9, 3}, {7, 17, 10}}) {
    const auto u = [](int x) { return static_cast<size_t>(x); };
    expect_same_bits(continued_gemm(), "m:tile3 n:vec4x2", {u(m * k), u(k * n), u(m * n)}, {u(m), u(n), u(k)});
  }
  const auto lowered = lower(continued_gemm(), *Schedule::parse("m:tile3 n:vec4x2"));
  ASSERT_TRUE(lowered.ok());
  size_t most = 0;
  ir::visit_post_order(lowered->kernel.body, [&](const ir::Node* node) {
    if (node->op == ir::Op::together) most = std::max<size_t>(most, node->source_count);
  });
  EXPECT_EQ(most, 6u);  // three rows of two vectors, in one loop over k
}

TEST(ApplySchedule, WhatCannotBeIsAnError) {
  const std::pair<const char*, const char*> cases[] = {
      {"z:vec4", "no range \"z\""}, {"r:vec4 c:vec4", "vectors nest"},  {"r:thread c:thread", "thread loops nest"},
      {"r:unroll2", "use tile"},    {"r:vec4 r:tile2", "items follow"}, {"r:thread r:vec4", "leaves nothing"},
  };
  for (const auto& [text, expected] : cases) {
    const auto lowered = lower(row_statistics(), *Schedule::parse(text));
    ASSERT_FALSE(lowered.ok()) << text;
    EXPECT_NE(lowered.status().message().find(expected), std::string::npos) << lowered.status().to_string();
  }
}

TEST(ApplySchedule, SerialLoopsStayInOrder) {
  const ir::Kernel kernel = dsl::trace("prefix", [](KernelBuilder& k) {
    const Buffer x = k.in_out(DType::f32, "x");
    k.serial("i", k.size("n"), [&](Expr i) { x.store(i + 1, x[i] + x[i + 1]); });
  });
  expect_same_bits(kernel, "", {10}, {9});
  EXPECT_FALSE(lower(kernel, *Schedule::parse("i:vec4")).ok());
}

}  // namespace
}  // namespace sporkle::lower
