#include <algorithm>
#include <unordered_set>

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

bool is_loop(const Node* node) { return node->op == Op::loop || node->op == Op::serial_loop; }

// The kernel's outermost loop, if that is all of its body.
const Node* outermost_loop(const ir::Kernel& kernel) {
  std::span<const Node* const> statements = kernel.body->src();
  while (statements.size() == 1 && statements[0]->op == Op::block) statements = statements[0]->src();
  return statements.size() == 1 && is_loop(statements[0]) ? statements[0] : nullptr;
}

// Whether every reduction reads what no statement of the kernel changes, so that it may be computed ahead of the
// statement that uses it, and nothing stands in the way of loops over invocations.
bool can_be_shared(const ir::Kernel& kernel) {
  std::unordered_set<const Node*> stored, reduced;
  bool simple = true;
  ir::visit_post_order(kernel.body, [&](const Node* node) {
    if (node->op == Op::store) stored.insert(node->src(0));
    if (node->op == Op::scratch || node->op == Op::lane_reduce) simple = false;
    if (node->op == Op::range && node->range_kind() != RangeKind::serial) simple = false;
    if (node->op == Op::reduce)
      ir::visit_post_order(node, [&](const Node* inside) {
        if (inside->op == Op::load) reduced.insert(inside->src(0));
      });
  });
  return simple && std::ranges::none_of(reduced, [&](const Node* memory) { return stored.contains(memory); });
}

class Sharing {
 public:
  Sharing(Builder& builder, int64_t invocations) : b_(builder), invocations_(invocations) {}

  // The statements with their parts shared out.
  std::vector<const Node*> share(std::span<const Node* const> list, const Node* range) {
    open_.insert(range);
    std::vector<const Node*> result;
    for (const Node* statement : list) add(statement, &result);
    open_.erase(range);
    return result;
  }

 private:
  void add(const Node* statement, std::vector<const Node*>* result) {
    if (statement->op == Op::block) {
      for (const Node* inner : statement->src()) add(inner, result);
      return;
    }
    if (statement->op == Op::serial_loop) {
      const Node* range = statement->src(0);
      reductions_of(range->src(0), result);
      NodeMap memo = replaced_;
      const Node* extent = ir::rewrite(b_, range->src(0), memo);
      const Node* fresh = b_.range(extent, range->name);
      replaced_[range] = fresh;
      const std::vector<const Node*> body = share(statement->src().subspan(1), range);
      result->push_back(b_.loop(Op::serial_loop, fresh, body));
      return;
    }
    reductions_of(statement, result);
    result->push_back(statement->op == Op::loop ? shared_loop(statement) : rewritten(statement, replaced_));
  }

  const Node* rewritten(const Node* root, NodeMap replacements) { return ir::rewrite(b_, root, replacements); }

  // How many of `extent` iterations fall to one of `parts` that take turns: those of lane, lane + parts, ...
  const Node* turns(const Node* extent, const Node* lane, int64_t parts) {
    return b_.div(b_.add(b_.sub(extent, lane), b_.integer(parts - 1)), b_.integer(parts));
  }

  // Invocations take iterations in turn, so that neighbours reach neighbouring memory.
  const Node* shared_loop(const Node* loop) {
    const Node* range = loop->src(0);
    const Node* lane = b_.range(b_.integer(invocations_), std::string(range->name) + "_lane", RangeKind::invocation);
    const Node* turn = b_.range(turns(rewritten(range->src(0), replaced_), lane, invocations_), range->name);
    NodeMap replacements = replaced_;
    replacements[range] = b_.add(b_.mul(turn, b_.integer(invocations_)), lane);
    std::vector<const Node*> body;
    for (const Node* statement : loop->src().subspan(1)) body.push_back(rewritten(statement, replacements));
    const Node* inner = b_.loop(Op::loop, turn, body);
    return b_.loop(Op::loop, lane, std::span(&inner, 1));
  }

  // Before the statement that uses it, each reduction over lanes becomes a loop over as many invocations, and a tree.
  void reductions_of(const Node* root, std::vector<const Node*>* result) {
    ir::visit_post_order(root, [&](const Node* node) {
      if (node->op != Op::reduce || node->lanes < 2 || node->lanes > invocations_ || replaced_.contains(node)) return;
      if (depends_on_closed_range(node)) return;
      const Node* range = node->src(1);
      const Node* lane = b_.range(b_.integer(node->lanes), std::string(range->name) + "_lane", RangeKind::invocation);
      const Node* turn = b_.range(turns(rewritten(range->src(0), replaced_), lane, node->lanes), range->name);
      NodeMap replacements = replaced_;
      replacements[range] = b_.add(b_.mul(turn, b_.integer(node->lanes)), lane);
      const Node* identity =
          b_.bits(node->type, static_cast<int64_t>(ir::combine_identity(node->combine(), node->type)));
      const Node* partial = b_.reduce(node->combine(), 1, identity, turn, rewritten(node->src(2), replacements));
      const Node* partials = b_.scratch(node->type, b_.integer(node->lanes), std::string(range->name) + "_partial");
      const Node* store = b_.store(partials, lane, partial);
      result->push_back(b_.loop(Op::loop, lane, std::span(&store, 1)));

      const Op op = ir::combine_op(node->combine());
      std::vector<const Node*> lanes;
      for (int l = 0; l < node->lanes; ++l) lanes.push_back(b_.load(partials, b_.integer(l)));
      for (size_t width = lanes.size() / 2; width >= 1; width /= 2)
        for (size_t l = 0; l < width; ++l) lanes[l] = b_.binary(op, lanes[l], lanes[l + width]);
      replaced_[node] = b_.binary(op, rewritten(node->src(0), replaced_), lanes[0]);
    });
  }

  // Whether the value depends on a range that neither it nor a statement around all invocations opens.
  bool depends_on_closed_range(const Node* value) const {
    std::unordered_set<const Node*> bound;
    std::vector<const Node*> ranges;
    ir::visit_post_order(value, [&](const Node* node) {
      if (node->op == Op::reduce) bound.insert(node->src(1));
      if (node->op == Op::range) ranges.push_back(node);
    });
    return std::ranges::any_of(ranges,
                               [&](const Node* range) { return !bound.contains(range) && !open_.contains(range); });
  }

  Builder& b_;
  int64_t invocations_;
  std::unordered_set<const Node*> open_;
  NodeMap replaced_;  // reductions, and the ranges of serial loops
};

}  // namespace

ir::Kernel share_iterations(const ir::Kernel& kernel, const Schedule& schedule) {
  const Node* outer = outermost_loop(kernel);
  if (!outer) return kernel;
  const auto item = std::ranges::find_if(schedule.items, [&](const ScheduleItem& i) {
    return i.kind == ScheduleItem::Kind::group && i.range == outer->src(0)->name;
  });
  if (item == schedule.items.end() || !can_be_shared(kernel)) return kernel;
  ir::Kernel result = kernel;
  Builder b(*kernel.context);
  const std::vector<const Node*> body = Sharing(b, item->size).share(outer->src().subspan(1), outer->src(0));
  const Node* loop = b.loop(outer->op, outer->src(0), body);
  result.body = b.block(std::span(&loop, 1));
  return result;
}

}  // namespace sporkle::lower
