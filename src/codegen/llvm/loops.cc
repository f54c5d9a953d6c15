// Loops, reductions that share one, and the statements around them.
#include <algorithm>
#include <map>
#include <numeric>

#include "codegen/llvm/function_emitter.h"
#include "codegen/llvm/text.h"

namespace sporkle::codegen::llvm {

using ir::Combine;
using ir::RangeKind;

namespace {

// The chains of a register tile multiply rows with columns. In which order the steps of one k are written decides how
// many operands must be in registers at once: one of those that there are more of, and all of the others.
std::vector<size_t> order_of_chains(const std::vector<const Node*>& group) {
  std::vector<size_t> order(group.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::unordered_map<const Node*, size_t> left, right;  // operands, numbered as they appear
  for (const Node* node : group) {
    if (node->combine() != Combine::fma && node->combine() != Combine::dot) return order;
    left.try_emplace(node->src(2), left.size());
    right.try_emplace(node->src(3), right.size());
  }
  const bool by_left = left.size() >= right.size();
  std::ranges::stable_sort(order, {},
                           [&](size_t g) { return by_left ? left.at(group[g]->src(2)) : right.at(group[g]->src(3)); });
  return order;
}

}  // namespace

void Emitter::counted_loop(int depth, const std::string& start, const std::string& end, int step,
                           std::vector<Carried>& carried, const std::function<void(const std::string&)>& body) {
  // Scopes deeper than `depth` stay open but are set aside, so that this loop lands before them in the text.
  std::vector<std::unique_ptr<Scope>> aside;
  while (innermost() > depth) {
    aside.push_back(std::move(scopes_.back()));
    scopes_.pop_back();
  }
  const std::string head = fresh_label(), exit = fresh_label(), index = fresh("i");
  for (Carried& c : carried) c.phi = fresh("acc");
  scopes_.push_back(std::make_unique<Scope>());
  scope(depth + 1).label = head;
  body(index);
  const int inner = depth + 1;
  const std::string next = define(inner, "add nsw i64 " + index + ", " + std::to_string(step));
  const std::string more = define(inner, "icmp slt i64 " + next + ", " + end);
  line(inner, "br i1 " + more + ", label %" + head + ", label %" + exit);
  const std::unique_ptr<Scope> closed = std::move(scopes_.back());
  scopes_.pop_back();

  const std::string any = define(depth, "icmp slt i64 " + start + ", " + end);
  line(depth, "br i1 " + any + ", label %" + head + ", label %" + exit);
  const std::string before = scope(depth).label;
  start_block(depth, head);
  line(depth, index + " = phi i64 [ " + start + ", %" + before + " ], [ " + next + ", %" + closed->label + " ]");
  for (const Carried& c : carried)
    line(depth, c.phi + " = phi " + c.type + " [ " + c.initial + ", %" + before + " ], [ " + c.next + ", %" +
                    closed->label + " ]");
  scope(depth).text += closed->text;
  start_block(depth, exit);
  for (Carried& c : carried)
    c.result = define(
        depth, "phi " + c.type + " [ " + c.initial + ", %" + before + " ], [ " + c.next + ", %" + closed->label + " ]");
  while (!aside.empty()) {
    scopes_.push_back(std::move(aside.back()));
    aside.pop_back();
  }
}

// Reductions over one range, in one loop with an accumulator each.
void Emitter::emit_reductions(const std::vector<const Node*>& group) {
  const Node* range = group[0]->src(1);
  std::unordered_map<const Node*, int> memo;
  int depth = depth_of(range->src(0), memo);
  for (const Node* node : group) depth = std::max(depth, depth_of(node, memo));
  std::vector<Carried> carried;
  std::vector<int> widths;
  for (const Node* node : group) {
    const Value init = emit(node->src(0));
    const int width = analysis_.width(node);
    widths.push_back(width);
    const std::string initial = node->src(0)->is_constant() ? constant_text(node->type, node->src(0)->value, width)
                                                            : widened(init, node->type, width);
    carried.push_back({value_type(node->type, width), initial, "", "", ""});
  }
  const std::string extent = emit(range->src(0)).text;
  const auto found = unroll_.find(range);
  const int unroll = found == unroll_.end() ? 1 : found->second;

  const std::vector<size_t> order = order_of_chains(group);

  const auto run = [&](const std::string& start, const std::string& end, int step) {
    counted_loop(depth, start, end, step, carried, [&](const std::string& index) {
      const int inner = innermost();
      std::vector<std::string> acc;
      for (const Carried& c : carried) acc.push_back(c.phi);
      // Vectors that the next iterations want from a tile of memory that this one has loaded.
      std::unordered_map<const Node*, std::vector<std::string>> tiles;
      for (int copy = 0; copy < step; ++copy) {
        scope(inner).values.clear();
        scope(inner).splats.clear();
        const std::string k = copy == 0 ? index : define(inner, "add nsw i64 " + index + ", " + std::to_string(copy));
        scope(inner).values.emplace(range, Value{k, inner, 1});
        std::vector<const Node*> roots;
        for (const Node* node : group)
          for (size_t s = 2; s < node->source_count; ++s) roots.push_back(node->src(s));
        prepare_reductions(roots);
        for (const Node* load : columns_below(roots)) {
          const Column column = *column_of(load);
          if (copy % column.width == 0 && copy + column.width <= step && runs_along(column, range))
            tiles[load] = transposed_tile(column);
          if (const auto tile = tiles.find(load); tile != tiles.end())
            remember(load, {tile->second[static_cast<size_t>(copy % column.width)], inner, column.width});
        }
        for (const size_t g : order) {
          const Node* node = group[g];
          const Value x = emit(node->src(2));
          if (node->combine() == Combine::fma || node->combine() == Combine::dot) {
            const Value y = emit(node->src(3));
            const DType factor = node->src(2)->type;
            const std::string a = widened(x, factor, widths[g]), b = widened(y, factor, widths[g]);
            acc[g] = node->combine() == Combine::fma ? fma(node->type, widths[g], inner, a, b, acc[g])
                                                     : dot(node->type, widths[g], inner, a, b, acc[g]);
          } else {
            const Op op = node->combine() == Combine::add   ? Op::add
                          : node->combine() == Combine::max ? Op::max
                                                            : Op::min;
            acc[g] = binary_text(op, node->type, widths[g], inner, acc[g], widened(x, node->type, widths[g]));
          }
        }
      }
      for (size_t g = 0; g < group.size(); ++g) carried[g].next = acc[g];
    });
    for (Carried& c : carried) c.initial = c.result;
  };
  if (unroll > 1) {
    const std::string count = define(depth, "sdiv i64 " + extent + ", " + std::to_string(unroll));
    const std::string whole = define(depth, "mul i64 " + count + ", " + std::to_string(unroll));
    run("0", whole, unroll);
    run(whole, extent, 1);
  } else {
    run("0", extent, 1);
  }
  for (size_t g = 0; g < group.size(); ++g) remember(group[g], {carried[g].result, depth, widths[g]});
}

// Emits the reductions below `roots` that are not known yet, those over one range together. A reduction inside
// another's body that depends on its range is left to that body.
void Emitter::prepare_reductions(std::span<const Node* const> roots) {
  std::unordered_map<const Node*, int> level;  // 1 + the most reductions that must come before
  std::map<std::pair<int, uint32_t>, std::vector<const Node*>> groups;
  std::unordered_map<const Node*, bool> visited;
  const std::function<int(const Node*)> visit = [&](const Node* node) -> int {
    if (find(node) || node->is_constant()) return 0;
    if (const auto found = level.find(node); found != level.end()) return found->second;
    int before = 0;
    if (node->op == Op::reduce) {
      before = std::max(visit(node->src(0)), visit(node->src(1)->src(0)));
      // Reductions in the body that do not depend on this one's range come first.
      std::unordered_set<const Node*> seen;
      const std::function<void(const Node*)> search = [&](const Node* inner) {
        if (!seen.insert(inner).second) return;
        if (inner->op == Op::reduce && !ir::depends_on(inner, node->src(1))) {
          before = std::max(before, visit(inner));
          return;
        }
        for (const Node* source : inner->src()) search(source);
      };
      for (size_t s = 2; s < node->source_count; ++s) search(node->src(s));
      groups[{before, node->src(1)->id}].push_back(node);
      ++before;
    } else if (node->op != Op::range) {
      for (const Node* source : node->src()) before = std::max(before, visit(source));
    }
    level.emplace(node, before);
    return before;
  };
  for (const Node* root : roots) visit(root);
  for (const auto& [key, group] : groups) {
    std::vector<const Node*> pending;
    std::ranges::copy_if(group, std::back_inserter(pending), [&](const Node* node) { return !find(node); });
    if (!pending.empty()) emit_reductions(pending);
  }
}

void Emitter::emit_stores(std::span<const Node* const> stores) {
  // Together, unless a reduction of one would read what another stores.
  std::vector<const Node*> roots;
  bool together = true;
  for (const Node* store : stores)
    for (const Node* source : store->src().subspan(1)) {
      roots.push_back(source);
      if (!analysis_.reads(source, nullptr)) continue;
      ir::visit_post_order(source, [&](const Node* node) {
        if (node->op != Op::reduce || !together) return;
        together = std::ranges::none_of(stores, [&](const Node* s) { return analysis_.reads(node, s->src(0)); });
      });
    }
  if (together) prepare_reductions(roots);
  load_tiles(stores);
  for (const Node* store : stores) {
    if (!together) prepare_reductions(store->src().subspan(1));
    emit_write(emit_operands(store));
  }
}

void Emitter::emit_together(std::span<const Node* const> stores) {
  std::vector<const Node*> roots;
  for (const Node* store : stores) roots.insert(roots.end(), store->src().begin() + 1, store->src().end());
  prepare_reductions(roots);
  std::vector<Write> writes;
  for (const Node* store : stores) writes.push_back(emit_operands(store));
  for (const Write& write : writes) emit_write(write);
}

void Emitter::emit_statements(std::span<const Node* const> statements) {
  for (size_t i = 0; i < statements.size();) {
    if (statements[i]->op != Op::store) {
      emit_loop(statements[i++]);
      continue;
    }
    size_t end = i;
    while (end < statements.size() && statements[end]->op == Op::store) ++end;
    emit_stores(statements.subspan(i, end - i));
    i = end;
  }
}

void Emitter::emit_loop(const Node* loop) {
  if (loop->op == Op::block) return emit_statements(loop->src());
  if (loop->op == Op::together) return emit_together(loop->src());
  const Node* range = loop->src(0);
  const std::span<const Node* const> body = loop->src().subspan(1);
  if (range->range_kind() == RangeKind::vector) return emit_statements(body);
  if (range->range_kind() == RangeKind::thread) return thread_loop(loop);
  const Value extent = emit(range->src(0));
  // From the second iteration on, what the body stores has changed: nothing read before the loop holds inside it.
  ir::visit_post_order(loop, [&](const Node* node) {
    if (node->op == Op::store) forget_reads_of(node->src(0));
  });
  std::vector<Carried> none;
  counted_loop(innermost(), "0", extent.text, 1, none, [&](const std::string& index) {
    scope(innermost()).values.emplace(range, Value{index, innermost(), 1});
    emit_statements(body);
  });
}

void Emitter::thread_loop(const Node* loop) {
  const Node* range = loop->src(0);
  std::vector<Carried> none;
  counted_loop(0, "%begin", "%end", 1, none, [&](const std::string& index) {
    scope(innermost()).values.emplace(range, Value{index, innermost(), 1});
    emit_statements(loop->src().subspan(1));
  });
}

}  // namespace sporkle::codegen::llvm
