// The presets of all makers of GPUs: what a device of each is described as picks its preset, the kernels made with it
// are valid, and they compute right on a device that has the features (Mesa's driver) under the limits described.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>

#include "base/temporary_folder.h"
#include "codegen/compile.h"
#include "codegen/gpu_abi.h"
#include "hal/registry.h"
#include "tensor/attention.h"
#include "tensor/kernels/matmul_workgroup.h"
#include "tensor/layers.h"
#include "tensor/testing.h"
#include "tune/gpu_search.h"

namespace sporkle::tensor {
namespace {

using codegen::VulkanTarget;
using codegen::VulkanVendor;
using testing::random_tensor;
using testing::read;

struct Maker {
  VulkanVendor vendor;
  uint32_t subgroup, workgroup, shared_kib;
};
// Typical devices, and one of each maker with the least limits that Vulkan allows.
constexpr Maker kMakers[] = {
    {VulkanVendor::nvidia, 32, 1024, 32},   {VulkanVendor::amd, 64, 1024, 32},   {VulkanVendor::intel, 32, 1024, 32},
    {VulkanVendor::processor, 8, 1024, 32}, {VulkanVendor::other, 32, 256, 16},  {VulkanVendor::amd, 64, 128, 16},
    {VulkanVendor::intel, 16, 128, 16},     {VulkanVendor::nvidia, 32, 128, 16}, {VulkanVendor::processor, 4, 128, 16},
};

// A device that is described otherwise than it is: the same features, another maker and lower limits. What is loaded is
// checked by Khronos' validator where there is one.
class DescribedDevice final : public hal::Device {
 public:
  DescribedDevice(std::shared_ptr<hal::Device> inner, const VulkanTarget& target) : inner_(std::move(inner)) {
    info_ = inner_->info();
    info_.target = target.text();
  }
  const hal::DeviceInfo& info() const override { return info_; }
  Result<hal::BufferRef> allocate(size_t size_bytes) override { return inner_->allocate(size_bytes); }
  Status write(const hal::Binding& destination, std::span<const std::byte> data) override {
    return inner_->write(destination, data);
  }
  Status read(const hal::Binding& source, std::span<std::byte> data) override { return inner_->read(source, data); }
  Result<hal::ExecutableRef> load(std::span<const std::byte> code) override {
    const auto decoded = codegen::decode_gpu_code(code);
    if (!decoded.ok()) return decoded.status();
    largest_workgroup = std::max(largest_workgroup, decoded->workgroup_size);
    largest_shared = std::max<uint64_t>(largest_shared, decoded->shared_bytes);
    workgroups.push_back(decoded->workgroup_size);
    validate(*decoded);
    return inner_->load(code);
  }
  Result<hal::SemaphoreRef> create_semaphore(uint64_t initial_value) override {
    return inner_->create_semaphore(initial_value);
  }
  Status submit(const hal::CommandBuffer& commands, std::span<const hal::SemaphorePoint> wait,
                std::span<const hal::SemaphorePoint> signal) override {
    return inner_->submit(commands, wait, signal);
  }
  Status wait_idle() override { return inner_->wait_idle(); }

  uint32_t largest_workgroup = 0;
  uint64_t largest_shared = 0;
  std::vector<uint32_t> workgroups;
  int validated = 0;

 private:
  void validate(const codegen::GpuCode& code) {
    const std::string path = ::testing::TempDir() + "sporkle-presets-" + std::to_string(::getpid()) + ".spv";
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(code.spirv.data()), static_cast<std::streamsize>(4 * code.spirv.size()));
    const int status = std::system(("spirv-val --target-env vulkan1.2 '" + path + "' >&2").c_str());
    std::remove(path.c_str());
    EXPECT_EQ(status, 0);
    ++validated;
  }

