#include "hal/null/null_device.h"

namespace sporkle::hal {
namespace {

class NullExecutable final : public HostExecutable {
 public:
  using HostExecutable::HostExecutable;
  Status check(std::span<const Binding>, std::span<const uint64_t>) const override { return {}; }
  Status run(std::span<const HostSpan>, std::span<const uint64_t>, std::vector<LaunchShare>*) override { return {}; }
};

}  // namespace

NullDevice::NullDevice()
    : HostDevice({.id = "null", .name = "nothing", .driver = "accepts everything, executes nothing", .target = "null"},
                 /*memory_limit_bytes=*/0) {}

Result<ExecutableRef> NullDevice::load(std::span<const std::byte>) {
  return ExecutableRef(std::make_shared<NullExecutable>(this));
}

}  // namespace sporkle::hal
