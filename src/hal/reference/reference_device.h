// The interpreter as a device: it executes the text form of a kernel (codegen's target "reference"), slowly, and checks
// every access. What it computes is what a kernel means.
#pragma once

#include "hal/host/host_device.h"

namespace sporkle::hal {

class ReferenceDevice final : public HostDevice {
 public:
  explicit ReferenceDevice(size_t memory_limit_bytes);
  ~ReferenceDevice() override { shut_down(); }
  Result<ExecutableRef> load(std::span<const std::byte> code) override;
};

}  // namespace sporkle::hal
