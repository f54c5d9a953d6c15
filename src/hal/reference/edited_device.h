// The reference device with a hand on its kernels: each one's text passes through a function before it is loaded. For
// seeing which kernels run, and for tests that plant a fault in some of them. Thread-safe where the function is.
#pragma once

#include <functional>
#include <string>

#include "hal/reference/reference_device.h"

namespace sporkle::hal {

class EditedDevice final : public Device {
 public:
  // `edit`: from the text of a kernel (ir/text.h) to the text to load.
  explicit EditedDevice(std::function<std::string(std::string)> edit) : edit_(std::move(edit)) {}

  const DeviceInfo& info() const override { return device_.info(); }
  Result<BufferRef> allocate(size_t size_bytes) override { return device_.allocate(size_bytes); }
  Status write(const Binding& destination, std::span<const std::byte> data) override {
    return device_.write(destination, data);
  }
  Status read(const Binding& source, std::span<std::byte> data) override { return device_.read(source, data); }
  Result<ExecutableRef> load(std::span<const std::byte> code) override {
    const std::string text = edit_({reinterpret_cast<const char*>(code.data()), code.size()});
    return device_.load(std::as_bytes(std::span(text)));
  }
  Result<SemaphoreRef> create_semaphore(uint64_t initial_value) override {
    return device_.create_semaphore(initial_value);
  }
  Status submit(const CommandBuffer& commands, std::span<const SemaphorePoint> wait,
                std::span<const SemaphorePoint> signal) override {
    return device_.submit(commands, wait, signal);
  }
  Status wait_idle() override { return device_.wait_idle(); }
  Result<double> busy_seconds() const override { return device_.busy_seconds(); }

 private:
  ReferenceDevice device_{size_t{1} << 30};
  std::function<std::string(std::string)> edit_;
};

}  // namespace sporkle::hal
