#include "ir/work.h"

#include <algorithm>
#include <array>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <unordered_map>

#include "ir/arithmetic.h"
#include "ir/math.h"

namespace sporkle::ir {
namespace {

// Iterations that a nest is looked at one by one, where the loops inside depend on them; beyond, it is sampled. Kernels
// of many nests have fewer for each.
constexpr int64_t kMostIterations = int64_t{1} << 16, kLeastIterations = 256;
constexpr int64_t kMostInAll = int64_t{1} << 18;
constexpr int64_t kSamples = 64;

using RangeSet = std::set<const Node*>;

uint64_t own_flops(const Node* node);

uint64_t flops_of_expansion(Op op, DType type) {
  Context context;
  Builder builder(context);
  const Node* x = builder.scalar(type, 0, "x");
  constexpr std::array expand{expand_exp, expand_log, expand_tanh, expand_sin, expand_cos, expand_erf, expand_rsqrt};
  uint64_t flops = 0;
  visit_post_order(expand[static_cast<size_t>(op) - static_cast<size_t>(Op::exp)](builder, x),
                   [&](const Node* node) { flops += own_flops(node); });
  return flops;
}

// Of the node alone, evaluated once.
uint64_t own_flops(const Node* node) {
  if (!is_float(node->type)) return 0;
  switch (node->op) {
    case Op::add:
    case Op::sub:
    case Op::mul:
    case Op::div:
    case Op::min:
    case Op::max:
    case Op::sqrt:
    case Op::floor:
      return 1;
    case Op::fma:
      return 2;
    case Op::dot:
      return 4;
    case Op::exp:
    case Op::log:
    case Op::tanh:
    case Op::sin:
    case Op::cos:
    case Op::erf:
    case Op::rsqrt:
      return flops_of_expansion(node->op, node->type);
    default:
      return 0;
  }
}

bool is_leaf(const Node* node) { return node->op <= Op::range; }

// One level of a nest: a loop or a reduction over `range`, or what happens only under `mask`.
struct Scope {
  int parent;
  const Node* range;
  const Node* mask;
  uint64_t flops = 0;  // in each iteration
};

// Loads, or stores, of one argument at one index, in one scope.
struct MemoryAccess {
  int scope;
  const Node* index;
  size_t buffer;
  bool is_store;
  size_t element_bytes;
};

struct Interval {
  int64_t low, high;
};

}  // namespace

struct WorkCounter::Plan {
  std::vector<Scope> scopes{{-1, nullptr, nullptr}};
  std::vector<MemoryAccess> accesses;
  std::unordered_map<const Node*, RangeSet> needed;  // the ranges that a value depends on
  std::shared_ptr<Context> context;                  // keeps the nodes alive
};

namespace {

// Finds the scopes of a kernel, and what is charged to each.
class Planner {
 public:
  Planner(const Kernel& kernel, std::vector<Scope>& scopes, std::vector<MemoryAccess>& accesses,
          std::unordered_map<const Node*, RangeSet>& needed)
      : scopes_(scopes), accesses_(accesses), needed_(needed) {
    visit_post_order(kernel.body, [&](const Node* node) {
      if (node->op == Op::store) stored_.insert(node->src(0));
    });
    // Sources come first.
    visit_post_order(kernel.body, [&](const Node* node) {
      if (!node->is_statement()) find_needed(node);
    });
    for (const Node* statement : kernel.body->src()) execute(statement, 0);
  }

 private:
  void find_needed(const Node* node) {
    RangeSet& set = needed_[node];
    if (node->op == Op::range) {
      set.insert(node);
      return;
    }
    for (const Node* source : node->src()) {
      const RangeSet& from = needed_.at(source);
      set.insert(from.begin(), from.end());
      if (changing_.contains(source)) changing_.insert(node);
    }
    if (node->op == Op::load && stored_.contains(node->src(0))) changing_.insert(node);
    if (node->op == Op::reduce || node->op == Op::lane_reduce) {
      const Node* range = node->src(1);
      set.erase(range);
      const RangeSet& from = needed_.at(range->src(0));
      set.insert(from.begin(), from.end());
    }
  }

  int scope_of(int parent, const Node* range, const Node* mask) {
    const auto [found, is_new] = numbers_.try_emplace({parent, range ? range : mask}, static_cast<int>(scopes_.size()));
    if (is_new) scopes_.push_back({parent, range, mask});
    return found->second;
  }

