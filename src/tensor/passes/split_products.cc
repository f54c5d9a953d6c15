// Split-K: a long product of small matrices on a GPU's matrix units, whose tiles would leave most of the device idle,
// is made in segments of k that are added up. How many follows from the shapes alone, so that the bits do not depend on
// the device; but they are others than those of one sum, so that only products for matrix units, which are `fast`, are
// split.
#include "tensor/context.h"
#include "tensor/graph.h"
#include "tensor/low_precision.h"
#include "tensor/passes/passes.h"
#include "tensor/tensor.h"

namespace sporkle::tensor {
namespace {

constexpr int64_t kTile = 128;        // of the product, as kernels/matmul_matrix_units.cc has them
constexpr int64_t kFewTiles = 96;     // that leave a large GPU's cores idle
constexpr int64_t kMostTiles = 256;   // of all segments together
constexpr int64_t kShortest = 1024;   // segment of k that is worth a sum
constexpr int64_t kUnit = 64;         // that a segment of k is a multiple of
constexpr int64_t kMostSegments = 8;  // as each is an operand of the kernel that adds them

int64_t segments_of(int64_t rows, int64_t columns, int64_t depth) {
  const int64_t tiles = (rows + kTile - 1) / kTile * ((columns + kTile - 1) / kTile);
  if (tiles == 0 || tiles >= kFewTiles) return 1;
  int64_t segments = 1;
  while (2 * segments <= kMostSegments && 2 * segments * tiles <= kMostTiles && depth % (2 * segments * kUnit) == 0 &&
         depth / (2 * segments) >= kShortest)
    segments *= 2;
  return segments;
}

}  // namespace

Status split_products(Planning& planning) {
  Graph& graph = planning.graph;
  if (graph.context().options().numerics != ir::Numerics::fast || !has_matrix_units(graph.context())) return {};
  graph.substitute([&](const NodeRef& node) -> NodeRef {
    if (node->op != Op::matmul || node->shape.rank() != 2 || node->dtype != DType::f32 ||
        node->inputs[0]->dtype != DType::bf16)
      return node;
    const int64_t rows = node->shape[0], columns = node->shape[1], depth = node->inputs[0]->shape[1];
    const int64_t segments = segments_of(rows, columns, depth);
    if (segments == 1) return node;
    const SourceScope scope(node->source);
    const auto added = [&](const Tensor& made) {
      graph.add(made.node());
      return made;
    };
    const Tensor a = added(added(Tensor(node->inputs[0]).reshape({rows, segments, depth / segments})).transpose(0, 1));
    const Tensor b = added(Tensor(node->inputs[1]).reshape({segments, depth / segments, columns}));
    const NodeRef product =
        make_node(Op::matmul, graph.context(), DType::f32, {segments, rows, columns}, {a.node(), b.node()});
    product->source = node->source;
    graph.add(product);
    // In one kernel with what follows.
    Tensor total;
    for (int64_t s = 0; s < segments; ++s) {
      const Tensor part = added(added(Tensor(product).slice(0, s, 1)).reshape({rows, columns}));
      total = s == 0 ? part : total + part;
      if (s > 0 && s + 1 < segments) graph.add(total.node());
    }
    return total.node();
  });
  return {};
}

}  // namespace sporkle::tensor
