// Matrix products: C[..., m, n] = sum over k of A[..., m, k] * B[..., k, n], with any strides.
//
// Every element is one chain of fused multiply-adds over k, in order, from 0: the same bits as the plain triple loop,
// whatever the tiling. A tile of C belongs to one iteration of the thread loop, which packs its panel of B (K x NR,
// padded with zero columns) into scratch and multiplies rows of A, read in place, with it. A long k goes in several
// passes that continue the chain from C. With few rows, or one column, B is read in place; a column's chains run side
// by side as scalars.
//
// The structure follows Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008); the last
// pass ends with the pointwise operations that follow the product (its epilogue) on the finished element.
#include "tensor/context.h"
#include "tensor/launch.h"

namespace sporkle::tensor {
namespace {

// A register tile: rows of A times vectors of B. Sized so that the accumulators, one row of B and a broadcast element
// of A fit the vector registers, and the addresses of the rows the general ones: on Zen 4, 12 x 32 runs at less than
// half of the speed of 8 x 32.
struct TilePreset {
  int vector_width;  // the target's, in f32
  int vectors;       // of a panel's row
  int rows;
};
constexpr TilePreset kPresets[] = {
    {16, 4, 5}, {16, 2, 10}, {16, 1, 10},  // AVX-512: 32 registers
    {8, 4, 3},  {8, 2, 5},   {8, 1, 6},    // AVX2: 16 registers
    {4, 4, 2},  {4, 2, 4},   {4, 1, 6},    // SSE: 16 registers
};

constexpr int64_t kFewRows = 4;
constexpr int64_t kPassBytes = 8192;  // of one column of a panel: a longer k is split evenly into passes
constexpr int64_t kMinRows = 48;      // of a tile of C, before more tiles are made for the sake of more threads

struct Product {
  DType dtype;
  int batch_axes;
  Strides a, b, c;  // over [batch..., m, k], [batch..., k, n], [batch..., m, n]
  bool direct;      // B is read in place
  int columns;      // of a panel
  bool edge;        // the last panel may have fewer
  bool continues;   // the chain starts from C
  const Program* epilogue;
};

ir::Kernel trace(const Product& p) {
  return dsl::trace("matmul", [&](dsl::KernelBuilder& k) {
    const dsl::Buffer a = k.input(p.dtype, "a"), b = k.input(p.dtype, "b");
    std::optional<ProgramCode> epilogue;
    if (p.epilogue) epilogue.emplace(*p.epilogue).declare_buffers(k);
    const dsl::Buffer c = p.continues ? k.in_out(p.dtype, "c") : k.output(p.dtype, "c");

    std::vector<dsl::Expr> batch_extents;
    for (int i = 0; i < p.batch_axes; ++i) batch_extents.push_back(k.size("batch" + std::to_string(i)));
    const dsl::Expr rows = k.size("rows"), columns = k.size("columns"), depth = k.size("depth");
    const dsl::Expr block_rows = k.size("block_rows");
    const std::vector<dsl::Expr> a_strides = declare_strides(k, p.a, "a"), b_strides = declare_strides(k, p.b, "b"),
                                 c_strides = declare_strides(k, p.c, "c");
    if (epilogue) epilogue->declare_scalars(k);

    const dsl::Expr width(p.columns);
    const dsl::Expr row_blocks = (rows + block_rows - 1) / block_rows, column_blocks = (columns + width - 1) / width;
    dsl::Expr tiles = row_blocks * column_blocks;
    for (const dsl::Expr extent : batch_extents) tiles = tiles * extent;
    k.range("tile", tiles, [&](dsl::Expr tile) {
      const dsl::Expr first_row = tile % row_blocks * block_rows;
      tile = tile / row_blocks;
      const dsl::Expr first_column = tile % column_blocks * width;
      tile = tile / column_blocks;
      std::vector<dsl::Expr> batch(batch_extents.size());
      for (size_t i = batch.size(); i-- > 0;) {
        batch[i] = i == 0 ? tile : tile % batch_extents[i];
        tile = tile / batch_extents[i];
      }
      const auto at = [&](dsl::Expr i, dsl::Expr j) {
        std::vector<dsl::Expr> indices = batch;
        indices.push_back(i);
        indices.push_back(j);
        return indices;
      };
      const auto b_index = [&](dsl::Expr depth_index, dsl::Expr column) {
        return affine(p.b, b_strides, at(depth_index, first_column + column));
      };
      const dsl::Expr tile_rows = dsl::min(block_rows, rows - first_row);

      // One element of C; `b_value` gives B's factor.
      const auto element = [&](dsl::Expr row, dsl::Expr column, const std::function<dsl::Expr(dsl::Expr)>& b_value) {
        const std::vector<dsl::Expr> position = at(first_row + row, first_column + column);
        const dsl::Expr c_index = affine(p.c, c_strides, position);
        const dsl::Expr start = p.continues ? c[c_index] : dsl::constant(p.dtype, 0.0);
        const dsl::Expr product = k.fma_chain("k", depth, start, [&](dsl::Expr i) {
          return std::pair(a[affine(p.a, a_strides, at(first_row + row, i))], b_value(i));
        });
        c.store(c_index, epilogue ? epilogue->evaluate(k, position, &product) : product);
      };

      if (p.direct) {
        k.range("m", tile_rows, [&](dsl::Expr row) {
          k.range("n", dsl::min(width, columns - first_column),
                  [&](dsl::Expr column) { element(row, column, [&](dsl::Expr i) { return b[b_index(i, column)]; }); });
        });
        return;
      }
      const dsl::Buffer panel = k.scratch(p.dtype, "panel", depth * width);
      k.range("pack_k", depth, [&](dsl::Expr i) {
        k.range("pack_n", width, [&](dsl::Expr column) {
          const dsl::Expr from = b_index(i, column), zero = dsl::constant(p.dtype, 0.0);
          panel.store(i * width + column, p.edge ? b.load(from, first_column + column < columns, zero) : b[from]);
        });
      });
      const auto multiply = [&](std::string_view column_range, dsl::Expr count) {
        k.range("m", tile_rows, [&](dsl::Expr row) {
          k.range(column_range, count, [&](dsl::Expr column) {
            element(row, column, [&](dsl::Expr i) { return panel[i * width + column]; });
          });
        });
      };
      if (!p.edge) return multiply("n", width);
      const dsl::Expr left = columns - first_column, whole = dsl::min(left / width, dsl::Expr(1));
      k.range("whole", whole, [&](dsl::Expr) { multiply("n", width); });
      k.range("partial", dsl::Expr(1) - whole, [&](dsl::Expr) { multiply("edge", left); });
    });
  });
}

// The widest preset, but not wider than the columns make use of.
TilePreset choose_preset(int vector_width, int lanes, int64_t columns) {
  TilePreset best{};
  for (const TilePreset& preset : kPresets) {
    if (preset.vector_width != vector_width) continue;
    if (best.rows == 0 || int64_t{lanes} * preset.vectors >= columns) best = preset;
  }
  return best;
}

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

Status launch_matmul(Launcher& launcher, const Step& step) {
  const Context& context = launcher.context();
  const Node* node = step.node;
  Node* result = step.results[0];
  if (node->count() == 0) return {};
  if (node->inputs[0]->dtype == DType::bf16) return launch_low_precision_matmul(launcher, step);
  if (context.is_gpu()) return launch_workgroup_matmul(launcher, step);
  const Shape& shape = node->shape;
  const int rank = shape.rank();
  const int64_t element_size = ir::dtype_size(node->dtype);
  const int64_t rows = shape[rank - 2], columns = shape[rank - 1], depth = node->inputs[0]->shape[rank - 1];

  Product product{node->dtype, rank - 2, step.a.view.strides, step.b.view.strides, step.result_strides};
  // The stride of an axis of one element is of no consequence; the usual one keeps kernels few.
  if (columns == 1) product.b[rank - 1] = 1;
  if (depth == 1) product.a[rank - 1] = 1;
  const bool one_column = columns == 1 && product.a[rank - 1] == 1;
  product.direct = one_column || (rows <= kFewRows && product.b[rank - 1] == 1);
  const int lanes = std::max(context.vector_width() * 4 / static_cast<int>(element_size), 1);
  TilePreset preset = choose_preset(context.vector_width(), lanes, columns);
  if (rows == 1) preset.vectors *= 2;  // a row of B is read once: longer pieces of it, in as many chains
  product.columns = one_column ? 1 : lanes * preset.vectors;
  product.edge = !product.direct && columns % product.columns != 0;

  const std::string vectors =
      "vec" + std::to_string(lanes) + (preset.vectors > 1 ? "x" + std::to_string(preset.vectors) : std::string());
  std::string schedule = "tile:thread";
  if (one_column)
    schedule += " m:tile8";  // chains of scalars
  else if (product.direct)
    schedule += " m:tile4 n:" + vectors;
  else
    schedule += " pack_n:" + vectors + " m:tile" + std::to_string(preset.rows) + " n:" + vectors;
  if (product.edge) schedule += " edge:vec" + std::to_string(lanes) + "x2";
  schedule += " k:unroll4";

  // Enough tiles for every thread, as long as a tile has enough rows to pay for its panel.
  const int64_t batches = element_count(Shape(std::span(shape.begin(), shape.end() - 2)));
  const int64_t panels = batches * divide_up(columns, product.columns);
  const int64_t tiles = 4 * int64_t{launcher.context().device().info().threads};
  int64_t block_rows = rows;
  if ((!product.direct || one_column) && panels < tiles)
    block_rows = std::min(
        rows, std::max(kMinRows, divide_up(divide_up(rows, divide_up(tiles, panels)), preset.rows) * preset.rows));

  const int64_t longest = kPassBytes / element_size;
  const int64_t passes = product.direct ? 1 : std::max<int64_t>(divide_up(depth, longest), 1);
  const int64_t pass_depth = divide_up(depth, passes);
  for (int64_t pass = 0; pass < passes; ++pass) {
    const int64_t first = pass * pass_depth;
    product.continues = pass > 0;
    product.epilogue = pass == passes - 1 && step.program.result >= 0 ? &step.program : nullptr;
    std::string key = "matmul " + std::string(ir::dtype_name(node->dtype)) + " " + stride_classes(product.a) + " " +
                      stride_classes(product.b) + " " + stride_classes(product.c) + " " +
                      std::to_string(product.columns);
    key += product.direct ? " direct" : product.edge ? " packed with an edge" : " packed";
    if (product.continues) key += " continued";
    if (product.epilogue) key += " " + ProgramCode::key(*product.epilogue);

    const auto offset = [&](const MatrixOperand& operand, int64_t stride) {
      return static_cast<uint64_t>((operand.view.offset + first * stride) * element_size);
    };
    std::vector<hal::Binding> bindings{{step.a.base->storage->buffer(), offset(step.a, product.a[rank - 1])},
                                       {step.b.base->storage->buffer(), offset(step.b, product.b[rank - 2])}};
    if (product.epilogue) ProgramCode::append_bindings(*product.epilogue, &bindings);
    bindings.push_back({result->storage->buffer(), 0});
    Scalars scalars;
    for (int i = 0; i < rank - 2; ++i) scalars.push_back(static_cast<uint64_t>(shape[i]));
    for (const int64_t value : {rows, columns, std::min(pass_depth, depth - first), block_rows})
      scalars.push_back(static_cast<uint64_t>(value));
    append_strides(product.a, &scalars);
    append_strides(product.b, &scalars);
    append_strides(product.c, &scalars);
    if (product.epilogue) ProgramCode::append_scalars(*product.epilogue, &scalars);
    SPORKLE_RETURN_IF_ERROR(launcher.dispatch(
        key, schedule, [&] { return trace(product); }, std::move(bindings), std::move(scalars)));
  }
  return {};
}

}  // namespace sporkle::tensor
