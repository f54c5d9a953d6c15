#include <algorithm>
#include <bit>

#include "lower/lower.h"
#include "lower/masking.h"

namespace sporkle::lower {
namespace {

using ir::Builder;
using ir::Node;
using ir::NodeMap;
using ir::Op;
using ir::RangeKind;

using Statements = std::vector<const Node*>;

bool contains(const Node* root, const std::function<bool(const Node*)>& wanted) {
  bool found = false;
  ir::visit_post_order(root, [&](const Node* node) { found |= wanted(node); });
  return found;
}

bool is_vector_range(const Node* node) { return node->op == Op::range && node->range_kind() == RangeKind::vector; }

bool is_storing(const Node* statement) { return statement->op == Op::store || statement->op == Op::together; }

// Whether a value or index in the statement is read from memory that one of the statements stores to.
bool reads_what_is_stored(const Node* statement, const Statements& among) {
  std::vector<const Node*> stored;
  for (const Node* s : among)
    ir::visit_post_order(s, [&](const Node* node) {
      if (node->op == Op::store) stored.push_back(node->src(0));
    });
  return contains(statement, [&](const Node* node) {
    return node->op == Op::load && std::ranges::find(stored, node->src(0)) != stored.end();
  });
}

// Whether a statement reads scratch memory that one of them stores to: it may hold a value of each iteration's own.
bool rereads_scratch(const Statements& body) {
  std::vector<const Node*> stored;
  for (const Node* s : body)
    ir::visit_post_order(s, [&](const Node* node) {
      if (node->op == Op::store && node->src(0)->op == Op::scratch) stored.push_back(node->src(0));
    });
  return std::ranges::any_of(body, [&](const Node* s) {
    return contains(s, [&](const Node* node) {
      return node->op == Op::load && std::ranges::find(stored, node->src(0)) != stored.end();
    });
  });
}

class Scheduler {
 public:
  Scheduler(ir::Context& context, const Schedule& schedule) : builder_(context), schedule_(schedule) {}

  // Innermost loops first, so that an outer tile jams bodies that are vectors already.
  Statements statement(const Node* node) {
    if (node->op == Op::store || node->op == Op::together) return {node};
    if (node->op == Op::block) return statements(node->src());
    const Node* range = node->src(0);
    const std::vector<ScheduleItem> items = items_of(range->name);
    return split(node->op, range, range->src(0), statements(node->src().subspan(1)), items);
  }

  Statements statements(std::span<const Node* const> list) {
    Statements result;
    for (const Node* node : list) append(result, statement(node));
    return result;
  }

  const Status& status() const { return status_; }

 private:
  static void append(Statements& to, const Statements& from) { to.insert(to.end(), from.begin(), from.end()); }

  std::vector<ScheduleItem> items_of(std::string_view name) const {
    std::vector<ScheduleItem> items;
    std::ranges::copy_if(schedule_.items, std::back_inserter(items),
                         [&](const ScheduleItem& item) { return item.range == name; });
    return items;
  }

  void fail(const std::string& message) {
    if (status_.ok()) status_ = invalid_argument("schedule \"" + schedule_.text() + "\": " + message);
  }

  const Node* integer(int64_t n) { return builder_.integer(n); }

  Statements substitute(const Statements& body, const Node* from, const Node* to) {
    NodeMap memo{{from, to}};
    Statements result;
    for (const Node* node : body) result.push_back(ir::rewrite(builder_, node, memo));
    return result;
  }

  // The loop over `range` from 0 to `extent`, with the items that are left applied.
  Statements split(Op kind, const Node* range, const Node* extent, const Statements& body,
                   std::span<const ScheduleItem> items) {
    if (items.empty()) {
      if (extent->is_constant(1)) return substitute(body, range, integer(0));
      const Node* index = range->src(0) == extent ? range : builder_.range(extent, range->name);
      return {builder_.loop(kind, index, substitute(body, range, index))};
    }
    const ScheduleItem& item = items.front();
    const std::span<const ScheduleItem> rest = items.subspan(1);
    if (kind == Op::serial_loop) {
      fail("the iterations of \"" + item.range + "\" happen in order and cannot be spread");
      return {};
    }
    switch (item.kind) {
      case ScheduleItem::Kind::thread:
        return split_thread(range, extent, body, item, rest);
      case ScheduleItem::Kind::vector:
        return split_vector(range, extent, body, item, rest);
      case ScheduleItem::Kind::tile:
        return split_tile(kind, range, extent, body, item, rest);
      case ScheduleItem::Kind::unroll:
      case ScheduleItem::Kind::matrix:
      case ScheduleItem::Kind::group:
      case ScheduleItem::Kind::pack:
      case ScheduleItem::Kind::stream:
      case ScheduleItem::Kind::workgroup:
        break;  // not among a loop's items
    }
    return {};
  }

