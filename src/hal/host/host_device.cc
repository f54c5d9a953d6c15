#include "hal/host/host_device.h"

#include <algorithm>
#include <cstring>

#include "base/trace.h"
#include "hal/host/float_environment.h"

namespace sporkle::hal {
namespace {

// A buffer that has passed check_range.
HostBuffer& host(const BufferRef& buffer) { return static_cast<HostBuffer&>(*buffer); }

std::byte* address(const Binding& binding) {
  std::byte* data = host(binding.buffer).host_pointer();
  return data ? data + binding.offset_bytes : nullptr;
}

}  // namespace

HostDevice::HostDevice(DeviceInfo info, size_t memory_limit_bytes) : info_(std::move(info)) {
  if (memory_limit_bytes > 0) pool_ = std::make_shared<MemoryPool>(memory_limit_bytes);
}

void HostDevice::shut_down() {
  waiting_.cancel();
  waiting_.drain(/*all=*/true);
}

MemoryPool::Statistics HostDevice::memory_statistics() const {
  return pool_ ? pool_->statistics() : MemoryPool::Statistics{};
}

Result<BufferRef> HostDevice::allocate(size_t size_bytes) {
  MemoryPool::Block block;
  if (pool_) {
    Result<MemoryPool::Block> allocated = pool_->allocate(size_bytes);
    if (!allocated.ok()) return allocated.status().with_context("device " + info_.id);
    block = *allocated;
  }
  return BufferRef(std::make_shared<HostBuffer>(this, pool_, block, size_bytes));
}

Status HostDevice::write(const Binding& destination, std::span<const std::byte> data) {
  SPORKLE_RETURN_IF_ERROR(check_range(destination, data.size(), "write"));
  waiting_.drain(/*all=*/false);
  std::lock_guard lock(execution_);
  if (pool_ && !data.empty()) std::memcpy(address(destination), data.data(), data.size());
  return {};
}

Status HostDevice::read(const Binding& source, std::span<std::byte> data) {
  SPORKLE_RETURN_IF_ERROR(check_range(source, data.size(), "read"));
  waiting_.drain(/*all=*/false);
  std::lock_guard lock(execution_);
  if (data.empty()) return {};
  if (pool_) {
    std::memcpy(data.data(), address(source), data.size());
  } else {
    std::memset(data.data(), 0, data.size());
  }
  return {};
}

Result<SemaphoreRef> HostDevice::create_semaphore(uint64_t initial_value) {
  return SemaphoreRef(std::make_shared<HostSemaphore>(initial_value));
}

bool HostDevice::owns(const Buffer& buffer) const {
  const auto* own = dynamic_cast<const HostBuffer*>(&buffer);
  return own && own->device() == this;
}

bool HostDevice::owns(const Executable& executable) const {
  const auto* own = dynamic_cast<const HostExecutable*>(&executable);
  return own && own->device() == this;
}

Status HostDevice::check_launch(const DispatchCommand& command) const {
  return static_cast<const HostExecutable&>(*command.executable).check(command.bindings, command.scalars);
}

Status HostDevice::submit(const CommandBuffer& commands, std::span<const SemaphorePoint> wait,
                          std::span<const SemaphorePoint> signal) {
  SPORKLE_RETURN_IF_ERROR(check_commands(commands));
  SPORKLE_RETURN_IF_ERROR(check_semaphores(wait, /*signal=*/false));
  SPORKLE_RETURN_IF_ERROR(check_semaphores(signal, /*signal=*/true));
  if (!all_settled(wait)) return defer(commands, wait, signal);
  for (const SemaphorePoint& point : wait) {
    const Status status = point.semaphore->wait(point.value, 0);
    if (!status.ok()) {
      fail_all(signal, status);
      return status;
    }
  }
  return complete(commands, signal);
}

Status HostDevice::complete(const CommandBuffer& commands, std::span<const SemaphorePoint> signal) {
  Status status = execute(commands);
  for (const SemaphorePoint& point : signal) {
    if (status.ok()) status = point.semaphore->signal(point.value);
  }
  if (!status.ok()) fail_all(signal, status);
  return status;
}

Status HostDevice::defer(const CommandBuffer& commands, std::span<const SemaphorePoint> wait,
                         std::span<const SemaphorePoint> signal) {
  const std::vector<SemaphorePoint> signals(signal.begin(), signal.end());
  const Status deferred = waiting_.defer(wait, [this, commands, signals](Status status) {
    if (status.ok()) {
      status = complete(commands, signals);
    } else {
      fail_all(signals, status);
    }
    std::lock_guard lock(failure_mutex_);
    if (first_failure_.ok()) first_failure_ = status;
  });
  return deferred.with_context("device " + info_.id);
}

Status HostDevice::wait_idle() {
  waiting_.drain(/*all=*/true);
  const std::scoped_lock lock(execution_, failure_mutex_);  // the first: what runs inline on other threads is done
  return std::exchange(first_failure_, Status());
}

Status HostDevice::execute(const CommandBuffer& commands) {
  std::lock_guard lock(execution_);
  const StrictFloatEnvironment environment;
  const auto start = std::chrono::steady_clock::now();
  Status status;
  for (const CommandBuffer::Command& command : commands.commands()) {
    if (status.ok()) status = std::visit([this](const auto& c) { return execute(c); }, command);
  }
  busy_ = busy_.load() + (std::chrono::steady_clock::now() - start);  // written under execution_ alone
  return status;
}

Result<double> HostDevice::busy_seconds() const { return std::chrono::duration<double>(busy_.load()).count(); }

Status HostDevice::execute(const DispatchCommand& command) {
  spans_.clear();
  for (const Binding& binding : command.bindings) {
    const size_t to_end = host(binding.buffer).size_bytes() - binding.offset_bytes;
    spans_.push_back({address(binding), binding.size_bytes > 0 ? binding.size_bytes : to_end});
  }
  auto& executable = static_cast<HostExecutable&>(*command.executable);
  if (!launches_are_watched()) return executable.run(spans_, command.scalars, nullptr);
  shares_.clear();
  const int64_t start_ns = trace::now_ns();
  SPORKLE_RETURN_IF_ERROR(executable.run(spans_, command.scalars, &shares_));
  report_launch(info_, command, start_ns, trace::now_ns(), shares_);
  return {};
}

Status HostDevice::execute(const CopyCommand& command) {
  if (pool_ && command.size_bytes > 0)
    std::memcpy(address(command.destination), address(command.source), command.size_bytes);
  return {};
}

Status HostDevice::execute(const FillCommand& command) {
  if (!pool_) return {};
  std::byte* to = address(command.destination);
  const uint32_t pattern = command.pattern;
  if (pattern == (pattern & 0xff) * 0x01010101u) {
    if (command.size_bytes > 0) std::memset(to, static_cast<int>(pattern & 0xff), command.size_bytes);
    return {};
  }
  for (uint64_t i = 0; i < command.size_bytes; i += sizeof pattern) std::memcpy(to + i, &pattern, sizeof pattern);
  return {};
}

}  // namespace sporkle::hal
