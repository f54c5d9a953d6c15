#include "ir/builder.h"

#include <algorithm>
#include <bit>
#include <cassert>

namespace sporkle::ir {

std::string_view numerics_name(Numerics numerics) {
  static constexpr std::string_view names[] = {"strict", "stable", "fast"};
  return names[static_cast<int>(numerics)];
}

std::string_view access_name(Access access) {
  static constexpr std::string_view names[] = {"read", "write", "read_write"};
  return names[static_cast<int>(access)];
}

const Node* Builder::constant(DType type, double number) { return bits(type, constant_bits(type, number)); }
const Node* Builder::bits(DType type, int64_t value) { return context_->make(Op::constant, type, {}, value); }

const Node* Builder::scalar(DType type, int index, std::string_view name) {
  return context_->make(Op::scalar, type, {}, index, 0, 0, name);
}

const Node* Builder::buffer(DType type, int index, std::string_view name) {
  return context_->make(Op::buffer, type, {}, index, 0, 0, name);
}

const Node* Builder::scratch(DType type, const Node* count, std::string_view name) {
  return context_->make(Op::scratch, type, {count}, context_->next_number(), 0, 0, name);
}

const Node* Builder::range(const Node* extent, std::string_view name, RangeKind kind) {
  return context_->make(Op::range, DType::i64, {extent}, context_->next_number(), static_cast<uint8_t>(kind), 0, name);
}

const Node* Builder::unary(Op op, const Node* a) {
  if (op == Op::neg && a->is_constant() && is_integer(a->type))
    return bits(a->type, constant_bits_integer(a->type, static_cast<int64_t>(0 - static_cast<uint64_t>(a->value))));
  return context_->make(op, a->type, {a});
}

// Both constant: the value, with the wrap-around of the type.
const Node* Builder::fold_integer(Op op, const Node* a, const Node* b) {
  const DType type = a->type;
  const uint64_t x = static_cast<uint64_t>(a->value), y = static_cast<uint64_t>(b->value);
  const bool wide_unsigned = type == DType::u64;
  const auto wrapped = [&](uint64_t v) { return bits(type, constant_bits_integer(type, static_cast<int64_t>(v))); };
  const bool less = wide_unsigned ? x < y : a->value < b->value;
  switch (op) {
    case Op::add:
      return wrapped(x + y);
    case Op::sub:
      return wrapped(x - y);
    case Op::mul:
      return wrapped(x * y);
    case Op::div:
      if (y == 0) return wrapped(0);
      if (wide_unsigned) return wrapped(x / y);
      return b->value == -1 ? wrapped(0 - x) : wrapped(static_cast<uint64_t>(a->value / b->value));
    case Op::mod:
      if (y == 0 || b->value == -1) return wide_unsigned && y != 0 ? wrapped(x % y) : wrapped(0);
      return wide_unsigned ? wrapped(x % y) : wrapped(static_cast<uint64_t>(a->value % b->value));
    case Op::min:
      return less ? a : b;
    case Op::max:
      return less ? b : a;
    case Op::bit_and:
      return wrapped(x & y);
    case Op::bit_or:
      return wrapped(x | y);
    case Op::bit_xor:
      return wrapped(x ^ y);
    case Op::less:
      return boolean(less);
    case Op::less_equal:
      return boolean(less || x == y);
    case Op::equal:
      return boolean(x == y);
    case Op::not_equal:
      return boolean(x != y);
    default:
      return nullptr;
  }
}

// Identities of integer arithmetic: enough that index expressions made by lowering read as a person would write them.
const Node* Builder::simplify_integer(Op op, const Node* a, const Node* b) {
  const auto zero = [&] { return bits(a->type, 0); };
  switch (op) {
    case Op::add:
      if (a->is_constant(0)) return b;
      if (b->is_constant(0)) return a;
      if (a->is_constant()) return add(b, a);  // constants to the right
      // (x + c) + d = x + (c + d), and (x + c) + y = (x + y) + c, so that constants meet.
      if (a->op == Op::add && a->src(1)->is_constant())
        return b->is_constant() ? add(a->src(0), add(a->src(1), b)) : add(add(a->src(0), b), a->src(1));
      if (b->op == Op::add && b->src(1)->is_constant()) return add(add(a, b->src(0)), b->src(1));
      return nullptr;
    case Op::sub:
      if (b->is_constant(0)) return a;
      if (a == b) return zero();
      return nullptr;
    case Op::mul:
      if (a->is_constant(0) || b->is_constant(0)) return zero();
      if (a->is_constant(1)) return b;
      if (b->is_constant(1)) return a;
      if (a->is_constant()) return mul(b, a);
      return nullptr;
    case Op::div:
      if (b->is_constant(1)) return a;
      return nullptr;
    case Op::mod:
      if (b->is_constant(1)) return zero();
      // Wrapping keeps the low bits, which are 0 in a multiple of a power of two.
      if (b->is_constant() && b->value > 0 && std::has_single_bit(static_cast<uint64_t>(b->value)) &&
          a->op == Op::mul && a->src(1)->is_constant() && a->src(1)->value % b->value == 0)
        return zero();
      return nullptr;
    case Op::min:
    case Op::max:
      return a == b ? a : nullptr;
    default:
      return nullptr;
  }
}

const Node* Builder::binary(Op op, const Node* a, const Node* b) {
  assert(a->type == b->type && "operands of one type");
  const bool comparison = op >= Op::less && op <= Op::not_equal;
  if (is_integer(a->type)) {
    if (a->is_constant() && b->is_constant())
      if (const Node* folded = fold_integer(op, a, b)) return folded;
    if (const Node* simpler = simplify_integer(op, a, b)) return simpler;
  }
  if (a->type == DType::boolean && (op == Op::bit_and || op == Op::bit_or)) {
    const int64_t neutral = op == Op::bit_and;
    if (a->is_constant()) return a->value == neutral ? b : a;
    if (b->is_constant()) return b->value == neutral ? a : b;
    if (a == b) return a;
  }
  return context_->make(op, comparison ? DType::boolean : a->type, {a, b});
}

const Node* Builder::fma(const Node* a, const Node* b, const Node* c) {
  assert(a->type == b->type && b->type == c->type);
  return context_->make(Op::fma, a->type, {a, b, c});
}

const Node* Builder::dot(const Node* a, const Node* b, const Node* c) {
  assert(a->type == DType::u32 && b->type == DType::u32);
  return context_->make(Op::dot, c->type, {a, b, c});
}

const Node* Builder::select(const Node* condition, const Node* a, const Node* b) {
  assert(condition->type == DType::boolean && a->type == b->type);
  if (condition->is_constant()) return condition->value ? a : b;
  if (a == b) return a;
  return context_->make(Op::select, a->type, {condition, a, b});
}

const Node* Builder::cast(DType type, const Node* a) {
  if (a->type == type) return a;
  if (a->is_constant() && (is_integer(a->type) || a->type == DType::boolean)) {
    if (is_integer(type) || type == DType::boolean) return bits(type, constant_bits_integer(type, a->value));
    // Integers up to 2^53 reach double exactly, so one rounding happens, as in the run-time conversion.
    if ((type == DType::f32 || type == DType::f64) && a->value >= 0 && a->value <= int64_t{1} << 53)
      return constant(type, static_cast<double>(a->value));
  }
  return context_->make(Op::cast, type, {a});
}

const Node* Builder::bitcast(DType type, const Node* a) {
  assert(dtype_size(type) == dtype_size(a->type));
  if (a->type == type) return a;
  if (a->op == Op::bitcast) return bitcast(type, a->src(0));
  return context_->make(Op::bitcast, type, {a});
}

const Node* Builder::load(const Node* buffer, const Node* index, const Node* mask, const Node* otherwise) {
  assert(index->type == DType::i64);
  if (!mask || mask->is_constant(1)) return context_->make(Op::load, buffer->type, {buffer, index});
  assert(otherwise && otherwise->type == buffer->type);
  if (mask->is_constant(0)) return otherwise;
  return context_->make(Op::load, buffer->type, {buffer, index, mask, otherwise});
}

const Node* Builder::reduce(Combine combine, int lanes, const Node* init, const Node* range, const Node* a,
                            const Node* b) {
  const uint8_t attribute = static_cast<uint8_t>(combine);
  const uint8_t lane_count = static_cast<uint8_t>(lanes);
  if (combine == Combine::fma || combine == Combine::dot)
    return context_->make(Op::reduce, init->type, {init, range, a, b}, 0, attribute, lane_count);
  return context_->make(Op::reduce, init->type, {init, range, a}, 0, attribute, lane_count);
}

const Node* Builder::lane_reduce(Combine combine, const Node* value, const Node* range) {
  return context_->make(Op::lane_reduce, value->type, {value, range}, 0, static_cast<uint8_t>(combine));
}

const Node* Builder::store(const Node* buffer, const Node* index, const Node* value, const Node* mask) {
  assert(value->type == buffer->type && index->type == DType::i64);
  if (mask && mask->is_constant(0)) return block({});
  if (!mask || mask->is_constant(1)) return context_->make(Op::store, DType::none, {buffer, index, value});
  return context_->make(Op::store, DType::none, {buffer, index, value, mask});
}

const Node* Builder::loop(Op kind, const Node* range, std::span<const Node* const> body) {
  if (range->src(0)->is_constant(0)) return block({});
  std::vector<const Node*> sources{range};
  for (const Node* statement : body) {
    if (statement->op == Op::block)
      sources.insert(sources.end(), statement->src().begin(), statement->src().end());
    else
      sources.push_back(statement);
  }
  if (sources.size() == 1) return block({});
  return context_->make(kind, DType::none, sources);
}

const Node* Builder::block(std::span<const Node* const> statements) {
  std::vector<const Node*> flat;
  for (const Node* statement : statements) {
    if (statement->op == Op::block)
      flat.insert(flat.end(), statement->src().begin(), statement->src().end());
    else
      flat.push_back(statement);
  }
  return context_->make(Op::block, DType::none, flat);
}

const Node* Builder::together(std::span<const Node* const> stores) {
  std::vector<const Node*> flat;
  for (const Node* statement : stores) {
    if (statement->op == Op::store)
      flat.push_back(statement);
    else  // one of several already, or a store that never happens
      flat.insert(flat.end(), statement->src().begin(), statement->src().end());
  }
  if (flat.empty()) return block({});
  return flat.size() == 1 ? flat[0] : context_->make(Op::together, DType::none, flat);
}

const Node* Builder::rebuild(const Node* node, std::span<const Node* const> s) {
  switch (node->op) {
    case Op::add:
    case Op::sub:
    case Op::mul:
    case Op::div:
    case Op::mod:
    case Op::min:
    case Op::max:
    case Op::bit_and:
    case Op::bit_or:
    case Op::bit_xor:
    case Op::shl:
    case Op::shr:
    case Op::less:
    case Op::less_equal:
    case Op::equal:
    case Op::not_equal:
      return binary(node->op, s[0], s[1]);
    case Op::neg:
      return unary(node->op, s[0]);
    case Op::select:
      return select(s[0], s[1], s[2]);
    case Op::cast:
      return cast(node->type, s[0]);
    case Op::bitcast:
      return bitcast(node->type, s[0]);
    case Op::load:
      return load(s[0], s[1], s.size() > 2 ? s[2] : nullptr, s.size() > 2 ? s[3] : nullptr);
    case Op::store:
      return store(s[0], s[1], s[2], s.size() > 3 ? s[3] : nullptr);
    case Op::loop:
    case Op::serial_loop:
      return loop(node->op, s[0], s.subspan(1));
    case Op::block:
      return block(s);
    case Op::together:
      return together(s);
    default:
      return context_->make(node->op, node->type, s, node->value, node->attribute, node->lanes, node->name);
  }
}

const Node* rewrite(Builder& builder, const Node* root, NodeMap& memo,
                    const std::function<const Node*(Builder&, const Node*)>& rule) {
  if (const auto found = memo.find(root); found != memo.end()) return found->second;
  std::vector<const Node*> sources;
  sources.reserve(root->source_count);
  bool changed = false;
  for (const Node* source : root->src()) {
    sources.push_back(rewrite(builder, source, memo, rule));
    changed |= sources.back() != source;
  }
  const Node* result = changed ? builder.rebuild(root, sources) : root;
  if (rule)
    if (const Node* replaced = rule(builder, result)) result = replaced;
  memo.emplace(root, result);
  return result;
}

namespace {

void visit_once(const Node* node, std::unordered_set<const Node*>& seen,
                const std::function<void(const Node*)>& visit) {
  if (!seen.insert(node).second) return;
  for (const Node* source : node->src()) visit_once(source, seen, visit);
  visit(node);
}

bool reaches(const Node* node, const Node* target, std::unordered_set<const Node*>& seen) {
  if (node == target) return true;
  if (!seen.insert(node).second) return false;
  return std::ranges::any_of(node->src(), [&](const Node* source) { return reaches(source, target, seen); });
}

}  // namespace

void visit_post_order(const Node* root, const std::function<void(const Node*)>& visit) {
  std::unordered_set<const Node*> seen;
  visit_once(root, seen, visit);
}

bool depends_on(const Node* root, const Node* target) {
  std::unordered_set<const Node*> seen;
  return reaches(root, target, seen);
}

}  // namespace sporkle::ir
