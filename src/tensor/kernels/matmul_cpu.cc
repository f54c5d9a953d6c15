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
      : k_(k),
        p_(p),
        a_(operand(p.a_program, "a", &a_program_)),
        b_(operand(p.b_program, "b", &b_program_)),
        c(result()) {
    for (int i = 0; i < p.batch_axes; ++i) batch_extents_.push_back(k.size("batch" + std::to_string(i)));
    rows = k.size("rows");
    columns = k.size("columns");
    depth = k.size("depth");
    block_rows = k.size("block_rows");
    block_columns = k.size("block_columns");
    if (!p.a_program) a_strides_ = declare_strides(k, p.a, "a");
    if (!p.b_program) b_strides_ = declare_strides(k, p.b, "b");
    c_strides_ = declare_strides(k, p.c, "c");
    for (std::optional<ProgramCode>* program : {&a_program_, &b_program_, &epilogue_})
      if (*program) (*program)->declare_scalars(k);
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

  Expr a_value(Expr row, Expr i) {
    return a_program_ ? a_program_->evaluate(k_, at(row, i)) : (*a_)[affine(p_.a, a_strides_, at(row, i))];
  }
  Expr b_value(Expr i, Expr column) {
    return b_program_ ? b_program_->evaluate(k_, at(i, column)) : (*b_)[affine(p_.b, b_strides_, at(i, column))];
  }
  // The same, and 0 past the last column; of an operand that is stored.
  Expr b_value_or_zero(Expr i, Expr column) {
    return b_->load(affine(p_.b, b_strides_, at(i, column)), column < columns, dsl::constant(p_.dtype, 0.0));
  }
  Expr c_index(Expr row, Expr column) const { return affine(p_.c, c_strides_, at(row, column)); }
  // `product` with the epilogue, if there is one.
  Expr finished(Expr row, Expr column, Expr product) {
    return epilogue_ ? epilogue_->evaluate(k_, at(row, column), &product) : product;
  }

 private:
  // Declares what the operand is read from, in the order of the arguments.
  std::optional<Buffer> operand(const Program* program, std::string_view name, std::optional<ProgramCode>* code) {
    if (!program) return k_.input(p_.dtype, name);
    code->emplace(*program, std::string(name) + "_in").declare_buffers(k_);
    return std::nullopt;
  }

  Buffer result() {
    if (p_.epilogue) epilogue_.emplace(*p_.epilogue).declare_buffers(k_);
    const bool reads_c = p_.continues || (p_.kind == ProductPlan::Kind::slabs && !p_.one_slab);
    return reads_c ? k_.in_out(p_.dtype, "c") : k_.output(p_.dtype, "c");
  }

  std::vector<Expr> at(Expr i, Expr j) const {
    std::vector<Expr> indices = batch_;
    indices.push_back(i);
    indices.push_back(j);
    return indices;
  }

  KernelBuilder& k_;
  const CpuProduct& p_;
  std::optional<ProgramCode> a_program_, b_program_, epilogue_;
  std::optional<Buffer> a_, b_;
  std::vector<Expr> batch_extents_, a_strides_, b_strides_, c_strides_, batch_;

 public:
  Buffer c;
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
            element(row, column, [&](Expr l) { return product.b_value(l, first_column + column); });
          });
        });
        return;
      }
      const Buffer panel = k.scratch(p.dtype, "panel", depth * width);
      // What a program reads must exist, so none is evaluated past the last column.
      const bool has_edge = p.edge + p.tail > 0, zeros = has_edge && !p.b_program;
      k.range("pack_k", depth, [&](Expr l) {
        k.range("pack_n", has_edge && !zeros ? tile_columns : width, [&](Expr column) {
          panel.store(l * width + column, zeros ? product.b_value_or_zero(l, first_column + column)
                                                : product.b_value(l, first_column + column));
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
      if (!has_edge) return multiply("m", "n", none, width);
      const Expr left = product.columns - first_column, whole = dsl::min(left / width, Expr(1));
      k.range("whole", whole, [&](Expr) { multiply("m", "n", none, width); });
      k.range("partial", Expr(1) - whole, [&](Expr) {
        if (p.exact_edge()) return multiply("m", "edge", none, left);
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
                    return std::pair(product.a_value(i, first + l), product.b_value(first + l, j));
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
