// Matrix products: C[..., m, n] = sum over k of A[..., m, k] * B[..., k, n], with any strides.
//
// Every element is one chain of fused multiply-adds over k, in order, from 0: the same bits as the plain triple loop,
// whatever the tiling. How the work is cut is a tune::ProductPlan: a tile of C belongs to one iteration of the thread
// loop, which packs its panel of B (K x NR, padded with zero columns) into scratch and multiplies rows of A, read in
// place, with it. A long k goes in several passes that continue the chain from C. A column's chains run side by side as
// scalars. With few rows B is too large to copy for so little use: then a few of its rows at a time are added to C,
// which stays in the cache, so that B passes by once in the order of its memory.
//
// The structure follows Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008); the last
// pass ends with the pointwise operations that follow the product (its epilogue) on the finished element.
#include "tensor/context.h"
#include "tensor/kernels/matmul_cpu.h"
#include "tensor/launch.h"

namespace sporkle::tensor {
namespace {

using tune::ProductPlan;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Cuts the last panel, of so many columns (0: it is whole), into vectors. Vectors of half of 64 bytes take half the
// time where the processor has two units for them or one that is twice as wide: up to so few columns need no more. An
// epilogue runs up to the last column alone, whatever the cut.
void set_edge(int columns, int lanes, int element_bytes, CpuProduct* product) {
  const int partial = columns % lanes, half = lanes / 2;
  const bool halves = lanes * element_bytes == 64 && !product->epilogue && partial > 0 && partial <= half;
  product->edge = columns - partial + (partial > 0 && !halves ? lanes : 0);
  product->tail = halves ? half : 0;
}

std::string schedule_of(const ProductPlan& plan, const CpuProduct& product, bool one_column, int lanes) {
  const std::string vector = lanes > 1 ? "vec" + std::to_string(lanes) : std::string("tile1");
  const std::string vectors =
      vector + (plan.vectors > 1 && lanes > 1 ? "x" + std::to_string(plan.vectors) : std::string());
  std::string schedule = "tile:thread m:tile" + std::to_string(plan.rows) + " k:unroll" + std::to_string(plan.unroll);
  if (one_column) return schedule;  // chains of scalars
  schedule += " n:" + vectors;
  if (plan.kind == ProductPlan::Kind::packed && product.b_in_columns && lanes > 1)
    schedule += " pack_k:tile" + std::to_string(lanes) + " pack_n:" + vector;  // a square tile is transposed at once
  else if (plan.kind == ProductPlan::Kind::packed)
    schedule += " pack_n:" + vectors;
  const int edge_vectors = std::max(product.edge / lanes - (product.epilogue ? 1 : 0), 1);
  if (product.edge > 0)
    schedule += " edge:" + vector + (edge_vectors > 1 && lanes > 1 ? "x" + std::to_string(edge_vectors) : "");
  // Narrow tiles need rows to keep the units busy.
  if (product.tail > 0) schedule += " tail_m:tile8 tail:vec" + std::to_string(product.tail);
  if (plan.kind == ProductPlan::Kind::slabs && !product.one_slab) {
    schedule += " clear_n:" + vector + " rest_n:" + vector;
    if (product.epilogue) schedule += " end_n:" + vector;
  }
  return schedule;
}

// A product as it runs.
struct Operands {
  Shape shape;  // of C
  MatrixOperand a, b;
  Strides c;
  Program epilogue;  // result -1: none
};

void swap_matrix_axes(Dims* dims) { std::swap((*dims)[dims->rank() - 2], (*dims)[dims->rank() - 1]); }

// C^T = B^T A^T: the same chains. A row times a matrix whose columns lie in memory becomes a matrix times a column,
// which reads that memory in its order.
Operands operands_of(const Step& step) {
  Operands o{step.node->shape, step.a, step.b, step.result_strides, step.program};
  const int rank = o.shape.rank();
  const Strides& b = o.b.view.strides;
  if (o.shape[rank - 2] != 1 || o.shape[rank - 1] == 1 || b[rank - 2] != 1 || b[rank - 1] == 1) return o;
  std::swap(o.a, o.b);
  for (Dims* dims : {&o.shape, &o.a.view.strides, &o.b.view.strides, &o.c}) swap_matrix_axes(dims);
  if (o.epilogue.result < 0) return o;
  swap_matrix_axes(&o.epilogue.loops);
  for (Leaf& leaf : o.epilogue.leaves)
    if (leaf.kind == Leaf::Kind::load || leaf.kind == Leaf::Kind::index) swap_matrix_axes(&leaf.view.strides);
  return o;
}

}  // namespace

Status launch_matmul(Launcher& launcher, const Step& step) {
  const Context& context = launcher.context();
  const Node* node = step.node;
  Node* result = step.results[0];
  if (node->count() == 0) return {};
  if (node->inputs[0]->dtype == DType::bf16)
    return context.is_gpu() ? launch_matrix_unit_matmul(launcher, step) : launch_low_precision_matmul(launcher, step);
  if (context.is_gpu()) return launch_workgroup_matmul(launcher, step);
  const Operands operands = operands_of(step);
  const Shape& shape = operands.shape;
  const int rank = shape.rank();
  const int64_t element_size = ir::dtype_size(node->dtype);
  const int64_t rows = shape[rank - 2], columns = shape[rank - 1], depth = node->inputs[0]->shape[rank - 1];

  CpuProduct product{};
  product.dtype = node->dtype;
  product.batch_axes = rank - 2;
  product.a = operands.a.view.strides;
  product.b = operands.b.view.strides;
  product.c = operands.c;
  // The stride of an axis of one element is of no consequence; the usual one keeps kernels few.
  if (columns == 1) product.b[rank - 1] = product.c[rank - 1] = 1;
  if (depth == 1) product.a[rank - 1] = 1;
  product.b_in_columns = product.b[rank - 2] == 1 && product.b[rank - 1] != 1;
  const tune::ProductShape tuned{static_cast<int>(element_size),
                                 element_count(Shape(std::span(shape.begin(), shape.end() - 2))),
                                 rows,
                                 columns,
                                 depth,
                                 product.a[rank - 1] == 1,
                                 product.b[rank - 1] == 1,
                                 std::abs(product.b[rank - 2]) * element_size};
  const ProductPlan plan = context.plan_product(tuned);

  const int lanes = std::max(context.vector_width() * 4 / static_cast<int>(element_size), 1);
  product.kind = plan.kind;
  product.columns = tuned.one_column() ? 1 : lanes * plan.vectors;
  product.depth = plan.kind == ProductPlan::Kind::slabs ? static_cast<int>(plan.depth) : 0;
  product.one_slab = plan.kind == ProductPlan::Kind::slabs && depth <= plan.depth;
  const int64_t block_rows = plan.block_rows > 0 ? std::min(plan.block_rows, rows) : rows;
  const int64_t block_columns = plan.block_columns > 0 ? plan.block_columns : columns;
  const int64_t passes =
      plan.kind == ProductPlan::Kind::packed ? std::max<int64_t>(divide_up(depth, plan.depth), 1) : 1;
  const int64_t pass_depth = divide_up(depth, passes);
  for (int64_t pass = 0; pass < passes; ++pass) {
    const int64_t first = pass * pass_depth;
    product.continues = pass > 0;
    product.epilogue = pass == passes - 1 && operands.epilogue.result >= 0 ? &operands.epilogue : nullptr;
    if (plan.kind == ProductPlan::Kind::packed)
      set_edge(static_cast<int>(columns % product.columns), lanes, static_cast<int>(element_size), &product);
    const std::string schedule = schedule_of(plan, product, tuned.one_column(), lanes);
    std::string key = "matmul " + std::string(ir::dtype_name(node->dtype)) + " " + stride_classes(product.a) + " " +
                      stride_classes(product.b) + " " + stride_classes(product.c) + " " +
                      std::to_string(product.columns) + " " + std::to_string(product.depth) + " " + schedule;
    key += product.continues ? " continued" : "";
    if (product.edge > 0) key += " with an edge of " + std::to_string(product.edge);
    if (product.tail > 0) key += " with a tail of " + std::to_string(product.tail);
    if (product.one_slab) key += " in one";
    if (product.epilogue) key += " " + ProgramCode::key(*product.epilogue);

    const auto offset = [&](const MatrixOperand& operand, int64_t stride) {
      return static_cast<uint64_t>((operand.view.offset + first * stride) * element_size);
    };
    std::vector<hal::Binding> bindings{{operands.a.base->storage->buffer(), offset(operands.a, product.a[rank - 1])},
                                       {operands.b.base->storage->buffer(), offset(operands.b, product.b[rank - 2])}};
    if (product.epilogue) ProgramCode::append_bindings(*product.epilogue, &bindings);
    bindings.push_back({result->storage->buffer(), 0});
    Scalars scalars;
    for (int i = 0; i < rank - 2; ++i) scalars.push_back(static_cast<uint64_t>(shape[i]));
    for (const int64_t value : {rows, columns, std::min(pass_depth, depth - first), block_rows, block_columns})
      scalars.push_back(static_cast<uint64_t>(value));
    append_strides(product.a, &scalars);
    append_strides(product.b, &scalars);
    append_strides(product.c, &scalars);
    if (product.epilogue) ProgramCode::append_scalars(*product.epilogue, &scalars);
    const auto trace = [&] {
      return plan.kind == ProductPlan::Kind::slabs ? trace_slab_product(product) : trace_panel_product(product);
    };
    SPORKLE_RETURN_IF_ERROR(launcher.dispatch(key, schedule, trace, std::move(bindings), std::move(scalars)));
  }
  return {};
}

}  // namespace sporkle::tensor
