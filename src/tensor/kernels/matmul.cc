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
// pass ends with the pointwise operations that follow the product (its epilogue) on the finished element, and an
// operand may be computed where it is packed or read (its prologue).
#include "tensor/context.h"
#include "tensor/kernels/matmul_cpu.h"
#include "tensor/launch.h"

namespace sporkle::tensor {
namespace {

using tune::ProductPlan;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Cuts the last panel, of so many columns (0: it is whole), into vectors. Vectors of half of 64 bytes take half the
// time where the processor has two units for them or one that is twice as wide: up to so few columns need no more. An
// epilogue, or B's own program, runs up to the last column alone, whatever the cut.
void set_edge(int columns, int lanes, int element_bytes, CpuProduct* product) {
  const int partial = columns % lanes, half = lanes / 2;
  const bool halves = lanes * element_bytes == 64 && !product->exact_edge() && partial > 0 && partial <= half;
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
  const int edge_vectors = std::max(product.edge / lanes - (product.exact_edge() ? 1 : 0), 1);
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

void swap_matrix_axes(Program* program) {
  if (program->result < 0) return;
  swap_matrix_axes(&program->loops);
  for (Leaf& leaf : program->leaves)
    if (leaf.kind == Leaf::Kind::load || leaf.kind == Leaf::Kind::index) swap_matrix_axes(&leaf.view.strides);
}

// C^T = B^T A^T: the same chains. A row times a matrix whose columns lie in memory becomes a matrix times a column,
// which reads that memory in its order.
bool runs_transposed(const Shape& c, const Strides& b) {
  const int rank = c.rank();
  return c[rank - 2] == 1 && c[rank - 1] != 1 && b[rank - 2] == 1 && b[rank - 1] != 1;
}

Operands operands_of(const Step& step) {
  Operands o{step.node->shape, step.a, step.b, step.result_strides, step.program};
  if (!runs_transposed(o.shape, o.b.view.strides)) return o;
  std::swap(o.a, o.b);
  for (Dims* dims : {&o.shape, &o.a.view.strides, &o.b.view.strides, &o.c}) swap_matrix_axes(dims);
  for (Program* program : {&o.a.program, &o.b.program, &o.epilogue}) swap_matrix_axes(program);
  return o;
}

// What a plan may depend on. The stride of an axis of one element is of no consequence; the usual one keeps kernels
// few.
tune::ProductShape tuned_shape(DType dtype, const Shape& c, int64_t depth, Strides* a, Strides* b) {
  const int rank = c.rank();
  const int64_t element_size = ir::dtype_size(dtype);
  if (c[rank - 1] == 1) (*b)[rank - 1] = 1;
  if (depth == 1) (*a)[rank - 1] = 1;
  return {static_cast<int>(element_size),
          element_count(Shape(std::span(c.begin(), c.end() - 2))),
          c[rank - 2],
          c[rank - 1],
          depth,
          (*a)[rank - 1] == 1,
          (*b)[rank - 1] == 1,
          std::abs((*b)[rank - 2]) * element_size};
}

int lanes_of(const Context& context, int64_t element_size) {
  return std::max(context.vector_width() * 4 / static_cast<int>(element_size), 1);
}

// More than this is not repeated for each time that an operand's element is read.
constexpr int kMostRepeated = 4;
// Where A is not a column's partner its elements are computed one by one, not as vectors.
constexpr int kMostAlone = 4;
constexpr int kMostProgram = 48;

}  // namespace

bool product_computes(const Context& context, const Node& product, const Strides& a, const Strides& b, int number,
                      int cost) {
  if ((product.dtype != DType::f32 && product.dtype != DType::f64) || product.inputs[0]->dtype != product.dtype)
    return false;
  const int rank = product.shape.rank();
  const int64_t depth = product.inputs[0]->shape[rank - 1];
  Shape shape = product.shape;
  Strides views[2] = {a, b};
  const bool transposed = runs_transposed(shape, b);
  if (transposed) {
    std::swap(views[0], views[1]);
    for (Dims* dims : {&shape, &views[0], &views[1]}) swap_matrix_axes(dims);
  }
  const bool is_a = (number == 0) != transposed;
  const tune::ProductShape tuned = tuned_shape(product.dtype, shape, depth, &views[0], &views[1]);
  const ProductPlan plan = context.plan_product(tuned);
  const int64_t block = plan.block_rows > 0 ? std::min(plan.block_rows, tuned.rows) : tuned.rows;
  const int64_t panel = tuned.one_column() ? 1 : int64_t{lanes_of(context, tuned.element_bytes)} * plan.vectors;
  int64_t repeats = 1;
  const Strides& view = views[is_a ? 0 : 1];
  for (int axis = 0; axis < rank - 2; ++axis)
    if (view[axis] == 0) repeats *= shape[axis];
  if (is_a) {
    if (!tuned.one_column() && cost > kMostAlone) return false;
    repeats *= divide_up(tuned.columns, panel);
  } else {
    if (!tuned.b_in_rows && tuned.columns > 1) return false;  // transposing has its own way through the registers
    repeats *= divide_up(tuned.rows, std::max<int64_t>(plan.kind == ProductPlan::Kind::packed ? block : plan.rows, 1));
  }
  return repeats <= 1 ? cost <= kMostProgram : cost * repeats <= kMostRepeated;
}

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
  const tune::ProductShape tuned = tuned_shape(node->dtype, shape, depth, &product.a, &product.b);
  if (columns == 1) product.c[rank - 1] = 1;
  product.b_in_columns = product.b[rank - 2] == 1 && product.b[rank - 1] != 1;
  const ProductPlan plan = context.plan_product(tuned);

