#include "hal/vulkan/vulkan_device.h"

#include <algorithm>
#include <cstring>
#include <mutex>

#include "base/file.h"
#include "hal/host/command_checks.h"
#include "hal/host/float_environment.h"
#include "hal/host/waiting_submissions.h"
#include "hal/vulkan/exact_operations.h"
#include "hal/vulkan/external_memory.h"
#include "hal/vulkan/queue.h"

namespace sporkle::hal {
namespace {

constexpr size_t kStagingBytes = size_t{8} << 20;

DeviceKind kind_of(VkPhysicalDeviceType type) {
  switch (type) {
    case VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU:
      return DeviceKind::discrete_gpu;
    case VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU:
      return DeviceKind::integrated_gpu;
    case VK_PHYSICAL_DEVICE_TYPE_VIRTUAL_GPU:
      return DeviceKind::virtual_gpu;
    default:
      return DeviceKind::processor;  // Mesa's for processors, and what does not say
  }
}

class VulkanDevice final : public Device, public PeerMemory, private CommandChecks {
 public:
  static Result<std::shared_ptr<Device>> open(std::shared_ptr<VulkanContext> context, const VulkanOptions& options) {
    std::shared_ptr<VulkanDevice> device(new VulkanDevice(std::move(context), options));
    SPORKLE_ASSIGN_OR_RETURN(device->queue_, VulkanQueue::create(device->context_, device->own_memory_,
                                                                 device->host_memory_, options.slice_seconds));
    const std::filesystem::path folder = options.cache.empty() ? sporkle::cache_directory() : options.cache;
    const codegen::VulkanTarget& offered = device->context_->description().target;
    SPORKLE_ASSIGN_OR_RETURN(const codegen::VulkanTarget target, find_exact_operations(*device, offered, folder));
    device->info_.target = target.text();
    return std::shared_ptr<Device>(std::move(device));
  }
  ~VulkanDevice() override {
    waiting_.cancel();
    drain(/*all=*/true);
  }

  const DeviceInfo& info() const override { return info_; }

  Result<BufferRef> allocate(size_t size_bytes) override {
    SPORKLE_RETURN_IF_ERROR(context_->alive());
    SPORKLE_ASSIGN_OR_RETURN(VulkanBufferRef buffer, allocate_buffer(own_memory_, size_bytes));
    return BufferRef(std::move(buffer));
  }
  Status write(const Binding& destination, std::span<const std::byte> data) override;
  Status read(const Binding& source, std::span<std::byte> data) override;

  Result<ExecutableRef> load(std::span<const std::byte> code) override {
    SPORKLE_ASSIGN_OR_RETURN(std::shared_ptr<VulkanExecutable> executable, VulkanExecutable::load(context_, code));
    return ExecutableRef(std::move(executable));
  }
  Result<SemaphoreRef> create_semaphore(uint64_t initial_value) override {
    return SemaphoreRef(std::make_shared<HostSemaphore>(initial_value));
  }
  Status submit(const CommandBuffer& commands, std::span<const SemaphorePoint> wait,
                std::span<const SemaphorePoint> signal) override;

  Status wait_idle() override {
    drain(/*all=*/true);
    {
      std::lock_guard lock(failure_mutex_);
      if (const Status failure = std::exchange(first_failure_, Status()); !failure.ok()) return failure;
    }
    return queue_->take_failure();
  }
  Result<double> busy_seconds() const override { return queue_->busy_seconds(); }

  std::string sharing_id() const override { return sharing_id_of(context_->description().external); }
  Result<SharedMemory> allocate_shared(size_t size_bytes) override {
    SPORKLE_RETURN_IF_ERROR(context_->alive());
    SharedMemory shared;
    SPORKLE_ASSIGN_OR_RETURN(shared.buffer, allocate_exported(context_, size_bytes, &shared.handle));
    return shared;
  }
  Result<BufferRef> open_shared(MemoryHandle handle, size_t size_bytes) override {
    SPORKLE_RETURN_IF_ERROR(context_->alive());
    SPORKLE_ASSIGN_OR_RETURN(VulkanBufferRef buffer, open_exported(context_, std::move(handle), size_bytes));
    return BufferRef(std::move(buffer));
  }
  uint64_t host_alignment() const override { return context_->description().external.host_alignment; }
  Result<BufferRef> import_host(std::byte* memory, size_t size_bytes) override {
    SPORKLE_RETURN_IF_ERROR(context_->alive());
    SPORKLE_ASSIGN_OR_RETURN(VulkanBufferRef buffer, import_host_memory(context_, memory, size_bytes));
    return BufferRef(std::move(buffer));
  }
  Result<BufferRef> allocate_pinned(size_t size_bytes) override {
    SPORKLE_RETURN_IF_ERROR(context_->alive());
    SPORKLE_ASSIGN_OR_RETURN(VulkanBufferRef buffer, allocate_buffer(host_memory_, size_bytes));
    return BufferRef(std::move(buffer));
  }

