#include "hal/vulkan/memory.h"

#include <algorithm>

namespace sporkle::hal {
namespace {

uint64_t round_up(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }

std::string readable(uint64_t bytes) {
  if (bytes < 1 << 20) return std::to_string(bytes) + " bytes";
  return std::to_string(bytes >> 20) + " MiB";
}

}  // namespace

VulkanMemory::VulkanMemory(std::shared_ptr<VulkanContext> context, uint32_t type, bool host_visible,
                           uint64_t limit_bytes, MemorySource source)
    : context_(std::move(context)),
      type_(type),
      host_visible_(host_visible),
      limit_bytes_(limit_bytes),
      source_(source) {}

VulkanMemory::~VulkanMemory() {
  for (Chunk& chunk : chunks_) destroy(chunk);
}

uint64_t VulkanMemory::available_bytes() const {
  const uint64_t below_limit = limit_bytes_ - std::min(limit_bytes_, statistics_.allocated_bytes);
  if (!context_->description().memory_budget) return below_limit;
  VkPhysicalDeviceMemoryBudgetPropertiesEXT budget = {};
  budget.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_BUDGET_PROPERTIES_EXT;
  VkPhysicalDeviceMemoryProperties2 memory = {};
  memory.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_PROPERTIES_2;
  memory.pNext = &budget;
  context_->functions().vkGetPhysicalDeviceMemoryProperties2(context_->physical_device(), &memory);
  const uint32_t heap = memory.memoryProperties.memoryTypes[type_].heapIndex;
  const uint64_t below_budget = budget.heapBudget[heap] - std::min(budget.heapBudget[heap], budget.heapUsage[heap]);
  return std::min(below_limit, below_budget);
}

Result<VulkanMemory::Part> VulkanMemory::allocate(uint64_t size_bytes) {
  std::lock_guard lock(mutex_);
  const auto refuse = [&](const std::string& why) {
    return Status(Code::out_of_memory, "device " + context_->id() + ": cannot allocate " + readable(size_bytes) + ": " +
                                           readable(statistics_.in_use_bytes) + " are in use" + why);
  };
  if (size_bytes > limit_bytes_) return refuse(" of at most " + readable(limit_bytes_));
  if (size_bytes > context_->description().largest_allocation_bytes)
    return refuse(", and its driver allows no buffer above " +
                  readable(context_->description().largest_allocation_bytes));

  const uint64_t size = round_up(std::max<uint64_t>(size_bytes, 1), kAlignment);
  const bool large = size >= kLargeBytes;
  Part part;
  // The smallest large chunk that fits and wastes at most a quarter; the first place in a shared one.
  Chunk* best = nullptr;
  for (Chunk& chunk : chunks_) {
    if (chunk.large != large) continue;
    if (!large && take(chunk, size, &part)) return part;
    if (large && !chunk.free.empty() && chunk.size >= size && chunk.size <= size + size / 4 &&
        (!best || chunk.size < best->size))
      best = &chunk;
  }
  if (!best) {
    const uint64_t wanted = large ? round_up(size, uint64_t{2} << 20) : kChunkBytes;
    uint64_t chunk_size = wanted;
    if (chunk_size > available_bytes()) trim_locked();
    // Near the end of memory a chunk may be smaller than usual.
    if (const uint64_t available = available_bytes(); chunk_size > available) chunk_size = std::max(size, available);
    if (chunk_size > available_bytes() || chunk_size > wanted)
      return refuse(", and the device has " + readable(available_bytes()) + " left of " + readable(limit_bytes_));
    Result<Chunk*> added = add_chunk(chunk_size, large);
    if (added.status().code() == Code::out_of_memory) {
      trim_locked();
      added = add_chunk(std::min(chunk_size, large ? chunk_size : round_up(size, uint64_t{1} << 20)), large);
    }
    if (added.status().code() == Code::out_of_memory) return refuse(", and the driver has no more to give");
    if (!added.ok()) return added.status();
    best = *added;
  }
  take(*best, large ? best->size : size, &part);
  return part;
}

Result<VulkanMemory::Part> VulkanMemory::allocate_whole(uint64_t size_bytes) {
  std::lock_guard lock(mutex_);
  SPORKLE_ASSIGN_OR_RETURN(Chunk* const chunk, add_chunk(size_bytes, /*large=*/true));
  Part part;
  take(*chunk, size_bytes, &part);
  return part;
}

bool VulkanMemory::take(Chunk& chunk, uint64_t size, Part* part) {
  for (auto i = chunk.free.begin(); i != chunk.free.end(); ++i) {
    const auto [offset, available] = *i;
    if (available < size) continue;
    chunk.free.erase(i);
    if (available > size) chunk.free.emplace(offset + size, available - size);
    *part = {&chunk, offset, size};
    statistics_.in_use_bytes += size;
    return true;
  }
  return false;
}

void VulkanMemory::free(const Part& part) {
  std::lock_guard lock(mutex_);
  statistics_.in_use_bytes -= part.size;
  std::map<uint64_t, uint64_t>& free = part.chunk->free;
  auto place = free.emplace(part.offset, part.size).first;
  if (const auto next = std::next(place); next != free.end() && place->first + place->second == next->first) {
    place->second += next->second;
    free.erase(next);
  }
  if (place != free.begin()) {
    const auto previous = std::prev(place);
    if (previous->first + previous->second == place->first) {
      previous->second += place->second;
      free.erase(place);
    }
  }
}

VulkanMemory::Statistics VulkanMemory::statistics() const {
  std::lock_guard lock(mutex_);
  return statistics_;
}

void VulkanMemory::trim_locked() {
  for (auto i = chunks_.begin(); i != chunks_.end();) {
    const bool empty = i->free.size() == 1 && i->free.begin()->second == i->size;
    if (empty) {
      statistics_.allocated_bytes -= i->size;
      destroy(*i);
      i = chunks_.erase(i);
    } else {
      ++i;
    }
  }
}

Result<VulkanMemory::Chunk*> VulkanMemory::add_chunk(uint64_t size, bool large) {
  Chunk& chunk = chunks_.emplace_back();
  chunk.size = size;
  chunk.large = large;
  const Status filled = fill_chunk(chunk);
  if (!filled.ok()) {
    destroy(chunk);
    chunks_.pop_back();
    return filled;
  }
  chunk.free.emplace(0, size);
  statistics_.allocated_bytes += size;
  return &chunk;
}

Status VulkanMemory::fill_chunk(Chunk& chunk) {
  const VulkanFunctions& functions = context_->functions();
  const VkDevice device = context_->device();
  VkBufferCreateInfo create = {};
  create.sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO;
  create.size = chunk.size;
  create.usage = kBufferUsage;
  VkExternalMemoryBufferCreateInfo external = {};
  external.sType = VK_STRUCTURE_TYPE_EXTERNAL_MEMORY_BUFFER_CREATE_INFO;
  external.handleTypes =
      shared() ? VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT : VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT;
  if (source_.kind != MemorySource::Kind::driver) create.pNext = &external;
  create.sharingMode = VK_SHARING_MODE_EXCLUSIVE;
  SPORKLE_RETURN_IF_ERROR(
      context_->status(functions.vkCreateBuffer(device, &create, nullptr, &chunk.buffer), "creating a buffer"));
  VkMemoryRequirements requirements;
  functions.vkGetBufferMemoryRequirements(device, chunk.buffer, &requirements);
  if (!(requirements.memoryTypeBits >> type_ & 1))
    return unsupported("device " + context_->id() + " keeps no buffers in its memory of type " + std::to_string(type_));

  SPORKLE_RETURN_IF_ERROR(allocate_memory(chunk, requirements.size));
  SPORKLE_RETURN_IF_ERROR(
      context_->status(functions.vkBindBufferMemory(device, chunk.buffer, chunk.memory, 0), "binding memory"));
  if (host_visible_) {
    void* mapped = nullptr;
    SPORKLE_RETURN_IF_ERROR(
        context_->status(functions.vkMapMemory(device, chunk.memory, 0, VK_WHOLE_SIZE, 0, &mapped), "mapping memory"));
    chunk.mapped = static_cast<std::byte*>(mapped);
  }
  VkBufferDeviceAddressInfo address = {};
  address.sType = VK_STRUCTURE_TYPE_BUFFER_DEVICE_ADDRESS_INFO;
  address.buffer = chunk.buffer;
  chunk.address = functions.vkGetBufferDeviceAddress(device, &address);
  return {};
}

Status VulkanMemory::allocate_memory(Chunk& chunk, uint64_t size_bytes) {
  VkMemoryAllocateFlagsInfo flags = {};
  flags.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_FLAGS_INFO;
  flags.flags = VK_MEMORY_ALLOCATE_DEVICE_ADDRESS_BIT;
  VkMemoryAllocateInfo allocate = {};
  allocate.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO;
  allocate.pNext = &flags;
  allocate.allocationSize = size_bytes;
  allocate.memoryTypeIndex = type_;

  // Both ends say that the memory is this buffer's alone, which some drivers demand of shared memory.
  VkMemoryDedicatedAllocateInfo dedicated = {};
  dedicated.sType = VK_STRUCTURE_TYPE_MEMORY_DEDICATED_ALLOCATE_INFO;
  dedicated.buffer = chunk.buffer;
  VkExportMemoryAllocateInfo exported = {};
  exported.sType = VK_STRUCTURE_TYPE_EXPORT_MEMORY_ALLOCATE_INFO;
  exported.pNext = &dedicated;
  exported.handleTypes = VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT;
  VkImportMemoryFdInfoKHR opened = {};
  opened.sType = VK_STRUCTURE_TYPE_IMPORT_MEMORY_FD_INFO_KHR;
  opened.pNext = &dedicated;
  opened.handleType = VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT;
  VkImportMemoryHostPointerInfoEXT host = {};
  host.sType = VK_STRUCTURE_TYPE_IMPORT_MEMORY_HOST_POINTER_INFO_EXT;
  host.handleType = VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT;
  host.pHostPointer = source_.host;
  switch (source_.kind) {
    case MemorySource::Kind::driver:
      break;
    case MemorySource::Kind::exported:
      flags.pNext = &exported;
      break;
    case MemorySource::Kind::opened:
      if (size_bytes > source_.handle->allocation_bytes())
        return invalid_argument("device " + context_->id() + ": memory of " +
                                std::to_string(source_.handle->allocation_bytes()) + " bytes cannot be opened as " +
                                std::to_string(size_bytes));
      allocate.allocationSize = source_.handle->allocation_bytes();
      opened.fd = source_.handle->descriptor();
      flags.pNext = &opened;
      break;
    case MemorySource::Kind::host:
      allocate.allocationSize = chunk.size;
      flags.pNext = &host;
      chunk.mapped = source_.host;
      break;
  }
  const VkResult allocated =
      context_->functions().vkAllocateMemory(context_->device(), &allocate, nullptr, &chunk.memory);
  if (allocated == VK_SUCCESS && source_.kind == MemorySource::Kind::opened) source_.handle->release();
  chunk.allocation_bytes = allocate.allocationSize;
  return context_->status(allocated, "allocating memory");
}

void VulkanMemory::destroy(Chunk& chunk) {
  const VulkanFunctions& functions = context_->functions();
  if (chunk.buffer) functions.vkDestroyBuffer(context_->device(), chunk.buffer, nullptr);
  if (chunk.memory) functions.vkFreeMemory(context_->device(), chunk.memory, nullptr);
}

Result<VulkanBufferRef> allocate_buffer(const std::shared_ptr<VulkanMemory>& memory, size_t size_bytes) {
  SPORKLE_ASSIGN_OR_RETURN(const VulkanMemory::Part part, memory->allocate(size_bytes));
  return std::make_shared<VulkanBuffer>(memory, part, size_bytes);
}

}  // namespace sporkle::hal
