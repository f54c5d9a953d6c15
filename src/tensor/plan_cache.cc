#include "tensor/plan_cache.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "tensor/context.h"
#include "tensor/kernel_call.h"

namespace sporkle::tensor {
namespace {

enum NumberKind : uint8_t { kRandom = 255 };  // else: the element type of a constant

uint64_t mix(uint64_t hash, uint64_t word) {
  hash = (hash ^ word) * 0x9E3779B97F4A7C15u;
  return hash ^ (hash >> 29);
}

uint64_t hash_of(std::span<const uint64_t> words) {
  uint64_t hash = words.size();
  for (const uint64_t word : words) hash = mix(hash, word);
  return hash;
}

// Constants that passes look at (passes/algebra.cc): a plan for one of them does not serve another.
bool shapes_the_plan(DType type, uint64_t bits) {
  if (type == DType::boolean) return true;
  if (!ir::is_float(type)) return false;
  const double number =
      type == DType::f64 ? std::bit_cast<double>(bits) : std::bit_cast<float>(static_cast<uint32_t>(bits));
  int exponent = 0;
  return number == 0 || std::abs(std::frexp(number, &exponent)) == 0.5;
}

}  // namespace

void GraphSignature::append(const Dims& dims) {
  for (const int64_t extent : dims) words.push_back(static_cast<uint64_t>(extent));
}

void GraphSignature::append(std::string_view text) {
  words.push_back(text.size());
  for (size_t i = 0; i < text.size(); i += 8) {
    uint64_t word = 0;
    std::memcpy(&word, text.data() + i, std::min<size_t>(8, text.size() - i));
    words.push_back(word);
  }
}

// Equal numbers share a place, so that a pass may take them for one.
int GraphSignature::number(uint64_t bits, uint8_t kind) {
  const auto [found, is_new] = numbers_.try_emplace({bits, kind}, static_cast<int>(inputs.numbers.size()));
  if (is_new) inputs.numbers.push_back(bits);
  return found->second;
}

int GraphSignature::call_scalars(const KernelCall& call) {
  const uint64_t hash = hash_of(call.scalars);
  const auto [begin, end] = calls_.equal_range(hash);
  for (auto it = begin; it != end; ++it)
    if (*inputs.scalars[static_cast<size_t>(it->second)] == call.scalars) return it->second;
  const int place = static_cast<int>(inputs.scalars.size());
  inputs.scalars.push_back(&call.scalars);
  calls_.emplace(hash, place);
  return place;
}

void GraphSignature::append_leaf(Node& node, uint64_t epoch) {
  Storage& storage = *node.storage;
  if (storage.epoch != epoch) {
    storage.epoch = epoch;
    storage.plan_index = static_cast<int>(inputs.leaves.size());
    inputs.leaves.push_back(&node);
  }
  node.epoch = epoch;
  node.plan_index = -1 - storage.plan_index;
}

void GraphSignature::append_node(Node& node, int index) {
  node.plan_index = index;
  node.run_time = -1;
  bool folds = node.op == Op::constant || ((is_pointwise(node.op) || is_movement(node.op)) && !node.inputs.empty());
  for (const NodeRef& input : node.inputs)
    folds = folds && !input->storage && folds_[static_cast<size_t>(input->plan_index)];
  folds_.push_back(folds);
  const auto head = [](const Node& n) {
    return static_cast<uint64_t>(n.op) | static_cast<uint64_t>(n.dtype) << 8 |
           static_cast<uint64_t>(n.shape.rank()) << 16 | static_cast<uint64_t>(n.dims.rank()) << 24 |
           static_cast<uint64_t>(n.inputs.size()) << 32 | static_cast<uint64_t>(n.gradient) << 63;
  };
  words.push_back(head(node));
  words.push_back(reinterpret_cast<uintptr_t>(node.source.file_name()) * 31 + node.source.line());
  append(node.shape);
  switch (node.op) {
    case Op::constant:
      if (!shapes_the_plan(node.dtype, node.number)) {
        node.run_time = number(node.number, static_cast<uint8_t>(node.dtype));
        words.push_back(static_cast<uint64_t>(node.run_time));
      } else {
        words.push_back(~node.number);
      }
      return;
    case Op::uniform:
    case Op::normal:
      node.run_time = number(node.number, kRandom);
      words.push_back(static_cast<uint64_t>(node.run_time));
      return;
    case Op::call:
      node.run_time = call_scalars(*node.call);
      words.push_back(static_cast<uint64_t>(node.run_time));
      append(node.call->key);
      append(node.call->schedule);
      for (const TensorSpec& result : node.call->results) {
        words.push_back(static_cast<uint64_t>(result.dtype) << 8 | static_cast<uint64_t>(result.shape.rank()));
        append(result.shape);
      }
      for (const int taken : node.call->takes) {
        // Whether the memory is nobody else's.
        View view;
        const Node* base = taken < 0 ? nullptr : resolve(node.inputs[static_cast<size_t>(taken)].get(), &view);
        words.push_back(static_cast<uint64_t>(taken + 1) << 1 | (base && base->storage.use_count() == 1));
      }
      break;
    default:
      words.push_back(node.number);
      append(node.dims);
  }
  for (const NodeRef& input : node.inputs) {
    words.push_back(static_cast<uint64_t>(static_cast<int64_t>(input->plan_index)));
    if (!input->storage) continue;
    words.push_back(head(*input));
    append(input->shape);
  }
  // Constant folding looks at the values.
  if (!folds || is_movement(node.op)) return;
  for (const NodeRef& input : node.inputs) {
    const Node* operand = input.get();
    while (is_movement(operand->op)) operand = operand->inputs[0].get();
    if (operand->op == Op::constant) words.push_back(operand->number);
  }
}

void GraphSignature::read(Context& context, std::span<const NodeRef> roots) {
  words.clear();
  inputs.clear();
  numbers_.clear();
  calls_.clear();
  folds_.clear();
  const uint64_t epoch = context.next_epoch();
  words.push_back(context.memory_cap_bytes());
  int count = 0;
  const auto enter = [&](Node* node) {
    if (node->epoch == epoch) return;
    if (node->storage) return append_leaf(*node, epoch);
    node->epoch = epoch;
    stack_.push_back({node, 0});
  };
  for (const NodeRef& root : roots) {
    enter(root.get());
    while (!stack_.empty()) {
      Frame& frame = stack_.back();
      if (frame.next < frame.node->inputs.size()) {
        enter(frame.node->inputs[frame.next++].get());
        continue;
      }
      Node& node = *frame.node;
      stack_.pop_back();
      append_node(node, count++);
    }
    words.push_back(static_cast<uint64_t>(static_cast<int64_t>(root->plan_index)));
  }
}

std::shared_ptr<Plan> PlanCache::find(const GraphSignature& signature) {
  const uint64_t hash = hash_of(signature.words);
  const auto [begin, end] = by_hash_.equal_range(hash);
  for (auto it = begin; it != end; ++it) {
    if (it->second->words != signature.words) continue;
    entries_.splice(entries_.begin(), entries_, it->second);
    return it->second->plan;
  }
  return nullptr;
}

std::shared_ptr<Plan> PlanCache::insert(const GraphSignature& signature, std::shared_ptr<Plan> plan) {
  if (is_full()) {
    const auto last = std::prev(entries_.end());
    const auto [begin, end] = by_hash_.equal_range(last->hash);
    for (auto it = begin; it != end; ++it) {
      if (it->second != last) continue;
      by_hash_.erase(it);
      break;
    }
    entries_.pop_back();
  }
  entries_.push_front({hash_of(signature.words), signature.words, std::move(plan)});
  by_hash_.emplace(entries_.front().hash, entries_.begin());
  return entries_.front().plan;
}

void PlanCache::forget_buffers() {
  for (Entry& entry : entries_) entry.plan->forget_buffers();
}

}  // namespace sporkle::tensor
