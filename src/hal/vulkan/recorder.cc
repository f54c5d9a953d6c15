#include "hal/vulkan/recorder.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "codegen/spirv/copy_emitter.h"

namespace sporkle::hal {
namespace {

constexpr size_t kArgumentBlockBytes = 64 << 10;
constexpr uint64_t kMostScratchBytes = uint64_t{256} << 20;  // of one dispatch
constexpr int64_t kPiecesOfTheUnknown = 16;
constexpr uint64_t kLargeCopyBytes = uint64_t{1} << 20;  // from here on a kernel copies
constexpr uint64_t kCopyAlignment = 16;
constexpr uint64_t kMostFillBytes = uint64_t{1} << 30;

VulkanBuffer* own(const Binding& binding) { return static_cast<VulkanBuffer*>(binding.buffer.get()); }

}  // namespace

Result<RecordingResources> RecordingResources::create(const VulkanContext& context) {
  RecordingResources result;
  VkCommandPoolCreateInfo pool = {};
  pool.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO;
  pool.flags = VK_COMMAND_POOL_CREATE_TRANSIENT_BIT;
  pool.queueFamilyIndex = context.description().queue_family;
  SPORKLE_RETURN_IF_ERROR(
      context.status(context.functions().vkCreateCommandPool(context.device(), &pool, nullptr, &result.pool),
                     "creating a command pool"));
  const Status created = result.need_queries(context, Recorder::kQueries);
  if (!created.ok()) {
    result.destroy(context);
    return created;
  }
  return result;
}

Status RecordingResources::need_queries(const VulkanContext& context, uint32_t count) {
  if (count <= query_count) return {};
  if (queries) context.functions().vkDestroyQueryPool(context.device(), std::exchange(queries, {}), nullptr);
  query_count = 0;
  VkQueryPoolCreateInfo create = {};
  create.sType = VK_STRUCTURE_TYPE_QUERY_POOL_CREATE_INFO;
  create.queryType = VK_QUERY_TYPE_TIMESTAMP;
  create.queryCount = count;
  SPORKLE_RETURN_IF_ERROR(context.status(
      context.functions().vkCreateQueryPool(context.device(), &create, nullptr, &queries), "creating clocks"));
  query_count = count;
  return {};
}

void RecordingResources::destroy(const VulkanContext& context) {
  if (pool) context.functions().vkDestroyCommandPool(context.device(), pool, nullptr);
  if (queries) context.functions().vkDestroyQueryPool(context.device(), queries, nullptr);
}

Status Recorder::record(const CommandBuffer& commands) {
  SPORKLE_RETURN_IF_ERROR(
      context_.status(f_.vkResetCommandPool(context_.device(), resources_.pool, 0), "resetting a command pool"));
  if (watched_) {
    const auto count = static_cast<uint32_t>(2 + 2 * commands.commands().size());
    SPORKLE_RETURN_IF_ERROR(resources_.need_queries(context_, count));
  }
  SPORKLE_RETURN_IF_ERROR(begin());
  f_.vkCmdResetQueryPool(current_, resources_.queries, 0, resources_.query_count);
  barrier();  // against what was submitted before
  timestamp(0);
  for (const CommandBuffer::Command& command : commands.commands()) {
    SPORKLE_RETURN_IF_ERROR(std::visit([this](const auto& c) { return record(c); }, command));
    ++command_;
  }
  timestamp(1);
  return end();
}

Status Recorder::begin() {
  if (used_ == resources_.buffers.size()) {
    VkCommandBufferAllocateInfo allocate = {};
    allocate.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO;
    allocate.commandPool = resources_.pool;
    allocate.level = VK_COMMAND_BUFFER_LEVEL_PRIMARY;
    allocate.commandBufferCount = 1;
    VkCommandBuffer buffer = nullptr;
    SPORKLE_RETURN_IF_ERROR(context_.status(f_.vkAllocateCommandBuffers(context_.device(), &allocate, &buffer),
                                            "creating a command buffer"));
    resources_.buffers.push_back(buffer);
  }
  current_ = resources_.buffers[used_++];
  estimated_seconds_ = 0;
  VkCommandBufferBeginInfo info = {};
  info.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO;
  info.flags = VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT;
  return context_.status(f_.vkBeginCommandBuffer(current_, &info), "recording");
}

Status Recorder::end() {
  // What was written is for the host to see once a semaphore says so.
  VkMemoryBarrier memory = {};
  memory.sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER;
  memory.srcAccessMask = VK_ACCESS_SHADER_WRITE_BIT | VK_ACCESS_TRANSFER_WRITE_BIT;
  memory.dstAccessMask = VK_ACCESS_HOST_READ_BIT;
  f_.vkCmdPipelineBarrier(current_, VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT | VK_PIPELINE_STAGE_TRANSFER_BIT,
                          VK_PIPELINE_STAGE_HOST_BIT, 0, 1, &memory, 0, nullptr, 0, nullptr);
  return context_.status(f_.vkEndCommandBuffer(current_), "recording");
}

void Recorder::barrier() {
  constexpr VkPipelineStageFlags kStages = VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT | VK_PIPELINE_STAGE_TRANSFER_BIT;
  VkMemoryBarrier memory = {};
  memory.sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER;
  memory.srcAccessMask = VK_ACCESS_SHADER_WRITE_BIT | VK_ACCESS_TRANSFER_WRITE_BIT;
  memory.dstAccessMask = VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_SHADER_WRITE_BIT | VK_ACCESS_TRANSFER_READ_BIT |
                         VK_ACCESS_TRANSFER_WRITE_BIT;
  f_.vkCmdPipelineBarrier(current_, kStages, kStages, 0, 1, &memory, 0, nullptr, 0, nullptr);
  read_.clear();
  written_.clear();
}

void Recorder::timestamp(uint32_t query) {
  f_.vkCmdWriteTimestamp(current_, VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT, resources_.queries, query);
}

void Recorder::order(std::span<const VulkanBuffer* const> reads, std::span<const VulkanBuffer* const> writes) {
  const bool conflict =
      std::ranges::any_of(reads, [&](const VulkanBuffer* b) { return written_.contains(b); }) ||
      std::ranges::any_of(writes, [&](const VulkanBuffer* b) { return written_.contains(b) || read_.contains(b); });
  if (conflict) barrier();
  read_.insert(reads.begin(), reads.end());
  written_.insert(writes.begin(), writes.end());
}

Status Recorder::record(const CopyCommand& command) {
  if (command.size_bytes == 0) return {};
  const VulkanBuffer* source = own(command.source);
  const VulkanBuffer* destination = own(command.destination);
  if (source->memory().shared()) change_hands(*source, /*acquire=*/true);
  SPORKLE_RETURN_IF_ERROR(copy(command, source, destination));
  if (destination->memory().shared()) change_hands(*destination, /*acquire=*/false);
  return {};
}

// What another device writes or reads next, or has written before, belongs to one of them at a time.
void Recorder::change_hands(const VulkanBuffer& buffer, bool acquire) {
  const uint32_t family = context_.description().queue_family;
  constexpr VkPipelineStageFlags kStages = VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT | VK_PIPELINE_STAGE_TRANSFER_BIT;
  VkBufferMemoryBarrier change = {};
  change.sType = VK_STRUCTURE_TYPE_BUFFER_MEMORY_BARRIER;
  if (acquire)
    change.dstAccessMask = VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_TRANSFER_READ_BIT;
  else
    change.srcAccessMask = VK_ACCESS_SHADER_WRITE_BIT | VK_ACCESS_TRANSFER_WRITE_BIT;
  change.srcQueueFamilyIndex = acquire ? VK_QUEUE_FAMILY_EXTERNAL : family;
  change.dstQueueFamilyIndex = acquire ? family : VK_QUEUE_FAMILY_EXTERNAL;
  change.buffer = buffer.handle();
  change.size = VK_WHOLE_SIZE;
  constexpr VkPipelineStageFlags kNothing = VK_PIPELINE_STAGE_TOP_OF_PIPE_BIT,
                                 kEnd = VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT;
  f_.vkCmdPipelineBarrier(current_, acquire ? kNothing : kStages, acquire ? kStages : kEnd, 0, 0, nullptr, 1, &change,
                          0, nullptr);
}

Status Recorder::copy(const CopyCommand& command, const VulkanBuffer* source, const VulkanBuffer* destination) {
  SPORKLE_ASSIGN_OR_RETURN(const uint64_t done, copy_blocks(command));
  if (done == command.size_bytes) return {};
  if (done == 0) order({&source, 1}, {&destination, 1});  // the rest of a copy need not wait for its blocks
  VkBufferCopy copy = {};
  copy.srcOffset = source->offset() + command.source.offset_bytes + done;
  copy.dstOffset = destination->offset() + command.destination.offset_bytes + done;
  copy.size = command.size_bytes - done;
  f_.vkCmdCopyBuffer(current_, source->handle(), destination->handle(), 1, &copy);
  return {};
}

Result<uint64_t> Recorder::copy_blocks(const CopyCommand& command) {
  const VulkanBuffer *source = own(command.source), *destination = own(command.destination);
  const bool aligned = (source->address() + command.source.offset_bytes) % kCopyAlignment == 0 &&
                       (destination->address() + command.destination.offset_bytes) % kCopyAlignment == 0;
  const auto is_own = [&](const VulkanBuffer* buffer) {
    return &buffer->memory() == memory_.own.get() || buffer->memory().shared();
  };
  const bool within = is_own(source) && is_own(destination);
  if (command.size_bytes < kLargeCopyBytes || !aligned || !within) return 0;
  SPORKLE_ASSIGN_OR_RETURN(const std::shared_ptr<VulkanExecutable> copier, memory_.copier());
  const uint64_t blocks = command.size_bytes / codegen::spirv::kCopyBlockBytes;
  const DispatchCommand dispatch{copier, {command.source, command.destination}, {blocks}, {}};
  SPORKLE_RETURN_IF_ERROR(record(dispatch));
  return blocks * codegen::spirv::kCopyBlockBytes;
}

Status Recorder::record(const FillCommand& command) {
  const VulkanBuffer* destination = own(command.destination);
  if (command.size_bytes > 0) order({}, {&destination, 1});
  for (uint64_t done = 0; done < command.size_bytes; done += kMostFillBytes)
    f_.vkCmdFillBuffer(current_, destination->handle(), destination->offset() + command.destination.offset_bytes + done,
                       std::min(kMostFillBytes, command.size_bytes - done), command.pattern);
  return {};
}

Result<uint64_t> Recorder::place_arguments(std::span<const uint64_t> words) {
  if (!arguments_ || arguments_used_ + words.size_bytes() > arguments_->size_bytes()) {
    SPORKLE_ASSIGN_OR_RETURN(arguments_,
                             allocate_buffer(memory_.host, std::max(kArgumentBlockBytes, words.size_bytes())));
    kept_.push_back(arguments_);
    arguments_used_ = 0;
  }
  std::memcpy(arguments_->host_pointer() + arguments_used_, words.data(), words.size_bytes());
  const uint64_t address = arguments_->address() + arguments_used_;
  arguments_used_ += words.size_bytes();
  return address;
}

// How many iterations a dispatch may have: no more than the device takes, than scratch memory allows, or than run for
// much longer than the slice. Of a kernel that is not measured yet, a part that makes even a long one bearable.
int64_t Recorder::piece_iterations(const VulkanExecutable& executable, const DispatchCommand& command,
                                   int64_t iterations, double* seconds_per_iteration) const {
  const int64_t unit = executable.code().iterations_per_workgroup;
  int64_t groups = context_.description().properties.limits.maxComputeWorkGroupCount[0];
  const std::optional<double> seconds = executable.seconds_per_iteration(command.scalars);
  *seconds_per_iteration = seconds.value_or(0);
  const int64_t all_groups = (iterations + unit - 1) / unit;
  if (!seconds) {
    groups = std::min(groups, (all_groups + kPiecesOfTheUnknown - 1) / kPiecesOfTheUnknown);
  } else if (*seconds * static_cast<double>(iterations) > slice_) {
    groups = std::min(groups, static_cast<int64_t>(slice_ / (*seconds * static_cast<double>(unit))));
  }
  return std::max<int64_t>(groups, 1) * unit;
}

Status Recorder::record(const DispatchCommand& command) {
  const auto executable = std::static_pointer_cast<VulkanExecutable>(command.executable);
  const codegen::GpuCode& code = executable->code();
  const codegen::LaunchSizes sizes = code.launch.evaluate(command.scalars);
  if (sizes.iterations <= 0) return {};

  std::vector<const VulkanBuffer*> reads, writes;
  std::vector<uint64_t> arguments;
  for (size_t i = 0; i < command.bindings.size(); ++i) {
    const VulkanBuffer* buffer = own(command.bindings[i]);
    arguments.push_back(buffer->address() + command.bindings[i].offset_bytes);
    if (code.buffers[i].access != ir::Access::write) reads.push_back(buffer);
    if (code.buffers[i].access != ir::Access::read) writes.push_back(buffer);
  }
  arguments.insert(arguments.end(), command.scalars.begin(), command.scalars.end());

  double seconds_per_iteration = 0;
  int64_t piece = piece_iterations(*executable, command, sizes.iterations, &seconds_per_iteration);
  std::vector<uint64_t> block(codegen::kPushConstantHeaderWords);
  if (sizes.scratch_bytes > 0) {
    const int64_t unit = code.iterations_per_workgroup;
    const auto fitting = static_cast<int64_t>(kMostScratchBytes / static_cast<uint64_t>(sizes.scratch_bytes));
    piece = std::min(piece, std::max(unit, fitting / unit * unit));
    const int64_t resident = std::min(piece, sizes.iterations);
    if (sizes.scratch_bytes > INT64_MAX / resident)
      return {Code::out_of_memory, "device " + context_.id() + ": a kernel asks for scratch memory without end"};
    const auto needed = static_cast<uint64_t>(resident * sizes.scratch_bytes);
    VulkanBufferRef& scratch = *memory_.scratch;
    if (!scratch || scratch->size_bytes() < needed) {
      SPORKLE_ASSIGN_OR_RETURN(scratch, allocate_buffer(memory_.own, needed));
    }
    kept_.push_back(scratch);
    writes.push_back(scratch.get());
    block[2] = scratch->address();
  }
  if (code.arguments_inline) {
    block.insert(block.end(), arguments.begin(), arguments.end());
  } else {
    SPORKLE_ASSIGN_OR_RETURN(const uint64_t address, place_arguments(arguments));
    block.push_back(address);
  }

  const bool measure = (watched_ || seconds_per_iteration == 0) && next_query_ + 2 <= resources_.query_count;
  if (measure) {
    barrier();
    timestamp(next_query_);
  }
  order(reads, writes);
  SPORKLE_RETURN_IF_ERROR(dispatch_pieces(*executable, sizes.iterations, piece, seconds_per_iteration, block));
  if (measure) {
    timestamp(next_query_ + 1);
    measurements_.push_back({executable, command.scalars, sizes.iterations, next_query_, command_});
    next_query_ += 2;
  }
  return {};
}

Status Recorder::dispatch_pieces(const VulkanExecutable& executable, int64_t iterations, int64_t piece,
                                 double seconds_per_iteration, std::vector<uint64_t>& block) {
  const int64_t unit = executable.code().iterations_per_workgroup;
  const bool scratch = block[2] != 0;
  bool bound = false;
  for (int64_t first = 0; first < iterations; first += piece) {
    const int64_t count = std::min(piece, iterations - first);
    const double seconds = seconds_per_iteration * static_cast<double>(count);
    if (estimated_seconds_ > 0 && estimated_seconds_ + seconds > slice_) {
      SPORKLE_RETURN_IF_ERROR(end());
      SPORKLE_RETURN_IF_ERROR(begin());
      bound = false;
    }
    estimated_seconds_ += seconds;
    if (first > 0 && scratch) barrier();
    if (!bound) f_.vkCmdBindPipeline(current_, VK_PIPELINE_BIND_POINT_COMPUTE, executable.pipeline());
    bound = true;
    block[0] = static_cast<uint64_t>(first);
    block[1] = static_cast<uint64_t>(first + count);
    f_.vkCmdPushConstants(current_, executable.layout(), VK_SHADER_STAGE_COMPUTE_BIT, 0,
                          static_cast<uint32_t>(block.size() * sizeof(uint64_t)), block.data());
    f_.vkCmdDispatch(current_, static_cast<uint32_t>((count + unit - 1) / unit), 1, 1);
  }
  return {};
}

}  // namespace sporkle::hal
