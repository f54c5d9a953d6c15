// Memory of one type on a Vulkan device, handed out in parts of larger allocations, because a driver allows few
// allocations and takes long over each.
//
// Small parts share chunks of kChunkBytes; a large one has a chunk of its own. Freed chunks are kept and handed out
// again until memory is short. Parts are 256-byte aligned. Thread-safe. The context and the memory outlive the parts.
#pragma once

#include <list>
#include <map>
#include <memory>
#include <mutex>

#include "hal/peer_memory.h"
#include "hal/vulkan/context.h"

namespace sporkle::hal {

// What every buffer may be used for.
inline constexpr VkBufferUsageFlags kBufferUsage = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT |
                                                   VK_BUFFER_USAGE_TRANSFER_SRC_BIT | VK_BUFFER_USAGE_TRANSFER_DST_BIT |
                                                   VK_BUFFER_USAGE_SHADER_DEVICE_ADDRESS_BIT;

// Where a chunk's memory comes from.
struct MemorySource {
  enum class Kind : uint8_t {
    driver,
    exported,  // the driver, for another device to open
    opened,    // `handle`, from another device
    host,      // `host`, the caller's
  };
  Kind kind = Kind::driver;
  std::byte* host = nullptr;
  MemoryHandle* handle = nullptr;  // used for the one chunk that is opened
};

class VulkanMemory {
 public:
  static constexpr uint64_t kAlignment = 256;
  static constexpr uint64_t kChunkBytes = uint64_t{64} << 20;
  static constexpr uint64_t kLargeBytes = uint64_t{16} << 20;  // from here on, a chunk of its own

  // One allocation of the driver's.
  struct Chunk {
    VkDeviceMemory memory = VK_NULL_HANDLE;
    VkBuffer buffer = VK_NULL_HANDLE;
    uint64_t size = 0;
    uint64_t allocation_bytes = 0;  // of the driver's allocation, which may be larger
    uint64_t address = 0;           // on the device
    std::byte* mapped = nullptr;    // where the host can reach it
    bool large = false;
    std::map<uint64_t, uint64_t> free;  // offset -> size; neighbours are merged
  };
  struct Part {
    Chunk* chunk = nullptr;
    uint64_t offset = 0, size = 0;
  };
  struct Statistics {
    uint64_t in_use_bytes = 0;     // of the parts handed out
    uint64_t allocated_bytes = 0;  // from the driver
  };

  VulkanMemory(std::shared_ptr<VulkanContext> context, uint32_t type, bool host_visible, uint64_t limit_bytes,
               MemorySource source = {});
  ~VulkanMemory();
  VulkanMemory(const VulkanMemory&) = delete;
  VulkanMemory& operator=(const VulkanMemory&) = delete;

  // out_of_memory names the size, what is in use and what the device has.
  Result<Part> allocate(uint64_t size_bytes);
  // A chunk of exactly this size; the only one of memory whose source is not the driver alone.
  Result<Part> allocate_whole(uint64_t size_bytes);
  void free(const Part& part);
  Statistics statistics() const;
  bool host_visible() const { return host_visible_; }
  // Whether another device reaches it too, so that it changes hands with each copy.
  bool shared() const {
    return source_.kind == MemorySource::Kind::exported || source_.kind == MemorySource::Kind::opened;
  }
  const VulkanContext& context() const { return *context_; }

 private:
  bool take(Chunk& chunk, uint64_t size, Part* part);
  Result<Chunk*> add_chunk(uint64_t size, bool large);
  Status fill_chunk(Chunk& chunk);
  Status allocate_memory(Chunk& chunk, uint64_t size_bytes);
  void destroy(Chunk& chunk);
  void trim_locked();
  // What the driver could still give, as far as it says.
  uint64_t available_bytes() const;

  const std::shared_ptr<VulkanContext> context_;
  const uint32_t type_;
  const bool host_visible_;
  const uint64_t limit_bytes_;
  const MemorySource source_;
  mutable std::mutex mutex_;
  std::list<Chunk> chunks_;
  Statistics statistics_;
};

// A part of a VulkanMemory as a buffer.
class VulkanBuffer final : public Buffer {
 public:
  VulkanBuffer(std::shared_ptr<VulkanMemory> memory, VulkanMemory::Part part, size_t size_bytes)
      : memory_(std::move(memory)), part_(part), size_bytes_(size_bytes) {}
  ~VulkanBuffer() override { memory_->free(part_); }
  VulkanBuffer(const VulkanBuffer&) = delete;
  VulkanBuffer& operator=(const VulkanBuffer&) = delete;

  size_t size_bytes() const override { return size_bytes_; }
  std::byte* host_pointer() override { return part_.chunk->mapped ? part_.chunk->mapped + part_.offset : nullptr; }
  const VulkanContext* context() const { return &memory_->context(); }
  const VulkanMemory& memory() const { return *memory_; }
  VkBuffer handle() const { return part_.chunk->buffer; }
  uint64_t offset() const { return part_.offset; }  // in handle()
  uint64_t address() const { return part_.chunk->address + part_.offset; }

 private:
  std::shared_ptr<VulkanMemory> memory_;
  VulkanMemory::Part part_;
  size_t size_bytes_;
};
using VulkanBufferRef = std::shared_ptr<VulkanBuffer>;

Result<VulkanBufferRef> allocate_buffer(const std::shared_ptr<VulkanMemory>& memory, size_t size_bytes);

}  // namespace sporkle::hal
