// Host memory for buffers: freed blocks are kept and handed out again, because a training step asks for the same sizes
// over and over and fresh pages cost more than the work in them.
//
// Blocks are 64-byte aligned and followed by at least 64 bytes of slack. All but small ones lie on huge pages where the
// system has them, several on one where they are smaller. Thread-safe. The pool must outlive its blocks.
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
  // Gives back to the system what is kept, but for blocks that share huge pages with others in use.
  void trim();
  Statistics statistics() const;

 private:
  // Huge pages that blocks of a middling size share.
  struct Chunk {
    size_t used_bytes = 0;  // handed out from the front
    size_t blocks = 0;      // that lie in it, in use or kept
  };

  std::byte* system_allocate(size_t capacity);
  void trim_locked();

  const size_t limit_;
  mutable std::mutex mutex_;
  std::map<size_t, std::vector<std::byte*>> kept_;  // by capacity
  std::map<std::byte*, Chunk> chunks_;              // by address
  std::byte* open_chunk_ = nullptr;                 // the one that is not full
  Statistics statistics_;
};

}  // namespace sporkle::hal
