// For tests: a Context whose device says that it has matrix units and runs the kernels for them by their definition, on
// whatever device is given.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tensor/testing.h"

namespace sporkle::tensor::testing {

inline constexpr std::string_view kTargetWithUnits =
    "vulkan:storage16,fma32,matrixf16,matrixbf16,subgroup32,workgroup1024,shared48";

// A device that says it has matrix units. What is compiled for the inner one runs there.
class DeviceWithUnits final : public hal::Device {
 public:
  DeviceWithUnits(std::shared_ptr<hal::Device> inner, std::string target) : inner_(std::move(inner)) {
    info_ = inner_->info();
    info_.target = std::move(target);
  }
  hal::Device& inner() { return *inner_; }
  const hal::DeviceInfo& info() const override { return info_; }
  Result<hal::BufferRef> allocate(size_t size_bytes) override { return inner_->allocate(size_bytes); }
  Status write(const hal::Binding& destination, std::span<const std::byte> data) override {
    return inner_->write(destination, data);
  }
  Status read(const hal::Binding& source, std::span<std::byte> data) override { return inner_->read(source, data); }
  Result<hal::ExecutableRef> load(std::span<const std::byte> code) override { return inner_->load(code); }
  Result<hal::SemaphoreRef> create_semaphore(uint64_t initial_value) override {
    return inner_->create_semaphore(initial_value);
  }
  Status submit(const hal::CommandBuffer& commands, std::span<const hal::SemaphorePoint> wait,
                std::span<const hal::SemaphorePoint> signal) override {
    return inner_->submit(commands, wait, signal);
  }
  Status wait_idle() override { return inner_->wait_idle(); }

 private:
  std::shared_ptr<hal::Device> inner_;
  hal::DeviceInfo info_;
};

struct MachineWithUnits {
  MachineWithUnits(std::shared_ptr<hal::Device> inner, std::string target, ir::Numerics numerics = ir::Numerics::fast)
      : device(std::move(inner), std::move(target)), kernels(device.inner()) {
    ContextOptions options;
    options.numerics = numerics;
    if (numerics == ir::Numerics::fast) options.product_type = DType::bf16;
    options.choose_schedule = [this](std::string_view key, const lower::Schedule& usual) {
      keys.emplace_back(key);
      return usual;
    };
    context.emplace(device, kernels, options);
  }
  // How many kernels have keys that begin so.
  int64_t count(std::string_view start) const {
    return std::ranges::count_if(keys, [&](const std::string& key) { return key.starts_with(start); });
  }
  std::vector<std::string> keys;
  DeviceWithUnits device;
  cache::KernelCache kernels;
  std::optional<Context> context;
};

}  // namespace sporkle::tensor::testing
