#include "tensor/capture.h"

#include <chrono>

#include "tensor/context.h"
#include "tensor/graph.h"
#include "tensor/plan_cache.h"

namespace sporkle::tensor {
namespace {

std::string name_of(std::string_view kind, size_t number, const Tensor& tensor) {
  return std::string(kind) + " " + std::to_string(number) + ", " + std::string(ir::dtype_name(tensor.dtype())) +
         to_string(tensor.shape()) + ",";
}

// Data that is no view.
Status check_input(const Tensor& tensor, size_t number, std::string_view what) {
  SPORKLE_RETURN_IF_ERROR(tensor.status());
  if (tensor.node()->storage) return {};
  return invalid_argument(std::string(what) + ": " + name_of("input", number, tensor) +
                          " is a view or has no value yet; realise it, or give what it is a view of");
}

}  // namespace

Result<Capture> Capture::record(std::span<const Tensor> inputs, std::span<const Tensor> outputs, Others others) {
  if (inputs.empty() || outputs.empty()) return invalid_argument("capture: needs inputs and outputs");
  Capture capture;
  for (size_t i = 0; i < inputs.size(); ++i) {
    SPORKLE_RETURN_IF_ERROR(check_input(inputs[i], i, "capture"));
    capture.inputs_.push_back({inputs[i].dtype(), inputs[i].shape()});
  }
  capture.context_ = &inputs[0].context();
  std::vector<NodeRef> roots;
  for (size_t i = 0; i < outputs.size(); ++i) {
    SPORKLE_RETURN_IF_ERROR(outputs[i].status());
    NodeRef root = outputs[i].node();
    while ((root->op == Op::detach || root->op == Op::reshape) && !root->storage) root = root->inputs[0];
    if (is_movement(root->op) || root->storage || &outputs[i].context() != capture.context_)
      return invalid_argument("capture: " + name_of("output", i, outputs[i]) +
                              " is a view, has its value already, or belongs to another context");
    roots.push_back(std::move(root));
    capture.outputs_.push_back({outputs[i].dtype(), outputs[i].shape()});
  }

  GraphSignature signature;
  signature.read(*capture.context_, roots);
  for (const Node* leaf : signature.inputs.leaves) {
    size_t place = 0;
    while (place < inputs.size() && inputs[place].node()->storage != leaf->storage) ++place;
    if (place == inputs.size() && others == Others::keep) {
      capture.leaf_inputs_.push_back(inputs.size() + capture.kept_.size());
      NodeRef kept = make_node(Op::leaf, *capture.context_, leaf->dtype, leaf->shape, {});
      kept->storage = leaf->storage;
      capture.kept_.push_back(std::move(kept));
      continue;
    }
    if (place == inputs.size())
      return invalid_argument("capture: the outputs are made from data of shape " + to_string(leaf->shape) +
                              " that is not among the inputs");
    // A replay's inputs may differ where these are one.
    for (size_t other = place + 1; other < inputs.size(); ++other)
      if (inputs[other].node()->storage == leaf->storage)
        return invalid_argument("capture: " + name_of("input", other, inputs[other]) +
                                " shares its memory with input " + std::to_string(place) +
                                "; give each data of its own");
    capture.leaf_inputs_.push_back(place);
  }
  capture.numbers_ = signature.inputs.numbers;
  for (const std::vector<uint64_t>* scalars : signature.inputs.scalars) capture.scalars_.push_back(*scalars);
  SPORKLE_RETURN_IF_ERROR(realize(outputs));
  capture.plan_ = capture.context_->plans().find(signature);
  if (!capture.plan_) return internal_error("capture: what realize() ran has no plan");
  return capture;
}

Result<std::vector<Tensor>> Capture::replay(std::span<const Tensor> inputs) {
  const auto start = std::chrono::steady_clock::now();
  if (inputs.size() != inputs_.size())
    return invalid_argument("replay: the capture has " + std::to_string(inputs_.size()) + " inputs, not " +
                            std::to_string(inputs.size()));
  for (size_t i = 0; i < inputs.size(); ++i) {
    SPORKLE_RETURN_IF_ERROR(check_input(inputs[i], i, "replay"));
    if (inputs[i].dtype() != inputs_[i].dtype || inputs[i].shape() != inputs_[i].shape ||
        &inputs[i].context() != context_)
      return invalid_argument("replay: " + name_of("input", i, inputs[i]) + " is not what was captured: " +
                              std::string(ir::dtype_name(inputs_[i].dtype)) + to_string(inputs_[i].shape));
  }
  PlanInputs given;
  for (const size_t place : leaf_inputs_)
    given.leaves.push_back(place < inputs.size() ? inputs[place].node().get() : kept_[place - inputs.size()].get());
  for (const Plan::PlannedResult& result : plan_->results) {
    if (result.leaf < 0) continue;
    const size_t place = leaf_inputs_[static_cast<size_t>(result.leaf)];
    if (place >= inputs.size() || inputs[place].node()->storage.use_count() > 1)
      return invalid_argument(
          "replay: " + (place < inputs.size() ? name_of("input", place, inputs[place]) : "data that is kept") +
          " is updated in place, and another tensor shares its memory");
  }
  given.numbers = numbers_;
  for (const std::vector<uint64_t>& scalars : scalars_) given.scalars.push_back(&scalars);
  const double before = context_->counters().host_seconds;
  SPORKLE_ASSIGN_OR_RETURN(const std::vector<std::shared_ptr<Storage>> values, plan_->run(*context_, given, start));
  host_seconds_ += context_->counters().host_seconds - before;
  std::vector<Tensor> outputs;
  for (size_t i = 0; i < values.size(); ++i) {
    NodeRef node = make_node(Op::leaf, *context_, outputs_[i].dtype, outputs_[i].shape, {});
    node->storage = values[i];
    outputs.emplace_back(std::move(node));
  }
  return outputs;
}

}  // namespace sporkle::tensor
