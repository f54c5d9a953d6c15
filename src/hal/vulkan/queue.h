// The device's compute queue: records and submits, and a thread that waits for the device, signals semaphores and
// releases what was in use. Submissions are executed in their order. Thread-safe.
#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_map>

#include "hal/host/host_semaphore.h"
#include "hal/vulkan/recorder.h"

namespace sporkle::hal {

class VulkanQueue {
 public:
  static Result<std::unique_ptr<VulkanQueue>> create(std::shared_ptr<VulkanContext> context,
                                                     std::shared_ptr<VulkanMemory> own,
                                                     std::shared_ptr<VulkanMemory> host, double slice_seconds);
  // Waits for the device.
  ~VulkanQueue();
  VulkanQueue(const VulkanQueue&) = delete;
  VulkanQueue& operator=(const VulkanQueue&) = delete;

  // Gives checked commands to the device; on failure the semaphores fail.
  Status submit(const CommandBuffer& commands, std::span<const SemaphorePoint> signal);
  // Whether each point is reached, or will be by what is submitted already, which a later submission follows anyway.
  bool promised(std::span<const SemaphorePoint> points) const;
  // Until the device has done all that is submitted.
  void drain();
  bool busy() const;
  // The first failure of a submission since the last call.
  Status take_failure();
  double busy_seconds() const;

 private:
  struct Submission {
    uint64_t number = 0;
    CommandBuffer commands;
    std::vector<SemaphorePoint> signal;
    RecordingResources resources;
    std::vector<Recorder::Measurement> measurements;
    std::vector<BufferRef> kept;
    uint32_t query_count = 0;
    bool watched = false;
  };

  VulkanQueue(std::shared_ptr<VulkanContext> context, std::shared_ptr<VulkanMemory> own,
              std::shared_ptr<VulkanMemory> host, double slice_seconds);
  Status start(Submission& submission);
  Result<std::shared_ptr<VulkanExecutable>> copier();
  Status hand_over(const Submission& submission, size_t buffer_count);
  void retire_until(std::stop_token stop);
  void retire(Submission& submission, Status status);
  Status read_clocks(const Submission& submission);
  void report_launches(const Submission& submission, std::span<const uint64_t> ticks);

  const std::shared_ptr<VulkanContext> context_;
  const double slice_seconds_;
  VkSemaphore progress_ = VK_NULL_HANDLE;  // the number of the last submission that is done

  std::mutex recording_;  // taken before mutex_
  Recorder::Memory memory_;
  VulkanBufferRef scratch_;
  std::shared_ptr<VulkanExecutable> copier_;
  uint64_t last_number_ = 0;

  mutable std::mutex mutex_;
  std::condition_variable_any changed_;
  std::deque<Submission> in_flight_;
  std::vector<RecordingResources> resources_;  // ready for use
  std::unordered_map<const Semaphore*, uint64_t> promised_;
  Status first_failure_;
  double busy_seconds_ = 0;
  uint64_t last_tick_ = 0;  // where the time counted so far ends

  // Of the retirement thread: trace::now_ns() less the device's clock. A submission is noticed after its end, so the
  // smallest difference seen is the nearest to the truth.
  std::optional<int64_t> clock_offset_ns_;

  std::jthread retirement_;
};

}  // namespace sporkle::hal