  const int lanes = lanes_of(context, element_size);
  product.kind = plan.kind;
  product.columns = tuned.one_column() ? 1 : lanes * plan.vectors;
  product.depth = plan.kind == ProductPlan::Kind::slabs ? static_cast<int>(plan.depth) : 0;
  product.one_slab = plan.kind == ProductPlan::Kind::slabs && depth <= plan.depth;
  const int64_t block_rows = plan.block_rows > 0 ? std::min(plan.block_rows, rows) : rows;
  const int64_t block_columns = plan.block_columns > 0 ? plan.block_columns : columns;
  const int64_t passes =
      plan.kind == ProductPlan::Kind::packed ? std::max<int64_t>(divide_up(depth, plan.depth), 1) : 1;
  const int64_t pass_depth = divide_up(depth, passes);
  Program a_program = operands.a.program, b_program = operands.b.program;
  if (operands.a.computed()) product.a_program = &a_program;
  if (operands.b.computed()) product.b_program = &b_program;
  for (int64_t pass = 0; pass < passes; ++pass) {
    const int64_t first = pass * pass_depth;
    product.continues = pass > 0;
    product.epilogue = pass == passes - 1 && operands.epilogue.result >= 0 ? &operands.epilogue : nullptr;
    if (plan.kind == ProductPlan::Kind::packed)
      set_edge(static_cast<int>(columns % product.columns), lanes, static_cast<int>(element_size), &product);
    const std::string schedule = schedule_of(plan, product, tuned.one_column(), lanes);
    const auto operand_key = [](const Program* program, const Strides& strides) {
      return program ? "(" + ProgramCode::key(*program) + ")" : stride_classes(strides);
    };
    std::string key = "matmul " + std::string(ir::dtype_name(node->dtype)) + " " +
                      operand_key(product.a_program, product.a) + " " + operand_key(product.b_program, product.b) +
                      " " + stride_classes(product.c) + " " + std::to_string(product.columns) + " " +
                      std::to_string(product.depth) + " " + schedule;
    key += product.continues ? " continued" : "";
    if (product.edge > 0) key += " with an edge of " + std::to_string(product.edge);
    if (product.tail > 0) key += " with a tail of " + std::to_string(product.tail);
    if (product.one_slab) key += " in one";
    if (product.epilogue) key += " " + ProgramCode::key(*product.epilogue);

    std::vector<hal::Binding> bindings;
    const auto bind = [&](const MatrixOperand& operand, const Program& program, int64_t stride) {
      if (operand.computed()) return ProgramCode::append_bindings(program, &bindings);
      bindings.push_back({operand.base->storage->buffer(),
                          static_cast<uint64_t>((operand.view.offset + first * stride) * element_size)});
    };
    bind(operands.a, a_program, product.a[rank - 1]);
    bind(operands.b, b_program, product.b[rank - 2]);
    if (product.epilogue) ProgramCode::append_bindings(*product.epilogue, &bindings);
    bindings.push_back({result->storage->buffer(), 0});
    Scalars scalars;
    for (int i = 0; i < rank - 2; ++i) scalars.push_back(static_cast<uint64_t>(shape[i]));
    for (const int64_t value : {rows, columns, std::min(pass_depth, depth - first), block_rows, block_columns})
      scalars.push_back(static_cast<uint64_t>(value));
    if (!product.a_program) append_strides(product.a, &scalars);
    if (!product.b_program) append_strides(product.b, &scalars);
    append_strides(product.c, &scalars);
    for (const Program* program : {product.a_program, product.b_program, product.epilogue})
      if (program) ProgramCode::append_scalars(*program, &scalars);
    const auto trace = [&] {
      return plan.kind == ProductPlan::Kind::slabs ? trace_slab_product(product) : trace_panel_product(product);
    };
    SPORKLE_RETURN_IF_ERROR(launcher.dispatch(key, schedule, trace, std::move(bindings), std::move(scalars)));
    if (operands.a.computed()) a_program.shift(rank - 1, pass_depth);
    if (operands.b.computed()) b_program.shift(rank - 2, pass_depth);
  }
  return {};
}

}  // namespace sporkle::tensor
