// Products of bf16 on a GPU's matrix units: C[..., m, n] = sum over k of A[..., m, k] * B[..., k, n], sums in f32.
//
// The units read whole pieces of 16 x 16 from rows that begin at multiples of 16 bytes. Operands that lie so, in either
// order of their axes, are read in place; others are copied first, with zeros up to the next piece or tile, as long as
// the product is large enough to pay for that. The product goes straight into the result where nothing but a rounding
// to bf16 follows and its rows suit; else into memory of its own, from which a pointwise kernel makes the result.
// What does not suit the units runs in workgroups that widen as they read (kernels/matmul_workgroup.cc);
// SPORKLE_DEBUG=1 says why.
#include "tensor/kernels/matmul_matrix_units.h"

#include <numeric>

#include "base/log.h"
#include "codegen/cpu_target.h"
#include "tensor/context.h"
#include "tensor/launch.h"
#include "tensor/low_precision.h"

namespace sporkle::tensor {
namespace {

constexpr int64_t kPiece = 16;      // rows and columns of the units' matrices
constexpr int64_t kDepthPiece = 8;  // of k: 16 bytes
constexpr int64_t kRowBytes = 16;   // that rows begin at multiples of
constexpr int64_t kLargeTile = 128, kSmallTile = 64;
constexpr int64_t kEnoughTiles = 96;                // for a large GPU to have something for most of its cores
constexpr int64_t kWorthCopies = int64_t{1} << 22;  // multiplications
constexpr int64_t kMostZeros = 2;  // a product that grows by more than this factor is better off elsewhere

int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

int64_t in_row(DType type) { return kRowBytes / ir::dtype_size(type); }

// The extent with zeros: to whole tiles if that is little more, as those are quicker to fetch, else to whole pieces.
int64_t padded(int64_t extent, int64_t piece, int64_t tile) {
  if (extent % piece == 0) return extent;
  const int64_t to_tile = round_up(extent, tile);
  return 8 * to_tile <= 9 * extent ? to_tile : round_up(extent, piece);
}

// Whether one of the last two axes lies side by side and everything else begins at multiples of 16 bytes.
bool is_readable(const UnitOperand& operand) {
  const Strides& strides = operand.strides;
  const int rank = strides.rank(), unit_axis = strides[rank - 1] == 1 ? rank - 1 : rank - 2;
  bool readable = strides[unit_axis] == 1 && operand.offset % in_row(DType::bf16) == 0;
  for (int i = 0; i < rank; ++i)
    readable = readable && (i == unit_axis || (strides[i] >= 0 && strides[i] % in_row(DType::bf16) == 0));
  return readable && strides[2 * rank - 3 - unit_axis] > 0;
}

bool is_writable(const Strides& strides, DType type) {
  const int last = strides.rank() - 1;
  bool writable = strides[last] == 1 && (type == DType::f32 || type == DType::bf16);
  for (int i = 0; i < last; ++i) writable = writable && strides[i] > 0 && strides[i] % in_row(type) == 0;
  return writable;
}

// The value is the product itself, rounded to bf16 or not.
bool is_plain(const Program& program) {
  if (program.result < 0) return true;
  const auto is_product = [&](const Instruction& i) {
    return i.op == Op::leaf && program.leaves[static_cast<size_t>(i.leaf)].kind == Leaf::Kind::accumulator;
  };
  const Instruction& last = program.code[static_cast<size_t>(program.result)];
  if (is_product(last)) return true;
  return last.op == Op::cast && last.dtype == DType::bf16 &&
         is_product(program.code[static_cast<size_t>(last.arguments[0])]);
}

std::vector<dsl::Expr> declare_row_strides(dsl::KernelBuilder& k, const Strides& strides, DType type,
                                           std::string_view name) {
  std::vector<dsl::Expr> result;
  for (int i = 0; i < strides.rank(); ++i)
    if (strides[i] != 0 && strides[i] != 1)
      result.push_back(k.size(std::string(name) + "_stride" + std::to_string(i)) * in_row(type));
  return result;
}

void append_row_strides(const Strides& strides, DType type, Scalars* scalars) {
  for (const int64_t stride : strides)
    if (stride != 0 && stride != 1) scalars->push_back(static_cast<uint64_t>(stride / in_row(type)));
}

// [batch..., outer, inner] without gaps, from elements with any strides; beyond the source's extents are zeros.
ir::Kernel trace_copy(const Strides& strides, bool zeros) {
  return dsl::trace(
      "pad_bf16",
      [&](dsl::KernelBuilder& k) {
        const dsl::Buffer x = k.input(DType::bf16, "x"), y = k.output(DType::bf16, "y");
        const size_t batch_axes = static_cast<size_t>(strides.rank() - 2);
        std::vector<dsl::Expr> extents;
        for (size_t i = 0; i < batch_axes; ++i) extents.push_back(k.size("batch" + std::to_string(i)));
        const dsl::Expr outer_extent = k.size("outer_extent"), inner_extent = k.size("inner_extent");
        const dsl::Expr outer_count = k.size("outer_count"), inner_count = k.size("inner_count");
        const std::vector<dsl::Expr> scalars = declare_strides(k, strides, "x");
        dsl::Expr count = outer_count;
        for (const dsl::Expr extent : extents) count = count * extent;
        k.range("outer", count, [&](dsl::Expr outer) {
          std::vector<dsl::Expr> indices(batch_axes + 2);
          dsl::Expr rest = outer / outer_count;
          indices[batch_axes] = batch_axes > 0 ? outer % outer_count : outer;
          for (size_t i = batch_axes; i-- > 0;) {
            indices[i] = i == 0 ? rest : rest % extents[i];
            rest = rest / extents[i];
          }
          k.range("inner", inner_count, [&](dsl::Expr inner) {
            indices[batch_axes + 1] = inner;
            const dsl::Expr from = affine(strides, scalars, indices);
            const dsl::Expr inside = (indices[batch_axes] < outer_extent) & (inner < inner_extent);
            y.store(outer * inner_count + inner,
                    zeros ? x.load(from, inside, dsl::constant(DType::bf16, 0.0)) : x[from]);
          });
        });
      },
      ir::Numerics::fast);
}

struct Placed {
  hal::Binding binding;
  Strides strides;
  std::shared_ptr<Storage> storage;  // of a copy; must live until the product is recorded
};

Placed in_place(const MatrixOperand& operand) {
  return {{operand.base->storage->buffer(), static_cast<uint64_t>(2 * operand.view.offset)}, operand.view.strides, {}};
}

// A copy in which the axis that lies side by side in memory still does. `rows` and `columns` are the matrix's own,
// `all_rows` and `all_columns` those with zeros.
Result<Placed> copied(Launcher& launcher, const MatrixOperand& operand, const Shape& batch, int64_t rows,
                      int64_t columns, int64_t all_rows, int64_t all_columns) {
  const int rank = operand.view.strides.rank();
  const bool by_columns = operand.view.strides[rank - 1] != 1 && operand.view.strides[rank - 2] == 1;
  Strides from = operand.view.strides;
  if (by_columns) {
    std::swap(from[rank - 1], from[rank - 2]);
    std::swap(rows, columns);
    std::swap(all_rows, all_columns);
  }
  Shape shape = batch;
  shape.push_back(all_rows);
  shape.push_back(all_columns);
  Placed result;
  result.storage = launcher.allocate(static_cast<size_t>(2 * element_count(shape)));
  result.binding = {result.storage->buffer(), 0};
  result.strides = contiguous_strides(shape);
  if (by_columns) std::swap(result.strides[rank - 1], result.strides[rank - 2]);
  const bool zeros = rows != all_rows || columns != all_columns;
  Scalars scalars;
  for (const int64_t extent : batch) scalars.push_back(static_cast<uint64_t>(extent));
  for (const int64_t extent : {rows, columns, all_rows, all_columns}) scalars.push_back(static_cast<uint64_t>(extent));
  append_strides(from, &scalars);
  const std::string key = "pad bf16 " + stride_classes(from) + (zeros ? " zeros" : "");
  SPORKLE_RETURN_IF_ERROR(launcher.dispatch(
      key, "outer:thread inner:vec", [&] { return trace_copy(from, zeros); },
      {in_place(operand).binding, result.binding}, std::move(scalars)));
  return result;
}

}  // namespace

bool has_matrix_units(Context& context) {
  if (!context.is_gpu()) return false;
  const auto target = codegen::VulkanTarget::parse(context.device().info().target);
  return target.ok() && target->matrix_bf16 && target->storage16 && target->subgroup > 0;
}

bool multiplies_bf16(Context& context) {
  if (context.options().numerics != ir::Numerics::fast) return false;
  return context.device().info().target.starts_with(codegen::kCpuPrefix) || has_matrix_units(context);
}

UnitPlan plan_unit_product(const codegen::VulkanTarget& target, int64_t batches, int64_t rows, int64_t columns,
                           int64_t depth, const UnitOperand& a, const UnitOperand& b, const Strides& result_strides,
                           DType result, bool ends) {
  UnitPlan plan{};
  const auto refuse = [&](std::string why) {
    plan.refusal = std::move(why);
    return plan;
  };
  if (!target.matrix_bf16) return refuse("the device has none for bf16");
  if (rows < kPiece || columns < kPiece || depth < kDepthPiece)
    return refuse("fewer than 16 rows or columns, or 8 along k");
  plan.tile_depth = target.shared_kib >= 48 ? 64 : 32;
  plan.rows = padded(rows, kPiece, kLargeTile);
  plan.columns = padded(columns, kPiece, kLargeTile);
  plan.depth = padded(depth, kDepthPiece, plan.tile_depth);
  const int64_t large =
      batches * (round_up(rows, kLargeTile) / kLargeTile) * (round_up(columns, kLargeTile) / kLargeTile);
  plan.tile = large >= kEnoughTiles ? kLargeTile : kSmallTile;
  plan.copies_a = !is_readable(a) || plan.rows != rows || plan.depth != depth;
  plan.copies_b = !is_readable(b) || plan.columns != columns || plan.depth != depth;
  plan.direct = !ends && plan.rows == rows && plan.columns == columns && is_writable(result_strides, result);
  const int64_t volume = batches * rows * columns * depth;
  if ((plan.copies_a || plan.copies_b) && volume < kWorthCopies)
    return refuse("too small to be worth copies of its operands");
  if (plan.rows * plan.columns * plan.depth > kMostZeros * rows * columns * depth)
    return refuse("it would be mostly zeros around its operands");
  return plan;
}

ir::Kernel trace_unit_product(const UnitProduct& p) {
  return dsl::trace(
      "matmul_units",
      [&](dsl::KernelBuilder& k) {
        const dsl::Buffer a = k.input(DType::bf16, "a"), b = k.input(DType::bf16, "b"), c = k.output(p.result, "c");
        std::vector<dsl::Expr> extents;
        for (int i = 0; i < p.batch_axes; ++i) extents.push_back(k.size("batch" + std::to_string(i)));
        extents.push_back(k.size("rows") * p.rows);
        extents.push_back(k.size("columns") * p.columns);
        const dsl::Expr depth = k.size("depth") * p.depth;
        const auto a_strides = declare_row_strides(k, p.a, DType::bf16, "a"),
                   b_strides = declare_row_strides(k, p.b, DType::bf16, "b"),
                   c_strides = declare_row_strides(k, p.c, p.result, "c");
        const size_t m = static_cast<size_t>(p.batch_axes), n = m + 1;
        std::vector<dsl::Expr> position;
        const std::function<void()> loops = [&] {
          if (position.size() < extents.size()) {
            const size_t axis = position.size();
            const std::string name = axis == m ? "m" : axis == n ? "n" : "batch" + std::to_string(axis);
            k.range(name, extents[axis], [&](dsl::Expr i) {
              position.push_back(i);
              loops();
              position.pop_back();
            });
            return;
          }
          const dsl::Expr sum = k.fma_chain("k", depth, dsl::constant(DType::f32, 0.0), [&](dsl::Expr i) {
            std::vector<dsl::Expr> at_a = position, at_b = position;
            at_a[n] = i;
            at_b[m] = i;
            return std::pair(cast(DType::f32, a[affine(p.a, a_strides, at_a)]),
                             cast(DType::f32, b[affine(p.b, b_strides, at_b)]));
          });
          c.store(affine(p.c, c_strides, position), p.result == DType::f32 ? sum : cast(p.result, sum));
        };
        loops();
      },
      ir::Numerics::fast);
}

Status launch_matrix_unit_matmul(Launcher& launcher, const Step& step) {
  const Node* node = step.node;
  Node* result = step.results[0];
  const Shape& shape = node->shape;
  const int rank = shape.rank();
  const int64_t rows = shape[rank - 2], columns = shape[rank - 1], depth = node->inputs[0]->shape[rank - 1];
  const Shape batch(std::span(shape.begin(), shape.end() - 2));
  SPORKLE_ASSIGN_OR_RETURN(const auto target, codegen::VulkanTarget::parse(launcher.context().device().info().target));
  const bool ends = !is_plain(step.program);
  const UnitPlan plan =
      plan_unit_product(target, element_count(batch), rows, columns, depth, {step.a.view.strides, step.a.view.offset},
                        {step.b.view.strides, step.b.view.offset}, step.result_strides, result->dtype, ends);
  if (!plan.refusal.empty()) {
    if (debug_level() >= 1)
      log(LogLevel::info, "matmul",
          to_string(node->inputs[0]->shape) + " x " + to_string(node->inputs[1]->shape) +
              " of bf16 does not run on matrix units: " + plan.refusal);
    return launch_workgroup_matmul(launcher, step);
  }

  Placed a = in_place(step.a), b = in_place(step.b), c{{result->storage->buffer(), 0}, step.result_strides, {}};
  if (plan.copies_a) {
    SPORKLE_ASSIGN_OR_RETURN(a, copied(launcher, step.a, batch, rows, depth, plan.rows, plan.depth));
  }
  if (plan.copies_b) {
    SPORKLE_ASSIGN_OR_RETURN(b, copied(launcher, step.b, batch, depth, columns, plan.depth, plan.columns));
  }
  if (!plan.direct) {
    Shape whole = batch;
    whole.push_back(plan.rows);
    whole.push_back(plan.columns);
    c.storage = launcher.allocate(static_cast<size_t>(4 * element_count(whole)));
    c.binding = {c.storage->buffer(), 0};
    c.strides = contiguous_strides(whole);
  }

  const auto known = [](int64_t extent, int64_t tile, int64_t piece) { return extent % tile == 0 ? tile : piece; };
  const UnitProduct product{rank - 2,
                            a.strides,
                            b.strides,
                            c.strides,
                            plan.direct ? result->dtype : DType::f32,
                            known(plan.rows, plan.tile, kPiece),
                            known(plan.columns, plan.tile, kPiece),
                            known(plan.depth, plan.tile_depth, kDepthPiece)};
  const std::string tile = std::to_string(plan.tile);
  const std::string schedule = "m:matrix" + tile + " n:matrix" + tile + " k:matrix" + std::to_string(plan.tile_depth);
  std::string key = "matmul units " + std::string(ir::dtype_name(product.result));
  for (const Strides* strides : {&product.a, &product.b, &product.c}) key += " " + stride_classes(*strides);
  for (const int64_t unit : {product.rows, product.columns, product.depth}) key += " " + std::to_string(unit);
  key += " " + schedule;
  Scalars scalars;
  for (const int64_t extent : batch) scalars.push_back(static_cast<uint64_t>(extent));
  for (const int64_t count : {plan.rows / product.rows, plan.columns / product.columns, plan.depth / product.depth})
    scalars.push_back(static_cast<uint64_t>(count));
  append_row_strides(product.a, DType::bf16, &scalars);
  append_row_strides(product.b, DType::bf16, &scalars);
  append_row_strides(product.c, product.result, &scalars);
  SPORKLE_RETURN_IF_ERROR(launcher.dispatch(
      key, schedule, [&] { return trace_unit_product(product); }, {a.binding, b.binding, c.binding},
      std::move(scalars)));
  if (plan.direct) return {};

  // What follows the product, read from where it now lies.
  Node sums;
  sums.storage = c.storage;
  Program program = step.program;
  if (program.result < 0) {
    program.leaves = {{Leaf::Kind::accumulator, DType::f32}};
    program.code = {{Op::leaf, DType::f32, {-1, -1, -1}, 0}};
    program.result = 0;
    program.loops = shape;
  }
  for (Leaf& leaf : program.leaves) {
    if (leaf.kind != Leaf::Kind::accumulator) continue;
    leaf.kind = Leaf::Kind::load;
    leaf.base = &sums;
    leaf.view = {0, c.strides};
  }
  return launch_program(launcher, std::move(program), step.result_strides, *result);
}

}  // namespace sporkle::tensor
