#include "tensor/context.h"

#include <algorithm>
#include <bit>

#include "base/log.h"
#include "codegen/cpu_target.h"
#include "tensor/passes/memory_plan.h"
#include "tensor/plan_cache.h"
#include "tune/database.h"

namespace sporkle::tensor {
namespace {

// Sizes are rounded up to one of eight steps between powers of two, so that buffers of like sizes serve each other.
size_t size_class(size_t size_bytes) {
  const size_t size = std::max<size_t>(size_bytes, 64);
  const size_t step = std::max<size_t>(std::bit_floor(size) / 8, 64);
  return (size + step - 1) / step * step;
}

size_t segment_of(size_t largest_bytes) {
  return std::max(largest_bytes / kPlacementAlignment, size_t{1}) * kPlacementAlignment;
}

// What `sporkle tune` has found, where it has run.
std::shared_ptr<const tune::Database> tuned_products() {
  Result<tune::Database> database = tune::Database::load(tune::Database::default_path());
  if (database.ok()) return std::make_shared<tune::Database>(std::move(*database));
  if (database.status().code() != Code::not_found)
    log(LogLevel::warning, "tune", database.status().message() + "; ignored, `sporkle tune` writes a new one");
  return nullptr;
}

}  // namespace

Storage::~Storage() {
  if (context_) context_->recycle(std::move(buffer_));
}

Result<std::unique_ptr<Context>> Context::open(std::string_view device_id, const hal::DeviceOptions& device_options,
                                               ContextOptions options) {
  SPORKLE_ASSIGN_OR_RETURN(std::shared_ptr<hal::Device> device, hal::open_device(device_id, device_options));
  auto kernels = std::make_unique<cache::KernelCache>(*device);
  const auto gpu = codegen::VulkanTarget::parse(device->info().target);
  if (!options.choose_gpu_product && gpu.ok())
    if (const auto tuned = tuned_products())
      options.choose_gpu_product = [tuned,
                                    key = tune::gpu_key(device->info().name, *gpu)](const tune::ProductShape& shape) {
        const tune::TunedGpuProduct* found = tuned->find(key, shape);
        return found ? std::optional(found->plan) : std::nullopt;
      };
  if (!options.choose_product && device->info().id == "cpu")
    if (const auto tuned = tuned_products())
      options.choose_product = [tuned](const tune::ProductShape& shape, const tune::Processor& processor) {
        const tune::TunedProduct* found = tuned->find(processor, shape);
        return found ? std::optional(found->plan) : std::nullopt;
      };
  auto context = std::make_unique<Context>(*device, *kernels, options);
  context->owned_device_ = std::move(device);
  context->owned_kernels_ = std::move(kernels);
  return context;
}

Context::Context(hal::Device& device, cache::KernelCache& kernels, ContextOptions options)
    : device_(&device),
      kernels_(&kernels),
      options_(std::move(options)),
      vector_width_(codegen::vector_width_of(device.info().target)),
      processor_(tune::Processor::host(4 * vector_width_, device.info().threads)),
      segment_bytes_(
          segment_of(options_.segment_bytes > 0 ? options_.segment_bytes : device.info().largest_buffer_bytes)),
      plans_(std::make_unique<PlanCache>()),
      signature_(std::make_unique<GraphSignature>()) {
  if (!is_gpu()) return;
  const auto gpu = codegen::VulkanTarget::parse(device.info().target);
  gpu_ = gpu.ok() ? *gpu : codegen::VulkanTarget();  // for one that is none, nothing will compile
}

Context::~Context() {
  if (semaphore_) (void)semaphore_->wait(submitted_, -1);
}

tune::ProductPlan Context::plan_product(const tune::ProductShape& shape) const {
  if (options_.choose_product) {
    const std::optional<tune::ProductPlan> chosen = options_.choose_product(shape, processor_);
    if (chosen && tune::plan_applies(*chosen, shape, processor_)) return *chosen;
  }
  return tune::preset_plan(shape, processor_);
}

tune::GpuPlan Context::plan_gpu_product(const tune::ProductShape& shape) const {
  if (options_.choose_gpu_product) {
    const std::optional<tune::GpuPlan> chosen = options_.choose_gpu_product(shape);
    if (chosen && tune::gpu_plan_applies(*chosen, shape, *gpu_)) return *chosen;
  }
  return tune::preset_gpu_plan(shape, *gpu_);
}

Result<std::shared_ptr<Storage>> Context::allocate(size_t size_bytes) {
  const size_t largest = device_->info().largest_buffer_bytes;
  const size_t size = size_bytes <= largest ? std::min(size_class(size_bytes), largest) : size_bytes;
  hal::BufferRef buffer;
  if (const auto found = free_.find(size); found != free_.end() && !found->second.empty()) {
    buffer = std::move(found->second.back());
    found->second.pop_back();
  } else {
    Result<hal::BufferRef> fresh = device_->allocate(size);
    if (!fresh.ok() && fresh.status().code() == Code::out_of_memory) {
      trim();
      fresh = device_->allocate(size);
    }
    if (!fresh.ok()) return fresh.status();
    buffer = std::move(*fresh);
    counters_.allocated_bytes += size;
  }
  in_use_bytes_ += buffer->size_bytes();
  counters_.peak_bytes = std::max(counters_.peak_bytes, in_use_bytes_);
  return std::make_shared<Storage>(this, std::move(buffer));
}

// Commands run in the order in which they are recorded, so a buffer may be handed out again as soon as the last command
// that uses it has been recorded. Host writes wait for the device.
void Context::recycle(hal::BufferRef buffer) {
  const size_t size = buffer->size_bytes();
  in_use_bytes_ -= size;
  free_[size].push_back(std::move(buffer));
}

Result<std::span<const hal::BufferRef>> Context::arena(size_t size_bytes) {
  if (arena_bytes() < size_bytes) {
    plans_->forget_buffers();
    drop_arena();
    for (size_t left = size_bytes; left > 0;) {
      const size_t part = std::min(left, segment_bytes_), size = std::min(size_class(part), segment_bytes_);
      Result<hal::BufferRef> fresh = device_->allocate(size);
      if (!fresh.ok() && fresh.status().code() == Code::out_of_memory && !free_.empty()) {
        drop_free();
        fresh = device_->allocate(size);
      }
      if (!fresh.ok()) {
        drop_arena();
        return fresh.status();
      }
      arena_.push_back(std::move(*fresh));
      counters_.allocated_bytes += size;
      left -= part;
    }
  }
  counters_.peak_bytes = std::max(counters_.peak_bytes, in_use_bytes_ + size_bytes);
  return std::span<const hal::BufferRef>(arena_);
}

size_t Context::arena_bytes() const {
  size_t size = 0;
  for (const hal::BufferRef& segment : arena_) size += segment->size_bytes();
  return size;
}

void Context::drop_arena() {
  counters_.allocated_bytes -= arena_bytes();
  arena_.clear();
}

void Context::drop_free() {
  (void)wait();
  for (const auto& [size, buffers] : free_) counters_.allocated_bytes -= size * buffers.size();
  free_.clear();
}

void Context::trim() {
  drop_free();
  plans_->forget_buffers();
  drop_arena();
}

Status Context::fill_unused(uint32_t pattern) {
  SPORKLE_RETURN_IF_ERROR(wait());
  hal::CommandBuffer commands;
  for (const auto& [size, buffers] : free_)
    for (const hal::BufferRef& buffer : buffers) commands.fill({buffer, 0}, size, pattern);
  for (const hal::BufferRef& segment : arena_) commands.fill({segment, 0}, segment->size_bytes() / 4 * 4, pattern);
  SPORKLE_RETURN_IF_ERROR(device_->submit(commands));
  return device_->wait_idle();
}

Status Context::submit(const hal::CommandBuffer& commands, uint64_t launches) {
  if (!semaphore_) {
    SPORKLE_ASSIGN_OR_RETURN(semaphore_, device_->create_semaphore(0));
  }
  ++counters_.submissions;
  counters_.launches += launches;
  const hal::SemaphorePoint after{semaphore_, submitted_ + 1};
  SPORKLE_RETURN_IF_ERROR(device_->submit(commands, {}, {&after, 1}));
  ++submitted_;
  return {};
}

Status Context::wait() {
  if (!semaphore_) return {};
  return semaphore_->wait(submitted_, -1);
}

}  // namespace sporkle::tensor
