// What every device refuses before it executes anything: ranges past the end, buffers of another device, copies onto
// themselves, semaphores that would go back. A device derives from this; the checks are thread-safe.
#pragma once

#include "hal/device.h"

namespace sporkle::hal {

class CommandChecks {
 protected:
  ~CommandChecks() = default;

  Status check_range(const Binding& binding, uint64_t size_bytes, std::string_view what) const;
  Status check_commands(const CommandBuffer& commands) const;
  Status check_semaphores(std::span<const SemaphorePoint> points, bool signal) const;

 private:
  virtual const std::string& device_id() const = 0;
  virtual bool owns(const Buffer& buffer) const = 0;
  // The bindings are known to be this device's.
  virtual Status check_launch(const DispatchCommand& command) const = 0;
  // Whether it was loaded by this device.
  virtual bool owns(const Executable& executable) const = 0;

  Status check(const DispatchCommand& command) const;
  Status check(const CopyCommand& command) const;
  Status check(const FillCommand& command) const;
};

// The checks of a launch that most kernels share: the numbers of arguments, and offsets that are multiples of the
// element sizes.
Status check_arguments(std::string_view kernel, std::span<const int> element_sizes, size_t scalar_count,
                       std::span<const Binding> bindings, std::span<const uint64_t> scalars);

}  // namespace sporkle::hal
