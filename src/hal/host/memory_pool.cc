#include "hal/host/memory_pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <string>

namespace sporkle::hal {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kHugePage = size_t{2} << 20;
// Blocks from here to a huge page share chunks: a walk through the page tables for each 4 KiB of a matrix that is read
// once takes as long as the reading.
constexpr size_t kLeastShared = size_t{32} << 10;
constexpr size_t kChunk = 2 * kHugePage;
constexpr size_t kLargest = size_t{1} << 47;  // what an address space holds; keeps the arithmetic below from wrapping

#if defined(__SANITIZE_ADDRESS__)
// Address sanitizer sees a use after free only when the block really goes back.
constexpr bool kReuse = false;
#else
constexpr bool kReuse = true;
#endif

// A few sizes to each power of two, so that a block fits many requests and wastes at most a quarter; whole huge pages
// from 16 MiB on.
size_t capacity_for(size_t size_bytes) {
  const size_t needed = size_bytes + MemoryPool::kSlack;
  if (!kReuse) return (needed + MemoryPool::kAlignment - 1) & ~(MemoryPool::kAlignment - 1);
  if (needed <= 256) return 256;
  const size_t step = needed >= 8 * kHugePage ? kHugePage : std::bit_floor(needed - 1) / 4;
  return (needed + step - 1) / step * step;
}

std::string readable(size_t bytes) {
  if (bytes < 1 << 20) return std::to_string(bytes) + " bytes";
  return std::to_string(bytes >> 20) + " MiB";
}

}  // namespace

MemoryPool::~MemoryPool() { trim(); }

std::byte* MemoryPool::system_allocate(size_t capacity) {
  if (kReuse && capacity >= kLeastShared && capacity < kHugePage) {
    if (!open_chunk_ || chunks_[open_chunk_].used_bytes + capacity > kChunk) {
      auto* const chunk = static_cast<std::byte*>(std::aligned_alloc(kHugePage, kChunk));
      if (!chunk) return nullptr;
      ::madvise(chunk, kChunk, MADV_HUGEPAGE);
      chunks_[chunk] = {};
      open_chunk_ = chunk;
    }
    Chunk& chunk = chunks_[open_chunk_];
    std::byte* const data = open_chunk_ + chunk.used_bytes;
    chunk.used_bytes += capacity;
    ++chunk.blocks;
    return data;
  }
  const size_t alignment = capacity >= kHugePage ? kHugePage : capacity >= kPage ? kPage : kAlignment;
  void* data = std::aligned_alloc(alignment, (capacity + alignment - 1) & ~(alignment - 1));
  // Advice only.
  if (data && capacity >= kHugePage) ::madvise(data, capacity & ~(kHugePage - 1), MADV_HUGEPAGE);
  return static_cast<std::byte*>(data);
}

Result<MemoryPool::Block> MemoryPool::allocate(size_t size_bytes) {
  std::lock_guard lock(mutex_);
  const auto refuse = [&](std::string why) {
    return Status(Code::out_of_memory, "cannot allocate " + readable(size_bytes) + ": " +
                                           readable(statistics_.in_use_bytes) + " are in use" + std::move(why));
  };
  const size_t free_bytes = limit_ - std::min(limit_, statistics_.in_use_bytes);
  if (size_bytes > kLargest || size_bytes > free_bytes) return refuse(" of at most " + readable(limit_));

  Block block{nullptr, capacity_for(size_bytes)};
  // A kept block up to a quarter larger will do.
  const auto found = kept_.lower_bound(block.capacity);
  if (found != kept_.end() && found->first <= block.capacity + block.capacity / 4) {
    block = {found->second.back(), found->first};
    found->second.pop_back();
    if (found->second.empty()) kept_.erase(found);
    statistics_.kept_bytes -= block.capacity;
  } else {
    if (statistics_.kept_bytes + block.capacity > free_bytes) trim_locked();
    block.data = system_allocate(block.capacity);
    if (!block.data) {
      trim_locked();
      block.data = system_allocate(block.capacity);
    }
    if (!block.data) return refuse(" and the system has no more to give");
  }
  statistics_.in_use_bytes += block.capacity;
  statistics_.peak_bytes = std::max(statistics_.peak_bytes, statistics_.in_use_bytes);
  return block;
}

void MemoryPool::free(Block block) {
  if (!block.data) return;
  std::lock_guard lock(mutex_);
  statistics_.in_use_bytes -= block.capacity;
  if (!kReuse) {
    std::free(block.data);
    return;
  }
  kept_[block.capacity].push_back(block.data);
  statistics_.kept_bytes += block.capacity;
}

void MemoryPool::trim() {
  std::lock_guard lock(mutex_);
  trim_locked();
}

void MemoryPool::trim_locked() {
  const auto chunk_of = [&](std::byte* block) {
    auto after = chunks_.upper_bound(block);
    return after != chunks_.begin() && block < std::prev(after)->first + kChunk ? std::prev(after) : chunks_.end();
  };
  std::map<std::byte*, size_t> kept_in;  // blocks, by the chunk in which they lie
  for (const auto& [capacity, blocks] : kept_)
    for (std::byte* block : blocks)
      if (const auto chunk = chunk_of(block); chunk != chunks_.end()) ++kept_in[chunk->first];
  for (auto& [capacity, blocks] : kept_)
    std::erase_if(blocks, [&](std::byte* block) {
      const auto chunk = chunk_of(block);
      if (chunk == chunks_.end())
        std::free(block);
      else if (kept_in[chunk->first] < chunk->second.blocks)
        return false;
      statistics_.kept_bytes -= capacity;
      return true;
    });
  std::erase_if(kept_, [](const auto& kept) { return kept.second.empty(); });
  for (const auto& [chunk, count] : kept_in) {
    if (count < chunks_[chunk].blocks) continue;
    if (chunk == open_chunk_) open_chunk_ = nullptr;
    chunks_.erase(chunk);
    std::free(chunk);
  }
}

MemoryPool::Statistics MemoryPool::statistics() const {
  std::lock_guard lock(mutex_);
  return statistics_;
}

}  // namespace sporkle::hal
