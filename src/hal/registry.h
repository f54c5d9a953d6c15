// Which devices there are, and opening one by its ID. Thread-safe.
//
//   cpu        this machine's processor, with code generated for it; the default
//   reference  the interpreter: slow, checks every access, defines what a kernel means
//   null       accepts everything and executes nothing
//   vulkan:0   a GPU, through its Vulkan driver; "vulkan" is the first, vulkan:1 ... are others
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "hal/device.h"

namespace sporkle::hal {

struct DeviceOptions {
  int threads = 0;                  // 0: $SPORKLE_THREADS, else every core that the process may use
  uint64_t memory_limit_bytes = 0;  // 0: the machine's memory
  std::string cpu_target;           // x86-64, x86-64-v3, x86-64-v4; empty: $SPORKLE_CPU_TARGET, else the best here
};

// An empty ID means $SPORKLE_DEVICE, or "cpu" when that is unset. An unknown ID is not_found and lists the known ones;
// a device that this machine cannot run is unsupported with the reason.
Result<std::shared_ptr<Device>> open_device(std::string_view id = {}, const DeviceOptions& options = {});

// Several devices: "cpu,vulkan:0" as IDs, in order. Empty: those of $SPORKLE_DEVICES, or one empty ID, the default
// device. invalid_argument for one that is empty or stands there twice.
Result<std::vector<std::string>> parse_device_list(std::string_view ids = {});

struct DeviceListing {
  std::string id;
  DeviceInfo info;  // when available
  Status status;    // ok, or why the device cannot be opened
};

// Every device that Sporkle knows, the default first, each opened for a moment. Where there is no Vulkan device, one
// entry "vulkan" says why.
std::vector<DeviceListing> list_devices(const DeviceOptions& options = {});

}  // namespace sporkle::hal