  std::shared_ptr<hal::Device> inner_;
  hal::DeviceInfo info_;
};

struct Machine {
  Machine(std::shared_ptr<hal::Device> inner, const VulkanTarget& target)
      : folder(*TemporaryFolder::create("gpu_presets_test")),
        device(std::move(inner), target),
        kernels(device, folder.path()),
        context(device, kernels) {}
  TemporaryFolder folder;  // so that all is compiled, and validated
  DescribedDevice device;
  cache::KernelCache kernels;
  Context context;
};

std::optional<VulkanTarget> described(const Maker& maker, hal::Device& device) {
  auto target = VulkanTarget::parse(device.info().target);
  if (!target.ok()) return std::nullopt;
  target->vendor = maker.vendor;
  target->subgroup = maker.subgroup;
  target->workgroup = std::min(maker.workgroup, target->workgroup);
  target->shared_kib = std::min(maker.shared_kib, target->shared_kib);
  return *target;
}

// Products with and without edges, in batches, transposed and of few rows; reductions along both axes; a norm, the
// weights of attention, elementwise operations.
std::vector<std::vector<float>> compute(Context& c) {
  const Tensor x = random_tensor(c, {70, 96}, 1), w = random_tensor(c, {96, 80}, 2);
  const Tensor batch = random_tensor(c, {3, 40, 33}, 3);
  const Tensor long_rows = random_tensor(c, {6, 3000}, 4);
  const Tensor q = random_tensor(c, {2, 2, 48, 16}, 5), k = random_tensor(c, {2, 2, 48, 16}, 6),
               v = random_tensor(c, {2, 2, 48, 16}, 7);
  const Tensor gain = random_tensor(c, {96}, 8), bias = random_tensor(c, {96}, 9);
  return {read(matmul(x, w)),
          read(matmul(batch, batch.transpose(1, 2))),
          read(matmul(x.slice(0, 0, 2), w)),
          read(sum(long_rows, {1})),
          read(max(long_rows, {0})),
          read(layer_norm(x, gain, bias, 1e-5)),
          read(attention(q, k, v, {})),
          read(gelu(x * gain + bias))};
}

TEST(GpuPresets, KernelsOfEveryMakersAreValidAndGiveTheProcessorsBits) {
  const auto opened = hal::open_device("vulkan:0");
  if (!opened.ok()) GTEST_SKIP() << opened.status().message();
  const std::vector<std::vector<float>> expected = compute(testing::context());
  for (const Maker& maker : kMakers) {
    const auto target = described(maker, **opened);
    ASSERT_TRUE(target.has_value());
    SCOPED_TRACE(target->text());
    Machine machine(*opened, *target);
    const std::vector<std::vector<float>> found = compute(machine.context);
    for (size_t i = 0; i < expected.size(); ++i) EXPECT_TRUE(testing::same_bits(found[i], expected[i])) << i;
    EXPECT_GT(machine.device.validated, 8);
    EXPECT_LE(machine.device.largest_workgroup, target->workgroup);
    EXPECT_LE(machine.device.largest_shared, 1024u * target->shared_kib);
    // The preset is the vendor's: elementwise kernels on AMD's are of 256 invocations, where a device has them.
    const bool large = std::ranges::count(machine.device.workgroups, 256u) > 0;
    if (maker.vendor == VulkanVendor::amd) {
      EXPECT_EQ(large, target->workgroup >= 256);
    } else if (maker.vendor == VulkanVendor::processor) {
      EXPECT_FALSE(large);
    }
  }
}

// The tiles themselves, which a device without a fused multiply-add would not get: valid, within the limits, and right
// but for the last places where the device's is none.
TEST(GpuPresets, EveryTileIsValidAndRight) {
  const auto opened = hal::open_device("vulkan:0");
  if (!opened.ok()) GTEST_SKIP() << opened.status().message();
  std::vector<std::string> seen;
  for (const Maker& maker : kMakers) {
    auto target = described(maker, **opened);
    ASSERT_TRUE(target.has_value());
    target->fma32 = true;
    for (const int64_t size : {40, 400, 1100, 4096}) {
      const tune::GpuPlan plan = tune::preset_gpu_plan({4, 1, size, size, size, true, true, 4 * size}, *target);
      const std::string key = plan.text() + std::to_string(target->workgroup);
      if (std::ranges::find(seen, key) != seen.end()) continue;
      seen.push_back(key);
      SCOPED_TRACE(target->text() + " " + plan.text());
      DescribedDevice device(*opened, *target);
      const tune::GpuTile& tile = plan.tile;
      const int64_t M = tile.rows + 3, N = tile.columns + 5, K = 2 * tile.depth + 3;
      const WorkgroupProduct product{DType::f32, 0, {K, 1}, {N, 1}, {N, 1}, tile, false, nullptr};
      const auto code = codegen::compile(trace_workgroup_product(product), {}, target->text());
      ASSERT_TRUE(code.ok()) << code.status().to_string();
      const auto executable = device.load(*code);
      ASSERT_TRUE(executable.ok()) << executable.status().to_string();
      EXPECT_LE(device.largest_workgroup, target->workgroup);
      EXPECT_LE(device.largest_shared, 1024u * target->shared_kib);
      std::vector<float> a = testing::random_values(M * K, 1), b = testing::random_values(K * N, 2),
                         c(static_cast<size_t>(M * N), 99);
      std::vector<hal::Binding> bindings;
      for (std::vector<float>* host : {&a, &b, &c}) {
        bindings.push_back({*device.allocate(host->size() * sizeof(float))});
        ASSERT_TRUE(device.write(bindings.back(), std::as_bytes(std::span(*host))).ok());
      }
      std::vector<uint64_t> scalars{static_cast<uint64_t>(M), static_cast<uint64_t>(N), static_cast<uint64_t>(K)};
      for (const Strides* strides : {&product.a, &product.b, &product.c}) append_strides(*strides, &scalars);
      hal::CommandBuffer commands;
      commands.dispatch(*executable, bindings, scalars);
      ASSERT_TRUE(device.submit(commands, {}, {}).ok());
      ASSERT_TRUE(device.read(bindings[2], std::as_writable_bytes(std::span(c))).ok());
      for (int64_t i = 0; i < M; ++i)
        for (int64_t j = 0; j < N; ++j) {
          double sum = 0;
          for (int64_t k = 0; k < K; ++k)
            sum += static_cast<double>(a[static_cast<size_t>(i * K + k)]) * b[static_cast<size_t>(k * N + j)];
          ASSERT_NEAR(c[static_cast<size_t>(i * N + j)], sum, 1e-4) << i << " " << j;
        }
    }
  }
  EXPECT_GE(seen.size(), 8u);
}

// Whatever plan tuning may choose, the bits are those of the processor.
TEST(GpuPresets, EveryPlanGivesTheSameBits) {
  const auto opened = hal::open_device("vulkan:0");
  if (!opened.ok()) GTEST_SKIP() << opened.status().message();
  const auto target = *VulkanTarget::parse((*opened)->info().target);
  const tune::ProductShape shape{4, 1, 50, 70, 37, true, true, 280};
  const auto product = [&](Context& c) {
    return read(matmul(random_tensor(c, {50, 37}, 1), random_tensor(c, {37, 70}, 2)));
  };
  const std::vector<float> expected = product(testing::context());
  std::vector<tune::GpuPlan> plans = tune::gpu_neighbours(tune::preset_gpu_plan(shape, target), shape, target);
  ASSERT_GE(plans.size(), 3u);
  plans.resize(std::min<size_t>(plans.size(), 8));
  plans.push_back({.by_element = true, .tile = {}});
  for (const tune::GpuPlan& plan : plans) {
    int asked = 0;
    ContextOptions options;
    options.choose_gpu_product = [&](const tune::ProductShape& s) {
      EXPECT_EQ(s, shape);
      ++asked;
      return std::optional(plan);
    };
    const auto context = Context::open("vulkan:0", {}, options);
    ASSERT_TRUE(context.ok());
    EXPECT_TRUE(testing::same_bits(product(**context), expected)) << plan.text();
    EXPECT_EQ(asked, 1);
  }
}

}  // namespace
}  // namespace sporkle::tensor
