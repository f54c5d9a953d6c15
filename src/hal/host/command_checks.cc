#include "hal/host/command_checks.h"

#include <algorithm>

#include "hal/host/host_semaphore.h"

namespace sporkle::hal {

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

Status CommandChecks::check_range(const Binding& binding, uint64_t size_bytes, std::string_view what) const {
  const Buffer* buffer = binding.buffer.get();
  if (!buffer || !owns(*buffer)) {
    return invalid_argument("device " + device_id() + ", " + std::string(what) + ": " +
                            (binding.buffer ? "the buffer belongs to another device" : "no buffer is given"));
  }
  const uint64_t available = buffer->size_bytes() - std::min<uint64_t>(buffer->size_bytes(), binding.offset_bytes);
  if (binding.offset_bytes > buffer->size_bytes() || size_bytes > available) {
    return invalid_argument("device " + device_id() + ", " + std::string(what) + ": " + std::to_string(size_bytes) +
                            " bytes at offset " + std::to_string(binding.offset_bytes) +
                            " pass the end of a buffer of " + std::to_string(buffer->size_bytes()));
  }
  return {};
}

Status CommandChecks::check_commands(const CommandBuffer& commands) const {
  for (const CommandBuffer::Command& command : commands.commands())
    SPORKLE_RETURN_IF_ERROR(std::visit([this](const auto& c) { return check(c); }, command));
  return {};
}

Status CommandChecks::check(const DispatchCommand& command) const {
  if (!command.executable || !owns(*command.executable)) {
    return invalid_argument("device " + device_id() + ", dispatch: the executable was not loaded by this device");
  }
  for (const Binding& binding : command.bindings)
    SPORKLE_RETURN_IF_ERROR(check_range(binding, binding.size_bytes, "dispatch"));
  return check_launch(command);
}

Status CommandChecks::check(const CopyCommand& command) const {
  SPORKLE_RETURN_IF_ERROR(check_range(command.source, command.size_bytes, "source of a copy"));
  SPORKLE_RETURN_IF_ERROR(check_range(command.destination, command.size_bytes, "destination of a copy"));
  const uint64_t from = command.source.offset_bytes, to = command.destination.offset_bytes;
  if (command.source.buffer == command.destination.buffer && from < to + command.size_bytes &&
      to < from + command.size_bytes) {
    return invalid_argument("device " + device_id() + ", copy: " + std::to_string(command.size_bytes) +
                            " bytes from offset " + std::to_string(from) + " to " + std::to_string(to) +
                            " of the same buffer overlap");
  }
  return {};
}

Status CommandChecks::check(const FillCommand& command) const {
  SPORKLE_RETURN_IF_ERROR(check_range(command.destination, command.size_bytes, "fill"));
  if (command.size_bytes % 4 != 0 || command.destination.offset_bytes % 4 != 0) {
    return invalid_argument("device " + device_id() + ", fill: size " + std::to_string(command.size_bytes) +
                            " and offset " + std::to_string(command.destination.offset_bytes) +
                            " must be multiples of 4");
  }
  return {};
}

Status CommandChecks::check_semaphores(std::span<const SemaphorePoint> points, bool signal) const {
  for (const SemaphorePoint& point : points) {
    const auto* semaphore = dynamic_cast<const HostSemaphore*>(point.semaphore.get());
    if (!semaphore) {
      return invalid_argument(
          "device " + device_id() + ", submit: " +
          (point.semaphore ? "the semaphore belongs to a device of another kind" : "no semaphore is given"));
    }
    if (signal && point.value <= semaphore->value()) {
      return invalid_argument("device " + device_id() + ", submit: cannot signal a semaphore with " +
                              std::to_string(point.value) + ": it is at " + std::to_string(semaphore->value()) +
                              " and only grows");
    }
  }
  return {};
}

}  // namespace sporkle::hal
