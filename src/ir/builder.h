// Builds nodes with their types derived and trivial cases folded, and rewrites them. Folding keeps every bit: integers
// are folded and rearranged freely (they wrap), floats only where IEEE arithmetic gives the same bits.
//
// A Builder is a light view of a Context and belongs to the Context's thread. Passing operands of wrong types is a bug
// (checked by assert here, and for IR from outside by ir/verifier.h).
#pragma once

#include <functional>

#include "ir/kernel.h"

namespace sporkle::ir {

class Builder {
 public:
  explicit Builder(Context& context) : context_(&context) {}
  Context& context() const { return *context_; }

  const Node* constant(DType type, double number);
  const Node* integer(int64_t number) { return bits(DType::i64, number); }
  // A constant from its bits as in Node::value.
  const Node* bits(DType type, int64_t value);
  const Node* boolean(bool value) { return bits(DType::boolean, value); }

  const Node* scalar(DType type, int index, std::string_view name);
  const Node* buffer(DType type, int index, std::string_view name);
  const Node* scratch(DType type, const Node* count, std::string_view name);
  // A new range, equal to no other.
  const Node* range(const Node* extent, std::string_view name, RangeKind kind = RangeKind::serial);

  const Node* unary(Op op, const Node* a);
  const Node* binary(Op op, const Node* a, const Node* b);
  const Node* add(const Node* a, const Node* b) { return binary(Op::add, a, b); }
  const Node* sub(const Node* a, const Node* b) { return binary(Op::sub, a, b); }
  const Node* mul(const Node* a, const Node* b) { return binary(Op::mul, a, b); }
  const Node* div(const Node* a, const Node* b) { return binary(Op::div, a, b); }
  const Node* mod(const Node* a, const Node* b) { return binary(Op::mod, a, b); }
  const Node* min(const Node* a, const Node* b) { return binary(Op::min, a, b); }
  const Node* fma(const Node* a, const Node* b, const Node* c);
  // a and b are u32; the result has c's type (see Op::dot).
  const Node* dot(const Node* a, const Node* b, const Node* c);
  const Node* select(const Node* condition, const Node* a, const Node* b);
  const Node* cast(DType type, const Node* a);
  const Node* bitcast(DType type, const Node* a);

  // mask == nullptr: always.
  const Node* load(const Node* buffer, const Node* index, const Node* mask = nullptr, const Node* otherwise = nullptr);
  const Node* reduce(Combine combine, int lanes, const Node* init, const Node* range, const Node* a,
                     const Node* b = nullptr);
  const Node* lane_reduce(Combine combine, const Node* value, const Node* range);

  const Node* store(const Node* buffer, const Node* index, const Node* value, const Node* mask = nullptr);
  const Node* loop(Op kind, const Node* range, std::span<const Node* const> body);
  const Node* block(std::span<const Node* const> statements);
  const Node* together(std::span<const Node* const> stores);

  // The same node with other sources, through the folding above.
  const Node* rebuild(const Node* node, std::span<const Node* const> sources);

 private:
  const Node* fold_integer(Op op, const Node* a, const Node* b);
  const Node* simplify_integer(Op op, const Node* a, const Node* b);
  Context* context_;
};

// Rewrites bottom-up with a memo: each node is rebuilt from its rewritten sources, then `rule` may replace it (nullptr:
// keep). `memo` may come with entries, which are taken as they are; that is how substitution works.
const Node* rewrite(Builder& builder, const Node* root, NodeMap& memo,
                    const std::function<const Node*(Builder&, const Node*)>& rule = {});

// Calls `visit` once for every node reachable from root, sources first.
void visit_post_order(const Node* root, const std::function<void(const Node*)>& visit);

// Whether `target` is reachable from root.
bool depends_on(const Node* root, const Node* target);

}  // namespace sporkle::ir
