#include "ir/builder.h"
#include "lower/lower.h"

namespace sporkle::lower {
namespace {

using ir::Builder;
using ir::Combine;
using ir::DType;
using ir::Node;
using ir::NodeMap;
using ir::Op;

// Part `index` (an i64) of the numbers packed in a word, as the result's type.
const Node* part_of(Builder& b, DType type, const Node* word, const Node* index, bool is_signed) {
  const bool pairs = type == DType::f32;
  const int bits = pairs ? 16 : 8;
  // Moved to the top of the word, so that what lies above it is gone.
  const Node* last = b.integer(32 / bits - 1);
  const Node* up = b.cast(DType::u32, b.mul(b.sub(last, index), b.integer(bits)));
  const Node* top = b.binary(Op::shl, word, up);
  if (pairs) return b.bitcast(DType::f32, b.binary(Op::bit_and, top, b.bits(DType::u32, 0xffff0000)));
  const DType as = is_signed ? DType::i32 : DType::u32;
  return b.cast(type, b.binary(Op::shr, b.cast(as, top), b.bits(as, 24)));
}

const Node* expand(Builder& b, const Node* node) {
  if (node->op == Op::dot) {
    const Node* sum = node->src(2);
    const int parts = node->type == DType::f32 ? 2 : 4;
    for (int i = 0; i < parts; ++i) {
      const Node* x = part_of(b, node->type, node->src(0), b.integer(i), false);
      const Node* y = part_of(b, node->type, node->src(1), b.integer(i), true);
      sum = node->type == DType::f32 ? b.fma(x, y, sum) : b.add(sum, b.mul(x, y));
    }
    return sum;
  }
  if (node->op != Op::reduce || node->combine() != Combine::dot) return nullptr;
  // One number a step: the same chain.
  const Node* words = node->src(1);
  const Node* parts = b.integer(node->type == DType::f32 ? 2 : 4);
  const Node* range = b.range(b.mul(words->src(0), parts), words->name);
  const Node* index = b.mod(range, parts);
  NodeMap memo{{words, b.div(range, parts)}};
  const Node* x = part_of(b, node->type, ir::rewrite(b, node->src(2), memo), index, false);
  const Node* y = part_of(b, node->type, ir::rewrite(b, node->src(3), memo), index, true);
  if (node->type == DType::f32) return b.reduce(Combine::fma, 1, node->src(0), range, x, y);
  return b.reduce(Combine::add, 1, node->src(0), range, b.mul(x, y));
}

}  // namespace

ir::Kernel expand_dot(const ir::Kernel& kernel) {
  ir::Kernel result = kernel;
  Builder builder(*kernel.context);
  NodeMap memo;
  result.body = ir::rewrite(builder, kernel.body, memo, expand);
  return result;
}

}  // namespace sporkle::lower
