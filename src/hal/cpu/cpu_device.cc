#include "hal/cpu/cpu_device.h"

#include <chrono>
#include <cstring>
#include <unordered_map>

#include "base/trace.h"
#include "codegen/compile.h"
#include "codegen/cpu_abi.h"
#include "hal/cpu/elf_loader.h"
#include "hal/host/float_environment.h"
#include "hal/host/system.h"

namespace sporkle::hal {
namespace {

// Waking the pool costs a few microseconds; a dispatch expected to take less than this runs on the calling thread.
constexpr double kWorthSharing_ns = 10'000;

struct Signature {
  std::vector<int> element_sizes;  // of the buffers
  size_t scalar_count = 0;
};

Result<Signature> read_signature(std::span<const std::byte> bytes) {
  std::vector<int32_t> numbers(bytes.size() / sizeof(int32_t));
  std::memcpy(numbers.data(), bytes.data(), numbers.size() * sizeof(int32_t));
  const bool counts = numbers.size() >= 2 && numbers[0] >= 0 && numbers[1] >= 0;
  if (!counts || numbers.size() != 2 + static_cast<size_t>(numbers[0]))
    return corrupt_data("object file: its signature has " + std::to_string(bytes.size()) + " bytes");
  Signature signature{{numbers.begin() + 2, numbers.end()}, static_cast<size_t>(numbers[1])};
  for (const int size : signature.element_sizes) {
    if (size < 1) return corrupt_data("object file: its signature has an element size of " + std::to_string(size));
  }
  return signature;
}

// Adds a chunk that has just been done to what a thread did.
void add_share(LaunchShare& share, std::chrono::steady_clock::time_point start, int64_t iterations) {
  if (share.thread == 0) {
    share.thread = trace::this_thread();
    share.start_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(start.time_since_epoch()).count();
  }
  share.end_ns = trace::now_ns();
  share.iterations += iterations;
}

// How long one iteration of a kernel's thread loop took when it was last shared out, for each size of problem. It
// decides how a dispatch runs, never what it computes.
class IterationCosts {
 public:
  // What was measured for a problem of this size; at first so much that the work is shared.
  double& of(int64_t extent, std::span<const HostSpan> buffers) {
    // The sizes of the buffers tell problems apart; scalars do not, since some (a step number) always change.
    uint64_t key = static_cast<uint64_t>(extent);
    for (const HostSpan& buffer : buffers) key = (key ^ buffer.size_bytes) * 0x9e3779b97f4a7c15u + (key >> 32);
    if (costs_ns_.size() >= kMost) costs_ns_.clear();
    return costs_ns_.try_emplace(key, kWorthSharing_ns).first->second;
  }

 private:
  static constexpr size_t kMost = 256;
  std::unordered_map<uint64_t, double> costs_ns_;
};

class CpuExecutable final : public HostExecutable {
 public:
  static Result<ExecutableRef> load(const HostDevice* device, ThreadPool& threads, ScratchArenas& scratch,
                                    std::span<const std::byte> code) {
    SPORKLE_ASSIGN_OR_RETURN(LoadedObject object, load_elf_object(code));
    SPORKLE_ASSIGN_OR_RETURN(const void* kernel, object.function(codegen::kKernelSymbol));
    SPORKLE_ASSIGN_OR_RETURN(const void* extent, object.function(codegen::kThreadExtentSymbol));
    SPORKLE_ASSIGN_OR_RETURN(const void* scratch_bytes, object.function(codegen::kScratchBytesSymbol));
    SPORKLE_ASSIGN_OR_RETURN(Signature signature, read_signature(object.constant(codegen::kSignatureSymbol)));
    auto executable = std::make_shared<CpuExecutable>(device, threads, scratch, std::move(object));
    executable->kernel_ = reinterpret_cast<codegen::CpuKernelFunction>(const_cast<void*>(kernel));
    executable->extent_ = reinterpret_cast<codegen::CpuThreadExtentFunction>(const_cast<void*>(extent));
    executable->scratch_bytes_ = reinterpret_cast<codegen::CpuScratchBytesFunction>(const_cast<void*>(scratch_bytes));
    executable->signature_ = std::move(signature);
    return ExecutableRef(std::move(executable));
  }

  CpuExecutable(const HostDevice* device, ThreadPool& threads, ScratchArenas& scratch, LoadedObject object)
      : HostExecutable(device), threads_(threads), scratch_(scratch), object_(std::move(object)) {}