  void execute(const Node* node, int scope) {
    if (node->op == Op::block || node->op == Op::together) {
      for (const Node* statement : node->src()) execute(statement, scope);
    } else if (node->op == Op::store) {
      int inside = scope;
      if (node->source_count > 3) {
        charge(node->src(3), scope);
        inside = scope_of(scope, nullptr, node->src(3));
      }
      charge(node->src(1), inside);
      charge(node->src(2), inside);
      access(node, inside);
    } else {
      charge(node->src(0)->src(0), scope);
      const int inside = scope_of(scope, node->src(0), nullptr);
      for (const Node* statement : node->src().subspan(1)) execute(statement, inside);
    }
  }

  // The outermost scope around `scope` in which all that the value depends on is known: where it is evaluated. What is
  // wanted only under a mask directly inside that scope is charged to the mask.
  int scope_where_known(const Node* value, int scope) const {
    if (changing_.contains(value)) return scope;
    const RangeSet& needed = needed_.at(value);
    int masked = -1;  // the innermost of the masks directly inside the scope looked at
    for (int at = scope;; at = scopes_[static_cast<size_t>(at)].parent) {
      const Scope& s = scopes_[static_cast<size_t>(at)];
      if (s.mask) {
        if (masked < 0) masked = at;
        continue;
      }
      if (s.parent < 0 || needed.contains(s.range)) return masked < 0 ? at : masked;
      masked = -1;
    }
  }

  void charge(const Node* value, int scope) {
    if (is_leaf(value)) return;
    const int at = scope_where_known(value, scope);
    if (!charged_.insert({value, at}).second) return;
    scopes_[static_cast<size_t>(at)].flops += own_flops(value);
    if (value->op == Op::reduce || value->op == Op::lane_reduce) {
      const bool is_reduce = value->op == Op::reduce;
      const Node* range = value->src(1);
      charge(range->src(0), at);
      if (is_reduce) charge(value->src(0), at);
      const int inside = scope_of(at, range, nullptr);
      const uint64_t of_step = !is_reduce                         ? 1
                               : value->combine() == Combine::dot ? 4
                               : value->combine() == Combine::fma ? 2
                                                                  : 1;
      if (is_float(value->type)) scopes_[static_cast<size_t>(inside)].flops += of_step;
      for (const Node* source : is_reduce ? value->src().subspan(2) : value->src().first(1)) charge(source, inside);
      return;
    }
    for (const Node* source : value->src()) charge(source, at);
    if (value->op != Op::load) return;
    access(value, value->source_count > 2 ? scope_of(at, nullptr, value->src(2)) : at);
  }

  void access(const Node* node, int scope) {
    const Node* buffer = node->src(0);
    if (buffer->op != Op::buffer) return;
    accesses_.push_back({scope, node->src(1), static_cast<size_t>(buffer->value), node->op == Op::store,
                         static_cast<size_t>(dtype_size(buffer->type))});
  }

  std::vector<Scope>& scopes_;
  std::vector<MemoryAccess>& accesses_;
  std::unordered_map<const Node*, RangeSet>& needed_;
  std::set<const Node*> stored_;    // memory that the kernel writes
  std::set<const Node*> changing_;  // values that depend on such memory
  std::map<std::pair<int, const Node*>, int> numbers_;
  std::set<std::pair<const Node*, int>> charged_;
};

// The numbers of one launch.
class Evaluation {
 public:
  Evaluation(const std::vector<Scope>& scopes, const std::unordered_map<const Node*, RangeSet>& needed,
             std::span<const uint64_t> scalars)
      : scopes_(scopes),
        needed_(needed),
        scalars_(scalars),
        budget_(std::clamp(kMostInAll / std::ssize(scopes), kLeastIterations, kMostIterations)) {}

  bool exact() const { return exact_; }

  // How often the inside of a scope runs; with `projection`, how many combinations of those ranges' indices it sees.
  uint64_t iterations(int scope, const RangeSet* projection) {
    // Accesses side by side mostly differ in constants alone.
    std::pair<int, std::optional<RangeSet>> key(scope, projection ? std::optional(*projection) : std::nullopt);
    if (const auto found = counted_.find(key); found != counted_.end()) return found->second;
    levels_.clear();
    for (int at = scope; at > 0; at = scopes_[static_cast<size_t>(at)].parent)
      levels_.push_back(&scopes_[static_cast<size_t>(at)]);
    std::ranges::reverse(levels_);
    stepped_.clear();
    for (const Scope* level : levels_) {
      const RangeSet& ranges = needed_.at(level->mask ? level->mask : level->range->src(0));
      stepped_.insert(ranges.begin(), ranges.end());
    }
    projection_ = projection;
    bound_.clear();
    known_.clear();
    return counted_[std::move(key)] = count(0, budget_);
  }

