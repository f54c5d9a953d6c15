#include "tensor/launch.h"

#include "tensor/context.h"

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
                          std::vector<hal::Binding> bindings, std::vector<uint64_t> scalars) {
  Status failure;
  const auto make = [&]() -> cache::KernelCache::Source {
    ir::Kernel kernel = trace();
    Result<lower::Schedule> parsed = parse_schedule(schedule, context_.vector_width());
    if (!parsed.ok()) {
      failure = parsed.status();
      return {std::move(kernel), {}};
    }
    if (const auto& choose = context_.options().choose_schedule) parsed = choose(key, *parsed);
    return {std::move(kernel), std::move(*parsed)};
  };
  Result<hal::ExecutableRef> executable = context_.kernels().get(key, make);
  SPORKLE_RETURN_IF_ERROR(failure);
  if (!executable.ok()) return executable.status();
  commands_.dispatch(std::move(*executable), std::move(bindings), std::move(scalars), source_);
  return {};
}

}  // namespace sporkle::tensor