 private:
  VulkanDevice(std::shared_ptr<VulkanContext> context, const VulkanOptions& options);

  const std::string& device_id() const override { return info_.id; }
  bool owns(const Buffer& buffer) const override {
    const auto* own = dynamic_cast<const VulkanBuffer*>(&buffer);
    return own && own->context() == context_.get();
  }
  bool owns(const Executable& executable) const override {
    const auto* own = dynamic_cast<const VulkanExecutable*>(&executable);
    return own && own->context() == context_.get();
  }
  Status check_launch(const DispatchCommand& command) const override {
    return static_cast<const VulkanExecutable&>(*command.executable).check(command);
  }

  // Waits until all that can run has run; with `all`, also what waits for a semaphore.
  void drain(bool all) {
    do {
      waiting_.drain(all);
      queue_->drain();
    } while (waiting_.would_drain(all) || queue_->busy());
  }
  // Between `binding` and host memory, through two blocks that take turns: while the device copies one, the host fills
  // or empties the other.
  Status stage(const Binding& binding, size_t size_bytes, const std::byte* from, std::byte* to);

  const std::shared_ptr<VulkanContext> context_;
  const std::shared_ptr<VulkanMemory> own_memory_, host_memory_;
  DeviceInfo info_;
  std::unique_ptr<VulkanQueue> queue_;

  std::mutex staging_mutex_;
  VulkanBufferRef staging_[2];

