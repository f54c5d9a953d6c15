// Copies between two devices by every way, on two devices of the same driver; bits and the way taken are checked.
#include "hal/device_copy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <random>
#include <thread>

#include "hal/registry.h"
#include "hal/vulkan/functions.h"
#include "hal/vulkan/vulkan_device.h"

namespace sporkle::hal {
namespace {

constexpr size_t kBlock = 64 << 10;

std::vector<std::byte> random_bytes(size_t size) {
  std::mt19937_64 random(size);
  std::vector<std::byte> bytes(size);
  for (std::byte& b : bytes) b = static_cast<std::byte>(random());
  return bytes;
}

std::shared_ptr<Device> open_vulkan(bool external_memory) {
  VulkanOptions options;
  options.host_visible = false;  // as a card's memory is
  options.external_memory = external_memory;
  const auto device = open_vulkan_device(0, options);
  EXPECT_TRUE(device.ok()) << device.status().to_string();
  return device.ok() ? *device : nullptr;
}

class DeviceCopy : public testing::Test {
 protected:
  void SetUp() override {
    if (const auto count = count_vulkan_devices(); !count.ok()) GTEST_SKIP() << count.status().to_string();
  }

  // Copies of all kinds of sizes and places arrive, and touch nothing else.
  static void check_copies(DeviceCopier& copier, Device& source, Device& destination) {
    constexpr size_t kBytes = 5 * kBlock + 1000, kMargin = 256;
    const std::vector<std::byte> data = random_bytes(kBytes);
    const auto from = source.allocate(kBytes), to = destination.allocate(kBytes + 2 * kMargin);
    ASSERT_TRUE(from.ok() && to.ok());
    ASSERT_TRUE(source.write({*from}, data).ok());
    for (const size_t size : {size_t{0}, size_t{1}, size_t{4096}, kBlock, kBlock + 4, 2 * kBlock, kBytes}) {
      for (const size_t offset : {size_t{0}, size_t{12}}) {
        if (offset + size > kBytes) continue;
        std::vector<std::byte> expected(kBytes + 2 * kMargin, std::byte{7});
        ASSERT_TRUE(destination.write({*to}, expected).ok());
        const Status status = copier.copy({*from, offset}, {*to, kMargin}, size);
        ASSERT_TRUE(status.ok()) << status.to_string();
        std::copy_n(data.begin() + static_cast<std::ptrdiff_t>(offset), size,
                    expected.begin() + static_cast<std::ptrdiff_t>(kMargin));
        std::vector<std::byte> found(expected.size());
        ASSERT_TRUE(destination.read({*to}, found).ok());
        EXPECT_TRUE(found == expected) << size << " bytes from " << offset;
      }
    }
  }

