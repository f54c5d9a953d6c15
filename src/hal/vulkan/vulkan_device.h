// Any GPU that has a Vulkan 1.2 driver, through the loader found at run time. IDs: "vulkan:0", "vulkan:1" ... in the
// loader's order; "vulkan" is the first.
//
// Work goes to one compute queue in the order of its submissions, so a submission that waits for another of the same
// device costs no round trip through the host; semaphores themselves are the host's, so devices of all kinds can wait
// for each other. Commands that touch different buffers may overlap. A dispatch that is known to take long is cut into
// pieces, so that a desktop stays usable.
//
// A device that is lost (a reset, an unplugged card) fails what is under way and every later call with device_lost,
// except that what it gave out may be destroyed; opening it again gives a working one.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "hal/device.h"

namespace sporkle::hal {

struct VulkanFunctions;

struct VulkanOptions {
  std::string library;              // the loader; empty: $SPORKLE_VULKAN_LIBRARY, else libvulkan.so.1
  uint64_t memory_limit_bytes = 0;  // 0: what the driver says it can give
  // The validation layer, whose messages are logged and counted. Also with SPORKLE_VULKAN_VALIDATION=1.
  bool validation = false;
  bool host_visible = true;     // false: memory that the host could reach is treated as if it could not
  double slice_seconds = 0.1;   // the longest that pieces of a dispatch are meant to take
  bool external_memory = true;  // false: memory is shared neither with other devices nor with the host
  std::filesystem::path cache;  // pipelines and verdicts; empty: base's cache_directory()
  std::function<void(VulkanFunctions&)> intercept;  // changes functions once they are loaded; for tests
};

// not_found where there are fewer devices; unsupported with the reason when this one, or Vulkan at all, cannot be used.
Result<std::shared_ptr<Device>> open_vulkan_device(size_t index, const VulkanOptions& options = {});

// How many devices the loader knows, usable or not; unsupported says why there are none.
Result<size_t> count_vulkan_devices(const VulkanOptions& options = {});

// What the validation layer has said in this process.
uint64_t vulkan_validation_messages();

}  // namespace sporkle::hal