  std::optional<Interval> interval(const Node* node) {
    if (const auto found = intervals_.find(node); found != intervals_.end()) return found->second;
    const std::optional<Interval> result = find_interval(node);
    intervals_.emplace(node, result);
    return result;
  }

 private:
  // Looks at `budget` iterations or fewer: each iteration of a loop has its share of them for the loops inside.
  uint64_t count(size_t depth, int64_t budget) {
    if (depth == levels_.size()) return 1;
    const Scope& level = *levels_[depth];
    if (level.mask) {
      const std::optional<uint64_t> holds = value(level.mask);
      if (!holds) exact_ = false;
      return holds.value_or(1) ? count(depth + 1, budget) : 0;
    }
    const std::optional<uint64_t> extent = value(level.range->src(0));
    if (!extent) exact_ = false;
    const int64_t end = static_cast<int64_t>(extent.value_or(0));
    if (end <= 0) return 0;
    const bool counts = !projection_ || projection_->contains(level.range);
    if (!stepped_.contains(level.range)) return (counts ? static_cast<uint64_t>(end) : 1) * count(depth + 1, budget);

    // What lies inside depends on the index.
    const bool all = end <= budget;
    const int64_t steps = all ? end : std::min(budget, kSamples);
    if (!all) exact_ = false;
    uint64_t total = 0, most = 0;
    for (int64_t i = 0; i < steps; ++i) {
      // Samples lie in the middle of their parts; where the most counts, the last iteration is among them.
      const double place = static_cast<double>(i) + (counts ? 0.5 : 1.0);
      const auto sampled = static_cast<int64_t>(static_cast<double>(end) / static_cast<double>(steps) * place);
      bind(level.range, all ? i : std::min(sampled, end - 1));
      const uint64_t inside = count(depth + 1, std::max<int64_t>(budget / steps, 1));
      total += inside;
      most = std::max(most, inside);
    }
    if (!counts) return most;
    if (all) return total;
    return static_cast<uint64_t>(static_cast<double>(total) / static_cast<double>(steps) * static_cast<double>(end));
  }

  void bind(const Node* range, int64_t index) {
    bound_[range] = static_cast<uint64_t>(index);
    known_.clear();
  }

  // Of an expression of scalars, constants and bound ranges; nothing when it depends on memory.
  std::optional<uint64_t> value(const Node* node) {
    if (node->is_constant()) return static_cast<uint64_t>(node->value);
    if (node->op == Op::scalar) return canonical_bits(node->type, scalars_[static_cast<size_t>(node->value)]);
    if (node->op == Op::range) {
      const auto found = bound_.find(node);
      return found == bound_.end() ? std::nullopt : std::optional(found->second);
    }
    if (node->op < Op::add || node->op >= Op::exp) return std::nullopt;
    if (const auto found = known_.find(node); found != known_.end()) return found->second;
    uint64_t v[3] = {};
    for (uint32_t i = 0; i < node->source_count; ++i) {
      const std::optional<uint64_t> source = value(node->src(i));
      if (!source) return std::nullopt;
      v[i] = *source;
    }
    const uint64_t result = apply(node->op, node->type, node->src(0)->type, v);
    known_.emplace(node, result);
    return result;
  }

  // Bounds of an integer, whatever its ranges' indices are.
  std::optional<Interval> find_interval(const Node* node) {
    if (!is_integer(node->type)) return std::nullopt;
    if (node->op == Op::constant || node->op == Op::scalar) {
      const int64_t v = static_cast<int64_t>(*value(node));
      return Interval{v, v};
    }
    if (node->op == Op::range) {
      const std::optional<Interval> extent = interval(node->src(0));
      return extent ? std::optional(Interval{0, std::max<int64_t>(extent->high - 1, 0)}) : std::nullopt;
    }
    if (node->op < Op::add || node->op >= Op::exp || node->source_count != 2) return std::nullopt;
    const std::optional<Interval> a = interval(node->src(0)), b = interval(node->src(1));
    if (node->op == Op::mod && b && b->low > 0)
      return a && a->low >= 0 ? Interval{0, std::min(a->high, b->high - 1)} : Interval{1 - b->high, b->high - 1};
    if (!a || !b) return std::nullopt;
    switch (node->op) {
      case Op::add:
        return checked(a->low, b->low, a->high, b->high,
                       [](int64_t x, int64_t y, int64_t* r) { return __builtin_add_overflow(x, y, r); });
      case Op::sub:
        return checked(a->low, b->high, a->high, b->low,
                       [](int64_t x, int64_t y, int64_t* r) { return __builtin_sub_overflow(x, y, r); });
      case Op::mul:
        return product(*a, *b);
      case Op::div:
        if (b->low <= 0 || a->low < 0) return std::nullopt;
        return Interval{a->low / b->high, a->high / b->low};
      case Op::min:
        return Interval{std::min(a->low, b->low), std::min(a->high, b->high)};
      case Op::max:
        return Interval{std::max(a->low, b->low), std::max(a->high, b->high)};
      default:
        return std::nullopt;
    }
  }

