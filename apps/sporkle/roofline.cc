#include "apps/sporkle/roofline.h"

#include <cstring>
#include <vector>

#include "cache/kernel_cache.h"
#include "codegen/cpu_target.h"
#include "dsl/kernel.h"
#include "hal/registry.h"

namespace sporkle::app {
namespace {

constexpr int kRounds = 5;
constexpr int64_t kChains = 8;  // of fused multiply-adds side by side: enough to hide their latency
constexpr int64_t kDepth = 1 << 14, kBlocks = 128;
constexpr int64_t kCopied = int64_t{32} << 20;  // elements

// The shortest time of a few runs.
Result<double> best_seconds(hal::Device& device, const hal::CommandBuffer& commands) {
  double best = 0;
  for (int round = 0; round < kRounds; ++round) {
    SPORKLE_ASSIGN_OR_RETURN(const double before, device.busy_seconds());
    SPORKLE_RETURN_IF_ERROR(device.submit(commands));
    SPORKLE_RETURN_IF_ERROR(device.wait_idle());
    SPORKLE_ASSIGN_OR_RETURN(const double after, device.busy_seconds());
    if (round == 0 || after - before < best) best = after - before;
  }
  return best;
}

Result<hal::ExecutableRef> compile(cache::KernelCache& kernels, const ir::Kernel& kernel, const std::string& schedule) {
  SPORKLE_ASSIGN_OR_RETURN(const lower::Schedule parsed, lower::Schedule::parse(schedule));
  return kernels.get(kernel, parsed);
}

Result<std::vector<float>> read(hal::Device& device, const hal::Binding& from, int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  SPORKLE_RETURN_IF_ERROR(device.read(from, std::as_writable_bytes(std::span(values))));
  return values;
}

Result<double> measure_flops(hal::Device& device, cache::KernelCache& kernels) {
  const int width = codegen::vector_width_of(device.info().target);
  const int64_t columns = width * kChains;
  const ir::Kernel kernel = dsl::trace("peak_fma", [](dsl::KernelBuilder& k) {
    const dsl::Buffer x = k.input(ir::DType::f32, "x"), y = k.output(ir::DType::f32, "y");
    const dsl::Expr blocks = k.size("blocks"), n = k.size("n"), depth = k.size("depth");
    k.range("t", blocks, [&](dsl::Expr t) {
      k.range("j", n, [&](dsl::Expr j) {
        const dsl::Expr sum =
            k.fma_chain("k", depth, dsl::constant(ir::DType::f32, 0), [&](dsl::Expr) { return std::pair(x[j], x[j]); });
        y.store(t * n + j, sum);
      });
    });
  });
  const std::string lanes = std::to_string(width) + "x" + std::to_string(kChains);
  SPORKLE_ASSIGN_OR_RETURN(const hal::ExecutableRef executable,
                           compile(kernels, kernel, "t:thread j:vec" + lanes + " k:unroll8"));
  const std::vector<float> ones(static_cast<size_t>(columns), 1.0f);
  SPORKLE_ASSIGN_OR_RETURN(hal::BufferRef in, device.allocate(ones.size() * sizeof(float)));
  SPORKLE_ASSIGN_OR_RETURN(hal::BufferRef out, device.allocate(ones.size() * kBlocks * sizeof(float)));
  const hal::Binding x{in, 0}, y{out, 0};
  SPORKLE_RETURN_IF_ERROR(device.write(x, std::as_bytes(std::span(ones))));
  hal::CommandBuffer commands;
  commands.dispatch(executable, {x, y}, {kBlocks, static_cast<uint64_t>(columns), kDepth});
  SPORKLE_ASSIGN_OR_RETURN(const double seconds, best_seconds(device, commands));
  SPORKLE_ASSIGN_OR_RETURN(const std::vector<float> sums, read(device, y, columns * kBlocks));
  for (const float sum : sums)
    if (sum != static_cast<float>(kDepth))
      return internal_error("the kernel that measures FLOP/s computed a wrong sum");
  return 2.0 * static_cast<double>(columns * kBlocks * kDepth) / seconds;
}

Result<double> measure_bytes(hal::Device& device, cache::KernelCache& kernels) {
  const ir::Kernel kernel = dsl::trace("peak_copy", [](dsl::KernelBuilder& k) {
    const dsl::Buffer x = k.input(ir::DType::f32, "x"), y = k.output(ir::DType::f32, "y");
    k.range("i", k.size("n"), [&](dsl::Expr i) { y.store(i, x[i]); });
  });
  const std::string lanes = std::to_string(codegen::vector_width_of(device.info().target));
  SPORKLE_ASSIGN_OR_RETURN(const hal::ExecutableRef executable,
                           compile(kernels, kernel, "i:thread8192 i:vec" + lanes + "x2"));
  std::vector<float> values(static_cast<size_t>(kCopied));
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 1021);
  SPORKLE_ASSIGN_OR_RETURN(hal::BufferRef in, device.allocate(values.size() * sizeof(float)));
  SPORKLE_ASSIGN_OR_RETURN(hal::BufferRef out, device.allocate(values.size() * sizeof(float)));
  const hal::Binding x{in, 0}, y{out, 0};
  SPORKLE_RETURN_IF_ERROR(device.write(x, std::as_bytes(std::span(values))));
  hal::CommandBuffer commands;
  commands.dispatch(executable, {x, y}, {static_cast<uint64_t>(kCopied)});
  SPORKLE_ASSIGN_OR_RETURN(const double seconds, best_seconds(device, commands));
  SPORKLE_ASSIGN_OR_RETURN(const std::vector<float> copied, read(device, y, kCopied));
  if (copied != values) return internal_error("the kernel that measures bytes/s copied something wrong");
  return 2.0 * static_cast<double>(values.size() * sizeof(float)) / seconds;
}

}  // namespace

Result<Roofline> measure_roofline(std::string_view device_id) {
  SPORKLE_ASSIGN_OR_RETURN(const std::shared_ptr<hal::Device> device, hal::open_device(device_id));
  cache::KernelCache kernels(*device);
  Roofline roofline;
  SPORKLE_ASSIGN_OR_RETURN(roofline.flops_per_second, measure_flops(*device, kernels));
  SPORKLE_ASSIGN_OR_RETURN(roofline.bytes_per_second, measure_bytes(*device, kernels));
  return roofline;
}

}  // namespace sporkle::app
