// Copies from one device's memory to another's, by the shortest way that both ends offer.
//
//   within     both ends are the same device
//   host       one end's memory is the host's: the other device reads or writes it
//   shared     one end opens memory of the other's (an opaque handle of their common driver, on the same card)
//   pinned     host memory that both devices reach by themselves
//   staged     host memory of each device's own, with a copy by the processor between
//   read_write the first is read into the host's memory, which is then written to the second
//
// All but the first two go through two blocks that take turns: while one device fills a block, the other empties the
// one before; timeline semaphores say when. Thread-safe; copies of one copier happen one after the other.
#pragma once

#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hal/device.h"
#include "hal/peer_memory.h"

namespace sporkle::hal {

enum class CopyRoute : uint8_t { within, host, shared, pinned, staged, read_write };
std::string_view copy_route_name(CopyRoute route);
// not_found lists the names.
Result<CopyRoute> parse_copy_route(std::string_view name);

struct DeviceCopyOptions {
  // The shortest way to try; longer ones are taken where it is not offered.
  CopyRoute shortest = CopyRoute::shared;
  size_t block_bytes = size_t{16} << 20;  // rounded up to what the devices ask for
};

class DeviceCopier {
 public:
  // Both devices outlive the copier. out_of_memory where there is none for the blocks.
  static Result<std::unique_ptr<DeviceCopier>> create(Device& source, Device& destination,
                                                      const DeviceCopyOptions& options = {});
  ~DeviceCopier();
  DeviceCopier(const DeviceCopier&) = delete;
  DeviceCopier& operator=(const DeviceCopier&) = delete;

  // Of copies between memory that the host does not reach; those with the host's memory go by `host`.
  CopyRoute route() const { return route_; }
  // Why no shorter way is taken: a sentence for each that is not offered.
  const std::string& reason() const { return reason_; }

  // Returns when `destination` has the bytes. Each device copies after all that it was given before, and after `wait`.
  // invalid_argument names a range that is none or a buffer of another device; device_lost and the like as the devices
  // report them, with the destination's bytes unknown.
  Status copy(const Binding& source, const Binding& destination, uint64_t size_bytes,
              std::span<const SemaphorePoint> wait = {});

 private:
  DeviceCopier(Device& source, Device& destination) : source_(source), destination_(destination) {}
  Status find_route(const DeviceCopyOptions& options);
  Status share(size_t block_bytes);
  Status pin(size_t block_bytes);
  Status stage(size_t block_bytes);
  Status copy_within(const Binding& source, const Binding& destination, uint64_t size_bytes,
                     std::span<const SemaphorePoint> wait);
  Status copy_by_host(const Binding& source, const Binding& destination, uint64_t size_bytes);
  Status copy_by_blocks(const Binding& source, const Binding& destination, uint64_t size_bytes,
                        std::span<const SemaphorePoint> wait);

  // As each device sees it.
  struct Block {
    Binding filled, emptied;
  };

  Device& source_;
  Device& destination_;
  CopyRoute route_ = CopyRoute::read_write;
  std::string reason_;
  size_t block_bytes_ = 0;
  std::unique_ptr<std::byte[], void (*)(std::byte*)> host_{nullptr, nullptr};  // outlives the blocks
  Block blocks_[2];
  std::mutex mutex_;
};

}  // namespace sporkle::hal
