// For tests of whatever runs on Vulkan devices: the validation layer is on for the whole program where it is installed,
// and any message of its fails the test during which it came.
//
//   const bool validated = hal::validate_vulkan_in_tests();   // at namespace scope of one file of a test program
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>

#include "hal/vulkan/vulkan_device.h"

namespace sporkle::hal {

// Messages that a test provokes on purpose; it adds their number.
inline std::atomic<uint64_t> expected_vulkan_messages{0};

class VulkanMessagesFailTests final : public testing::EmptyTestEventListener {
  static uint64_t unexpected() { return vulkan_validation_messages() - expected_vulkan_messages; }
  void OnTestStart(const testing::TestInfo&) override { before_ = unexpected(); }
  void OnTestEnd(const testing::TestInfo&) override {
    const uint64_t messages = unexpected() - before_;
    if (messages > 0) ADD_FAILURE() << "Vulkan's validation layer had " << messages << " complaints (logged above)";
  }
  uint64_t before_ = 0;
};

inline bool validate_vulkan_in_tests() {
  VulkanOptions options;
  options.validation = true;
  if (count_vulkan_devices(options).ok()) ::setenv("SPORKLE_VULKAN_VALIDATION", "1", /*overwrite=*/0);
  testing::UnitTest::GetInstance()->listeners().Append(new VulkanMessagesFailTests);
  return true;
}

}  // namespace sporkle::hal
