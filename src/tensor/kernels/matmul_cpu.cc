#include "tensor/kernels/matmul_cpu.h"

#include <functional>
#include <optional>

namespace sporkle::tensor {
namespace {

using dsl::Buffer;
using dsl::Expr;
using dsl::KernelBuilder;
using tune::ProductPlan;

// What both kernels share: the arguments, and an element of C.
class Product {
 public:
  Product(KernelBuilder& k, const CpuProduct& p)
      : k_(k), p_(p), a(k.input(p.dtype, "a")), b(k.input(p.dtype, "b")), c(a) {
    if (p.epilogue) epilogue_.emplace(*p.epilogue).declare_buffers(k);
    const bool reads_c = p.continues || (p.kind == ProductPlan::Kind::slabs && !p.one_slab);
    c = reads_c ? k.in_out(p.dtype, "c") : k.output(p.dtype, "c");
    for (int i = 0; i < p.batch_axes; ++i) batch_extents_.push_back(k.size("batch" + std::to_string(i)));
    rows = k.size("rows");
    columns = k.size("columns");
    depth = k.size("depth");
    block_rows = k.size("block_rows");
    block_columns = k.size("block_columns");
    a_strides_ = declare_strides(k, p.a, "a");
    b_strides_ = declare_strides(k, p.b, "b");
    c_strides_ = declare_strides(k, p.c, "c");
    if (p_.epilogue) epilogue_->declare_scalars(k);
  }

  // The thread loop: body(first row, rows, first column, columns) for every block of C.
  void each_block(Expr width, const std::function<void(Expr, Expr, Expr, Expr)>& body) {
    const Expr row_blocks = (rows + block_rows - 1) / block_rows, column_blocks = (columns + width - 1) / width;
    Expr blocks = row_blocks * column_blocks;
    for (const Expr extent : batch_extents_) blocks = blocks * extent;
    k_.range("tile", blocks, [&](Expr tile) {
      const Expr first_row = tile % row_blocks * block_rows;
      tile = tile / row_blocks;
      const Expr first_column = tile % column_blocks * width;
      tile = tile / column_blocks;
      batch_.resize(batch_extents_.size());
      for (size_t i = batch_.size(); i-- > 0;) {
        batch_[i] = i == 0 ? tile : tile % batch_extents_[i];
        tile = tile / batch_extents_[i];
      }
      body(first_row, dsl::min(block_rows, rows - first_row), first_column, dsl::min(width, columns - first_column));
    });
  }

  Expr a_value(Expr row, Expr i) const { return a[affine(p_.a, a_strides_, at(row, i))]; }
  Expr b_index(Expr i, Expr column) const { return affine(p_.b, b_strides_, at(i, column)); }
  Expr c_index(Expr row, Expr column) const { return affine(p_.c, c_strides_, at(row, column)); }
  // `product` with the epilogue, if there is one.
  Expr finished(Expr row, Expr column, Expr product) {
    return epilogue_ ? epilogue_->evaluate(k_, at(row, column), &product) : product;
  }

 private:
  std::vector<Expr> at(Expr i, Expr j) const {
    std::vector<Expr> indices = batch_;
    indices.push_back(i);
    indices.push_back(j);
    return indices;
  }

  KernelBuilder& k_;
  const CpuProduct& p_;
  std::optional<ProgramCode> epilogue_;
  std::vector<Expr> batch_extents_, a_strides_, b_strides_, c_strides_, batch_;

