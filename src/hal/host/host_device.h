// The part that null, reference and cpu have in common: buffers in host memory, and commands that run on the processor.
//
// A submission whose wait points are all reached runs on the calling thread and is done when submit returns. One that
// must wait does so on a thread of its own, so that a thread may submit work and signal what it waits for later; only
// semaphores order it against other submissions. One submission's commands run at a time.
//
// A device derived from this one says how to execute a kernel. It calls shut_down() in its destructor, while its own
// members are still there: submissions that still wait are cancelled, running ones finish.
#pragma once

#include <atomic>
#include <chrono>
#include <mutex>

#include "hal/device.h"
#include "hal/host/command_checks.h"
#include "hal/host/memory_pool.h"
#include "hal/host/waiting_submissions.h"
#include "hal/launch_trace.h"

namespace sporkle::hal {

class HostDevice;

class HostBuffer final : public Buffer {
 public:
  // Without a pool, a buffer of which only the size exists.
  HostBuffer(const HostDevice* device, std::shared_ptr<MemoryPool> pool, MemoryPool::Block block, size_t size_bytes)
      : device_(device), pool_(std::move(pool)), block_(block), size_bytes_(size_bytes) {}
  ~HostBuffer() override {
    if (pool_) pool_->free(block_);
  }
  HostBuffer(const HostBuffer&) = delete;
  HostBuffer& operator=(const HostBuffer&) = delete;

  size_t size_bytes() const override { return size_bytes_; }
  std::byte* host_pointer() override { return block_.data; }
  const HostDevice* device() const { return device_; }

 private:
  const HostDevice* device_;
  std::shared_ptr<MemoryPool> pool_;
  MemoryPool::Block block_;
  size_t size_bytes_;
};

// What a dispatch hands to a kernel for each buffer: from the binding's offset to the buffer's end.
struct HostSpan {
  std::byte* data;
  size_t size_bytes;
};

class HostExecutable : public Executable {
 public:
  explicit HostExecutable(const HostDevice* device) : device_(device) {}
  const HostDevice* device() const { return device_; }

  // Whether a dispatch with these arguments fits the kernel: invalid_argument otherwise.
  virtual Status check(std::span<const Binding> bindings, std::span<const uint64_t> scalars) const = 0;
  // Runs the kernel. Calls come one at a time for each device. `shares` is filled with what each thread did, where
  // several did something; null: nobody asks.
  virtual Status run(std::span<const HostSpan> buffers, std::span<const uint64_t> scalars,
                     std::vector<LaunchShare>* shares) = 0;

 private:
  const HostDevice* device_;
};

class HostDevice : public Device, private CommandChecks {
 public:
  const DeviceInfo& info() const override { return info_; }
  Result<BufferRef> allocate(size_t size_bytes) override;
  Status write(const Binding& destination, std::span<const std::byte> data) override;
  Status read(const Binding& source, std::span<std::byte> data) override;
  Result<SemaphoreRef> create_semaphore(uint64_t initial_value) override;
  Status submit(const CommandBuffer& commands, std::span<const SemaphorePoint> wait,
                std::span<const SemaphorePoint> signal) override;
  Status wait_idle() override;
  Result<double> busy_seconds() const override;

  // Zero for a device without memory of its own.
  MemoryPool::Statistics memory_statistics() const;

 protected:
  // memory_limit_bytes = 0: buffers have a size and no memory; what is written to them is lost, and they read as zeros.
  HostDevice(DeviceInfo info, size_t memory_limit_bytes);
  void shut_down();

 private:
  const std::string& device_id() const override { return info_.id; }
  bool owns(const Buffer& buffer) const override;
  bool owns(const Executable& executable) const override;
  Status check_launch(const DispatchCommand& command) const override;
  Status execute(const CommandBuffer& commands);
  Status execute(const DispatchCommand& command);
  Status execute(const CopyCommand& command);
  Status execute(const FillCommand& command);
  // Executes, then signals the points, or fails them.
  Status complete(const CommandBuffer& commands, std::span<const SemaphorePoint> signal);
  Status defer(const CommandBuffer& commands, std::span<const SemaphorePoint> wait,
               std::span<const SemaphorePoint> signal);

  DeviceInfo info_;
  std::shared_ptr<MemoryPool> pool_;

  std::mutex execution_;  // held while a submission's commands run
  std::atomic<std::chrono::steady_clock::duration> busy_{std::chrono::steady_clock::duration::zero()};
  std::vector<HostSpan> spans_;  // of the command that runs; guarded by execution_
  std::vector<LaunchShare> shares_;

  std::mutex failure_mutex_;
  Status first_failure_;  // of a submission on a thread of its own, until wait_idle reports it
  WaitingSubmissions waiting_;
};

}  // namespace sporkle::hal
