// Host memory for buffers: freed blocks are kept and handed out again, because a training step asks for the same sizes
// over and over and fresh pages cost more than the work in them.
//
// Blocks are 64-byte aligned and followed by at least 64 bytes of slack. Large ones lie on huge pages where the system
// has them. Thread-safe. The pool must outlive its blocks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <vector>

#include "base/status.h"

namespace sporkle::hal {

class MemoryPool {
 public:
  static constexpr size_t kAlignment = 64;
  static constexpr size_t kSlack = 64;

  struct Block {
    std::byte* data = nullptr;
    size_t capacity = 0;
  };
  struct Statistics {
    size_t in_use_bytes = 0;  // of the blocks handed out
    size_t peak_bytes = 0;    // the most that was in use at once
    size_t kept_bytes = 0;    // free, kept for later
  };

  // `limit_bytes` bounds what is in use and kept together.
  explicit MemoryPool(size_t limit_bytes) : limit_(limit_bytes) {}
  ~MemoryPool();
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;

  // Contents are undefined. out_of_memory names the size, what is in use and the limit.
  Result<Block> allocate(size_t size_bytes);
  void free(Block block);
  // Gives everything kept back to the system.
  void trim();
  Statistics statistics() const;

 private:
  void trim_locked();

  const size_t limit_;
  mutable std::mutex mutex_;
  std::map<size_t, std::vector<std::byte*>> kept_;  // by capacity
  Statistics statistics_;
};

}  // namespace sporkle::hal