  template <typename Combine>
  static std::optional<Interval> checked(int64_t a, int64_t b, int64_t c, int64_t d, Combine combine) {
    Interval result;
    if (combine(a, b, &result.low) || combine(c, d, &result.high)) return std::nullopt;
    return result;
  }

  static std::optional<Interval> product(Interval a, Interval b) {
    Interval result{std::numeric_limits<int64_t>::max(), std::numeric_limits<int64_t>::min()};
    for (const int64_t x : {a.low, a.high})
      for (const int64_t y : {b.low, b.high}) {
        int64_t p;
        if (__builtin_mul_overflow(x, y, &p)) return std::nullopt;
        result = {std::min(result.low, p), std::max(result.high, p)};
      }
    return result;
  }

  const std::vector<Scope>& scopes_;
  const std::unordered_map<const Node*, RangeSet>& needed_;
  std::span<const uint64_t> scalars_;
  const int64_t budget_;
  std::vector<const Scope*> levels_;
  RangeSet stepped_;
  const RangeSet* projection_ = nullptr;
  std::unordered_map<const Node*, uint64_t> bound_, known_;
  std::unordered_map<const Node*, std::optional<Interval>> intervals_;
  std::map<std::pair<int, std::optional<RangeSet>>, uint64_t> counted_;
  bool exact_ = true;
};

}  // namespace

WorkCounter::WorkCounter(const Kernel& kernel) {
  auto plan = std::make_unique<Plan>();
  plan->context = kernel.context;
  Planner(kernel, plan->scopes, plan->accesses, plan->needed);
  plan_ = std::move(plan);
}

WorkCounter::~WorkCounter() = default;

Work WorkCounter::count(std::span<const uint64_t> scalars, std::span<const uint64_t> buffer_bytes) const {
  Evaluation evaluation(plan_->scopes, plan_->needed, scalars);
  Work work;
  for (size_t i = 0; i < plan_->scopes.size(); ++i)
    if (const uint64_t flops = plan_->scopes[i].flops; flops > 0)
      work.flops += flops * evaluation.iterations(static_cast<int>(i), nullptr);

  // Of each buffer, read and written apart: the accesses together, as long as they fit between the lowest and the
  // highest index.
  struct Reach {
    uint64_t elements = 0;
    int64_t low = std::numeric_limits<int64_t>::max(), high = -1;
    size_t element_bytes = 1;
  };
  std::map<std::pair<size_t, bool>, Reach> reaches;
  std::set<std::pair<std::pair<size_t, bool>, const Node*>> seen;
  for (const MemoryAccess& access : plan_->accesses) {
    const std::pair key(access.buffer, access.is_store);
    if (!seen.insert({key, access.index}).second) continue;
    const int64_t held = static_cast<int64_t>(buffer_bytes[access.buffer] / access.element_bytes);
    const std::optional<Interval> bounds = evaluation.interval(access.index);
    const int64_t low = bounds ? std::max<int64_t>(bounds->low, 0) : 0;
    const int64_t high = bounds ? std::min(bounds->high, held - 1) : held - 1;
    const uint64_t count = evaluation.iterations(access.scope, &plan_->needed.at(access.index));
    if (count == 0 || high < low) continue;
    Reach& reach = reaches[key];
    reach.elements += std::min(count, static_cast<uint64_t>(high - low + 1));
    reach.low = std::min(reach.low, low);
    reach.high = std::max(reach.high, high);
    reach.element_bytes = access.element_bytes;
  }
  for (const auto& [key, reach] : reaches) {
    const uint64_t elements = std::min(reach.elements, static_cast<uint64_t>(reach.high - reach.low + 1));
    (key.second ? work.written_bytes : work.read_bytes) += elements * reach.element_bytes;
  }
  work.exact = evaluation.exact();
  return work;
}

}  // namespace sporkle::ir
