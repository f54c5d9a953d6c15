// What a device is: memory, executables, and queues of recorded commands ordered by timeline semaphores.
//
// Every backend (null, reference, cpu, later vulkan, nvidia, amd ...) implements Device and passes hal/conformance.
// Buffers, executables and semaphores are reference-counted and keep their device's resources alive; the Device must
// outlive them. All calls are thread-safe unless a class says otherwise.
#pragma once

#include <cstdint>
#include <memory>
#include <source_location>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/status.h"

namespace sporkle::hal {

enum class DeviceKind : uint8_t { processor, integrated_gpu, discrete_gpu, virtual_gpu };
inline std::string_view device_kind_name(DeviceKind kind) {
  constexpr std::string_view kNames[] = {"processor", "integrated GPU", "discrete GPU", "virtual GPU"};
  return kNames[static_cast<size_t>(kind)];
}

struct DeviceInfo {
  std::string id;      // what --device takes: "cpu", "null", "reference", "vulkan:0"
  std::string name;    // for people: "AMD EPYC 9R14"
  std::string driver;  // "LLVM 19.1.7, x86-64-v4"
  // What the code generator compiles for, for example "cpu:x86-64-v4", "reference", "null". Part of every cache key.
  std::string target;
  uint64_t memory_bytes = 0;
  uint64_t largest_buffer_bytes = UINT64_MAX;  // that one allocation may have
  int threads = 1;
  DeviceKind kind = DeviceKind::processor;  // what computes, whatever the driver
};

// Linear memory on one device. Contents are undefined at allocation.
class Buffer {
 public:
  virtual ~Buffer() = default;
  virtual size_t size_bytes() const = 0;
  // The memory itself where the host can reach it, else nullptr. Reading it while the device writes is a race.
  virtual std::byte* host_pointer() = 0;
};
using BufferRef = std::shared_ptr<Buffer>;

class KernelDescription;  // hal/launch_trace.h

// One kernel, ready to launch.
class Executable {
 public:
  virtual ~Executable() = default;
  // What profiles call it; null where nobody said. Set before the first launch.
  const KernelDescription* description() const { return description_.get(); }
  void describe(std::shared_ptr<const KernelDescription> description) { description_ = std::move(description); }

 private:
  std::shared_ptr<const KernelDescription> description_;
};
using ExecutableRef = std::shared_ptr<Executable>;

// A 64-bit counter that only grows. The host and queues wait until it reaches a value.
class Semaphore {
 public:
  virtual ~Semaphore() = default;
  virtual uint64_t value() const = 0;
  virtual Status signal(uint64_t value) = 0;
  // deadline_exceeded after timeout_ms; a negative timeout waits for ever. A failed submission's semaphores report the
  // failure here.
  virtual Status wait(uint64_t value, int64_t timeout_ms) = 0;
};
using SemaphoreRef = std::shared_ptr<Semaphore>;

struct Binding {
  BufferRef buffer;
  uint64_t offset_bytes = 0;  // a multiple of the element size
  uint64_t size_bytes = 0;    // what a kernel may touch; 0: up to the buffer's end
};

// Commands are executed in order, as if each waited for the one before it (a backend may overlap what does not
// conflict).
struct DispatchCommand {
  ExecutableRef executable;
  std::vector<Binding> bindings;  // one for each buffer of the kernel, in its order
  std::vector<uint64_t> scalars;  // the bits of each scalar argument, as in a constant node of its type
  std::source_location source;    // the line that asked for it, for profiles
};
struct CopyCommand {
  Binding source, destination;
  uint64_t size_bytes;
};
struct FillCommand {
  Binding destination;
  uint64_t size_bytes;
  uint32_t pattern;  // repeated; size_bytes is a multiple of 4
};

// A list of commands, recorded by one thread and submitted as often as wanted. It keeps what it names alive.
class CommandBuffer {
 public:
  using Command = std::variant<DispatchCommand, CopyCommand, FillCommand>;
  void dispatch(ExecutableRef executable, std::vector<Binding> bindings, std::vector<uint64_t> scalars,
                std::source_location source = std::source_location::current()) {
    commands_.push_back(DispatchCommand{std::move(executable), std::move(bindings), std::move(scalars), source});
  }
  void copy(Binding source, Binding destination, uint64_t size_bytes) {
    commands_.push_back(CopyCommand{std::move(source), std::move(destination), size_bytes});
  }
  void fill(Binding destination, uint64_t size_bytes, uint32_t pattern) {
    commands_.push_back(FillCommand{std::move(destination), size_bytes, pattern});
  }
  std::span<const Command> commands() const { return commands_; }
  // For whoever submits the same commands again with other buffers and scalars; not while a device may read them.
  std::span<Command> mutable_commands() { return commands_; }
  void clear() { commands_.clear(); }

 private:
  std::vector<Command> commands_;
};

struct SemaphorePoint {
  SemaphoreRef semaphore;
  uint64_t value;
};

class Device {
 public:
  virtual ~Device() = default;
  virtual const DeviceInfo& info() const = 0;

  // At least 64-byte aligned. out_of_memory names the size asked for and what is in use.
  virtual Result<BufferRef> allocate(size_t size_bytes) = 0;
  virtual Status write(const Binding& destination, std::span<const std::byte> data) = 0;  // waits for the device
  virtual Status read(const Binding& source, std::span<std::byte> data) = 0;              // waits for the device

  // `code` is what codegen::compile made for info().target; corrupt_data when it is not.
  virtual Result<ExecutableRef> load(std::span<const std::byte> code) = 0;

  virtual Result<SemaphoreRef> create_semaphore(uint64_t initial_value) = 0;
  // Executes after every wait point is reached, then signals. May return before the work is done. Argument errors (a
  // binding out of range, a foreign executable) are returned at once, and nothing is executed.
  virtual Status submit(const CommandBuffer& commands, std::span<const SemaphorePoint> wait = {},
                        std::span<const SemaphorePoint> signal = {}) = 0;
  virtual Status wait_idle() = 0;

  // How long this device has executed commands since it was opened, by its own clock, over all submissions that are
  // done: without planning, and without waiting for semaphores. Submissions that run side by side each count in full.
  // unsupported where a device has no such clock.
  virtual Result<double> busy_seconds() const {
    return unsupported("device " + info().id + " has no clock of its own");
  }
};

}  // namespace sporkle::hal