  Statements split_thread(const Node* range, const Node* extent, const Statements& body, const ScheduleItem& item,
                          std::span<const ScheduleItem> rest) {
    if (std::ranges::any_of(body, [](const Node* s) {
          return contains(s, [](const Node* n) { return n->op == Op::range && n->range_kind() == RangeKind::thread; });
        })) {
      fail("two thread loops nest at \"" + item.range + "\"");
      return {};
    }
    if (item.size == 0) {
      if (!rest.empty()) {
        fail("\"" + item.range + ":thread\" without a block leaves nothing for the items after it");
        return {};
      }
      const Node* index = builder_.range(extent, range->name, RangeKind::thread);
      return {builder_.loop(Op::loop, index, substitute(body, range, index))};
    }
    const Node* block = integer(item.size);
    const Node* blocks = builder_.div(builder_.add(extent, integer(item.size - 1)), block);
    const Node* outer = builder_.range(blocks, range->name, RangeKind::thread);
    const Node* start = builder_.mul(outer, block);
    const Node* inner_extent = builder_.min(block, builder_.sub(extent, start));
    const Node* inner = builder_.range(inner_extent, range->name);
    const Statements moved = substitute(body, range, builder_.add(start, inner));
    return {builder_.loop(Op::loop, outer, split(Op::loop, inner, inner_extent, moved, rest))};
  }

  Statements split_vector(const Node* range, const Node* extent, const Statements& body, const ScheduleItem& item,
                          std::span<const ScheduleItem> rest) {
    if (!rest.empty()) {
      fail("items follow \"" + item.range + ":vec\"");
      return {};
    }
    for (const Node* s : body)
      if (contains(s, [](const Node* node) { return is_vector_range(node); })) {
        fail("two vectors nest at \"" + item.range + "\"");
        return {};
      }
    Statements result;
    const int64_t width = item.size, step = width * item.count;
    const Node* lane = builder_.range(integer(width), range->name, RangeKind::vector);
    const Node* done = integer(0);  // iterations that the loops so far have covered
    if (item.count > 1) {
      const Node* index = builder_.range(builder_.div(extent, integer(step)), range->name);
      const Node* start = builder_.mul(index, integer(step));
      std::vector<const Node*> copies;
      for (int c = 0; c < item.count; ++c)
        copies.push_back(builder_.add(builder_.add(start, integer(c * width)), lane));
      append(result, plain_loop(index, {builder_.loop(Op::loop, lane, jam(body, range, copies))}));
      done = builder_.mul(index->src(0), integer(step));
    }
    const Node* left = builder_.sub(extent, done);
    if (extent->is_constant()) left = integer(extent->value - done->value);
    const Node* index = builder_.range(builder_.div(left, integer(width)), range->name);
    const Node* start = builder_.add(done, builder_.mul(index, integer(width)));
    append(result,
           plain_loop(index, {builder_.loop(Op::loop, lane, substitute(body, range, builder_.add(start, lane)))}));
    // What is left over runs under a mask.
    const Node* remainder = builder_.mod(extent, integer(width));
    const Node* tail_start = builder_.sub(extent, remainder);
    if (extent->is_constant()) tail_start = integer(extent->value - remainder->value);
    const Node* once = builder_.range(builder_.min(remainder, integer(1)), range->name);
    const Node* inside = builder_.binary(Op::less, lane, remainder);
    Statements tail;
    for (const Node* s : substitute(body, range, builder_.add(tail_start, lane)))
      tail.push_back(with_mask(builder_, s, lane, inside));
    append(result, plain_loop(once, {builder_.loop(Op::loop, lane, tail)}));
    return result;
  }

  Statements split_tile(Op kind, const Node* range, const Node* extent, const Statements& body,
                        const ScheduleItem& item, std::span<const ScheduleItem> rest) {
    if (!rest.empty()) {
      fail("items follow \"" + item.range + ":tile\"");
      return {};
    }
    Statements result;
    const auto add_tiles = [&](const Node* count, const Node* offset, int size) {
      const Node* index = builder_.range(count, range->name);
      const Node* start = builder_.add(offset, builder_.mul(index, integer(size)));
      std::vector<const Node*> copies;
      for (int c = 0; c < size; ++c) copies.push_back(builder_.add(start, integer(c)));
      append(result, plain_loop(index, jam(body, range, copies), kind));
    };
    add_tiles(builder_.div(extent, integer(item.size)), integer(0), item.size);
    // The remainder, by the bits of its count, the largest first.
    const Node* remainder = builder_.mod(extent, integer(item.size));
    const Node* base = builder_.sub(extent, remainder);
    if (extent->is_constant()) base = integer(extent->value - remainder->value);
    for (int size = static_cast<int>(std::bit_floor(static_cast<unsigned>(std::max(item.size - 1, 1)))); size >= 1;
         size /= 2) {
      if (item.size == 1) break;
      const Node* count = builder_.mod(builder_.div(remainder, integer(size)), integer(2));
      const Node* before = builder_.mul(builder_.div(remainder, integer(2 * size)), integer(2 * size));
      add_tiles(count, builder_.add(base, before), size);
    }
    return result;
  }

