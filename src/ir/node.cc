#include "ir/node.h"

#include <algorithm>

#include "ir/arithmetic.h"
#include "ir/float16.h"

namespace sporkle::ir {

std::string_view dtype_name(DType type) {
  static constexpr std::string_view names[] = {"none", "bool", "i8",  "u8",   "i32", "u32",
                                               "i64",  "u64",  "f16", "bf16", "f32", "f64"};
  return names[static_cast<int>(type)];
}

int dtype_size(DType type) {
  static constexpr int sizes[] = {0, 1, 1, 1, 4, 4, 8, 8, 2, 2, 4, 8};
  return sizes[static_cast<int>(type)];
}

std::string_view op_name(Op op) {
  static constexpr std::string_view names[] = {
      "constant", "scalar", "buffer",  "scratch",     "range", "add",  "sub",         "mul",   "div",
      "mod",      "neg",    "min",     "max",         "fma",   "dot",  "sqrt",        "abs",   "floor",
      "and",      "or",     "xor",     "shl",         "shr",   "less", "less_equal",  "equal", "not_equal",
      "select",   "cast",   "bitcast", "exp",         "log",   "tanh", "sin",         "cos",   "erf",
      "rsqrt",    "load",   "reduce",  "lane_reduce", "store", "loop", "serial_loop", "block", "together"};
  return names[static_cast<int>(op)];
}

std::string_view combine_name(Combine combine) {
  static constexpr std::string_view names[] = {"add", "max", "min", "fma", "dot"};
  return names[static_cast<int>(combine)];
}

std::string_view range_kind_name(RangeKind kind) {
  static constexpr std::string_view names[] = {"serial", "thread", "vector", "invocation"};
  return names[static_cast<int>(kind)];
}

size_t Context::Hash::operator()(const Node* node) const {
  uint64_t h = static_cast<uint64_t>(node->op) | static_cast<uint64_t>(node->type) << 8 |
               static_cast<uint64_t>(node->attribute) << 16 | static_cast<uint64_t>(node->lanes) << 24;
  const auto mix = [&h](uint64_t v) { h = (h ^ v) * 0x9E3779B97F4A7C15u, h ^= h >> 29; };
  mix(static_cast<uint64_t>(node->value));
  // Sources are interned already, so their IDs identify them, and unlike addresses repeat from run to run.
  for (const Node* source : node->src()) mix(source->id + 1);
  mix(std::hash<std::string_view>()(node->name));
  return h;
}

bool Context::Equal::operator()(const Node* a, const Node* b) const {
  return a->op == b->op && a->type == b->type && a->attribute == b->attribute && a->lanes == b->lanes &&
         a->value == b->value && std::ranges::equal(a->src(), b->src()) && a->name == b->name;
}

const Node* Context::make(Op op, DType type, std::span<const Node* const> sources, int64_t value, uint8_t attribute,
                          uint8_t lanes, std::string_view name) {
  const Node key{op, type, attribute, lanes, 0, value, sources.data(), static_cast<uint32_t>(sources.size()), name};
  if (const auto found = interned_.find(&key); found != interned_.end()) return *found;
  Node& node = nodes_.emplace_back(key);
  node.id = static_cast<uint32_t>(nodes_.size() - 1);
  node.sources = source_lists_.emplace_back(sources.begin(), sources.end()).data();
  if (!name.empty()) node.name = names_.emplace_back(name);
  interned_.insert(&node);
  return &node;
}

int64_t constant_bits(DType type, double number) {
  switch (type) {
    case DType::f64:
      return std::bit_cast<int64_t>(number);
    case DType::f32:
      return static_cast<int64_t>(std::bit_cast<uint32_t>(static_cast<float>(number)));
    case DType::f16:
      return float_to_half(static_cast<float>(number));
    case DType::bf16:
      return float_to_bfloat16(static_cast<float>(number));
    case DType::boolean:
      return number != 0;
    default:
      return saturating_integer(type, number);
  }
}

int64_t constant_bits_integer(DType type, int64_t number) {
  const uint64_t bits = static_cast<uint64_t>(number);
  const uint64_t operands[] = {bits};
  // Through a cast, so that a float is rounded once.
  return static_cast<int64_t>(type == DType::i64 ? bits : apply(Op::cast, type, DType::i64, operands));
}

double constant_number(const Node* node) {
  switch (node->type) {
    case DType::f64:
      return std::bit_cast<double>(node->value);
    case DType::f32:
      return std::bit_cast<float>(static_cast<uint32_t>(node->value));
    case DType::f16:
      return half_to_float(static_cast<uint16_t>(node->value));
    case DType::bf16:
      return bfloat16_to_float(static_cast<uint16_t>(node->value));
    case DType::u64:
      return static_cast<double>(static_cast<uint64_t>(node->value));
    default:
      return static_cast<double>(node->value);
  }
}

}  // namespace sporkle::ir
