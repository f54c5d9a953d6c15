#include "tensor/autograd.h"

#include <algorithm>

#include "tensor/context.h"
#include "tensor/graph.h"
#include "tensor/kernel_call.h"
#include "tensor/pointwise.h"

namespace sporkle::tensor {
namespace {

// Sums x over the axes along which `shape` was stretched to x's shape.
Tensor sum_to(const Tensor& x, const Shape& shape) {
  const int added = x.rank() - shape.rank();
  Dims axes;
  for (int i = 0; i < x.rank(); ++i)
    if (i < added || (shape[i - added] == 1 && x.shape()[i] != 1)) axes.push_back(i);
  return (axes.rank() == 0 ? x : sum(x, axes, true)).reshape(shape);
}

// The gradient to the elements that equal the maximum, in equal shares.
Tensor maximum_gradient(const Tensor& y, const Tensor& dy, const Tensor& x, const Dims& run) {
  Dims axes;
  for (int64_t i = run[0]; i < run[1]; ++i) axes.push_back(i);
  const Tensor hit = equal(x, y.expand(x.shape())).cast(x.dtype());
  return hit * (dy / sum(hit, axes, true)).expand(x.shape());
}

// The rules of everything that is not pointwise (those stand in the table in pointwise.cc). Fills in the gradients of
// the operands.
void apply_rule(const Tensor& y, const Tensor& dy, std::span<const Tensor> x, std::span<Tensor> dx) {
  const Node& node = *y.node();
  if (is_pointwise(node.op)) {
    const PointwiseRow& row = pointwise_row(node.op);
    if (row.gradient) row.gradient(y, dy, x, dx);
    return;
  }
  switch (node.op) {
    case Op::reshape:
      dx[0] = dy.reshape(x[0].shape());
      return;
    case Op::permute: {
      Dims inverse = node.dims;
      for (int i = 0; i < node.dims.rank(); ++i) inverse[static_cast<int>(node.dims[i])] = i;
      dx[0] = dy.permute(inverse);
      return;
    }
    case Op::expand:
      dx[0] = sum_to(dy, x[0].shape());
      return;
    case Op::slice: {
      dx[0] = dy;
      for (int i = 0; i < y.rank(); ++i)
        dx[0] = dx[0].pad(i, node.dims[i], x[0].shape()[i] - node.dims[i] - y.shape()[i]);
      return;
    }
    case Op::pad: {
      dx[0] = dy;
      for (int i = 0; i < y.rank(); ++i) dx[0] = dx[0].slice(i, node.dims[i], x[0].shape()[i]);
      return;
    }
    case Op::reduce:
      dx[0] = static_cast<ir::Combine>(node.number) == ir::Combine::add ? dy.expand(x[0].shape())
                                                                        : maximum_gradient(y, dy, x[0], node.dims);
      return;
    case Op::matmul:
      if (x[0].dtype() != y.dtype()) {  // sums of 16-bit products
        const Tensor low = dy.cast(x[0].dtype());
        dx[0] = matmul(low, x[1].transpose(-1, -2));
        dx[1] = matmul(x[0].transpose(-1, -2), low);
        return;
      }
      dx[0] = matmul(dy, x[1].transpose(-1, -2));
      dx[1] = matmul(x[0].transpose(-1, -2), dy);
      return;
    case Op::pack: {
      std::vector<Shape> shapes;
      for (const Tensor& part : x) shapes.push_back(part.shape());
      const std::vector<int64_t> offsets = pack_offsets(shapes);
      for (size_t i = 0; i < x.size(); ++i) dx[i] = dy.slice(0, offsets[i], x[i].size()).reshape(shapes[i]);
      return;
    }
    default:
      return;  // sources, detach
  }
}

// One node on the way from the parameters to the loss.
struct Entry {
  NodeRef node;
  std::vector<size_t> operands;          // the inputs' places
  bool needed = false;                   // depends on a parameter
  Tensor gradient;                       // of the loss, summed over the readers seen so far; undefined: none yet
  std::vector<Tensor> result_gradients;  // of a call, by result
};

// Everything that `loss` was made from, operands first. Gradients do not flow through detach.
std::vector<Entry> collect(const NodeRef& loss, std::span<const Tensor> parameters, uint64_t epoch) {
  std::vector<const Node*> wanted;
  for (const Tensor& parameter : parameters) wanted.push_back(parameter.node().get());
  std::ranges::sort(wanted);

  std::vector<Entry> entries;
  std::vector<std::pair<NodeRef, size_t>> stack;  // with the next input to enter
  const auto enter = [&](const NodeRef& node) {
    if (node->epoch == epoch) return;
    node->epoch = epoch;
    stack.emplace_back(node, 0);
  };
  enter(loss);
  while (!stack.empty()) {
    auto& [node, next] = stack.back();
    if (node->op != Op::detach && next < node->inputs.size()) {
      const NodeRef input = node->inputs[next++];
      enter(input);
      continue;
    }
    Entry entry{node};
    entry.needed = std::ranges::binary_search(wanted, node.get());
    if (node->op != Op::detach)
      for (const NodeRef& input : node->inputs) {
        entry.operands.push_back(static_cast<size_t>(input->plan_index));
        entry.needed |= entries[entry.operands.back()].needed;
      }
    node->plan_index = static_cast<int>(entries.size());
    entries.push_back(std::move(entry));
    stack.pop_back();
  }
  return entries;
}

Tensor zeros_of(Context& context, const Node& node) { return zeros(context, node.shape, node.dtype); }

// The gradients of a call's inputs from those of its results.
Result<std::vector<Tensor>> call_gradient(Context& context, const Entry& entry, std::span<const Tensor> inputs) {
  const NodeRef& node = entry.node;
  const KernelCall& call = *node->call;
  if (!call.gradient) return unsupported("grad: the kernel " + call.key + " has no gradient");
  std::vector<Tensor> results, gradients = entry.result_gradients;
  gradients.resize(call.results.size());
  for (size_t i = 0; i < call.results.size(); ++i) {
    NodeRef result = node->outputs[i].lock();
    if (!result) {  // nobody held on to it: made again from the call
      result = std::make_shared<Node>();
      result->op = Op::output;
      result->dtype = call.results[i].dtype;
      result->shape = call.results[i].shape;
      result->context = &context;
      result->inputs = {node};
      result->number = i;
      node->outputs[i] = result;
    }
    results.emplace_back(result);
    if (!gradients[i].defined()) gradients[i] = zeros_of(context, *result);
  }
  std::vector<Tensor> dx = call.gradient(inputs, results, gradients);
  if (dx.size() != inputs.size())
    return invalid_argument("grad: the gradient of kernel " + call.key + " gave " + std::to_string(dx.size()) +
                            " tensors for " + std::to_string(inputs.size()) + " inputs");
  return dx;
}

}  // namespace

Result<std::vector<Tensor>> grad(const Tensor& loss, std::span<const Tensor> parameters) {
  SPORKLE_RETURN_IF_ERROR(loss.status());
  Context& context = loss.context();
  if (loss.size() != 1 || !ir::is_float(loss.dtype()))
    return invalid_argument("grad: the loss must be one f32 or f64 number, not " +
                            std::string(ir::dtype_name(loss.dtype())) + to_string(loss.shape()));
  for (const Tensor& parameter : parameters) {
    SPORKLE_RETURN_IF_ERROR(parameter.status());
    if (!ir::is_float(parameter.dtype()))
      return invalid_argument("grad: a parameter must be f32 or f64, not " +
                              std::string(ir::dtype_name(parameter.dtype())));
  }

  const GradientScope gradients_are_made;
  const uint64_t epoch = context.next_epoch();
  std::vector<Entry> entries = collect(loss.node(), parameters, epoch);
  std::vector<size_t> places;  // of the parameters
  for (const Tensor& parameter : parameters)
    places.push_back(parameter.node()->epoch == epoch ? static_cast<size_t>(parameter.node()->plan_index)
                                                      : entries.size());
  entries.back().gradient = full_like(loss, 1.0);
  for (size_t i = entries.size(); i-- > 0;) {
    Entry& entry = entries[i];
    const Node& node = *entry.node;
    const SourceScope scope(node.source);  // a gradient comes from the line of what it is the gradient of
    const bool reached = entry.gradient.defined() || !entry.result_gradients.empty();
    if (!entry.needed || !reached || node.op == Op::detach) continue;

    if (node.op == Op::output) {
      std::vector<Tensor>& gradients = entries[entry.operands[0]].result_gradients;
      gradients.resize(node.inputs[0]->call->results.size());
      gradients[node.number] = entry.gradient;
      continue;
    }
    std::vector<Tensor> x;
    for (const NodeRef& input : node.inputs) x.emplace_back(input);
    std::vector<Tensor> dx(x.size());
    if (node.op == Op::call) {
      SPORKLE_ASSIGN_OR_RETURN(dx, call_gradient(context, entry, x));
    } else {
      apply_rule(Tensor(entry.node), entry.gradient, x, dx);
    }
    for (size_t j = 0; j < x.size(); ++j) {
      Entry& operand = entries[entry.operands[j]];
      if (!dx[j].defined() || !operand.needed) continue;
      SPORKLE_RETURN_IF_ERROR(dx[j].status());
      operand.gradient = operand.gradient.defined() ? operand.gradient + dx[j] : dx[j];
    }
  }

  std::vector<Tensor> gradients;
  for (size_t i = 0; i < parameters.size(); ++i) {
    const bool reached = places[i] < entries.size() && entries[places[i]].gradient.defined();
    gradients.push_back(reached ? entries[places[i]].gradient : zeros_of(context, *parameters[i].node()));
  }
  return gradients;
}

}  // namespace sporkle::tensor
