// Where tensors live and run: a device, its compiled kernels, and the memory that tensors share.
//
// A Context belongs to one thread at a time, with all its tensors, and must outlive them.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cache/kernel_cache.h"
#include "hal/device.h"
#include "hal/registry.h"
#include "ir/kernel.h"
#include "lower/schedule.h"
#include "tensor/node.h"
#include "tensor/plan.h"
#include "tune/gpu_plan.h"
#include "tune/product_plan.h"

namespace sporkle::tensor {

class PlanCache;
struct GraphSignature;

struct ContextOptions {
  // What kernels may do to bits. `fast` lets products of bf16 use the processor's own instructions or a GPU's
  // matrix units.
  ir::Numerics numerics = ir::Numerics::strict;
  // In which type products of f32 compute, with f32 sums: f32, bf16 or f16 (passes/mixed_precision.cc). Other than f32
  // needs numerics = fast.
  DType product_type = DType::f32;
  // False: every operation runs in a kernel of its own. The bits are the same; for tests and for finding bugs.
  bool fuse = true;
  // Intermediate values lie in buffers of at most so many bytes; 0: of the device's largest. For tests.
  size_t segment_bytes = 0;
  // Graph passes to leave out, by name (passes/passes.h). The bits are the same; for tests and for finding bugs.
  std::vector<std::string> skip_passes = {};
  // Which schedule a kernel runs under, from its key and the schedule it would have; asked once for each kernel. Any of
  // its lower::ScheduleSpace gives the same bits. Empty: the one it would have.
  std::function<lower::Schedule(std::string_view kernel_key, const lower::Schedule& usual)> choose_schedule;
  // How a matrix product on a CPU runs, where it applies; else, or where it is empty, as the preset says. Any plan
  // gives the same bits. Where this is unset, Context::open takes what `sporkle tune` has found.
  std::function<std::optional<tune::ProductPlan>(const tune::ProductShape&, const tune::Processor&)> choose_product;
  // The same of a product on a GPU.
  std::function<std::optional<tune::GpuPlan>(const tune::ProductShape&)> choose_gpu_product = {};
};

struct ContextCounters {
  uint64_t submissions = 0;
  uint64_t launches = 0;       // kernels run
  uint64_t plans = 0;          // graphs that were planned; the other submissions ran an earlier plan again
  double host_seconds = 0;     // planning and recording, all submissions together
  size_t allocated_bytes = 0;  // from the device, now
  size_t peak_bytes = 0;       // the most of it that tensors held at once
};

class Context {
 public:
  // Opens a device (hal/registry.h) and its kernel cache on disk.
  static Result<std::unique_ptr<Context>> open(std::string_view device_id = {}, const hal::DeviceOptions& device = {},
                                               ContextOptions options = {});
  // Over a device and a cache that both outlive it.
  Context(hal::Device& device, cache::KernelCache& kernels, ContextOptions options = {});
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  hal::Device& device() { return *device_; }
  cache::KernelCache& kernels() { return *kernels_; }
  const ContextOptions& options() const { return options_; }
  const ContextCounters& counters() const { return counters_; }

  // The most that tensors and what plans need beside them may take at once, in bytes; 0: no limit. A graph with
  // gradients that needs more computes activations a second time; out_of_memory when that is not enough. The bits are
  // the same.
  void set_memory_cap(size_t bytes) { memory_cap_bytes_ = bytes; }
  size_t memory_cap_bytes() const { return memory_cap_bytes_; }
  // Of the plan that ran last.
  const PlanMemory& last_plan() const { return last_plan_; }

  // Waits for everything submitted so far; reports a failure among it. A failure stays: the values of tensors made
  // since are unknown, so every later read reports it as well.
  Status wait();
  // Gives memory that no tensor uses back to the device.
  void trim();
  // Overwrites the memory that no tensor uses with `pattern`, over and over, and waits: what is computed there next is
  // seen to have been written. For benchmarks and tests.
  Status fill_unused(uint32_t pattern);

  // ---- For this layer ----
  // Uninitialised memory; at least one byte is there even for 0.
  Result<std::shared_ptr<Storage>> allocate(size_t size_bytes);
  // Memory of at least this size in which plans keep intermediate values, in segments of segment_bytes() of which the
  // last may be smaller. All plans share it: commands run in order.
  Result<std::span<const hal::BufferRef>> arena(size_t size_bytes);
  // What a driver allows a buffer to have, a multiple of kPlacementAlignment.
  size_t segment_bytes() const { return segment_bytes_; }
  // Until the device reads no commands any more. Reports what failed among them.
  // Commands must stay as they are until the device is done with them; `launches`: how many of them are dispatches.
  Status submit(const hal::CommandBuffer& commands, uint64_t launches);
  PlanCache& plans() { return *plans_; }
  GraphSignature& signature() { return *signature_; }  // scratch of realize()
  void set_last_plan(const PlanMemory& memory) { last_plan_ = memory; }
  size_t in_use_bytes() const { return in_use_bytes_; }
  // A number no planning pass of this Context had before.
  uint64_t next_epoch() { return ++epoch_; }
  ContextCounters& mutable_counters() { return counters_; }
  // Of f32, on this device: what "vec" in a schedule stands for.
  int vector_width() const { return vector_width_; }
  // How a product on a CPU is to run.
  tune::ProductPlan plan_product(const tune::ProductShape& shape) const;
  // How a product runs on this GPU.
  tune::GpuPlan plan_gpu_product(const tune::ProductShape& shape) const;
  // What this GPU can do; nothing where the device is none.
  const std::optional<codegen::VulkanTarget>& gpu() const { return gpu_; }
  // Whether the device runs workgroups of invocations.
  bool is_gpu() const { return device_->info().target.starts_with("vulkan:"); }
  // Whether kernels may take a GPU's own arithmetic, and sum in the order that suits it.
  bool is_fast_gpu() const { return is_gpu() && options_.numerics == ir::Numerics::fast; }

 private:
  friend class Storage;
  void recycle(hal::BufferRef buffer);
  size_t arena_bytes() const;
  void drop_arena();
  void drop_free();

  std::shared_ptr<hal::Device> owned_device_;
  std::unique_ptr<cache::KernelCache> owned_kernels_;
  hal::Device* device_;
  cache::KernelCache* kernels_;
  ContextOptions options_;
  ContextCounters counters_;
  int vector_width_;
  tune::Processor processor_;
  std::optional<codegen::VulkanTarget> gpu_;
  uint64_t epoch_ = 0;
  size_t in_use_bytes_ = 0, memory_cap_bytes_ = 0;
  PlanMemory last_plan_;
  std::map<size_t, std::vector<hal::BufferRef>> free_;  // by size
  hal::SemaphoreRef semaphore_;
  uint64_t submitted_ = 0;
  size_t segment_bytes_;
  std::vector<hal::BufferRef> arena_;  // all but the last of segment_bytes_
  std::unique_ptr<PlanCache> plans_;
  std::unique_ptr<GraphSignature> signature_;
};

}  // namespace sporkle::tensor
