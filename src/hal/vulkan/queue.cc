#include "hal/vulkan/queue.h"

#include <algorithm>

#include "base/trace.h"
#include "codegen/spirv/copy_emitter.h"
#include "hal/host/waiting_submissions.h"
#include "hal/launch_trace.h"

namespace sporkle::hal {
namespace {

constexpr uint64_t kWait_ns = 1'000'000'000;

}  // namespace

VulkanQueue::VulkanQueue(std::shared_ptr<VulkanContext> context, std::shared_ptr<VulkanMemory> own,
                         std::shared_ptr<VulkanMemory> host, double slice_seconds)
    : context_(std::move(context)),
      slice_seconds_(slice_seconds),
      memory_{std::move(own), std::move(host), &scratch_, [this] { return copier(); }} {}

Result<std::unique_ptr<VulkanQueue>> VulkanQueue::create(std::shared_ptr<VulkanContext> context,
                                                         std::shared_ptr<VulkanMemory> own,
                                                         std::shared_ptr<VulkanMemory> host, double slice_seconds) {
  std::unique_ptr<VulkanQueue> queue(
      new VulkanQueue(std::move(context), std::move(own), std::move(host), slice_seconds));
  VkSemaphoreTypeCreateInfo type = {};
  type.sType = VK_STRUCTURE_TYPE_SEMAPHORE_TYPE_CREATE_INFO;
  type.semaphoreType = VK_SEMAPHORE_TYPE_TIMELINE;
  VkSemaphoreCreateInfo create = {};
  create.sType = VK_STRUCTURE_TYPE_SEMAPHORE_CREATE_INFO;
  create.pNext = &type;
  const VulkanContext& c = *queue->context_;
  SPORKLE_RETURN_IF_ERROR(c.status(c.functions().vkCreateSemaphore(c.device(), &create, nullptr, &queue->progress_),
                                   "creating a semaphore"));
  queue->retirement_ = std::jthread([q = queue.get()](std::stop_token stop) { q->retire_until(stop); });
  return queue;
}

VulkanQueue::~VulkanQueue() {
  drain();
  if (retirement_.joinable()) {
    retirement_.request_stop();
    retirement_.join();
  }
  // A lost device was not waited for; the driver still has to let go of what it was given.
  context_->functions().vkDeviceWaitIdle(context_->device());
  for (RecordingResources& resources : resources_) resources.destroy(*context_);
  if (progress_) context_->functions().vkDestroySemaphore(context_->device(), progress_, nullptr);
}

bool VulkanQueue::promised(std::span<const SemaphorePoint> points) const {
  std::lock_guard lock(mutex_);
  return std::ranges::all_of(points, [&](const SemaphorePoint& point) {
    if (static_cast<const HostSemaphore&>(*point.semaphore).settled(point.value)) return true;
    const auto found = promised_.find(point.semaphore.get());
    return found != promised_.end() && found->second >= point.value;
  });
}

Status VulkanQueue::submit(const CommandBuffer& commands, std::span<const SemaphorePoint> signal) {
  std::lock_guard recording(recording_);
  Submission submission;
  submission.commands = commands;
  submission.signal.assign(signal.begin(), signal.end());
  const Status started = start(submission);
  if (started.ok()) return {};
  fail_all(signal, started);
  std::lock_guard lock(mutex_);
  if (submission.resources.pool) resources_.push_back(std::move(submission.resources));
  return started;
}

Result<std::shared_ptr<VulkanExecutable>> VulkanQueue::copier() {
  if (!copier_) {
    SPORKLE_ASSIGN_OR_RETURN(const codegen::GpuCode code, codegen::spirv::emit_copy());
    SPORKLE_ASSIGN_OR_RETURN(copier_, VulkanExecutable::load(context_, codegen::encode(code)));
  }
  return copier_;
}

Status VulkanQueue::start(Submission& submission) {
  SPORKLE_RETURN_IF_ERROR(context_->alive());
  {
    std::lock_guard lock(mutex_);
    if (!resources_.empty()) {
      submission.resources = std::move(resources_.back());
      resources_.pop_back();
    }
  }
  if (!submission.resources.pool) {
    SPORKLE_ASSIGN_OR_RETURN(submission.resources, RecordingResources::create(*context_));
  }
  submission.watched = launches_are_watched();
  Recorder recorder(*context_, submission.resources, memory_, slice_seconds_, submission.watched);
  SPORKLE_RETURN_IF_ERROR(recorder.record(submission.commands));
  submission.measurements = recorder.take_measurements();
  submission.kept = recorder.take_kept();
  submission.query_count = recorder.query_count();
  submission.number = last_number_ + 1;
  SPORKLE_RETURN_IF_ERROR(hand_over(submission, recorder.buffer_count()));
  last_number_ = submission.number;
  std::lock_guard lock(mutex_);
  for (const SemaphorePoint& point : submission.signal) {
    uint64_t& value = promised_[point.semaphore.get()];
    value = std::max(value, point.value);
  }
  in_flight_.push_back(std::move(submission));
  changed_.notify_all();
  return {};
}

Status VulkanQueue::hand_over(const Submission& submission, size_t buffer_count) {
  for (size_t i = 0; i < buffer_count; ++i) {
    const bool last = i + 1 == buffer_count;
    VkTimelineSemaphoreSubmitInfo timeline = {};
    timeline.sType = VK_STRUCTURE_TYPE_TIMELINE_SEMAPHORE_SUBMIT_INFO;
    timeline.signalSemaphoreValueCount = 1;
    timeline.pSignalSemaphoreValues = &submission.number;
    VkSubmitInfo submit = {};
    submit.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO;
    submit.commandBufferCount = 1;
    submit.pCommandBuffers = &submission.resources.buffers[i];
    if (last) {
      submit.pNext = &timeline;
      submit.signalSemaphoreCount = 1;
      submit.pSignalSemaphores = &progress_;
    }
    const Status submitted = context_->status(
        context_->functions().vkQueueSubmit(context_->queue(), 1, &submit, VK_NULL_HANDLE), "submitting work");
    if (submitted.ok()) continue;
    // What went before must be done with its command buffers before they are used again.
    if (i > 0) context_->functions().vkDeviceWaitIdle(context_->device());
    return submitted;
  }
  return {};
}

void VulkanQueue::retire_until(std::stop_token stop) {
  const VulkanFunctions& functions = context_->functions();
  if (trace::on()) trace::name_thread(context_->id());
  for (;;) {
    uint64_t number = 0;
    {
      std::unique_lock lock(mutex_);
      if (!changed_.wait(lock, stop, [&] { return !in_flight_.empty(); })) return;
      number = in_flight_.front().number;
    }
    VkSemaphoreWaitInfo wait = {};
    wait.sType = VK_STRUCTURE_TYPE_SEMAPHORE_WAIT_INFO;
    wait.semaphoreCount = 1;
    wait.pSemaphores = &progress_;
    wait.pValues = &number;
    const VkResult waited = functions.vkWaitSemaphores(context_->device(), &wait, kWait_ns);
    if (waited == VK_TIMEOUT) continue;
    const Status status = context_->status(waited, "waiting for the device");
    std::unique_lock lock(mutex_);
    Submission submission = std::move(in_flight_.front());
    lock.unlock();
    retire(submission, status);
    lock.lock();
    in_flight_.pop_front();  // only now: who drains finds semaphores signalled and memory released
    changed_.notify_all();
  }
}

void VulkanQueue::retire(Submission& submission, Status status) {
  if (status.ok()) status = read_clocks(submission);
  submission.measurements.clear();
  submission.kept.clear();
  submission.commands.clear();
  {
    std::lock_guard lock(mutex_);
    resources_.push_back(std::move(submission.resources));
    if (first_failure_.ok()) first_failure_ = status;
    for (const SemaphorePoint& point : submission.signal) {
      const auto found = promised_.find(point.semaphore.get());
      if (found != promised_.end() && found->second <= point.value) promised_.erase(found);
    }
  }
  for (const SemaphorePoint& point : submission.signal) {
    if (status.ok()) status = point.semaphore->signal(point.value);
  }
  if (!status.ok()) fail_all(submission.signal, status);
}

Status VulkanQueue::read_clocks(const Submission& submission) {
  std::vector<uint64_t> ticks(submission.query_count);
  SPORKLE_RETURN_IF_ERROR(context_->status(
      context_->functions().vkGetQueryPoolResults(context_->device(), submission.resources.queries, 0,
                                                  submission.query_count, ticks.size() * sizeof(uint64_t), ticks.data(),
                                                  sizeof(uint64_t), VK_QUERY_RESULT_64_BIT | VK_QUERY_RESULT_WAIT_BIT),
      "reading clocks"));
  const double tick_seconds = 1e-9 * static_cast<double>(context_->description().properties.limits.timestampPeriod);
  const auto seconds = [&](uint64_t from, uint64_t to) {
    return to > from ? static_cast<double>(to - from) * tick_seconds : 0;
  };
  for (const Recorder::Measurement& m : submission.measurements)
    m.executable->measured(
        m.scalars, std::max(1e-12, seconds(ticks[m.query], ticks[m.query + 1]) / static_cast<double>(m.iterations)));
  if (submission.watched) report_launches(submission, ticks);
  std::lock_guard lock(mutex_);
  busy_seconds_ += seconds(std::max(ticks[0], last_tick_), ticks[1]);
  last_tick_ = std::max(last_tick_, ticks[1]);
  return {};
}

void VulkanQueue::report_launches(const Submission& submission, std::span<const uint64_t> ticks) {
  const double tick_ns = static_cast<double>(context_->description().properties.limits.timestampPeriod);
  const auto device_ns = [&](uint64_t tick) { return static_cast<int64_t>(static_cast<double>(tick) * tick_ns); };
  const int64_t offset_ns = trace::now_ns() - device_ns(ticks[1]);
  clock_offset_ns_ = std::min(clock_offset_ns_.value_or(offset_ns), offset_ns);
  DeviceInfo device;
  device.id = context_->id();
  for (const Recorder::Measurement& m : submission.measurements) {
    const auto* command = std::get_if<DispatchCommand>(&submission.commands.commands()[m.command]);
    if (!command) continue;  // a copy
    const int64_t start_ns = device_ns(ticks[m.query]) + *clock_offset_ns_;
    report_launch(device, *command, start_ns, std::max(start_ns, device_ns(ticks[m.query + 1]) + *clock_offset_ns_));
  }
}

void VulkanQueue::drain() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return in_flight_.empty(); });
}

bool VulkanQueue::busy() const {
  std::lock_guard lock(mutex_);
  return !in_flight_.empty();
}

Status VulkanQueue::take_failure() {
  std::lock_guard lock(mutex_);
  return std::exchange(first_failure_, Status());
}

double VulkanQueue::busy_seconds() const {
  std::lock_guard lock(mutex_);
  return busy_seconds_;
}

}  // namespace sporkle::hal
