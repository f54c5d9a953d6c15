#include <algorithm>

#include "ir/arithmetic.h"
#include "ir/builder.h"
#include "lower/lower.h"

namespace sporkle::lower {
namespace {

using ir::Builder;
using ir::Node;
using ir::NodeMap;
using ir::Op;
using ir::RangeKind;

const Node* substitute(Builder& b, const Node* root, NodeMap replacements) {
  return ir::rewrite(b, root, replacements);
}

bool is_invocation_range(const Node* node) {
  return node->op == Op::range && node->range_kind() == RangeKind::invocation;
}

// The kernel's body without vector and thread ranges, and lane_reduce as the tree that it stands for.
const Node* without_vectors(Builder& b, const Node* body) {
  NodeMap memo;
  return ir::rewrite(b, body, memo, [](Builder& builder, const Node* node) -> const Node* {
    if (node->op == Op::range && node->range_kind() != RangeKind::serial && !is_invocation_range(node))
      return builder.range(node->src(0), node->name);
    if (node->op != Op::lane_reduce) return nullptr;
    std::vector<const Node*> lanes;
    for (int64_t l = 0; l < node->src(1)->src(0)->value; ++l)
      lanes.push_back(substitute(builder, node->src(0), {{node->src(1), builder.integer(l)}}));
    const Op op = ir::combine_op(node->combine());
    for (size_t width = lanes.size() / 2; width >= 1; width /= 2)
      for (size_t l = 0; l < width; ++l) lanes[l] = builder.binary(op, lanes[l], lanes[l + width]);
    return lanes[0];
  });
}

bool is_known_at_launch(const Node* value) {
  bool known = true;
  ir::visit_post_order(value, [&](const Node* node) {
    known &= node->op != Op::range && node->op != Op::load && node->op != Op::reduce && node->op != Op::lane_reduce;
  });
  return known;
}

// Whether the iterations of the outermost loop are more than what the loops inside make of them: they have memory of
// their own, or a workgroup each.
bool has_whole_iterations(const Node* body) {
  bool found = false;
  ir::visit_post_order(body, [&](const Node* node) { found |= node->op == Op::scratch || is_invocation_range(node); });
  return found;
}

// The one statement that this list consists of, through blocks; nullptr when there are more or none.
const Node* only_statement(std::span<const Node* const> statements) {
  while (statements.size() == 1 && statements[0]->op == Op::block) statements = statements[0]->src();
  return statements.size() == 1 ? statements[0] : nullptr;
}

// A loop over stores that an invocation runs all at once.
bool is_pack(const Node* loop, const Schedule& schedule) {
  const Node* range = loop->src(0);
  const auto stores = loop->src().subspan(1);
  return std::ranges::any_of(schedule.items,
                             [&](const ScheduleItem& item) {
                               return item.kind == ScheduleItem::Kind::pack && item.range == range->name &&
                                      range->src(0)->is_constant(item.size);
                             }) &&
         std::ranges::all_of(stores, [](const Node* node) { return node->op == Op::store; });
}

// The body with the stores of each such loop as one statement.
const Node* with_packs(Builder& b, const Node* body, const Schedule& schedule) {
  NodeMap memo;
  return ir::rewrite(b, body, memo, [&](Builder& builder, const Node* node) -> const Node* {
    if (node->op != Op::loop || !is_pack(node, schedule)) return nullptr;
    std::vector<const Node*> stores;
    for (const Node* store : node->src().subspan(1))
      for (int64_t i = 0; i < node->src(0)->src(0)->value; ++i)
        stores.push_back(substitute(builder, store, {{node->src(0), builder.integer(i)}}));
    return builder.together(stores);
  });
}

const Node* nonnegative(Builder& b, const Node* extent) { return b.binary(Op::max, extent, b.integer(0)); }

}  // namespace

ir::Kernel map_to_invocations(const ir::Kernel& kernel, const Schedule& schedule) {
  ir::Kernel result = kernel;
  Builder b(*kernel.context);
  result.body = without_vectors(b, kernel.body);
  if (schedule.has(ScheduleItem::Kind::pack)) result.body = with_packs(b, result.body, schedule);
  const Node* outer = only_statement(result.body->src());
  if (!outer || outer->op != Op::loop || is_invocation_range(outer->src(0)) ||
      !is_known_at_launch(outer->src(0)->src(0)))
    return result;

  // The ranges of the loops to be joined, outermost first.
  std::vector<const Node*> ranges{outer->src(0)};
  std::span<const Node* const> body = outer->src().subspan(1);
  if (!has_whole_iterations(result.body)) {
    for (const Node* inner = only_statement(body); inner && inner->op == Op::loop; inner = only_statement(body)) {
      if (!is_known_at_launch(inner->src(0)->src(0))) break;
      ranges.push_back(inner->src(0));
      body = inner->src().subspan(1);
    }
  }
  // Two negative extents must not make a positive one.
  const bool joined = ranges.size() > 1;
  const Node* extent = joined ? nonnegative(b, ranges[0]->src(0)) : ranges[0]->src(0);
  for (size_t i = 1; i < ranges.size(); ++i) extent = b.mul(extent, nonnegative(b, ranges[i]->src(0)));
  const Node* thread = b.range(extent, ranges[0]->name, RangeKind::thread);
  NodeMap indices;
  const Node* rest = thread;
  for (size_t i = ranges.size(); i-- > 1;) {
    indices[ranges[i]] = b.binary(Op::mod, rest, ranges[i]->src(0));
    rest = b.div(rest, ranges[i]->src(0));
  }
  indices[ranges[0]] = rest;
  std::vector<const Node*> statements;
  for (const Node* statement : body) statements.push_back(ir::rewrite(b, statement, indices));
  const Node* loop = b.loop(Op::loop, thread, statements);
  result.body = b.block(std::span(&loop, 1));
  return result;
}

}  // namespace sporkle::lower
