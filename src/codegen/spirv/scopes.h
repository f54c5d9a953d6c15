// The text of the function being emitted, as a stack of open loops.
//
// Each open loop (scope 0: the function itself) has text of its own that grows while the loops inside it are open, so a
// value that is needed inside but known outside is computed outside: invariants move out of loops by construction.
// Belongs to one emission.
#pragma once

#include <functional>
#include <memory>
#include <unordered_map>
#include <vector>

#include "codegen/spirv/module.h"

namespace sporkle::codegen::spirv {

// An emitted value: its id and the scope it lives in.
struct Value {
  Id id = 0;
  int depth = 0;
};

struct Scope {
  Words text;
  Id label = 0;  // of the block that the text ends in
  std::unordered_map<const ir::Node*, Value> values;
  std::unordered_map<const ir::Node*, Value> vectors;  // four elements side by side, by the load of the first
};

class Scopes {
 public:
  explicit Scopes(Module& module) : module_(&module) {}
  Module& module() { return *module_; }

  void open(Id label);
  std::unique_ptr<Scope> close();
  int innermost() const { return static_cast<int>(scopes_.size()) - 1; }
  Scope& at(int depth) { return *scopes_[static_cast<size_t>(depth)]; }

  const Value* find(const ir::Node* node) const;
  void remember(const ir::Node* node, Value value) { at(value.depth).values.emplace(node, value); }
  const Value* find_vector(const ir::Node* first) const;
  void remember_vector(const ir::Node* first, Value value) { at(value.depth).vectors.emplace(first, value); }
  // Forgets the values of the nodes that `stale` names, in every scope.
  void forget(const std::function<bool(const ir::Node*)>& stale);

  // Appends an instruction without a result.
  void line(int depth, spv::Op op, std::initializer_list<uint32_t> operands, std::span<const uint32_t> more = {}) {
    append(at(depth).text, op, operands, more);
  }
  // Appends an instruction with a result; returns its id.
  Id define(int depth, spv::Op op, Id type, std::initializer_list<uint32_t> operands,
            std::span<const uint32_t> more = {});
  void start_block(int depth, Id label);

  // Runs `then` only where `condition` holds; what it emits goes to scope `depth`.
  void when(int depth, Id condition, const std::function<void()>& then);
  // The same in a scope of its own, so that what `then` computes stays inside, unless it is known outside.
  void branch(Id condition, const std::function<void()>& then);
  // `then`'s value where `condition` holds, `otherwise` where not.
  Id choose(int depth, Id condition, Id type, Id otherwise, const std::function<Id()>& then);

  struct Carried {
    Id type, initial, next = 0, result = 0;  // in the body, `result` is the value so far
  };
  // A loop in scope `depth` over index (u64) = start, start + step ... while index < end, signed. `body` runs with the
  // loop's scope open and sets `next` of what is carried; afterwards `result` is the last value. `unroll`: advice to
  // the driver.
  void counted_loop(int depth, Id start, Id end, Id step, std::vector<Carried>& carried,
                    const std::function<void(Id index)>& body, bool unroll = false);

 private:
  Module* module_;
  std::vector<std::unique_ptr<Scope>> scopes_;
};

}  // namespace sporkle::codegen::spirv