  Status check(std::span<const Binding> bindings, std::span<const uint64_t> scalars) const override {
    return check_arguments("on device cpu", signature_.element_sizes, signature_.scalar_count, bindings, scalars);
  }

  Status run(std::span<const HostSpan> buffers, std::span<const uint64_t> scalars,
             std::vector<LaunchShare>* shares) override {
    const int64_t extent = extent_(scalars.data());
    if (extent <= 0) return {};
    const int64_t scratch_bytes = scratch_bytes_(scalars.data());
    if (scratch_bytes > 0) SPORKLE_RETURN_IF_ERROR(scratch_.reserve(static_cast<size_t>(scratch_bytes)));
    pointers_.clear();
    for (const HostSpan& buffer : buffers) pointers_.push_back(buffer.data);

    const bool alone = extent == 1 || threads_.threads() == 1;
    double* iteration_ns = alone ? nullptr : &costs_.of(extent, buffers);
    if (alone || *iteration_ns * static_cast<double>(extent) < kWorthSharing_ns) {
      kernel_(pointers_.data(), scalars.data(), scratch_.of(0), 0, extent);
      return {};
    }
    std::chrono::duration<double, std::nano> own_time{0};  // of the calling thread
    int64_t own_iterations = 0;
    if (shares) shares->resize(static_cast<size_t>(threads_.threads()));
    threads_.parallel_for(extent, [&](int64_t begin, int64_t end, int worker) {
      const StrictFloatEnvironment environment;
      const auto start = std::chrono::steady_clock::now();
      kernel_(pointers_.data(), scalars.data(), scratch_.of(worker), begin, end);
      if (shares) add_share((*shares)[static_cast<size_t>(worker)], start, end - begin);
      if (worker != 0) return;
      own_time += std::chrono::steady_clock::now() - start;
      own_iterations += end - begin;
    });
    if (own_iterations > 0) *iteration_ns = own_time.count() / static_cast<double>(own_iterations);
    return {};
  }

 private:
  ThreadPool& threads_;
  ScratchArenas& scratch_;
  const LoadedObject object_;
  codegen::CpuKernelFunction kernel_ = nullptr;
  codegen::CpuThreadExtentFunction extent_ = nullptr;
  codegen::CpuScratchBytesFunction scratch_bytes_ = nullptr;
  Signature signature_;

  // Used by one dispatch at a time.
  std::vector<void*> pointers_;
  IterationCosts costs_;
};

}  // namespace

ScratchArenas::~ScratchArenas() {
  for (const MemoryPool::Block& arena : arenas_) pool_.free(arena);
}

Status ScratchArenas::reserve(size_t size_bytes) {
  for (MemoryPool::Block& arena : arenas_) {
    if (arena.data && arena.capacity - MemoryPool::kSlack >= size_bytes) continue;
    pool_.free(std::exchange(arena, {}));
    Result<MemoryPool::Block> grown = pool_.allocate(size_bytes);
    if (!grown.ok()) return grown.status().with_context("device cpu, scratch of a kernel");
    arena = *grown;
  }
  return {};
}

CpuDevice::CpuDevice(DeviceInfo info, std::unique_ptr<ThreadPool> threads, size_t memory_limit_bytes)
    : HostDevice(info, memory_limit_bytes),
      threads_(std::move(threads)),
      scratch_memory_(memory_limit_bytes),
      scratch_(scratch_memory_, info.threads) {}

Result<std::shared_ptr<Device>> CpuDevice::open(int threads, size_t memory_limit_bytes, std::string_view level) {
  SPORKLE_ASSIGN_OR_RETURN(std::string target, codegen::host_cpu_target(level));
  auto pool = std::make_unique<ThreadPool>(threads);
  DeviceInfo info{.id = "cpu",
                  .name = processor_name(),
                  .driver = "code for " + target.substr(target.find(':') + 1),
                  .target = std::move(target),
                  .memory_bytes = memory_limit_bytes,
                  .threads = pool->threads()};
  return std::shared_ptr<Device>(std::make_shared<CpuDevice>(std::move(info), std::move(pool), memory_limit_bytes));
}

Result<ExecutableRef> CpuDevice::load(std::span<const std::byte> code) {
  Result<ExecutableRef> executable = CpuExecutable::load(this, *threads_, scratch_, code);
  if (!executable.ok()) return executable.status().with_context("device cpu");
  return executable;
}

}  // namespace sporkle::hal
