// A device that accepts everything and executes nothing: to plan and to test without a processor's work or memory.
// Buffers have a size and no memory; what is written to them is lost, and they read as zeros.
#pragma once

#include "hal/host/host_device.h"

namespace sporkle::hal {

class NullDevice final : public HostDevice {
 public:
  NullDevice();
  ~NullDevice() override { shut_down(); }
  Result<ExecutableRef> load(std::span<const std::byte> code) override;
};

}  // namespace sporkle::hal
