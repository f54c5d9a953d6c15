// This machine's processor: loads what codegen made for it and runs kernels on a pool of threads.
#pragma once

#include "base/thread_pool.h"
#include "hal/host/host_device.h"

namespace sporkle::hal {

// Memory that a kernel uses for itself while it runs, one piece for each thread of the pool. Grows and never shrinks;
// used by one dispatch at a time.
class ScratchArenas {
 public:
  ScratchArenas(MemoryPool& pool, int threads) : pool_(pool), arenas_(static_cast<size_t>(threads)) {}
  ~ScratchArenas();
  ScratchArenas(const ScratchArenas&) = delete;
  ScratchArenas& operator=(const ScratchArenas&) = delete;

  // Gives each thread `size_bytes`, 64-byte aligned.
  Status reserve(size_t size_bytes);
  std::byte* of(int worker) const { return arenas_[static_cast<size_t>(worker)].data; }

 private:
  MemoryPool& pool_;
  std::vector<MemoryPool::Block> arenas_;
};

class CpuDevice final : public HostDevice {
 public:
  // With fewer threads where the system allows no more; info() says how many there are. `level`: see
  // codegen::host_cpu_target.
  static Result<std::shared_ptr<Device>> open(int threads, size_t memory_limit_bytes, std::string_view level = {});
  CpuDevice(DeviceInfo info, std::unique_ptr<ThreadPool> threads, size_t memory_limit_bytes);
  ~CpuDevice() override { shut_down(); }
  Result<ExecutableRef> load(std::span<const std::byte> code) override;

 private:
  std::unique_ptr<ThreadPool> threads_;
  MemoryPool scratch_memory_;
  ScratchArenas scratch_;
};

}  // namespace sporkle::hal
