#include "ir/scope_rules.h"

#include <unordered_map>
#include <utility>

#include "ir/node_rules.h"
#include "ir/verifier_messages.h"

namespace sporkle::ir {
namespace {

constexpr size_t kMaxRanges = 1024;
constexpr size_t kMaxStatements = size_t{1} << 18;
constexpr int kMaxLoopDepth = 256;

using RangeSet = std::vector<uint64_t>;  // one bit a range

class ScopeRules {
 public:
  ScopeRules(const Kernel& kernel, std::span<const Node* const> nodes) : kernel_(kernel), nodes_(nodes) {}

  Status run() {
    SPORKLE_RETURN_IF_ERROR(number_ranges());
    for (const Node* node : nodes_)
      if (!node->is_statement()) SPORKLE_RETURN_IF_ERROR(find_scope(node));
    RangeSet open(words_);
    for (const Node* statement : kernel_.body->src()) SPORKLE_RETURN_IF_ERROR(check_statement(statement, open, 1));
    // Backends may keep a range's index in one place, so a range is a loop's or a reduction's, never both.
    for (const Node* range : ranges_)
      if (has(reduced_, range) && has(looped_, range)) return broken(Broken::opened_by_both, {describe(range)});
    return {};
  }

 private:
  // Of a value: the ranges that must be open around it, and those that reductions in it open.
  struct Scope {
    RangeSet needed, opened;
  };

  static void unite(Scope& to, const Scope& from) {
    for (size_t word = 0; word < from.needed.size(); ++word) {
      to.needed[word] |= from.needed[word];
      to.opened[word] |= from.opened[word];
    }
  }

  Status number_ranges() {
    for (const Node* node : nodes_)
      if (node->op == Op::range) {
        number_.emplace(node, ranges_.size());
        ranges_.push_back(node);
      }
    if (ranges_.size() > kMaxRanges)
      return broken(Broken::many_ranges, {std::to_string(ranges_.size()), std::to_string(kMaxRanges)});
    words_ = (ranges_.size() + 63) / 64;
    looped_.resize(words_);
    reduced_.resize(words_);
    return {};
  }

  bool has(const RangeSet& set, const Node* range) const {
    const size_t n = number_.at(range);
    return set[n / 64] >> n % 64 & 1;
  }
  void put(RangeSet& set, const Node* range) const {
    const size_t n = number_.at(range);
    set[n / 64] |= uint64_t{1} << n % 64;
  }
  void remove(RangeSet& set, const Node* range) const {
    const size_t n = number_.at(range);
    set[n / 64] &= ~(uint64_t{1} << n % 64);
  }

  Status find_scope(const Node* node) {
    Scope scope{RangeSet(words_), RangeSet(words_)};
    if (node->op == Op::range) {
      // The extent is needed where the range is opened, not where it is used.
      put(scope.needed, node);
    } else if (node->op == Op::reduce || node->op == Op::lane_reduce) {
      const Node* range = node->src(1);
      for (const Node* inside : node->op == Op::reduce ? node->src().subspan(2) : node->src().first(1))
        unite(scope, scopes_.at(inside));
      if (has(scope.opened, range)) return opened_twice(range);
      remove(scope.needed, range);
      put(scope.opened, range);
      put(reduced_, range);
      unite(scope, scopes_.at(range->src(0)));
      if (node->op == Op::reduce) unite(scope, scopes_.at(node->src(0)));
    } else {
      for (const Node* source : node->src()) unite(scope, scopes_.at(source));
    }
    scopes_.emplace(node, std::move(scope));
    return {};
  }

  static Status opened_twice(const Node* range) { return broken(Broken::opened_twice, {describe(range)}); }

  Status check_value(const Node* user, const Node* value, const RangeSet& open) const {
    const Scope& scope = scopes_.at(value);
    for (size_t word = 0; word < words_; ++word) {
      if (const uint64_t missing = scope.needed[word] & ~open[word])
        return broken(Broken::outside_its_loop, {describe(user), describe(ranges_[lowest_in(missing, word)])});
      if (const uint64_t twice = scope.opened[word] & open[word]) return opened_twice(ranges_[lowest_in(twice, word)]);
    }
    return {};
  }

  static size_t lowest_in(uint64_t bits, size_t word) {
    return word * 64 + static_cast<size_t>(std::countr_zero(bits));
  }

  // Recursive: the depth of statements is checked first. Statements may be shared, so their visits are counted.
  Status check_statement(const Node* node, RangeSet& open, int depth) {
    if (++visits_ > kMaxStatements) return broken(Broken::many_statements, {std::to_string(kMaxStatements)});
    if (depth > kMaxLoopDepth) return broken(Broken::deep_statements, {std::to_string(kMaxLoopDepth)});
    if (node->op == Op::store) {
      for (const Node* value : node->src().subspan(1)) SPORKLE_RETURN_IF_ERROR(check_value(node, value, open));
      return {};
    }
    if (node->op == Op::block || node->op == Op::together) {
      for (const Node* statement : node->src()) SPORKLE_RETURN_IF_ERROR(check_statement(statement, open, depth + 1));
      return {};
    }
    const Node* range = node->src(0);
    SPORKLE_RETURN_IF_ERROR(check_value(node, range->src(0), open));
    if (has(open, range)) return opened_twice(range);
    const bool is_vector = range->range_kind() == RangeKind::vector;
    if (is_vector && in_vector_) return broken(Broken::vector_in_vector, {describe(node), describe(range)});
    if (range->range_kind() == RangeKind::thread && (depth > 1 || kernel_.body->source_count > 1))
      return broken(Broken::thread_not_outermost, {describe(node), describe(range)});
    const bool is_invocation = range->range_kind() == RangeKind::invocation;
    if (is_invocation && (in_vector_ || in_invocation_))
      return broken(Broken::invocation_inside,
                    {describe(node), describe(range), in_vector_ ? "a vector loop" : "another invocation loop"});
    put(looped_, range);
    put(open, range);
    const bool outer_in_invocation = std::exchange(in_invocation_, in_invocation_ || is_invocation);
    const bool outer_in_vector = std::exchange(in_vector_, in_vector_ || is_vector);
    for (const Node* statement : node->src().subspan(1))
      SPORKLE_RETURN_IF_ERROR(check_statement(statement, open, depth + 1));
    in_vector_ = outer_in_vector;
    in_invocation_ = outer_in_invocation;
    remove(open, range);
    return {};
  }

  const Kernel& kernel_;
  std::span<const Node* const> nodes_;
  std::vector<const Node*> ranges_;
  std::unordered_map<const Node*, size_t> number_;
  size_t words_ = 0;
  std::unordered_map<const Node*, Scope> scopes_;
  RangeSet looped_, reduced_;
  size_t visits_ = 0;
  bool in_vector_ = false, in_invocation_ = false;
};

}  // namespace

Status check_scopes(const Kernel& kernel, std::span<const Node* const> nodes) {
  return ScopeRules(kernel, nodes).run();
}

}  // namespace sporkle::ir
