// Running a plan: storage by lifetime, launches recorded in order, one submission.
#include <chrono>

#include "base/format_units.h"
#include "base/log.h"
#include "base/trace.h"
#include "tensor/context.h"
#include "tensor/fuse.h"
#include "tensor/kernel_call.h"
#include "tensor/launch.h"

namespace sporkle::tensor {
namespace {

size_t size_bytes(const TensorSpec& spec) {
  return static_cast<size_t>(element_count(spec.shape)) * static_cast<size_t>(ir::dtype_size(spec.dtype));
}

// Gives the results of a step storage. A call's result that nobody wants gets some for the time of the call.
Status allocate_results(Context& context, const Step& step, std::vector<std::shared_ptr<Storage>>* unwanted) {
  for (size_t i = 0; i < step.results.size(); ++i) {
    Node* result = step.results[i];
    const TensorSpec spec = result ? TensorSpec{result->dtype, result->shape} : step.node->call->results[i];
    SPORKLE_ASSIGN_OR_RETURN(std::shared_ptr<Storage> storage, context.allocate(size_bytes(spec)));
    if (result)
      result->storage = std::move(storage);
    else
      unwanted->push_back(std::move(storage));
  }
  return {};
}

Status launch(Launcher& launcher, const Step& step, std::span<const std::shared_ptr<Storage>> unwanted) {
  launcher.set_source(step.node->source);
  switch (step.kind) {
    case Step::Kind::pointwise:
      return launch_pointwise(launcher, step);
    case Step::Kind::reduce:
      return launch_reduce(launcher, step);
    case Step::Kind::matmul:
      return launch_matmul(launcher, step);
    case Step::Kind::call:
      return launch_call(launcher, step, unwanted);
  }
  return {};
}

// Computes `roots` (no movements, no errors, without storage). When something fails none of them gets storage.
Status compute(Context& context, std::span<Node* const> roots) {
  const auto start = std::chrono::steady_clock::now();
  const int64_t start_ns = trace::on() ? trace::now_ns() : 0;
  SPORKLE_ASSIGN_OR_RETURN(const std::vector<Step> steps, plan(context, roots));

  // How many steps still read what a step makes. Roots are read once more, by the caller.
  const uint64_t epoch = context.next_epoch();
  std::vector<int> readers;
  const auto reader_count = [&](Node* node) { return &readers[static_cast<size_t>(node->plan_index)]; };
  for (const Step& step : steps)
    for (Node* result : step.results) {
      if (!result) continue;
      result->epoch = epoch;
      result->plan_index = static_cast<int>(readers.size());
      readers.push_back(0);
    }
  for (Node* root : roots) ++*reader_count(root);
  for (const Step& step : steps)
    for (Node* read : step.reads)
      if (read->epoch == epoch) ++*reader_count(read);

  Launcher launcher(context);
  Status status;
  for (const Step& step : steps) {
    std::vector<std::shared_ptr<Storage>> unwanted;
    status = allocate_results(context, step, &unwanted);
    if (status.ok()) status = launch(launcher, step, unwanted);
    if (!status.ok()) break;
    for (Node* read : step.reads)
      if (read->epoch == epoch && --*reader_count(read) == 0) read->storage.reset();
    for (Node* result : step.results)
      if (result && *reader_count(result) == 0) result->storage.reset();
  }
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
  context.mutable_counters().host_seconds += taken.count();
  if (debug_level() >= 2)
    log(LogLevel::info, "plan",
        format_fixed(taken.count() * 1e3, 3) + " ms for " + std::to_string(steps.size()) + " steps");
  if (trace::on()) trace::event("plan", "plan", start_ns, trace::now_ns(), JsonObject().add("steps", steps.size()));
  if (status.ok()) status = context.submit(std::move(launcher.commands()));
  if (status.ok()) return {};
  for (const Step& step : steps)
    for (Node* result : step.results)
      if (result) result->storage.reset();
  return status;
}

}  // namespace

Status realize(std::span<const Tensor> tensors) {
  Context* context = nullptr;
  for (const Tensor& tensor : tensors) {
    SPORKLE_RETURN_IF_ERROR(tensor.status());
    if (context && &tensor.context() != context)
      return invalid_argument("realize: the tensors belong to two contexts; realise those of each on their own");
    context = &tensor.context();
  }
  if (!context) return {};

  const uint64_t epoch = context->next_epoch();
  std::vector<Node*> roots;
  for (const Tensor& tensor : tensors) {
    View view;
    Node* base = resolve(tensor.node().get(), &view);
    if (base->storage || base->epoch == epoch) continue;
    base->epoch = epoch;
    roots.push_back(base);
  }
  if (!roots.empty()) SPORKLE_RETURN_IF_ERROR(compute(*context, roots).with_context("realize"));

  // A detached tensor that has its value needs nothing else any more.
  for (const Tensor& tensor : tensors) {
    Node* node = tensor.node().get();
    if (node->op != Op::detach) continue;
    View view;
    node->storage = resolve(node, &view)->storage;
    node->op = Op::leaf;
    const std::vector<NodeRef> inputs = std::move(node->inputs);
    node->inputs.clear();
  }
  return {};
}

}  // namespace sporkle::tensor
