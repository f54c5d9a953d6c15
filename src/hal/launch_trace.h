// Watching kernels run: the launches, timings and rates of SPORKLE_DEBUG=1 and 2, and the events of a trace
// (base/trace.h). Every device reports each of its launches here when it is asked to.
//
// Thread-safe. While nobody watches, a launch pays for one call of launches_are_watched().
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <source_location>
#include <string>
#include <vector>

#include "hal/device.h"
#include "ir/work.h"

namespace sporkle::hal {

// What is known of a kernel when it is compiled, for people. No part of its identity.
class KernelDescription {
 public:
  // `structure`: what the kernel was made from, such as "pointwise f32:1 gelu"; empty: its name. `key`: hexadecimal, of
  // all that shaped its code.
  KernelDescription(const ir::Kernel& kernel, std::string structure, std::string schedule, std::string key);

  const std::string& name() const { return name_; }            // "matmul"
  const std::string& structure() const { return structure_; }  // "matmul f32 n1 n1 n1 32 packed"
  const std::string& schedule() const { return schedule_; }
  const std::string& key() const { return key_; }
  const std::string& source() const { return source_; }  // where it was traced: "src/nn/gpt.cc:120", or ""

  // How much work a launch with these arguments is. Remembers what it has counted.
  ir::Work work(const std::vector<uint64_t>& scalars, const std::vector<uint64_t>& buffer_bytes) const;
  // How often it was launched, this time included.
  uint64_t count_launch() const { return ++launches_; }

 private:
  std::string name_, structure_, schedule_, key_, source_;
  ir::WorkCounter counter_;
  mutable std::mutex mutex_;  // guards work_
  mutable std::map<std::vector<uint64_t>, ir::Work> work_;
  mutable std::atomic<uint64_t> launches_{0};
};

// Whether devices are to report their launches: SPORKLE_DEBUG is 1 or more, or a trace is written.
bool launches_are_watched();

// What one thread did of a launch.
struct LaunchShare {
  int64_t thread = 0;  // trace::this_thread(); 0: nothing
  int64_t start_ns = 0, end_ns = 0;
  int64_t iterations = 0;  // of the kernel's thread loop
};

// One launch, after it has run: from start_ns to end_ns of the clock trace::now_ns() on the device. `shares`: of the
// host's threads where there are several. `command` was executed by the device.
void report_launch(const DeviceInfo& device, const DispatchCommand& command, int64_t start_ns, int64_t end_ns,
                   std::span<const LaunchShare> shares = {});

}  // namespace sporkle::hal
