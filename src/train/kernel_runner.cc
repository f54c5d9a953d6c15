#include "train/kernel_runner.h"

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "codegen/cpu_target.h"
#include "tensor/launch.h"

namespace sporkle::train {
namespace {

// Whether kernels can be compiled for the device at all.
KernelRunner::Definition probe() {
  return {"runner_probe",
          [](dsl::KernelBuilder& k) {
            const dsl::Buffer from = k.input(ir::DType::u8, "from"), to = k.output(ir::DType::u8, "to");
            const dsl::Expr n = k.size("n");
            k.range("i", n, [&](dsl::Expr i) { to.store(i, from[i]); });
          },
          "i:thread64"};
}

}  // namespace

Result<std::unique_ptr<KernelRunner>> KernelRunner::open(std::string_view device_id,
                                                         const hal::DeviceOptions& options) {
  SPORKLE_ASSIGN_OR_RETURN(std::shared_ptr<hal::Device> device, hal::open_device(device_id, options));
  return std::unique_ptr<KernelRunner>(new KernelRunner(std::move(device)));
}

Result<KernelRunner*> KernelRunner::shared() {
  static const Result<std::unique_ptr<KernelRunner>> runner = []() -> Result<std::unique_ptr<KernelRunner>> {
    Result<std::unique_ptr<KernelRunner>> cpu = open("cpu");
    const Status status = cpu.ok() ? (*cpu)->executable(probe()).status() : cpu.status();
    if (status.code() != Code::unsupported) return cpu;
    log(LogLevel::info, "train", "updates are compressed by the interpreter, slowly: " + status.message());
    return open("reference");
  }();
  if (!runner.ok()) return runner.status();
  return runner->get();
}

Result<hal::ExecutableRef> KernelRunner::executable(const Definition& kernel) {
  Status failure;
  Result<hal::ExecutableRef> made = kernels_.get(kernel.name, [&]() -> cache::KernelCache::Source {
    ir::Kernel traced = dsl::trace(kernel.name, kernel.define);
    Result<lower::Schedule> schedule =
        tensor::parse_schedule(kernel.schedule, codegen::vector_width_of(device_->info().target));
    failure = schedule.status();
    return {std::move(traced), schedule.ok() ? std::move(*schedule) : lower::Schedule{}};
  });
  SPORKLE_RETURN_IF_ERROR(failure);
  return made;
}

Status KernelRunner::run(const Definition& kernel, std::span<const Argument> arguments,
                         std::span<const uint64_t> scalars) {
  SPORKLE_ASSIGN_OR_RETURN(hal::ExecutableRef code, executable(kernel));
  std::vector<hal::Binding> bindings;
  for (const Argument& argument : arguments) {
    const size_t bytes = std::max(argument.input.size(), argument.output.size());
    // Devices address whole words.
    SPORKLE_ASSIGN_OR_RETURN(hal::BufferRef buffer, device_->allocate((bytes + 3) / 4 * 4));
    if (!argument.input.empty()) SPORKLE_RETURN_IF_ERROR(device_->write({buffer}, argument.input));
    bindings.push_back({std::move(buffer), 0, bytes});
  }
  hal::CommandBuffer commands;
  commands.dispatch(std::move(code), bindings, {scalars.begin(), scalars.end()});
  SPORKLE_ASSIGN_OR_RETURN(const hal::SemaphoreRef done, device_->create_semaphore(0));
  const hal::SemaphorePoint point{done, 1};
  SPORKLE_RETURN_IF_ERROR(device_->submit(commands, {}, {&point, 1}));
  SPORKLE_RETURN_IF_ERROR(done->wait(1, -1));
  for (size_t i = 0; i < arguments.size(); ++i)
    if (!arguments[i].output.empty()) SPORKLE_RETURN_IF_ERROR(device_->read({bindings[i].buffer}, arguments[i].output));
  return {};
}

}  // namespace sporkle::train
