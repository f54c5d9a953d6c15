#include "hal/device_copy.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <numeric>

namespace sporkle::hal {
namespace {

constexpr std::string_view kNames[] = {"within", "host", "shared", "pinned", "staged", "read_write"};
constexpr size_t kPage = 4096;

size_t round_up(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

Binding at(const Binding& binding, uint64_t offset_bytes) {
  return {binding.buffer, binding.offset_bytes + offset_bytes};
}

Status check_range(const Binding& binding, uint64_t size_bytes, std::string_view which) {
  if (!binding.buffer) return invalid_argument("copy between devices: the " + std::string(which) + " has no buffer");
  const uint64_t size = binding.buffer->size_bytes();
  if (binding.offset_bytes <= size && size_bytes <= size - binding.offset_bytes) return {};
  return invalid_argument("copy between devices: " + std::to_string(size_bytes) + " bytes from " +
                          std::to_string(binding.offset_bytes) + " on are beyond the " + std::string(which) + "'s " +
                          std::to_string(size));
}

}  // namespace

std::string_view copy_route_name(CopyRoute route) { return kNames[static_cast<size_t>(route)]; }

Result<CopyRoute> parse_copy_route(std::string_view name) {
  const auto found = std::ranges::find(kNames, name);
  if (found != std::end(kNames)) return static_cast<CopyRoute>(found - std::begin(kNames));
  return not_found("there is no way of copying called \"" + std::string(name) +
                   "\"; those between devices are shared, pinned, staged and read_write");
}

Result<std::unique_ptr<DeviceCopier>> DeviceCopier::create(Device& source, Device& destination,
                                                           const DeviceCopyOptions& options) {
  std::unique_ptr<DeviceCopier> copier(new DeviceCopier(source, destination));
  SPORKLE_RETURN_IF_ERROR(copier->find_route(options));
  return copier;
}

// Nothing is under way between calls of copy(), so that the blocks can go.
DeviceCopier::~DeviceCopier() = default;

Status DeviceCopier::find_route(const DeviceCopyOptions& options) {
  if (&source_ == &destination_) {
    route_ = CopyRoute::within;
    return {};
  }
  block_bytes_ = round_up(std::max<size_t>(options.block_bytes, 1), kPage);
  const auto attempt = [&](CopyRoute route, Status (DeviceCopier::*prepare)(size_t)) -> Result<bool> {
    if (options.shortest > route) return false;
    const Status status = (this->*prepare)(block_bytes_);
    if (status.ok()) {
      route_ = route;
      return true;
    }
    for (Block& block : blocks_) block = {};
    if (status.code() != Code::unsupported) return status;
    reason_ += (reason_.empty() ? "" : "; ") + std::string(copy_route_name(route)) + ": " + status.message();
    return false;
  };
  for (const auto& [route, prepare] :
       {std::pair(CopyRoute::shared, &DeviceCopier::share), std::pair(CopyRoute::pinned, &DeviceCopier::pin),
        std::pair(CopyRoute::staged, &DeviceCopier::stage)}) {
    SPORKLE_ASSIGN_OR_RETURN(const bool found, attempt(route, prepare));
    if (found) return {};
  }
  route_ = CopyRoute::read_write;
  return {};
}

Status DeviceCopier::share(size_t block_bytes) {
  auto* from = dynamic_cast<PeerMemory*>(&source_);
  auto* to = dynamic_cast<PeerMemory*>(&destination_);
  for (const auto& [device, peer] : {std::pair(&source_, from), std::pair(&destination_, to)})
    if (!peer || peer->sharing_id().empty())
      return unsupported("device " + device->info().id + " shares no memory with others");
  if (from->sharing_id() != to->sharing_id())
    return unsupported("devices " + source_.info().id + " and " + destination_.info().id +
                       " are not the same card under the same driver");
  for (Block& block : blocks_) {
    SPORKLE_ASSIGN_OR_RETURN(SharedMemory shared, from->allocate_shared(block_bytes));
    block.filled = {std::move(shared.buffer)};
    SPORKLE_ASSIGN_OR_RETURN(BufferRef opened, to->open_shared(std::move(shared.handle), block_bytes));
    block.emptied = {std::move(opened)};
  }
  return {};
}

Status DeviceCopier::pin(size_t block_bytes) {
  auto* from = dynamic_cast<PeerMemory*>(&source_);
  auto* to = dynamic_cast<PeerMemory*>(&destination_);
  size_t alignment = kPage;
  for (const auto& [device, peer] : {std::pair(&source_, from), std::pair(&destination_, to)}) {
    if (!peer || peer->host_alignment() == 0)
      return unsupported("device " + device->info().id + " imports no host memory");
    alignment = std::lcm(alignment, static_cast<size_t>(peer->host_alignment()));
  }
  block_bytes = round_up(block_bytes, alignment);
  auto* memory = static_cast<std::byte*>(std::aligned_alloc(alignment, 2 * block_bytes));
  if (!memory)
    return {Code::out_of_memory, "no " + std::to_string(2 * block_bytes) + " bytes of host memory for copies"};
  host_ = {memory, [](std::byte* m) { std::free(m); }};
  std::memset(memory, 0, 2 * block_bytes);  // pages that exist
  SPORKLE_ASSIGN_OR_RETURN(const BufferRef filled, from->import_host(memory, 2 * block_bytes));
  SPORKLE_ASSIGN_OR_RETURN(const BufferRef emptied, to->import_host(memory, 2 * block_bytes));
  for (size_t i = 0; i < 2; ++i) blocks_[i] = {{filled, i * block_bytes}, {emptied, i * block_bytes}};
  block_bytes_ = block_bytes;
  return {};
}

Status DeviceCopier::stage(size_t block_bytes) {
  auto* from = dynamic_cast<PeerMemory*>(&source_);
  auto* to = dynamic_cast<PeerMemory*>(&destination_);
  if (!from || !to)
    return unsupported("device " + (from ? destination_ : source_).info().id + " has no host memory of its own");
  for (Block& block : blocks_) {
    SPORKLE_ASSIGN_OR_RETURN(BufferRef filled, from->allocate_pinned(block_bytes));
    SPORKLE_ASSIGN_OR_RETURN(BufferRef emptied, to->allocate_pinned(block_bytes));
    block = {{std::move(filled)}, {std::move(emptied)}};
  }
  return {};
}

Status DeviceCopier::copy(const Binding& source, const Binding& destination, uint64_t size_bytes,
                          std::span<const SemaphorePoint> wait) {
  SPORKLE_RETURN_IF_ERROR(check_range(source, size_bytes, "source"));
  SPORKLE_RETURN_IF_ERROR(check_range(destination, size_bytes, "destination"));
  std::lock_guard lock(mutex_);
  if (route_ == CopyRoute::within) return copy_within(source, destination, size_bytes, wait);
  if (source.buffer->host_pointer() || destination.buffer->host_pointer() || route_ == CopyRoute::read_write) {
    for (const SemaphorePoint& point : wait) SPORKLE_RETURN_IF_ERROR(point.semaphore->wait(point.value, -1));
    return copy_by_host(source, destination, size_bytes);
  }
  return copy_by_blocks(source, destination, size_bytes, wait);
}

Status DeviceCopier::copy_within(const Binding& source, const Binding& destination, uint64_t size_bytes,
                                 std::span<const SemaphorePoint> wait) {
  SPORKLE_ASSIGN_OR_RETURN(const SemaphoreRef done, source_.create_semaphore(0));
  CommandBuffer commands;
  commands.copy(source, destination, size_bytes);
  const SemaphorePoint signal[] = {{done, 1}};
  SPORKLE_RETURN_IF_ERROR(source_.submit(commands, wait, signal));
  return done->wait(1, -1);
}

Status DeviceCopier::copy_by_host(const Binding& source, const Binding& destination, uint64_t size_bytes) {
  // Nothing to read: but what the source was given is done then, and a foreign buffer is found out.
  SPORKLE_RETURN_IF_ERROR(source_.read(source, {}));
  SPORKLE_RETURN_IF_ERROR(destination_.write(destination, {}));
  if (const std::byte* from = source.buffer->host_pointer())
    return destination_.write(destination, {from + source.offset_bytes, size_bytes});
  if (std::byte* to = destination.buffer->host_pointer())
    return source_.read(source, {to + destination.offset_bytes, size_bytes});
  std::vector<std::byte> block(std::min<uint64_t>(block_bytes_, size_bytes));
  for (uint64_t done = 0; done < size_bytes; done += block.size()) {
    const std::span piece(block.data(), std::min<uint64_t>(block.size(), size_bytes - done));
    SPORKLE_RETURN_IF_ERROR(source_.read(at(source, done), piece));
    SPORKLE_RETURN_IF_ERROR(destination_.write(at(destination, done), piece));
  }
  return {};
}

Status DeviceCopier::copy_by_blocks(const Binding& source, const Binding& destination, uint64_t size_bytes,
                                    std::span<const SemaphorePoint> wait) {
  SPORKLE_ASSIGN_OR_RETURN(const SemaphoreRef filled, source_.create_semaphore(0));
  SPORKLE_ASSIGN_OR_RETURN(const SemaphoreRef emptied, destination_.create_semaphore(0));
  const uint64_t pieces = (size_bytes + block_bytes_ - 1) / block_bytes_;
  const auto piece_bytes = [&](uint64_t piece) {
    return std::min<uint64_t>(block_bytes_, size_bytes - piece * block_bytes_);
  };
  uint64_t filling = 0, emptying = 0;  // pieces that the devices have been given
  const auto fill = [&](uint64_t piece) -> Status {
    CommandBuffer commands;
    commands.copy(at(source, piece * block_bytes_), blocks_[piece % 2].filled, piece_bytes(piece));
    const SemaphorePoint signal[] = {{filled, piece + 1}};
    SPORKLE_RETURN_IF_ERROR(source_.submit(commands, piece == 0 ? wait : std::span<const SemaphorePoint>(), signal));
    ++filling;
    return {};
  };
  const auto empty = [&](uint64_t piece) -> Status {
    CommandBuffer commands;
    commands.copy(blocks_[piece % 2].emptied, at(destination, piece * block_bytes_), piece_bytes(piece));
    const SemaphorePoint signal[] = {{emptied, piece + 1}};
    SPORKLE_RETURN_IF_ERROR(destination_.submit(commands, {}, signal));
    ++emptying;
    return {};
  };
  const auto run = [&]() -> Status {
    if (pieces > 0) SPORKLE_RETURN_IF_ERROR(fill(0));
    for (uint64_t piece = 0; piece < pieces; ++piece) {
      // The source goes on with the other block as soon as the destination has done with it.
      if (piece > 0) SPORKLE_RETURN_IF_ERROR(emptied->wait(piece, -1));
      // Nor may the second piece overtake a first one that still waits.
      if (piece == 0 && !wait.empty()) SPORKLE_RETURN_IF_ERROR(filled->wait(1, -1));
      if (piece + 1 < pieces) SPORKLE_RETURN_IF_ERROR(fill(piece + 1));
      SPORKLE_RETURN_IF_ERROR(filled->wait(piece + 1, -1));
      const Block& block = blocks_[piece % 2];
      if (route_ == CopyRoute::staged)
        std::memcpy(block.emptied.buffer->host_pointer(), block.filled.buffer->host_pointer(), piece_bytes(piece));
      SPORKLE_RETURN_IF_ERROR(empty(piece));
    }
    return emptied->wait(pieces, -1);
  };
  const Status status = run();
  if (!status.ok()) {
    // The blocks are in use until what was begun has ended, well or not.
    if (filling > 0) (void)filled->wait(filling, -1);
    if (emptying > 0) (void)emptied->wait(emptying, -1);
  }
  return status.with_context("copying from " + source_.info().id + " to " + destination_.info().id);
}

}  // namespace sporkle::hal
