#include "ir/arithmetic.h"
#include "lower/lower.h"
#include "lower/masking.h"

namespace sporkle::lower {
namespace {

using ir::Builder;
using ir::Combine;
using ir::DType;
using ir::Node;
using ir::NodeMap;
using ir::Op;
using ir::RangeKind;

class LaneExpansion {
 public:
  explicit LaneExpansion(ir::Context& context) : b_(context) {}

  // Outermost reductions first: an inner one may then depend on the vector that the outer one became.
  const Node* expand(const Node* node) {
    if (const auto found = memo_.find(node); found != memo_.end()) return found->second;
    const Node* result;
    if (node->op == Op::reduce && node->lanes > 1) {
      result = expand(in_vector(node) ? unrolled(node) : vectorised(node));
    } else {
      std::vector<const Node*> sources;
      bool changed = false;
      for (const Node* source : node->src()) {
        sources.push_back(expand(source));
        changed |= sources.back() != source;
      }
      result = changed ? b_.rebuild(node, sources) : node;
    }
    memo_.emplace(node, result);
    return result;
  }

 private:
  // Whether the value differs between the lanes of an enclosing vector.
  bool in_vector(const Node* node) {
    if (node->op == Op::range) return node->range_kind() == RangeKind::vector;
    if (const auto found = in_vector_.find(node); found != in_vector_.end()) return found->second;
    bool result = false;
    if (node->op != Op::lane_reduce)  // it binds the one vector range its value depends on
      for (const Node* source : node->src()) result |= in_vector(source);
    in_vector_.emplace(node, result);
    return result;
  }

  const Node* combine(Combine how, const Node* a, const Node* b) {
    return b_.binary(how == Combine::add ? Op::add : how == Combine::max ? Op::max : Op::min, a, b);
  }

  const Node* identity(Combine how, DType type) {
    return b_.bits(type, static_cast<int64_t>(ir::combine_identity(how, type)));
  }

  const Node* substitute(const Node* root, const Node* from, const Node* to) {
    NodeMap memo{{from, to}};
    return ir::rewrite(b_, root, memo);
  }

  // acc is a vector over the lanes; the last, incomplete vector is combined under a mask.
  const Node* vectorised(const Node* node) {
    const Node *init = node->src(0), *range = node->src(1), *x = node->src(2);
    const Node* extent = range->src(0);
    const Node* width = b_.integer(node->lanes);
    const Node* lane = b_.range(width, range->name, RangeKind::vector);
    const Node* count = b_.div(extent, width);
    const Node* outer = b_.range(count, range->name);
    const Node* whole = substitute(x, range, b_.add(b_.mul(outer, width), lane));
    const Node* acc = b_.reduce(node->combine(), 1, identity(node->combine(), node->type), outer, whole);
    const Node* left = b_.mod(extent, width);
    if (!left->is_constant(0)) {
      const Node* inside = b_.binary(Op::less, lane, left);
      const Node* part = with_mask(b_, substitute(x, range, b_.add(b_.mul(count, width), lane)), lane, inside);
      acc = b_.select(inside, combine(node->combine(), acc, part), acc);
    }
    return combine(node->combine(), init, b_.lane_reduce(node->combine(), acc, lane));
  }

  // The same sums where each is itself a vector: one accumulator a lane, all in one loop.
  const Node* unrolled(const Node* node) {
    const Node *init = node->src(0), *range = node->src(1), *x = node->src(2);
    const Node* extent = range->src(0);
    const Node* width = b_.integer(node->lanes);
    const Node* count = b_.div(extent, width);
    const Node* outer = b_.range(count, range->name);
    const Node* left = b_.mod(extent, width);
    std::vector<const Node*> lanes;
    for (int l = 0; l < node->lanes; ++l) {
      const Node* lane = b_.integer(l);
      const Node* acc = b_.reduce(node->combine(), 1, identity(node->combine(), node->type), outer,
                                  substitute(x, range, b_.add(b_.mul(outer, width), lane)));
      const Node* inside = b_.binary(Op::less, lane, left);
      const Node* index = b_.range(b_.integer(1), range->name);  // a stand-in that marks what depends on this element
      const Node* part = with_mask(b_, substitute(x, range, index), index, inside);
      part = substitute(part, index, b_.add(b_.mul(count, width), lane));
      lanes.push_back(b_.select(inside, combine(node->combine(), acc, part), acc));
    }
    for (size_t w = lanes.size() / 2; w >= 1; w /= 2)
      for (size_t l = 0; l < w; ++l) lanes[l] = combine(node->combine(), lanes[l], lanes[l + w]);
    return combine(node->combine(), init, lanes[0]);
  }

  Builder b_;
  NodeMap memo_;
  std::unordered_map<const Node*, bool> in_vector_;
};

}  // namespace

ir::Kernel expand_lanes(const ir::Kernel& kernel) {
  ir::Kernel result = kernel;
  result.body = LaneExpansion(*kernel.context).expand(kernel.body);
  return result;
}

}  // namespace sporkle::lower