  // The loop, or nothing, or its body once, where the extent is the constant 0 or 1.
  Statements plain_loop(const Node* index, const Statements& body, Op kind = Op::loop) {
    const Node* extent = index->src(0);
    if (extent->is_constant() && extent->value <= 0) return {};
    if (extent->is_constant(1)) return substitute(body, index, integer(0));
    return {builder_.loop(kind, index, body)};
  }

  // The iterations `copies` of a loop over `range`, interleaved statement by statement, which independence allows;
  // loops inside run once for all copies, and stores that read what is stored become one `together`. What passes
  // values through scratch memory cannot interleave and stays one copy after the other.
  Statements jam(const Statements& body, const Node* range, const std::vector<const Node*>& copies) {
    if (copies.size() > 1 && !std::ranges::all_of(body, is_storing) && rereads_scratch(body)) {
      Statements result;
      for (const Node* copy : copies) append(result, substitute(body, range, copy));
      return result;
    }
    Statements result;
    for (const Node* s : body) {
      if (!is_storing(s) && !ir::depends_on(s->src(0), range)) {
        const Statements inner(s->src().begin() + 1, s->src().end());
        result.push_back(builder_.loop(s->op, s->src(0), jam(inner, range, copies)));
        continue;
      }
      Statements all;
      for (const Node* copy : copies) append(all, substitute({s}, range, copy));
      // Independent iterations do not read each other's stores. Saying so keeps what they compute in one loop: products
      // that go on from what C holds already, for one.
      if (is_storing(s) && reads_what_is_stored(s, body)) all = {builder_.together(all)};
      append(result, all);
    }
    return result;
  }

  Builder builder_;
  const Schedule& schedule_;
  Status status_;
};

}  // namespace

Status check_ranges(const ir::Kernel& kernel, const Schedule& schedule) {
  // A range is a loop's (it may be split) or a reduction's (it may be unrolled).
  std::vector<const Node*> reductions;
  std::vector<std::string_view> known;
  ir::visit_post_order(kernel.body, [&](const Node* node) {
    if (node->op == Op::range) known.push_back(node->name);
    if (node->op == Op::reduce) reductions.push_back(node->src(1));
  });
  for (const ScheduleItem& item : schedule.items) {
    if (std::ranges::find(known, item.range) == known.end())
      return invalid_argument("schedule \"" + schedule.text() + "\": kernel \"" + kernel.name + "\" has no range \"" +
                              item.range + "\"");
    if (item.kind == ScheduleItem::Kind::unroll &&
        std::ranges::none_of(reductions, [&](const Node* range) { return range->name == item.range; }))
      return invalid_argument("schedule \"" + schedule.text() + "\": \"" + item.range +
                              "\" is a loop; unroll is for reductions, use tile");
  }
  return {};
}

Result<Lowered> apply_schedule(const ir::Kernel& kernel, const Schedule& schedule) {
  SPORKLE_RETURN_IF_ERROR(check_ranges(kernel, schedule));
  Schedule loops;
  Lowered lowered;
  for (const ScheduleItem& item : schedule.items) {
    if (item.kind == ScheduleItem::Kind::thread || item.kind == ScheduleItem::Kind::vector ||
        item.kind == ScheduleItem::Kind::tile)
      loops.items.push_back(item);
    if (item.kind == ScheduleItem::Kind::stream) lowered.streamed.insert(item.range);
  }
  lowered.kernel = kernel;
  Scheduler scheduler(*kernel.context, loops);
  const Statements body = scheduler.statement(kernel.body);
  SPORKLE_RETURN_IF_ERROR(scheduler.status());
  lowered.kernel.body = Builder(*kernel.context).block(body);
  ir::visit_post_order(lowered.kernel.body, [&](const Node* node) {
    if (node->op != Op::reduce) return;
    for (const ScheduleItem& item : schedule.items)
      if (item.kind == ScheduleItem::Kind::unroll && item.range == node->src(1)->name)
        lowered.unroll[node->src(1)] = item.size;
  });
  return lowered;
}

}  // namespace sporkle::lower
