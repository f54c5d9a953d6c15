// What a device may offer, beside hal::Device, for copies to and from other devices (hal/device_copy.h): memory that
// two of them reach. A Device that offers it is also a PeerMemory: dynamic_cast<PeerMemory*>(&device).
//
// Thread-safe. Buffers are for copies alone, and keep what they need alive but for host memory, which its owner keeps.
#pragma once

#include <unistd.h>

#include <string>
#include <utility>

#include "hal/device.h"

namespace sporkle::hal {

// Memory on its way from one device to another: a file descriptor of a driver's, closed with this.
class MemoryHandle {
 public:
  MemoryHandle() = default;
  MemoryHandle(int descriptor, uint64_t allocation_bytes)
      : descriptor_(descriptor), allocation_bytes_(allocation_bytes) {}
  MemoryHandle(MemoryHandle&& other) noexcept
      : descriptor_(other.release()), allocation_bytes_(other.allocation_bytes_) {}
  MemoryHandle& operator=(MemoryHandle&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    std::swap(allocation_bytes_, other.allocation_bytes_);
    return *this;
  }
  ~MemoryHandle() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }

  int descriptor() const { return descriptor_; }
  uint64_t allocation_bytes() const { return allocation_bytes_; }  // of the whole allocation, for who opens it
  int release() { return std::exchange(descriptor_, -1); }         // the driver owns it from here on

 private:
  int descriptor_ = -1;
  uint64_t allocation_bytes_ = 0;
};

struct SharedMemory {
  BufferRef buffer;
  MemoryHandle handle;
};

class PeerMemory {
 public:
  virtual ~PeerMemory() = default;

  // Devices with the same sharing ID open each other's memory; empty: this one shares none.
  virtual std::string sharing_id() const = 0;
  // Memory of this device that others can open. unsupported where sharing_id() is empty.
  virtual Result<SharedMemory> allocate_shared(size_t size_bytes) = 0;
  // What another device with the same sharing ID allocated, size_bytes large.
  virtual Result<BufferRef> open_shared(MemoryHandle handle, size_t size_bytes) = 0;

  // What host memory, and its size, must be multiples of to be imported; 0: it cannot be.
  virtual uint64_t host_alignment() const = 0;
  // Host memory of the caller's, for the device to reach by itself; it must outlive the buffer. unsupported where the
  // driver refuses.
  virtual Result<BufferRef> import_host(std::byte* memory, size_t size_bytes) = 0;
  // Host memory of the driver's, which the device reaches by itself; it has a host_pointer().
  virtual Result<BufferRef> allocate_pinned(size_t size_bytes) = 0;
};

}  // namespace sporkle::hal
