// Runs single kernels over host memory: for work on flat arrays of bytes and numbers that belongs to no tensor graph.
//
// A runner keeps its device open and its kernels compiled. Thread-safe; calls from several threads run one after
// another.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "cache/kernel_cache.h"
#include "dsl/kernel.h"
#include "hal/device.h"
#include "hal/registry.h"

namespace sporkle::train {

class KernelRunner {
 public:
  struct Definition {
    std::string name;  // equal names mean equal kernels
    std::function<void(dsl::KernelBuilder&)> define;
    std::string schedule;  // lower/schedule.h; "vec" without a number stands for the target's vector of f32
  };
  // What a buffer of the kernel holds: bytes that it reads, or room for what it writes. One of them is empty.
  struct Argument {
    std::span<const std::byte> input;
    std::span<std::byte> output;
  };

  // Errors are those of hal::open_device.
  static Result<std::unique_ptr<KernelRunner>> open(std::string_view device_id, const hal::DeviceOptions& options = {});
  // The process's own, on its processor; without a code generator (no libLLVM) the interpreter, which is slow and gives
  // the same bits.
  static Result<KernelRunner*> shared();

  // `arguments`: one for each buffer of the kernel, in its order; `scalars`: the bits of each scalar. The outputs are
  // unspecified after a failure.
  Status run(const Definition& kernel, std::span<const Argument> arguments, std::span<const uint64_t> scalars);

  const hal::DeviceInfo& device_info() const { return device_->info(); }

 private:
  explicit KernelRunner(std::shared_ptr<hal::Device> device) : device_(std::move(device)), kernels_(*device_) {}
  Result<hal::ExecutableRef> executable(const Definition& kernel);

  const std::shared_ptr<hal::Device> device_;
  cache::KernelCache kernels_;
};

template <typename T>
KernelRunner::Argument kernel_input(std::span<const T> values) {
  return {std::as_bytes(values), {}};
}
template <typename T>
KernelRunner::Argument kernel_output(std::span<T> values) {
  return {{}, std::as_writable_bytes(values)};
}

}  // namespace sporkle::train