  static void check_route(CopyRoute route) {
    SCOPED_TRACE(copy_route_name(route));
    const auto source = open_vulkan(true), destination = open_vulkan(true);
    ASSERT_TRUE(source && destination);
    const auto copier = DeviceCopier::create(*source, *destination, {.shortest = route, .block_bytes = kBlock});
    ASSERT_TRUE(copier.ok()) << copier.status().to_string();
    if ((*copier)->route() != route)
      GTEST_SKIP() << "this driver does not offer it (" << (*copier)->reason() << "); "
                   << copy_route_name((*copier)->route()) << " was taken";
    EXPECT_EQ((*copier)->reason(), "");
    check_copies(**copier, *source, *destination);
  }
};

TEST_F(DeviceCopy, ThroughSharedMemory) { check_route(CopyRoute::shared); }
TEST_F(DeviceCopy, ThroughHostMemoryThatBothReach) { check_route(CopyRoute::pinned); }
TEST_F(DeviceCopy, ThroughEachOnesHostMemory) { check_route(CopyRoute::staged); }
TEST_F(DeviceCopy, ByReadsAndWrites) { check_route(CopyRoute::read_write); }

TEST_F(DeviceCopy, LargeCopiesThroughSharedMemoryAreKernels) {
  const auto source = open_vulkan(true), destination = open_vulkan(true);
  ASSERT_TRUE(source && destination);
  constexpr size_t kLarge = (5 << 20) + 52;
  const auto copier = DeviceCopier::create(*source, *destination, {.block_bytes = 2 << 20});
  ASSERT_TRUE(copier.ok()) << copier.status().to_string();
  const std::vector<std::byte> data = random_bytes(kLarge);
  const auto from = source->allocate(kLarge), to = destination->allocate(kLarge);
  ASSERT_TRUE(source->write({*from}, data).ok());
  const Status status = (*copier)->copy({*from}, {*to}, kLarge);
  ASSERT_TRUE(status.ok()) << status.to_string();
  std::vector<std::byte> found(kLarge);
  ASSERT_TRUE(destination->read({*to}, found).ok());
  EXPECT_TRUE(found == data);
}

TEST_F(DeviceCopy, GoesTheNextWayWhereOneEndSharesNothing) {
  const auto source = open_vulkan(true), destination = open_vulkan(false);
  ASSERT_TRUE(source && destination);
  const auto copier = DeviceCopier::create(*source, *destination, {.block_bytes = kBlock});
  ASSERT_TRUE(copier.ok()) << copier.status().to_string();
  EXPECT_EQ((*copier)->route(), CopyRoute::staged);
  EXPECT_NE((*copier)->reason().find("shares no memory"), std::string::npos) << (*copier)->reason();
  EXPECT_NE((*copier)->reason().find("imports no host memory"), std::string::npos) << (*copier)->reason();
  check_copies(**copier, *source, *destination);
}

TEST_F(DeviceCopy, ToAndFromAProcessor) {
  const auto gpu = open_vulkan(true);
  const auto cpu = open_device("cpu");
  ASSERT_TRUE(gpu && cpu.ok());
  for (const auto& [source, destination] : {std::pair(gpu.get(), cpu->get()), std::pair(cpu->get(), gpu.get())}) {
    const auto copier = DeviceCopier::create(*source, *destination);
    ASSERT_TRUE(copier.ok()) << copier.status().to_string();
    check_copies(**copier, *source, *destination);
  }
}

TEST_F(DeviceCopy, WithinADevice) {
  const auto device = open_vulkan(true);
  ASSERT_TRUE(device);
  const auto copier = DeviceCopier::create(*device, *device);
  ASSERT_TRUE(copier.ok());
  EXPECT_EQ((*copier)->route(), CopyRoute::within);
  check_copies(**copier, *device, *device);
}

TEST_F(DeviceCopy, WaitsForWhatItIsTold) {
  const auto source = open_vulkan(true), destination = open_vulkan(true);
  ASSERT_TRUE(source && destination);
  const auto copier = DeviceCopier::create(*source, *destination, {.block_bytes = kBlock});
  ASSERT_TRUE(copier.ok());
  const auto from = source->allocate(3 * kBlock), to = destination->allocate(3 * kBlock);
  const auto ready = source->create_semaphore(0), done = source->create_semaphore(0);
  ASSERT_TRUE(from.ok() && to.ok() && ready.ok() && done.ok());
  // The source's bytes are written by a submission that waits itself.
  CommandBuffer fill;
  fill.fill({*from}, 3 * kBlock, 0x01020304);
  const SemaphorePoint wait[] = {{*ready, 1}}, signal[] = {{*done, 1}};
  ASSERT_TRUE(source->submit(fill, wait, signal).ok());
  std::jthread later([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    (void)(*ready)->signal(1);
  });
  const Status status = (*copier)->copy({*from}, {*to}, 3 * kBlock, signal);
  ASSERT_TRUE(status.ok()) << status.to_string();
  std::vector<uint32_t> found(3 * kBlock / 4);
  ASSERT_TRUE(destination->read({*to}, std::as_writable_bytes(std::span(found))).ok());
  EXPECT_TRUE(std::ranges::all_of(found, [](uint32_t v) { return v == 0x01020304; }));
}

TEST_F(DeviceCopy, SaysWhatIsWrong) {
  const auto source = open_vulkan(true), destination = open_vulkan(true);
  ASSERT_TRUE(source && destination);
  const auto copier = DeviceCopier::create(*source, *destination, {.block_bytes = kBlock});
  ASSERT_TRUE(copier.ok());
  const auto from = source->allocate(1000), to = destination->allocate(1000);
  const auto code = [&](const Binding& a, const Binding& b, uint64_t size) {
    return (*copier)->copy(a, b, size).code();
  };
  EXPECT_EQ(code({*from}, {*to}, 1001), Code::invalid_argument);
  EXPECT_EQ(code({*from, 500}, {*to}, 501), Code::invalid_argument);
  EXPECT_EQ(code({*from}, {*to, UINT64_MAX}, 1), Code::invalid_argument);
  EXPECT_EQ(code({nullptr}, {*to}, 1), Code::invalid_argument);
  EXPECT_EQ(code({*to}, {*from}, 1000), Code::invalid_argument);  // the wrong way round
  EXPECT_TRUE((*copier)->copy({*from}, {*to}, 1000).ok());        // and goes on
  EXPECT_EQ(parse_copy_route("teleport").status().code(), Code::not_found);
  EXPECT_EQ(*parse_copy_route("staged"), CopyRoute::staged);
}

// A device that is lost while it empties the blocks: the copy says so, and nothing hangs.
TEST_F(DeviceCopy, FailsWithADeviceThatIsLost) {
  static std::atomic<int> submissions{0};
  static PFN_vkQueueSubmit real = nullptr;
  VulkanOptions options;
  options.host_visible = false;
  options.intercept = [](VulkanFunctions& functions) {
    if (!functions.vkQueueSubmit) return;
    real = functions.vkQueueSubmit;
    functions.vkQueueSubmit = [](VkQueue queue, uint32_t count, const VkSubmitInfo* info, VkFence fence) -> VkResult {
      return --submissions == 0 ? VK_ERROR_DEVICE_LOST : real(queue, count, info, fence);
    };
  };
  const auto source = open_vulkan(true);
  const auto destination = open_vulkan_device(0, options);
  ASSERT_TRUE(source && destination.ok());
  const auto copier = DeviceCopier::create(*source, **destination, {.block_bytes = kBlock});
  ASSERT_TRUE(copier.ok());
  const auto from = source->allocate(9 * kBlock), to = (*destination)->allocate(9 * kBlock);
  ASSERT_TRUE(from.ok() && to.ok());
  submissions = 3;
  const Status status = (*copier)->copy({*from}, {*to}, 9 * kBlock);
  EXPECT_EQ(status.code(), Code::device_lost) << status.to_string();
  EXPECT_NE(status.message().find("copying from"), std::string::npos) << status.to_string();
  ASSERT_TRUE(source->wait_idle().ok());  // the other one is well
}

}  // namespace
}  // namespace sporkle::hal
