// Identities of IEEE 754 arithmetic that keep every bit of every value but the sign and payload of a NaN, which no
// kernel promises. What is not here loses bits: x + 0 (it makes -0 into +0), x - x, x * 0 and anything that reorders.
#include <bit>
#include <cmath>
#include <optional>

#include "tensor/graph.h"
#include "tensor/passes/passes.h"

namespace sporkle::tensor {
namespace {

// The value of a floating constant.
std::optional<double> number_of(const Node& node) {
  if (node.op != Op::constant || node.storage) return std::nullopt;
  if (node.dtype == DType::f64) return std::bit_cast<double>(node.number);
  if (node.dtype == DType::f32) return std::bit_cast<float>(static_cast<uint32_t>(node.number));
  return std::nullopt;
}

bool is_number(const NodeRef& node, double value) {
  const std::optional<double> number = number_of(*node);
  return number && *number == value && std::signbit(*number) == std::signbit(value);
}

// Whether dividing by the constant is the same as multiplying with its reciprocal: both are exact powers of two.
bool has_exact_reciprocal(const NodeRef& node) {
  const std::optional<double> number = number_of(*node);
  if (!number || *number == 0 || !std::isfinite(*number)) return false;
  int exponent = 0;
  const double significand = std::frexp(*number, &exponent);
  const int limit = node->dtype == DType::f64 ? 1000 : 120;
  return std::abs(significand) == 0.5 && std::abs(exponent) < limit;
}

// An operation that will run: what has storage is read as it is.
bool is(const NodeRef& node, Op op) { return node->op == op && !node->storage; }

class Algebra {
 public:
  explicit Algebra(Graph& graph) : graph_(graph) {}

  NodeRef rewrite(const NodeRef& node) {
    const std::vector<NodeRef>& x = node->inputs;
    switch (node->op) {
      case Op::neg:  // -(-x)
        return is(x[0], Op::neg) ? x[0]->inputs[0] : node;
      case Op::abs:  // |-x|, ||x||
        if (is(x[0], Op::neg)) return make(*node, Op::abs, {x[0]->inputs[0]});
        return is(x[0], Op::abs) ? x[0] : node;
      case Op::add:
        for (size_t i = 0; i < 2; ++i)  // x + -0
          if (is_number(x[i], -0.0)) return x[1 - i];
        if (is(x[1], Op::neg)) return make(*node, Op::sub, {x[0], x[1]->inputs[0]});  // a + (-b)
        if (is(x[0], Op::neg)) return make(*node, Op::sub, {x[1], x[0]->inputs[0]});  // (-a) + b
        return node;
      case Op::sub:
        if (is_number(x[1], 0.0)) return x[0];                                        // x - 0
        if (is(x[1], Op::neg)) return make(*node, Op::add, {x[0], x[1]->inputs[0]});  // a - (-b)
        return node;
      case Op::mul:
        for (size_t i = 0; i < 2; ++i) {
          if (is_number(x[i], 1.0)) return x[1 - i];                           // x * 1
          if (is_number(x[i], -1.0)) return make(*node, Op::neg, {x[1 - i]});  // x * -1
        }
        return node;
      case Op::div:
        if (is_number(x[1], 1.0)) return x[0];                           // x / 1
        if (is_number(x[1], -1.0)) return make(*node, Op::neg, {x[0]});  // x / -1
        if (has_exact_reciprocal(x[1])) return make(*node, Op::mul, {x[0], reciprocal(*x[1])});
        return node;
      case Op::fma:
        for (size_t i = 0; i < 2; ++i)  // 1 * b + c
          if (is_number(x[i], 1.0)) return make(*node, Op::add, {x[1 - i], x[2]});
        return is_number(x[2], -0.0) ? make(*node, Op::mul, {x[0], x[1]}) : node;  // a * b + -0
      case Op::min:
      case Op::max:
      case Op::logical_and:
      case Op::logical_or:
        return x[0] == x[1] ? x[0] : node;
      case Op::where:
        if (x[1] == x[2]) return x[1];
        if (is(x[0], Op::constant)) return x[0]->number != 0 ? x[1] : x[2];
        return node;
      case Op::cast:  // there and back through a wider type
        if (is(x[0], Op::cast) && x[0]->dtype == DType::f64 && x[0]->inputs[0]->dtype == node->dtype &&
            (node->dtype == DType::f32 || node->dtype == DType::i32))
          return x[0]->inputs[0];
        return node;
      case Op::reshape:
      case Op::permute:
      case Op::expand:
      case Op::slice:
        return movement(node);
      default:
        return node;
    }
  }

 private:
  static NodeRef make(const Node& like, Op op, std::vector<NodeRef> inputs) {
    NodeRef node = clone_with_inputs(like, std::move(inputs));
    node->op = op;
    return node;
  }

  NodeRef reciprocal(const Node& constant) {
    NodeRef node = clone_with_inputs(constant, {});
    node->number = static_cast<uint64_t>(ir::constant_bits(node->dtype, 1.0 / *number_of(constant)));
    node->run_time = -1;
    graph_.add(node);
    return node;
  }

  // A movement that moves nothing, and one right after another of its kind.
  static NodeRef movement(const NodeRef& node) {
    const NodeRef& x = node->inputs[0];
    if (node->shape == x->shape && node->op != Op::permute) return x;
    if (node->op == Op::permute) {
      bool same = true;
      for (int i = 0; i < node->dims.rank(); ++i) same &= node->dims[i] == i;
      if (same) return x;
    }
    if (!is(x, node->op)) return node;
    const NodeRef& base = x->inputs[0];
    NodeRef joined = clone_with_inputs(*node, {base});
    switch (node->op) {
      case Op::permute:
        for (int i = 0; i < node->dims.rank(); ++i) joined->dims[i] = x->dims[static_cast<int>(node->dims[i])];
        return movement(joined);
      case Op::slice:
        for (int i = 0; i < node->dims.rank(); ++i) joined->dims[i] += x->dims[i];
        return joined;
      case Op::expand:
        return joined;
      default: {
        View view;
        Strides strides;
        resolve(base.get(), &view);
        return reshape_strides(base->shape, view.strides, node->shape, &strides) ? movement(joined) : node;
      }
    }
  }

  Graph& graph_;
};

}  // namespace

Status simplify_algebra(Planning& planning) {
  Algebra algebra(planning.graph);
  planning.graph.substitute([&](const NodeRef& node) { return algebra.rewrite(node); });
  return {};
}

}  // namespace sporkle::tensor
