// The tiled product equals the plain chain of fused multiply-adds, as the interpreter runs it: whole tiles, edges,
// pieces of k, transposed operands, batches.
#include "tensor/kernels/matmul_workgroup.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "codegen/compile.h"
#include "codegen/gpu_abi.h"
#include "codegen/vulkan_target.h"
#include "hal/registry.h"
#include "ir/interpreter.h"

namespace sporkle::tensor {
namespace {

struct Case {
  int64_t batches, rows, columns, depth;
  bool a_transposed, b_transposed;
};

void check(const Case& c, const tune::GpuTile& tile, bool by_element = false) {
  SCOPED_TRACE(std::to_string(c.batches) + "x" + std::to_string(c.rows) + "x" + std::to_string(c.columns) + "x" +
               std::to_string(c.depth) + (c.a_transposed ? " a" : "") + (c.b_transposed ? " b" : ""));
  const int64_t M = c.rows, N = c.columns, K = c.depth;
  WorkgroupProduct product{DType::f32,
                           1,
                           c.a_transposed ? Strides{M * K, 1, M} : Strides{M * K, K, 1},
                           c.b_transposed ? Strides{K * N, 1, K} : Strides{K * N, N, 1},
                           {M * N, N, 1},
                           tile,
                           M % tile.rows == 0 && N % tile.columns == 0,
                           nullptr};
  const ir::Kernel kernel = by_element ? trace_element_product(product) : trace_workgroup_product(product);
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  std::vector<float> a(static_cast<size_t>(c.batches * M * K)), b(static_cast<size_t>(c.batches * K * N));
  for (float& x : a) x = normal(random);
  for (float& x : b) x = normal(random);
  std::vector<float> found(static_cast<size_t>(c.batches * M * N), 99), expected;
  for (int64_t batch = 0; batch < c.batches; ++batch)
    for (int64_t i = 0; i < M; ++i)
      for (int64_t j = 0; j < N; ++j) {
        float sum = 0;
        for (int64_t p = 0; p < K; ++p)
          sum = std::fma(a[static_cast<size_t>(batch * M * K + (c.a_transposed ? p * M + i : i * K + p))],
                         b[static_cast<size_t>(batch * K * N + (c.b_transposed ? j * K + p : p * N + j))], sum);
        expected.push_back(sum);
      }
  const auto view = [](std::vector<float>& data) {
    return ir::InterpreterBuffer{reinterpret_cast<std::byte*>(data.data()), data.size() * sizeof(float)};
  };
  const ir::InterpreterBuffer buffers[] = {view(a), view(b), view(found)};
  std::vector<uint64_t> scalars;
  for (const int64_t n : {c.batches, M, N, K}) scalars.push_back(static_cast<uint64_t>(n));
  for (const Strides* strides : {&product.a, &product.b, &product.c}) append_strides(*strides, &scalars);
  const Status status = ir::interpret(kernel, buffers, scalars);
  ASSERT_TRUE(status.ok()) << status.to_string();
  EXPECT_TRUE(found == expected);
}

constexpr tune::GpuTile kSmall = {16, 16, 4, 4, 4}, kNarrow = {8, 16, 4, 2, 8};

TEST(WorkgroupProduct, WholeTiles) {
  for (const bool a_transposed : {false, true})
    for (const bool b_transposed : {false, true}) check({1, 32, 16, 8, a_transposed, b_transposed}, kSmall);
}

TEST(WorkgroupProduct, Edges) {
  for (const int64_t depth : {0, 1, 3, 4, 9}) check({1, 17, 5, depth, false, false}, kSmall);
  check({1, 9, 33, 7, true, true}, kNarrow);
}

TEST(WorkgroupProduct, Batches) { check({3, 10, 20, 6, false, true}, kNarrow); }

TEST(WorkgroupProduct, ByElement) {
  check({2, 3, 10, 7, false, false}, kSmall, true);
  check({1, 10, 1, 0, true, true}, kSmall, true);
}

TEST(WorkgroupProduct, EveryTileFitsTheLeastDevice) {
  for (const DType type : {DType::f32, DType::f64})
    for (const bool fused : {false, true})
      for (const int64_t size : {5, 100, 1000, 10000})
        for (const auto& [workgroup, shared_kib] : {std::pair(256u, 32u), {128u, 16u}}) {
          codegen::VulkanTarget target;
          target.f64 = true;
          target.fma32 = target.fma64 = fused;
          target.workgroup = workgroup;
          target.shared_kib = shared_kib;
          const int bytes = static_cast<int>(ir::dtype_size(type));
          const tune::GpuTile tile =
              tune::preset_gpu_plan({bytes, 1, size, size, size, true, true, bytes * size}, target).tile;
          target.fma32 = target.fma64 = true;  // the long code is the same in its memory
          const WorkgroupProduct product{type, 0, {1000, 1}, {1000, 1}, {1000, 1}, tile, false, nullptr};
          const auto bytes_of_code = codegen::compile(trace_workgroup_product(product), {}, target.text());
          ASSERT_TRUE(bytes_of_code.ok()) << bytes_of_code.status().to_string();
          const auto code = codegen::decode_gpu_code(*bytes_of_code);
          ASSERT_TRUE(code.ok());
          EXPECT_EQ(code->iterations_per_workgroup, 1u);
          EXPECT_EQ(code->workgroup_size, static_cast<uint32_t>(product.tile.invocations()));
          EXPECT_GT(code->shared_bytes, 0u);
          EXPECT_LE(code->shared_bytes, static_cast<uint64_t>(tile.shared_bytes(bytes)));
          // Nothing lies in device memory: all is in registers and workgroup memory.
          const std::vector<uint64_t> scalars(code->launch.scalar_count(), 1000);
          EXPECT_EQ(code->launch.evaluate(scalars).scratch_bytes, 0);
        }
}

// The code for devices with a fused multiply-add, on one that may have none: all but the last places of the result.
TEST(WorkgroupProduct, RunsOnADevice) {
  const auto opened = hal::open_device("vulkan:0");
  if (!opened.ok()) GTEST_SKIP() << opened.status().message();
  hal::Device& device = **opened;
  auto target = *codegen::VulkanTarget::parse(device.info().target);
  target.fma32 = true;
  constexpr int64_t M = 128, N = 256;
  for (const int64_t K : {8, 24, 37}) {
    const WorkgroupProduct product{DType::f32, 0,      {K, 1}, {N, 1}, {N, 1}, tune::GpuTile{128, 256, 8, 16, 8},
                                   true,       nullptr};
    const auto code = codegen::compile(trace_workgroup_product(product), {}, target.text());
    ASSERT_TRUE(code.ok()) << code.status().to_string();
    const auto executable = device.load(*code);
    ASSERT_TRUE(executable.ok()) << executable.status().to_string();
    std::mt19937 random(5);
    std::uniform_real_distribution<float> uniform(-1, 1);
    std::vector<float> a(M * K), b(K * N), c(M * N, 99);
    for (float& x : a) x = uniform(random);
    for (float& x : b) x = uniform(random);
    std::vector<hal::Binding> bindings;
    for (std::vector<float>* host : {&a, &b, &c}) {
      bindings.push_back({*device.allocate(host->size() * sizeof(float))});
      ASSERT_TRUE(device.write(bindings.back(), std::as_bytes(std::span(*host))).ok());
    }
    std::vector<uint64_t> scalars{M, N, static_cast<uint64_t>(K)};
    for (const Strides* strides : {&product.a, &product.b, &product.c}) append_strides(*strides, &scalars);
    hal::CommandBuffer commands;
    commands.dispatch(*executable, bindings, scalars);
    ASSERT_TRUE(device.submit(commands).ok());
    ASSERT_TRUE(device.read(bindings[2], std::as_writable_bytes(std::span(c))).ok());
    for (int64_t i = 0; i < M; ++i)
      for (int64_t j = 0; j < N; ++j) {
        double sum = 0;
        for (int64_t k = 0; k < K; ++k)
          sum += static_cast<double>(a[static_cast<size_t>(i * K + k)]) * b[static_cast<size_t>(k * N + j)];
        ASSERT_NEAR(c[static_cast<size_t>(i * N + j)], sum, 1e-5) << i << " " << j;
      }
  }
}

}  // namespace
}  // namespace sporkle::tensor
