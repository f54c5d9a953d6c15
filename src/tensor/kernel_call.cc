#include "tensor/kernel_call.h"

#include <algorithm>

#include "tensor/context.h"
#include "tensor/graph.h"
#include "tensor/launch.h"

namespace sporkle::tensor {

std::string typed_key(std::string_view name, DType type) {
  return std::string(name) + "." + std::string(ir::dtype_name(type));
}

uint64_t scalar_bits(int64_t value) { return static_cast<uint64_t>(value); }
uint64_t scalar_bits(DType type, double value) { return static_cast<uint64_t>(ir::constant_bits(type, value)); }

std::vector<Tensor> call_kernel(KernelCall call, std::span<const Tensor> inputs, std::source_location source) {
  const SourceScope scope(source);
  const size_t result_count = call.results.size();
  const auto fail = [&](const Tensor& error) { return std::vector<Tensor>(result_count, error); };
  Tensor failed;
  if (inputs.empty())
    return fail(error_tensor(nullptr, invalid_argument(call.key + ": a kernel call needs at least one input")));
  if (!check_operands(call.key, inputs, &failed).ok()) return fail(failed);
  Context& context = inputs[0].context();
  Status status;
  for (const TensorSpec& spec : call.results)
    if (status.ok()) status = check_shape(spec.shape);
  for (size_t i = 0; status.ok() && i < call.takes.size(); ++i) {
    const int taken = call.takes[i];
    const bool exists = i < result_count && taken < static_cast<int>(inputs.size());
    if (exists && (taken < 0 || (inputs[static_cast<size_t>(taken)].dtype() == call.results[i].dtype &&
                                 inputs[static_cast<size_t>(taken)].shape() == call.results[i].shape)))
      continue;
    status = invalid_argument("result " + std::to_string(i) + " takes input " + std::to_string(taken) +
                              ", which does not exist or has another type or shape");
  }
  if (status.ok()) status = parse_schedule(call.schedule, context.vector_width()).status();
  if (!status.ok()) return fail(error_tensor(&context, status.with_context(call.key)));

  std::vector<NodeRef> sources;
  for (const Tensor& input : inputs) sources.push_back(input.contiguous().node());
  const NodeRef node = make_node(Op::call, context, DType::none, {}, std::move(sources));
  const auto shared = std::make_shared<const KernelCall>(std::move(call));
  node->call = shared;
  std::vector<Tensor> results;
  for (size_t i = 0; i < result_count; ++i) {
    const TensorSpec& spec = shared->results[i];
    NodeRef result = make_node(Op::output, context, spec.dtype, spec.shape, {node});
    result->number = i;
    node->outputs.push_back(result);
    results.emplace_back(std::move(result));
  }
  return results;
}

Status launch_call(Launcher& launcher, const Step& step, std::span<const std::shared_ptr<Storage>> unwanted) {
  const KernelCall& call = *step.node->call;
  std::vector<hal::Binding> bindings;
  for (size_t i = 0; i < step.reads.size(); ++i) {
    if (std::ranges::find(call.takes, static_cast<int>(i)) != call.takes.end()) continue;
    const NodeRef& input = step.node->inputs[i];
    View view;
    resolve(input.get(), &view);
    const uint64_t offset = static_cast<uint64_t>(view.offset * ir::dtype_size(input->dtype));
    bindings.push_back({step.reads[i]->storage->buffer(), offset});
  }
  for (Node* result : step.results) {
    const Storage& storage = result ? *result->storage : *unwanted.front();
    if (!result) unwanted = unwanted.subspan(1);
    bindings.push_back({storage.buffer(), 0});
  }
  return launcher.dispatch_call(
      *step.node, "call " + call.key + " " + call.schedule, [&] { return dsl::trace(call.key, call.define); },
      std::move(bindings));
}

}  // namespace sporkle::tensor
