#include "hal/host/host_device.h"

#include <algorithm>
#include <cstring>
#include <system_error>

#include "hal/host/float_environment.h"

namespace sporkle::hal {
namespace {

// A buffer that has passed check_range.
HostBuffer& host(const BufferRef& buffer) { return static_cast<HostBuffer&>(*buffer); }
HostSemaphore& host(const SemaphoreRef& semaphore) { return static_cast<HostSemaphore&>(*semaphore); }

std::byte* address(const Binding& binding) {
  std::byte* data = host(binding.buffer).host_pointer();
  return data ? data + binding.offset_bytes : nullptr;
}

bool all_settled(std::span<const SemaphorePoint> points) {
  return std::ranges::all_of(points, [](const SemaphorePoint& p) { return host(p.semaphore).settled(p.value); });
}

void fail_all(std::span<const SemaphorePoint> points, const Status& status) {
  for (const SemaphorePoint& point : points) host(point.semaphore).fail(status);
}

}  // namespace

Status check_arguments(std::string_view kernel, std::span<const int> element_sizes, size_t scalar_count,
                       std::span<const Binding> bindings, std::span<const uint64_t> scalars) {
  if (bindings.size() != element_sizes.size() || scalars.size() != scalar_count) {
    return invalid_argument("kernel " + std::string(kernel) + " takes " + std::to_string(element_sizes.size()) +
                            " buffers and " + std::to_string(scalar_count) + " scalars, not " +
                            std::to_string(bindings.size()) + " and " + std::to_string(scalars.size()));
  }
  for (size_t i = 0; i < bindings.size(); ++i) {
    if (bindings[i].offset_bytes % static_cast<uint64_t>(element_sizes[i]) != 0) {
      return invalid_argument("kernel " + std::string(kernel) + ", buffer " + std::to_string(i) + ": offset " +
                              std::to_string(bindings[i].offset_bytes) + " is no multiple of the element size " +
                              std::to_string(element_sizes[i]));
    }
  }
  return {};
}

HostDevice::HostDevice(DeviceInfo info, size_t memory_limit_bytes) : info_(std::move(info)) {
  if (memory_limit_bytes > 0) pool_ = std::make_shared<MemoryPool>(memory_limit_bytes);
}

void HostDevice::shut_down() {
  {
    std::lock_guard lock(waiting_mutex_);
    for (Waiting& waiting : waiting_) waiting.thread.request_stop();
  }
  drain(/*all=*/true);
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
  drain(/*all=*/false);
  std::lock_guard lock(execution_);
  if (pool_ && !data.empty()) std::memcpy(address(destination), data.data(), data.size());
  return {};
}

Status HostDevice::read(const Binding& source, std::span<std::byte> data) {
  SPORKLE_RETURN_IF_ERROR(check_range(source, data.size(), "read"));
  drain(/*all=*/false);
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

Status HostDevice::check_range(const Binding& binding, uint64_t size_bytes, std::string_view what) const {
  const auto* buffer = dynamic_cast<const HostBuffer*>(binding.buffer.get());
  if (!buffer || buffer->device() != this) {
    return invalid_argument("device " + info_.id + ", " + std::string(what) + ": " +
                            (binding.buffer ? "the buffer belongs to another device" : "no buffer is given"));
  }
  const uint64_t available = buffer->size_bytes() - std::min<uint64_t>(buffer->size_bytes(), binding.offset_bytes);
  if (binding.offset_bytes > buffer->size_bytes() || size_bytes > available) {
    return invalid_argument("device " + info_.id + ", " + std::string(what) + ": " + std::to_string(size_bytes) +
                            " bytes at offset " + std::to_string(binding.offset_bytes) +
                            " pass the end of a buffer of " + std::to_string(buffer->size_bytes()));
  }
  return {};
}

Status HostDevice::check_command(const CommandBuffer::Command& command) const {
  if (const auto* dispatch = std::get_if<DispatchCommand>(&command)) {
    const auto* executable = dynamic_cast<const HostExecutable*>(dispatch->executable.get());
    if (!executable || executable->device() != this) {
      return invalid_argument("device " + info_.id + ", dispatch: the executable was not loaded by this device");
    }
    for (const Binding& binding : dispatch->bindings) SPORKLE_RETURN_IF_ERROR(check_range(binding, 0, "dispatch"));
    return executable->check(dispatch->bindings, dispatch->scalars);
  }
  if (const auto* copy = std::get_if<CopyCommand>(&command)) {
    SPORKLE_RETURN_IF_ERROR(check_range(copy->source, copy->size_bytes, "source of a copy"));
    SPORKLE_RETURN_IF_ERROR(check_range(copy->destination, copy->size_bytes, "destination of a copy"));
    const uint64_t from = copy->source.offset_bytes, to = copy->destination.offset_bytes;
    if (copy->source.buffer == copy->destination.buffer && from < to + copy->size_bytes &&
        to < from + copy->size_bytes) {
      return invalid_argument("device " + info_.id + ", copy: " + std::to_string(copy->size_bytes) +
                              " bytes from offset " + std::to_string(from) + " to " + std::to_string(to) +
                              " of the same buffer overlap");
    }
    return {};
  }
  const auto& fill = std::get<FillCommand>(command);
  SPORKLE_RETURN_IF_ERROR(check_range(fill.destination, fill.size_bytes, "fill"));
  if (fill.size_bytes % 4 != 0 || fill.destination.offset_bytes % 4 != 0) {
    return invalid_argument("device " + info_.id + ", fill: size " + std::to_string(fill.size_bytes) + " and offset " +
                            std::to_string(fill.destination.offset_bytes) + " must be multiples of 4");
  }
  return {};
}

Status HostDevice::check_semaphores(std::span<const SemaphorePoint> points, bool signal) const {
  for (const SemaphorePoint& point : points) {
    const auto* semaphore = dynamic_cast<const HostSemaphore*>(point.semaphore.get());
    if (!semaphore) {
      return invalid_argument(
          "device " + info_.id + ", submit: " +
          (point.semaphore ? "the semaphore belongs to a device of another kind" : "no semaphore is given"));
    }
    if (signal && point.value <= semaphore->value()) {
      return invalid_argument("device " + info_.id + ", submit: cannot signal a semaphore with " +
                              std::to_string(point.value) + ": it is at " + std::to_string(semaphore->value()) +
                              " and only grows");
    }
  }
  return {};
}

Status HostDevice::submit(const CommandBuffer& commands, std::span<const SemaphorePoint> wait,
                          std::span<const SemaphorePoint> signal) {
  for (const CommandBuffer::Command& command : commands.commands()) SPORKLE_RETURN_IF_ERROR(check_command(command));
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
  std::lock_guard lock(waiting_mutex_);
  waiting_.remove_if([](const Waiting& w) { return w.finished; });  // joins threads that have nothing left to do
  Waiting& entry = waiting_.emplace_back();
  entry.wait.assign(wait.begin(), wait.end());
  entry.signal.assign(signal.begin(), signal.end());
  const auto run = [this, &entry, commands](std::stop_token stop) {
    Status status;
    for (const SemaphorePoint& point : entry.wait) {
      if (status.ok()) status = host(point.semaphore).wait(point.value, stop);
    }
    if (status.ok()) {
      status = complete(commands, entry.signal);
    } else {
      fail_all(entry.signal, status);
    }
    std::lock_guard done(waiting_mutex_);
    if (first_failure_.ok()) first_failure_ = status;
    entry.finished = true;
    waiting_changed_.notify_all();
  };
  try {
    entry.thread = std::jthread(run);
  } catch (const std::system_error& error) {
    waiting_.pop_back();
    return unavailable("device " + info_.id + ": no thread for a submission that waits: " + error.what());
  }
  return {};
}

void HostDevice::drain(bool all) {
  std::list<Waiting> finished;  // joined after the lock is released
  std::unique_lock lock(waiting_mutex_);
  waiting_changed_.wait(lock, [&] {
    return std::ranges::all_of(waiting_,
                               [&](const Waiting& w) { return w.finished || (!all && !all_settled(w.wait)); });
  });
  for (auto i = waiting_.begin(); i != waiting_.end();) {
    const auto next = std::next(i);
    if (i->finished) finished.splice(finished.end(), waiting_, i);
    i = next;
  }
}

Status HostDevice::wait_idle() {
  drain(/*all=*/true);
  const std::scoped_lock lock(execution_, waiting_mutex_);  // the first: what runs inline on other threads is done
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
    spans_.push_back({address(binding), host(binding.buffer).size_bytes() - binding.offset_bytes});
  }
  return static_cast<HostExecutable&>(*command.executable).run(spans_, command.scalars);
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
