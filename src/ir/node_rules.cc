#include "ir/node_rules.h"

#include <algorithm>
#include <array>
#include <bit>

#include "ir/arithmetic.h"
#include "ir/verifier_messages.h"

namespace sporkle::ir {
namespace {

constexpr int64_t kMaxVectorExtent = 1024;
constexpr int64_t kMaxInvocations = 1024;

using Types = uint32_t;  // a set, one bit a type
constexpr Types set_of(auto... types) { return ((1u << static_cast<int>(types)) | ...); }
constexpr bool contains(Types set, DType type) { return set >> static_cast<int>(type) & 1; }
constexpr Types kIntegers = set_of(DType::i8, DType::u8, DType::i32, DType::u32, DType::i64, DType::u64);
constexpr Types kFloats = set_of(DType::f32, DType::f64);
constexpr Types kNumbers = kIntegers | kFloats;
constexpr Types kBits = kIntegers | set_of(DType::boolean);
// f16 and bf16 are formats for storage: they are loaded, stored, selected and cast.
constexpr Types kValues = kNumbers | kBits | set_of(DType::f16, DType::bf16);
constexpr Types kStatement = set_of(DType::none);

enum class Form : uint8_t {
  uniform,  // sources and result have one type
  compare,  // sources have one type, the result is a boolean
  other,    // a check of its own
};

constexpr uint32_t kAnyNumber = ~0u;

struct Rule {
  uint32_t min_sources, max_sources;
  Form form;
  Types types;  // of the result; of a comparison's sources
};

Rule rule_of(Op op) {
  switch (op) {
    case Op::constant:
    case Op::scalar:
    case Op::buffer:
      return {0, 0, Form::other, kValues};
    case Op::scratch:
      return {1, 1, Form::other, kValues};
    case Op::range:
      return {1, 1, Form::uniform, set_of(DType::i64)};
    case Op::add:
    case Op::sub:
    case Op::mul:
    case Op::div:
    case Op::min:
    case Op::max:
      return {2, 2, Form::uniform, kNumbers};
    case Op::mod:
    case Op::shl:
    case Op::shr:
      return {2, 2, Form::uniform, kIntegers};
    case Op::neg:
    case Op::abs:
      return {1, 1, Form::uniform, kNumbers};
    case Op::fma:
      return {3, 3, Form::uniform, kFloats};
    case Op::dot:
      return {3, 3, Form::other, set_of(DType::f32, DType::i32)};
    case Op::sqrt:
    case Op::floor:
    case Op::exp:
    case Op::log:
    case Op::tanh:
    case Op::sin:
    case Op::cos:
    case Op::erf:
    case Op::rsqrt:
      return {1, 1, Form::uniform, kFloats};
    case Op::bit_and:
    case Op::bit_or:
    case Op::bit_xor:
      return {2, 2, Form::uniform, kBits};
    case Op::less:
    case Op::less_equal:
      return {2, 2, Form::compare, kNumbers};
    case Op::equal:
    case Op::not_equal:
      return {2, 2, Form::compare, kNumbers | kBits};
    case Op::select:
      return {3, 3, Form::other, kValues};
    case Op::cast:
      return {1, 1, Form::other, kValues};
    case Op::bitcast:
      return {1, 1, Form::other, kValues & ~set_of(DType::boolean)};
    case Op::load:
      return {2, 4, Form::other, kValues};
    case Op::reduce:
      return {3, 4, Form::other, kNumbers};
    case Op::lane_reduce:
      return {2, 2, Form::other, kNumbers};
    case Op::store:
      return {3, 4, Form::other, kStatement};
    case Op::loop:
    case Op::serial_loop:
      return {1, kAnyNumber, Form::other, kStatement};
    case Op::block:
      return {0, kAnyNumber, Form::other, kStatement};
    case Op::together:
      return {2, kAnyNumber, Form::other, kStatement};
  }
  return {0, 0, Form::other, 0};
}

bool is_memory(const Node* node) { return node->op == Op::buffer || node->op == Op::scratch; }
std::string text(DType type) { return std::string(dtype_name(type)); }
Status error(const Node* node, Broken what, std::initializer_list<std::string> parts = {}) {
  std::string first = describe(node);
  switch (parts.size()) {
    case 0:
      return broken(what, {std::move(first)});
    case 1:
      return broken(what, {std::move(first), *parts.begin()});
    default:
      return broken(what, {std::move(first), *parts.begin(), *(parts.begin() + 1)});
  }
}

Status wrong_source_count(const Node* node, const Rule& rule) {
  std::string wanted = std::to_string(rule.min_sources);
  if (rule.max_sources == kAnyNumber)
    wanted += " or more";
  else if (rule.max_sources != rule.min_sources)
    wanted += " to " + std::to_string(rule.max_sources);
  return error(node, Broken::source_count, {std::to_string(node->source_count), wanted});
}

}  // namespace

std::string describe(const Node* node) {
  std::string result(op_name(node->op));
  if (!node->name.empty()) result += " \"" + std::string(node->name) + "\"";
  if ((node->op == Op::load || node->op == Op::store) && node->source_count > 0 && is_memory(node->src(0)))
    result += " of " + describe(node->src(0));
  return result;
}

Status NodeRules::check(const Node* node) {
  const Rule rule = rule_of(node->op);
  if (node->name.size() > kMaxNameBytes) return broken(Broken::long_name, {std::to_string(kMaxNameBytes)});
  if (node->source_count < rule.min_sources || node->source_count > rule.max_sources)
    return wrong_source_count(node, rule);
  SPORKLE_RETURN_IF_ERROR(check_sources(node));

  const DType type = rule.form == Form::compare ? node->src(0)->type : node->type;
  if (!contains(rule.types, type)) return error(node, Broken::result_type, {text(type)});
  if (rule.form != Form::other)
    for (const Node* source : node->src())
      if (source->type != type) return error(node, Broken::source_type, {text(type), text(source->type)});
  if (rule.form == Form::compare && node->type != DType::boolean)
    return error(node, Broken::comparison_type, {text(node->type)});

  if (node->op == Op::constant || node->op == Op::scalar ||
      (node->op >= Op::add && node->op < Op::load &&
       std::ranges::all_of(node->src(), [&](const Node* source) { return known_at_launch_.contains(source); })))
    known_at_launch_.insert(node);

  switch (node->op) {
    case Op::constant:
      return check_constant(node);
    case Op::scalar:
    case Op::buffer:
      return check_argument(node);
    case Op::scratch:
      return check_scratch(node);
    case Op::range:
      return check_range(node);
    case Op::dot:
      return check_dot(node);
    case Op::select:
      return check_select(node);
    case Op::bitcast:
      return check_bitcast(node);
    case Op::load:
    case Op::store:
      return check_access(node);
    case Op::reduce:
      return check_reduce(node);
    case Op::lane_reduce:
      return check_lane_reduce(node);
    case Op::loop:
    case Op::serial_loop:
      return check_loop(node);
    default:
      return {};
  }
}

// Statements stand only in loops and lists of statements, memory only at the front of loads and stores, values
// everywhere else.
Status NodeRules::check_sources(const Node* node) const {
  const bool is_list = node->op == Op::block || node->op == Op::together;
  const bool is_body = is_list || node->op == Op::loop || node->op == Op::serial_loop;
  const bool is_access = node->op == Op::load || node->op == Op::store;
  for (size_t i = 0; i < node->source_count; ++i) {
    const Node* source = node->src(i);
    const bool wants_statement = is_body && (is_list || i > 0);
    const bool wants_memory = is_access && i == 0;
    if (wants_statement && !source->is_statement()) return error(node, Broken::value_for_statement, {describe(source)});
    if (node->op == Op::together && source->op != Op::store)
      return error(node, Broken::no_store_in_together, {describe(source)});
    if (!wants_statement && source->is_statement()) return error(node, Broken::statement_for_value, {describe(source)});
    if (wants_memory && !is_memory(source)) return error(node, Broken::no_memory, {describe(source)});
    if (!wants_statement && !wants_memory && is_memory(source))
      return error(node, Broken::memory_for_value, {describe(source)});
  }
  return {};
}

Status NodeRules::check_constant(const Node* node) const {
  const uint64_t bits = static_cast<uint64_t>(node->value);
  if (canonical_bits(node->type, bits) != bits) return error(node, Broken::constant_bits, {text(node->type)});
  return {};
}

Status NodeRules::check_argument(const Node* node) const {
  const auto check_declared = [&](const auto& arguments) -> Status {
    if (node->value < 0 || static_cast<uint64_t>(node->value) >= arguments.size())
      return error(node, Broken::undeclared_argument, {std::to_string(node->value), std::to_string(arguments.size())});
    const auto& declared = arguments[static_cast<size_t>(node->value)];
    if (node->type != declared.type) return error(node, Broken::declared_type, {text(node->type), text(declared.type)});
    if (node->name != declared.name) return error(node, Broken::declared_name, {declared.name});
    return {};
  };
  return node->op == Op::buffer ? check_declared(kernel_.buffers) : check_declared(kernel_.scalars);
}

Status NodeRules::check_scratch(const Node* node) const {
  if (node->src(0)->type != DType::i64) return error(node, Broken::scratch_count_type, {text(node->src(0)->type)});
  if (!known_at_launch_.contains(node->src(0))) return error(node, Broken::scratch_count_unknown);
  return {};
}

Status NodeRules::check_range(const Node* node) const {
  const Node* extent = node->src(0);
  if (node->attribute > static_cast<uint8_t>(RangeKind::invocation)) return error(node, Broken::range_kind);
  if (node->range_kind() == RangeKind::thread && !known_at_launch_.contains(extent))
    return error(node, Broken::thread_extent);
  if (node->range_kind() == RangeKind::vector &&
      (!extent->is_constant() || extent->value < 1 || extent->value > kMaxVectorExtent ||
       !std::has_single_bit(static_cast<uint64_t>(extent->value))))
    return error(node, Broken::vector_extent, {std::to_string(kMaxVectorExtent)});
  if (node->range_kind() == RangeKind::invocation &&
      (!extent->is_constant() || extent->value < 1 || extent->value > kMaxInvocations))
    return error(node, Broken::invocation_extent, {std::to_string(kMaxInvocations)});
  return {};
}

// Sources a, b, c of a dot product, or init, range, a, b of a reduction by it.
Status NodeRules::check_dot(const Node* node) const {
  const bool is_reduce = node->op == Op::reduce;
  if (!contains(set_of(DType::f32, DType::i32), node->type))
    return error(node, is_reduce ? Broken::dot_reduce_type : Broken::result_type, {text(node->type)});
  for (const size_t i : is_reduce ? std::array<size_t, 2>{2, 3} : std::array<size_t, 2>{0, 1})
    if (node->src(i)->type != DType::u32)
      return error(node, is_reduce ? Broken::dot_reduce_factor_type : Broken::dot_factor_type,
                   {text(node->src(i)->type)});
  if (const Node* sum = node->src(is_reduce ? 0 : 2); sum->type != node->type)
    return error(node, is_reduce ? Broken::dot_reduce_sum_type : Broken::dot_sum_type,
                 {text(node->type), text(sum->type)});
  if (node->type == DType::f32 && kernel_.numerics != Numerics::fast)
    return error(node, is_reduce ? Broken::dot_reduce_numerics : Broken::dot_numerics,
                 {std::string(numerics_name(kernel_.numerics))});
  return {};
}

Status NodeRules::check_select(const Node* node) const {
  if (node->src(0)->type != DType::boolean) return error(node, Broken::condition_type, {text(node->src(0)->type)});
  for (const Node* branch : node->src().subspan(1))
    if (branch->type != node->type) return error(node, Broken::branch_type, {text(node->type), text(branch->type)});
  return {};
}

Status NodeRules::check_bitcast(const Node* node) const {
  const DType from = node->src(0)->type;
  if (from == DType::boolean || dtype_size(from) != dtype_size(node->type))
    return error(node, Broken::bitcast_size, {text(from), text(node->type)});
  return {};
}

Status NodeRules::check_access(const Node* node) const {
  const bool is_load = node->op == Op::load;
  const Node* memory = node->src(0);
  if (node->src(1)->type != DType::i64) return error(node, Broken::index_type, {text(node->src(1)->type)});
  const DType value = is_load ? node->type : node->src(2)->type;
  if (value != memory->type) return error(node, Broken::value_type, {text(value), text(memory->type)});
  if (is_load && node->source_count == 3) return error(node, Broken::mask_without_value);
  if (node->source_count == 4) {
    const DType mask = node->src(is_load ? 2 : 3)->type;
    if (mask != DType::boolean) return error(node, Broken::mask_type, {text(mask)});
    if (is_load && node->src(3)->type != node->type)
      return error(node, Broken::otherwise_type, {text(node->src(3)->type)});
  }
  if (memory->op == Op::scratch) return {};
  const Access access = kernel_.buffers[static_cast<size_t>(memory->value)].access;
  if (is_load && access == Access::write) return error(node, Broken::reads_write_only);
  if (!is_load && access == Access::read) return error(node, Broken::writes_read_only);
  return {};
}

Status NodeRules::check_reduce(const Node* node) const {
  if (node->attribute > static_cast<uint8_t>(Combine::dot)) return error(node, Broken::combine);
  const bool is_fma = node->combine() == Combine::fma, is_dot = node->combine() == Combine::dot;
  if (node->source_count != (is_fma || is_dot ? 4u : 3u))
    return error(node, is_fma ? Broken::fma_sources : is_dot ? Broken::dot_sources : Broken::reduce_sources);
  const Node* range = node->src(1);
  if (range->op != Op::range || range->range_kind() != RangeKind::serial)
    return error(node, Broken::reduce_range, {describe(range)});
  if (is_dot) SPORKLE_RETURN_IF_ERROR(check_dot(node));
  for (const Node* source : node->src())
    if (!is_dot && source != range && source->type != node->type)
      return error(node, Broken::source_type, {text(node->type), text(source->type)});
  if (is_fma && !is_float(node->type)) return error(node, Broken::fma_type, {text(node->type)});
  if (!std::has_single_bit(node->lanes) || ((is_fma || is_dot) && node->lanes != 1))
    return error(node, Broken::lanes, {std::to_string(node->lanes)});
  return {};
}

Status NodeRules::check_lane_reduce(const Node* node) const {
  if (node->attribute >= static_cast<uint8_t>(Combine::fma)) return error(node, Broken::lane_combine);
  const Node* range = node->src(1);
  if (range->op != Op::range || range->range_kind() != RangeKind::vector)
    return error(node, Broken::lane_range, {describe(range)});
  if (node->src(0)->type != node->type)
    return error(node, Broken::source_type, {text(node->type), text(node->src(0)->type)});
  return {};
}

Status NodeRules::check_loop(const Node* node) const {
  const Node* range = node->src(0);
  if (range->op != Op::range) return error(node, Broken::loop_range, {describe(range)});
  if (node->op == Op::serial_loop && range->range_kind() != RangeKind::serial)
    return error(node, Broken::serial_loop_range, {describe(range)});
  return {};
}

}  // namespace sporkle::ir