 public:
  Buffer a, b, c;
  Expr rows, columns, depth, block_rows, block_columns;
};

}  // namespace

ir::Kernel trace_panel_product(const CpuProduct& p) {
  return dsl::trace("matmul", [&](KernelBuilder& k) {
    Product product(k, p);
    const Expr width(p.columns), depth = product.depth;
    product.each_block(width, [&](Expr first_row, Expr tile_rows, Expr first_column, Expr tile_columns) {
      // One element of C; `b_value` gives B's factor. Where `masked`, columns past the last are computed and not
      // stored.
      const auto element = [&](Expr row, Expr column, const std::function<Expr(Expr)>& b_value, bool masked = false) {
        const Expr i = first_row + row, j = first_column + column, where = product.c_index(i, j);
        const Expr inside = j < product.columns, zero = dsl::constant(p.dtype, 0.0);
        const Expr start = !p.continues ? zero : masked ? product.c.load(where, inside, zero) : product.c[where];
        const Expr value =
            k.fma_chain("k", depth, start, [&](Expr l) { return std::pair(product.a_value(i, l), b_value(l)); });
        if (masked)
          product.c.store(where, value, inside);
        else
          product.c.store(where, product.finished(i, j, value));
      };
      if (p.kind == ProductPlan::Kind::in_place) {
        k.range("m", tile_rows, [&](Expr row) {
          k.range("n", tile_columns, [&](Expr column) {
            element(row, column, [&](Expr l) { return product.b[product.b_index(l, first_column + column)]; });
          });
        });
        return;
      }
      const Buffer panel = k.scratch(p.dtype, "panel", depth * width);
      k.range("pack_k", depth, [&](Expr l) {
        k.range("pack_n", width, [&](Expr column) {
          const Expr from = product.b_index(l, first_column + column), zero = dsl::constant(p.dtype, 0.0);
          panel.store(l * width + column, p.edge + p.tail > 0
                                              ? product.b.load(from, first_column + column < product.columns, zero)
                                              : product.b[from]);
        });
      });
      // `count` columns of the panel from `first` on.
      const auto multiply = [&](std::string_view row_range, std::string_view column_range, Expr first, Expr count,
                                bool masked = false) {
        k.range(row_range, tile_rows, [&](Expr row) {
          k.range(column_range, count, [&](Expr column) {
            element(
                row, first + column, [&](Expr l) { return panel[l * width + first + column]; }, masked);
          });
        });
      };
      const Expr none(0);
      if (p.edge + p.tail == 0) return multiply("m", "n", none, width);
      // What an epilogue reads must exist, so it is never evaluated past the last column.
      const Expr left = product.columns - first_column, whole = dsl::min(left / width, Expr(1));
      k.range("whole", whole, [&](Expr) { multiply("m", "n", none, width); });
      k.range("partial", Expr(1) - whole, [&](Expr) {
        if (p.epilogue) return multiply("m", "edge", none, left);
        if (p.edge > 0) multiply("m", "edge", none, Expr(p.edge), /*masked=*/p.tail == 0);
        if (p.tail > 0) multiply("tail_m", "tail", Expr(p.edge), Expr(p.tail), /*masked=*/true);
      });
    });
  });
}

ir::Kernel trace_slab_product(const CpuProduct& p) {
  return dsl::trace("matmul", [&](KernelBuilder& k) {
    Product product(k, p);
    const Expr width(p.columns), slab(p.depth);
    product.each_block(
        product.block_columns, [&](Expr first_row, Expr tile_rows, Expr first_column, Expr tile_columns) {
          const auto each_element = [&](std::string_view rows, std::string_view columns,
                                        const std::function<void(Expr, Expr)>& body) {
            k.range(rows, tile_rows, [&](Expr row) {
              k.range(columns, tile_columns, [&](Expr column) { body(first_row + row, first_column + column); });
            });
          };
          const auto add_slab = [&](std::string_view row_range, std::string_view column_range, Expr first, Expr count) {
            k.range("panel", (tile_columns + width - 1) / width, [&](Expr panel) {
              const Expr from = panel * width;
              k.range(row_range, tile_rows, [&](Expr row) {
                k.range(column_range, dsl::min(width, tile_columns - from), [&](Expr column) {
                  const Expr i = first_row + row, j = first_column + from + column, where = product.c_index(i, j);
                  const Expr start = p.one_slab ? dsl::constant(p.dtype, 0.0) : product.c[where];
                  const Expr value = k.fma_chain("k", count, start, [&](Expr l) {
                    return std::pair(product.a_value(i, first + l), product.b[product.b_index(first + l, j)]);
                  });
                  product.c.store(where, p.one_slab ? product.finished(i, j, value) : value);
                });
              });
            });
          };
          if (p.one_slab) return add_slab("m", "n", Expr(0), product.depth);
          each_element("clear_m", "clear_n",
                       [&](Expr i, Expr j) { product.c.store(product.c_index(i, j), dsl::constant(p.dtype, 0.0)); });
          // Whole slabs, whose number of rows the code knows, then what is left.
          const Expr whole = product.depth / slab, done = whole * slab;
          k.serial("slab", whole, [&](Expr number) { add_slab("m", "n", number * slab, slab); });
          k.serial("rest", dsl::min(product.depth - done, Expr(1)),
                   [&](Expr) { add_slab("rest_m", "rest_n", done, product.depth - done); });
          if (!p.epilogue) return;
          each_element("end_m", "end_n", [&](Expr i, Expr j) {
            const Expr where = product.c_index(i, j);
            product.c.store(where, product.finished(i, j, product.c[where]));
          });
        });
  });
}

}  // namespace sporkle::tensor
