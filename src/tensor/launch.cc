#include "tensor/launch.h"

#include "tensor/context.h"
#include "tensor/kernel_call.h"

namespace sporkle::tensor {

Result<lower::Schedule> parse_schedule(std::string_view text, int vector_width) {
  std::string expanded;
  for (size_t i = 0; i < text.size(); ++i) {
    expanded += text[i];
    const bool width_follows = i + 1 < text.size() && text[i + 1] >= '0' && text[i + 1] <= '9';
    if (!width_follows && expanded.ends_with(":vec")) expanded += std::to_string(vector_width);
  }
  return lower::Schedule::parse(expanded);
}

Status Launcher::dispatch(const std::string& key, const std::string& schedule, const std::function<ir::Kernel()>& trace,
                          std::vector<hal::Binding> bindings, Scalars scalars) {
  Status failure;
  // Under `fast` numerics a GPU's kernels take its own arithmetic; a processor's are as quick with the exact one.
  const bool own_arithmetic = context_.is_fast_gpu();
  const auto make = [&]() -> cache::KernelCache::Source {
    ir::Kernel kernel = trace();
    if (own_arithmetic) kernel.numerics = ir::Numerics::fast;
    if (kernel.numerics > context_.options().numerics)
      failure = internal_error("kernel \"" + kernel.name + "\" is " + std::string(ir::numerics_name(kernel.numerics)) +
                               " and was asked for where " +
                               std::string(ir::numerics_name(context_.options().numerics)) + " holds");
    Result<lower::Schedule> parsed = parse_schedule(schedule, context_.vector_width());
    if (!parsed.ok()) {
      failure = parsed.status();
      return {std::move(kernel), {}};
    }
    if (const auto& gpu = context_.gpu()) parsed = tune::fit_schedule(std::move(*parsed), *gpu);
    if (const auto& choose = context_.options().choose_schedule) parsed = choose(key, *parsed);
    return {std::move(kernel), std::move(*parsed)};
  };
  Result<hal::ExecutableRef> executable = context_.kernels().get(own_arithmetic ? key + " fast" : key, make);
  SPORKLE_RETURN_IF_ERROR(failure);
  if (!executable.ok()) return executable.status();
  const auto command = static_cast<uint32_t>(commands_.commands().size());
  for (const Scalars::RunTime& use : scalars.run_time)
    number_uses_.push_back({command, static_cast<uint32_t>(use.position), use.number, use.part});
  commands_.dispatch(std::move(*executable), std::move(bindings), std::move(scalars.bits), source_);
  return {};
}

Status Launcher::dispatch_call(const Node& call, const std::string& key, const std::function<ir::Kernel()>& trace,
                               std::vector<hal::Binding> bindings) {
  const auto command = static_cast<uint32_t>(commands_.commands().size());
  if (call.run_time >= 0) call_uses_.push_back({command, call.run_time});
  Scalars scalars;
  scalars.bits = call.call->scalars;
  return dispatch(key, call.call->schedule, trace, std::move(bindings), std::move(scalars));
}

std::shared_ptr<Storage> Launcher::allocate(size_t size_bytes) {
  buffers_.push_back(std::make_shared<PlannedBuffer>(size_bytes, static_cast<int>(buffers_.size())));
  return std::make_shared<Storage>(nullptr, buffers_.back());
}

std::shared_ptr<Storage> Launcher::part_of(const Storage& whole, size_t offset_bytes, size_t size_bytes) {
  const int number = static_cast<const PlannedBuffer&>(*whole.buffer()).number();
  return std::make_shared<Storage>(nullptr, std::make_shared<PlannedBuffer>(size_bytes, number, offset_bytes));
}

}  // namespace sporkle::tensor