  std::mutex failure_mutex_;
  Status first_failure_;  // of a submission that waited, until wait_idle reports it
  WaitingSubmissions waiting_;
};

uint64_t memory_limit(const VulkanDescription& description, const VulkanOptions& options) {
  return options.memory_limit_bytes > 0 ? std::min(options.memory_limit_bytes, description.memory_bytes)
                                        : description.memory_bytes;
}

VulkanDevice::VulkanDevice(std::shared_ptr<VulkanContext> context, const VulkanOptions& options)
    : context_(std::move(context)),
      own_memory_(std::make_shared<VulkanMemory>(context_, context_->description().memory_type,
                                                 context_->description().buffers_host_visible,
                                                 memory_limit(context_->description(), options))),
      host_memory_(std::make_shared<VulkanMemory>(context_, context_->description().host_memory_type,
                                                  /*host_visible=*/true, UINT64_MAX)) {
  const VulkanDescription& description = context_->description();
  const uint32_t version = description.properties.apiVersion;
  info_ = {.id = context_->id(),
           .name = description.properties.deviceName,
           .driver = description.driver + ", Vulkan " + std::to_string(VK_API_VERSION_MAJOR(version)) + "." +
                     std::to_string(VK_API_VERSION_MINOR(version)),
           .target = description.target.text(),
           .memory_bytes = memory_limit(description, options),
           .largest_buffer_bytes = description.largest_allocation_bytes,
           .threads = 1,
           .kind = kind_of(description.properties.deviceType)};
}

Status VulkanDevice::submit(const CommandBuffer& commands, std::span<const SemaphorePoint> wait,
                            std::span<const SemaphorePoint> signal) {
  SPORKLE_RETURN_IF_ERROR(context_->alive());
  SPORKLE_RETURN_IF_ERROR(check_commands(commands));
  SPORKLE_RETURN_IF_ERROR(check_semaphores(wait, /*signal=*/false));
  SPORKLE_RETURN_IF_ERROR(check_semaphores(signal, /*signal=*/true));
  if (queue_->promised(wait)) {
    for (const SemaphorePoint& point : wait) {
      if (!static_cast<HostSemaphore&>(*point.semaphore).settled(point.value)) continue;
      const Status status = point.semaphore->wait(point.value, 0);
      if (!status.ok()) {
        fail_all(signal, status);
        return status;
      }
    }
    return queue_->submit(commands, signal);
  }
  const std::vector<SemaphorePoint> signals(signal.begin(), signal.end());
  const Status deferred = waiting_.defer(wait, [this, commands, signals](Status status) {
    if (status.ok()) {
      status = queue_->submit(commands, signals);
    } else {
      fail_all(signals, status);
    }
    std::lock_guard lock(failure_mutex_);
    if (first_failure_.ok()) first_failure_ = status;
  });
  return deferred.with_context("device " + info_.id);
}

Status VulkanDevice::write(const Binding& destination, std::span<const std::byte> data) {
  SPORKLE_RETURN_IF_ERROR(check_range(destination, data.size(), "write"));
  SPORKLE_RETURN_IF_ERROR(context_->alive());
  drain(/*all=*/false);
  if (data.empty()) return {};
  if (std::byte* memory = destination.buffer->host_pointer()) {
    std::memcpy(memory + destination.offset_bytes, data.data(), data.size());
    return {};
  }
  return stage(destination, data.size(), data.data(), nullptr);
}

Status VulkanDevice::read(const Binding& source, std::span<std::byte> data) {
  SPORKLE_RETURN_IF_ERROR(check_range(source, data.size(), "read"));
  drain(/*all=*/false);
  SPORKLE_RETURN_IF_ERROR(context_->alive());
  if (data.empty()) return {};
  if (const std::byte* memory = source.buffer->host_pointer()) {
    std::memcpy(data.data(), memory + source.offset_bytes, data.size());
    return {};
  }
  return stage(source, data.size(), nullptr, data.data());
}

Status VulkanDevice::stage(const Binding& binding, size_t size_bytes, const std::byte* from, std::byte* to) {
  std::lock_guard lock(staging_mutex_);
  for (VulkanBufferRef& block : staging_) {
    if (block) continue;
    SPORKLE_ASSIGN_OR_RETURN(block, allocate_buffer(host_memory_, kStagingBytes));
  }
  const SemaphoreRef done = std::make_shared<HostSemaphore>(0);
  const size_t pieces = (size_bytes + kStagingBytes - 1) / kStagingBytes;
  const auto piece_bytes = [&](size_t piece) { return std::min(kStagingBytes, size_bytes - piece * kStagingBytes); };
  const auto collect = [&](size_t piece) -> Status {
    SPORKLE_RETURN_IF_ERROR(done->wait(piece + 1, -1));
    if (to) std::memcpy(to + piece * kStagingBytes, staging_[piece % 2]->host_pointer(), piece_bytes(piece));
    return {};
  };
  Status status;
  size_t started = 0, collected = 0;
  for (size_t piece = 0; piece < pieces && status.ok(); ++piece) {
    if (piece >= 2) status = collect(collected++);
    if (!status.ok()) break;
    const VulkanBufferRef& block = staging_[piece % 2];
    if (from) std::memcpy(block->host_pointer(), from + piece * kStagingBytes, piece_bytes(piece));
    const Binding own = {binding.buffer, binding.offset_bytes + piece * kStagingBytes};
    CommandBuffer commands;
    commands.copy(from ? Binding{block} : own, from ? own : Binding{block}, piece_bytes(piece));
    const SemaphorePoint signal[] = {{done, piece + 1}};
    status = queue_->submit(commands, signal);
    if (status.ok()) ++started;
  }
  while (status.ok() && collected < started) status = collect(collected++);
  if (!status.ok()) queue_->drain();  // the blocks are in use until then
  return status;
}

}  // namespace

Result<std::shared_ptr<Device>> open_vulkan_device(size_t index, const VulkanOptions& options) {
  // Drivers that compute on the processor do so on threads that inherit this one's floating-point environment.
  const StrictFloatEnvironment environment;
  SPORKLE_ASSIGN_OR_RETURN(const std::shared_ptr<VulkanInstance> instance, VulkanInstance::open(options));
  SPORKLE_ASSIGN_OR_RETURN(const std::vector<VkPhysicalDevice> devices, instance->devices());
  if (index >= devices.size())
    return not_found("there is no device vulkan:" + std::to_string(index) + ": Vulkan knows " +
                     std::to_string(devices.size()) + (devices.size() == 1 ? " device" : " devices"));
  SPORKLE_ASSIGN_OR_RETURN(std::shared_ptr<VulkanContext> context,
                           VulkanContext::open(instance, devices[index], index, options));
  return VulkanDevice::open(std::move(context), options);
}

Result<size_t> count_vulkan_devices(const VulkanOptions& options) {
  SPORKLE_ASSIGN_OR_RETURN(const std::shared_ptr<VulkanInstance> instance, VulkanInstance::open(options));
  SPORKLE_ASSIGN_OR_RETURN(const std::vector<VkPhysicalDevice> devices, instance->devices());
  return devices.size();
}

}  // namespace sporkle::hal
