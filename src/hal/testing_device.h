// For tests only: a device that computes like another one, but for a fault planted on the way. What looks for faults
// must find it.
#pragma once

#include <atomic>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "hal/device.h"

namespace sporkle::hal::testing {

struct Fault {
  // Changes what the host reads back from the device; a read is one tensor's elements. Empty: nothing.
  std::function<void(std::span<std::byte> data)> in_read;
  // Changes the code that is loaded; of the reference device it is the kernel's text. Empty: nothing.
  std::function<std::string(std::string code)> in_code;
  // The seconds that the device's clock (busy_seconds) says a submission took, so that a test of timings does not
  // depend on what else a machine does. Empty: it has no clock.
  std::function<double()> submission_seconds;
  // What a submission ends with before the device is given anything. Empty: it is given everything.
  std::function<Status()> before_submission;
};

// A view of a read's bytes as f32 numbers.
inline std::function<void(std::span<std::byte>)> in_floats(std::function<void(std::span<float>)> change) {
  return [change = std::move(change)](std::span<std::byte> data) {
    std::vector<float> values(data.size() / sizeof(float));
    if (values.empty()) return;
    std::memcpy(values.data(), data.data(), values.size() * sizeof(float));
    change(values);
    std::memcpy(data.data(), values.data(), values.size() * sizeof(float));
  };
}

class FaultyDevice final : public Device {
 public:
  FaultyDevice(std::shared_ptr<Device> inner, Fault fault) : inner_(std::move(inner)), fault_(std::move(fault)) {
    info_ = inner_->info();
  }

  const DeviceInfo& info() const override { return info_; }
  Result<BufferRef> allocate(size_t size_bytes) override { return inner_->allocate(size_bytes); }
  Status write(const Binding& destination, std::span<const std::byte> data) override {
    return inner_->write(destination, data);
  }
  Status read(const Binding& source, std::span<std::byte> data) override {
    SPORKLE_RETURN_IF_ERROR(inner_->read(source, data));
    if (fault_.in_read) fault_.in_read(data);
    return {};
  }
  Result<ExecutableRef> load(std::span<const std::byte> code) override {
    if (!fault_.in_code) return inner_->load(code);
    const std::string changed = fault_.in_code({reinterpret_cast<const char*>(code.data()), code.size()});
    return inner_->load(std::as_bytes(std::span(changed)));
  }
  Result<SemaphoreRef> create_semaphore(uint64_t initial_value) override {
    return inner_->create_semaphore(initial_value);
  }
  Status submit(const CommandBuffer& commands, std::span<const SemaphorePoint> wait,
                std::span<const SemaphorePoint> signal) override {
    if (fault_.before_submission) SPORKLE_RETURN_IF_ERROR(fault_.before_submission());
    if (fault_.submission_seconds) clock_s_ += fault_.submission_seconds();
    return inner_->submit(commands, wait, signal);
  }
  Status wait_idle() override { return inner_->wait_idle(); }
  Result<double> busy_seconds() const override {
    if (fault_.submission_seconds) return clock_s_.load();
    return Device::busy_seconds();
  }

 private:
  std::shared_ptr<Device> inner_;
  Fault fault_;
  DeviceInfo info_;
  std::atomic<double> clock_s_{0};
};

}  // namespace sporkle::hal::testing
