#include "codegen/spirv/workgroup.h"

#include <algorithm>

#include "ir/builder.h"

namespace sporkle::codegen::spirv {
namespace {

using ir::Node;
using ir::Op;

constexpr int64_t kMaxRegisters = 512;  // of one scratch, for each invocation

bool is_invocation_range(const Node* node) {
  return node->op == Op::range && node->range_kind() == ir::RangeKind::invocation;
}

bool is_loop(const Node* node) { return node->op == Op::loop || node->op == Op::serial_loop; }

}  // namespace

Workgroup::Workgroup(const ir::Kernel& kernel, uint32_t shared_bytes) {
  std::vector<const Node*> scratches;
  std::unordered_map<const Node*, bool> only_own;  // scratch: every access is to the invocation's own element
  ir::visit_post_order(kernel.body, [&](const Node* node) {
    if (is_invocation_range(node)) invocations_ = std::max(invocations_, static_cast<uint32_t>(node->src(0)->value));
    if (node->op == Op::scratch) scratches.push_back(node);
  });
  ir::visit_post_order(kernel.body, [&](const Node* node) {
    if ((node->op != Op::load && node->op != Op::store) || node->src(0)->op != Op::scratch) return;
    bool& own = only_own.try_emplace(node->src(0), true).first->second;
    const Node* count = node->src(0)->src(0);
    const std::optional<int64_t> element = own_element(node->src(1));
    own &= element && count->is_constant() && *element < count->value / invocations_;
  });
  find_collective(kernel.body);
  std::ranges::sort(scratches, {}, &Node::value);
  for (const Node* scratch : scratches) {
    const Node* count = scratch->src(0);
    Place place = Place::device;
    if (count->is_constant() && invocations_ > 0 && count->value > 0) {
      const int64_t bytes = (count->value * ir::dtype_size(scratch->type) + 15) / 16 * 16;
      if (only_own[scratch] && count->value <= kMaxRegisters * invocations_) {
        place = Place::registers;
      } else if (used_shared_bytes_ + bytes <= shared_bytes && ir::dtype_size(scratch->type) >= 4) {
        place = Place::shared;
        used_shared_bytes_ += static_cast<uint32_t>(bytes);
      }
    }
    places_.emplace(scratch, place);
  }
}

Workgroup::Place Workgroup::place(const Node* scratch) const { return places_.at(scratch); }

// index = constant * invocations + invocation
std::optional<int64_t> Workgroup::own_element(const Node* index) const {
  int64_t offset = 0;
  if (index->op == Op::add) {
    const bool constant_first = index->src(0)->is_constant();
    const Node* constant = index->src(constant_first ? 0 : 1);
    if (!constant->is_constant()) return std::nullopt;
    offset = constant->value;
    index = index->src(constant_first ? 1 : 0);
  }
  const int64_t count = invocations_;
  if (!is_invocation_range(index) || index->src(0)->value != count || offset < 0 || offset % count != 0)
    return std::nullopt;
  return offset / count;
}

int64_t Workgroup::register_index(const Node* index) const { return *own_element(index); }

void Workgroup::find_collective(const Node* statement) {
  if (!is_loop(statement) && statement->op != Op::block) return;
  bool collective = is_loop(statement) && is_invocation_range(statement->src(0));
  for (const Node* inner : statement->src().subspan(is_loop(statement) ? 1 : 0)) {
    find_collective(inner);
    collective |= collective_.contains(inner);
  }
  if (collective) collective_.insert(statement);
}

bool Workgroup::Traffic::conflicts_with(const Traffic& earlier) const {
  const auto meet = [](const auto& a, const auto& b) {
    return std::ranges::any_of(a, [&](const Node* memory) { return b.contains(memory); });
  };
  return meet(earlier.stores, reads) || meet(earlier.stores, stores) || meet(earlier.reads, stores);
}

void Workgroup::Traffic::add(const Traffic& other) {
  reads.insert(other.reads.begin(), other.reads.end());
  stores.insert(other.stores.begin(), other.stores.end());
}

const Workgroup::Traffic& Workgroup::traffic(const Node* statement) {
  if (const auto found = traffic_.find(statement); found != traffic_.end()) return found->second;
  Traffic result;
  ir::visit_post_order(statement, [&](const Node* node) {
    if (node->op != Op::load && node->op != Op::store) return;
    const Node* memory = node->src(0);
    if (memory->op == Op::scratch && place(memory) == Place::registers) return;
    (node->op == Op::load ? result.reads : result.stores).insert(memory);
  });
  return traffic_.emplace(statement, std::move(result)).first->second;
}

}  // namespace sporkle::codegen::spirv
