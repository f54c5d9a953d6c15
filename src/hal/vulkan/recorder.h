// One submission's commands as Vulkan command buffers: barriers where commands depend on each other, long dispatches
// cut into pieces, and clocks around what is not measured yet. Used by one thread at a time.
#pragma once

#include <functional>
#include <memory>
#include <unordered_set>
#include <vector>

#include "hal/vulkan/executable.h"
#include "hal/vulkan/memory.h"

namespace sporkle::hal {

// What recording uses up until the device is done with it; then it is used again.
struct RecordingResources {
  VkCommandPool pool = VK_NULL_HANDLE;
  std::vector<VkCommandBuffer> buffers;
  VkQueryPool queries = VK_NULL_HANDLE;
  uint32_t query_count = 0;

  static Result<RecordingResources> create(const VulkanContext& context);
  // At least `count` queries.
  Status need_queries(const VulkanContext& context, uint32_t count);
  void destroy(const VulkanContext& context);
};

class Recorder {
 public:
  struct Memory {
    std::shared_ptr<VulkanMemory> own, host;
    VulkanBufferRef* scratch;  // the queue's, which grows; submissions take turns with it
    // The kernel for large copies, made for the first of them.
    std::function<Result<std::shared_ptr<VulkanExecutable>>()> copier;
  };
  // A dispatch with clocks around it: queries `query` and query + 1.
  struct Measurement {
    std::shared_ptr<VulkanExecutable> executable;
    std::vector<uint64_t> scalars;
    int64_t iterations;
    uint32_t query;
    size_t command;  // its index among the commands
  };
  // Queries 0 and 1 stand around everything.
  static constexpr uint32_t kQueries = 130;

  // `watched`: clocks stand around every dispatch, which then waits for the one before.
  Recorder(const VulkanContext& context, RecordingResources& resources, const Memory& memory, double slice_seconds,
           bool watched)
      : context_(context),
        f_(context.functions()),
        resources_(resources),
        memory_(memory),
        slice_(slice_seconds),
        watched_(watched) {}

  // The commands have been checked.
  Status record(const CommandBuffer& commands);

  // To be submitted each on its own and in order, so that others get their turn between them.
  size_t buffer_count() const { return used_; }
  uint32_t query_count() const { return next_query_; }
  std::vector<Measurement> take_measurements() { return std::move(measurements_); }
  // What must live until the device is done.
  std::vector<BufferRef> take_kept() { return std::move(kept_); }

 private:
  Status begin();
  Status end();
  void barrier();
  void timestamp(uint32_t query);
  // A barrier if the command reads what was written, or writes what was touched, since the last one.
  void order(std::span<const VulkanBuffer* const> reads, std::span<const VulkanBuffer* const> writes);
  Status record(const DispatchCommand& command);
  Status record(const CopyCommand& command);
  Status copy(const CopyCommand& command, const VulkanBuffer* source, const VulkanBuffer* destination);
  // Between this device and others that reach the buffer's memory.
  void change_hands(const VulkanBuffer& buffer, bool acquire);
  // The part of a large copy within the device that a kernel does, whole blocks from its start; in bytes.
  Result<uint64_t> copy_blocks(const CopyCommand& command);
  Status record(const FillCommand& command);
  Status dispatch_pieces(const VulkanExecutable& executable, int64_t iterations, int64_t piece, double seconds,
                         std::vector<uint64_t>& block);
  int64_t piece_iterations(const VulkanExecutable& executable, const DispatchCommand& command, int64_t iterations,
                           double* seconds_per_iteration) const;
  Result<uint64_t> place_arguments(std::span<const uint64_t> words);

  const VulkanContext& context_;
  const VulkanFunctions& f_;
  RecordingResources& resources_;
  const Memory& memory_;
  const double slice_;
  const bool watched_;
  size_t command_ = 0;  // the index of the one being recorded
  VkCommandBuffer current_ = nullptr;
  size_t used_ = 0;
  uint32_t next_query_ = 2;
  double estimated_seconds_ = 0;  // of the current command buffer
  std::unordered_set<const VulkanBuffer*> read_, written_;
  std::vector<Measurement> measurements_;
  std::vector<BufferRef> kept_;
  VulkanBufferRef arguments_;  // the block being filled
  size_t arguments_used_ = 0;
};

}  // namespace sporkle::hal
