#include "tensor/kernels/matmul_workgroup.h"

#include "codegen/vulkan_target.h"
#include "tensor/context.h"
#include "tensor/launch.h"

namespace sporkle::tensor {
namespace {

using dsl::Buffer;
using dsl::Expr;
using dsl::KernelBuilder;

// Of a staged row, so that invocations side by side meet different banks.
constexpr int64_t kPadding = tune::GpuTile::kPadding;
constexpr int64_t kVector = 4;  // elements side by side that one invocation owns

// The arguments that both kernels have.
struct Arguments {
  Arguments(KernelBuilder& k, const WorkgroupProduct& p)
      : a(k.input(p.operand_type(), "a")), b(k.input(p.operand_type(), "b")), c(b) {
    if (p.epilogue) epilogue.emplace(*p.epilogue).declare_buffers(k);
    c = k.output(p.result_type(), "c");
    for (int i = 0; i < p.batch_axes; ++i) batches.push_back(k.size("batch" + std::to_string(i)));
    rows = k.size("rows");
    columns = k.size("columns");
    depth = k.size("depth");
    a_strides = declare_strides(k, p.a, "a");
    b_strides = declare_strides(k, p.b, "b");
    c_strides = declare_strides(k, p.c, "c");
    if (epilogue) epilogue->declare_scalars(k);
  }

  // An element of a or b, in the type of the product.
  static Expr wide(const WorkgroupProduct& p, Expr element) {
    return p.operand_type() == p.dtype ? element : cast(p.dtype, element);
  }

  Buffer a, b, c;
  std::optional<ProgramCode> epilogue;
  std::vector<Expr> batches;
  Expr rows, columns, depth;
  std::vector<Expr> a_strides, b_strides, c_strides;
};

// An operand's matrix as a tile of it is staged: [across, k], `across` being m for A and n for B.
struct Operand {
  Buffer memory;
  const Strides* strides;
  std::span<const Expr> scalars;
  int across_axis, k_axis;
  Expr first, extent;  // across: of the tile, of the matrix
  int64_t width;       // across, of the tile
  Buffer staged[2];    // one is used while the other is filled
  Buffer next;         // an invocation's elements on their way
};

class TiledProduct {
 public:
  TiledProduct(KernelBuilder& k, const WorkgroupProduct& p)
      : k_(k), p_(p), t_(p.tile), lanes_(t_.invocations()), args_(k, p) {}

  void trace() {
    const Expr row_tiles = (args_.rows + (t_.rows - 1)) / t_.rows,
               column_tiles = (args_.columns + (t_.columns - 1)) / t_.columns;
    Expr tiles = row_tiles * column_tiles;
    for (const Expr extent : args_.batches) tiles = tiles * extent;
    k_.range("tile", tiles, [&](Expr tile) {
      const Expr first_row = tile % row_tiles * t_.rows;
      tile = tile / row_tiles;
      const Expr first_column = tile % column_tiles * t_.columns;
      tile = tile / column_tiles;
      batch_.resize(args_.batches.size());
      for (size_t i = batch_.size(); i-- > 0;) {
        batch_[i] = i == 0 ? tile : tile % args_.batches[i];
        tile = tile / args_.batches[i];
      }
      this->tile(first_row, first_column);
    });
  }

 private:
  Buffer registers(std::string_view name, int64_t count) { return k_.scratch(p_.dtype, name, count * lanes_); }
  // The element of a scratch in registers.
  Expr own(int64_t i, Expr lane) const { return lane + i * lanes_; }

  void tile(Expr first_row, Expr first_column) {
    const int m = p_.batch_axes, n = p_.batch_axes + 1;
    const auto operand = [&](const char* name, Buffer memory, const Strides& strides, std::span<const Expr> scalars,
                             int across_axis, int k_axis, Expr first, Expr extent, int64_t width) {
      const auto staged = [&](const char* which) {
        return k_.scratch(p_.dtype, std::string(name) + which, t_.depth * (width + kPadding));
      };
      return Operand{memory,
                     &strides,
                     scalars,
                     across_axis,
                     k_axis,
                     first,
                     extent,
                     width,
                     {staged("_even"), staged("_odd")},
                     registers(std::string(name) + "_next", width * t_.depth / lanes_)};
    };
    const Operand a = operand("a", args_.a, p_.a, args_.a_strides, m, n, first_row, args_.rows, t_.rows);
    const Operand b = operand("b", args_.b, p_.b, args_.b_strides, n, m, first_column, args_.columns, t_.columns);
    const Buffer sums = registers("sums", t_.own_rows * t_.own_columns);

    k_.invocations("zero", lanes_, [&](Expr lane) {
      for (int64_t i = 0; i < t_.own_rows * t_.own_columns; ++i) sums.store(own(i, lane), dsl::constant(p_.dtype, 0.0));
    });
    // Whole blocks of k, two at a time: while one is multiplied, the next is staged and the one after that is on its
    // way from memory. Behind the last block come the first again, for nothing. Not min(block + 1, blocks - 1):
    // NVIDIA's compiler (580) takes that for something else.
    const Expr blocks = args_.depth / t_.depth, left = args_.depth % t_.depth;
    const auto fetch_both = [&](Expr lane, Expr block) {
      const Expr wrapped = select(block < blocks, block, Expr(0));
      for (const Operand* o : {&a, &b}) fetch(*o, lane, wrapped);
    };
    const auto stage_both = [&](Expr lane, int which) {
      for (const Operand* o : {&a, &b})
        each_staged(*o, lane, [&](int64_t i, Expr across, Expr depth) {
          o->staged[which].store(staged_index(*o, across, depth), o->next[own(i, lane)]);
        });
    };
    const auto multiply_all = [&](Expr lane, int which) {
      for (int64_t depth = 0; depth < t_.depth; ++depth) multiply(a, b, which, sums, lane, Expr(depth));
    };
    k_.serial("first", dsl::min(blocks, Expr(1)), [&](Expr) {
      k_.invocations("fetch", lanes_, [&](Expr lane) {
        fetch_both(lane, Expr(0));
        stage_both(lane, 0);
        fetch_both(lane, Expr(1));
      });
    });
    k_.serial("pair", blocks / 2, [&](Expr pair) {
      for (const int which : {0, 1})
        k_.invocations(which == 0 ? "even" : "odd", lanes_, [&](Expr lane) {
          stage_both(lane, 1 - which);
          fetch_both(lane, pair * 2 + (which + 2));
          multiply_all(lane, which);
        });
    });
    k_.serial("last", blocks % 2,
              [&](Expr) { k_.invocations("multiply", lanes_, [&](Expr lane) { multiply_all(lane, 0); }); });
    // The rest of k, fewer than a block: the chains must end where k does.
    k_.serial("rest", dsl::min(left, Expr(1)), [&](Expr) {
      k_.invocations("stage_rest", lanes_, [&](Expr lane) {
        for (const Operand* o : {&a, &b})
          each_staged(*o, lane, [&](int64_t, Expr across, Expr depth) {
            const Expr position = dsl::min(blocks * t_.depth + depth, args_.depth - 1);
            o->staged[0].store(staged_index(*o, across, depth),
                               Arguments::wide(p_, o->memory[index(*o, across, position)]));
          });
      });
      k_.invocations("multiply_rest", lanes_, [&](Expr lane) {
        k_.serial("k", left, [&](Expr depth) { multiply(a, b, 0, sums, lane, depth); });
      });
    });
    k_.invocations("store", lanes_, [&](Expr lane) {
      for (int64_t i = 0; i < t_.own_rows; ++i)
        for (int64_t j = 0; j < t_.own_columns; ++j) {
          const Expr row = first_row + own_row(i, lane), column = first_column + own_column(j, lane);
          store(row, column, sums[own(i * t_.own_columns + j, lane)]);
        }
    });
  }

  // An invocation owns groups of kVector elements side by side; the groups of all of them stand side by side as well.
  static Expr own_position(int64_t i, Expr number, int64_t owners, int64_t own_count) {
    const int64_t vector = std::min(own_count, kVector);
    return number * vector + (i / vector * (owners * vector) + i % vector);
  }
  Expr own_row(int64_t i, Expr lane) const {
    return own_position(i, lane / (t_.columns / t_.own_columns), t_.rows / t_.own_rows, t_.own_rows);
  }
  Expr own_column(int64_t j, Expr lane) const {
    const int64_t owners = t_.columns / t_.own_columns;
    return own_position(j, lane % owners, owners, t_.own_columns);
  }

  static Expr staged_index(const Operand& o, Expr across, Expr depth) { return depth * (o.width + kPadding) + across; }

  // The elements of a tile that an invocation stages, such that invocations side by side read memory side by side.
  void each_staged(const Operand& o, Expr lane, const std::function<void(int64_t, Expr, Expr)>& visit) const {
    const int64_t count = o.width * t_.depth / lanes_;
    const bool along_k = (*o.strides)[o.k_axis] == 1;
    // kVector elements across at a time, to be stored as one, where they come out even.
    const int64_t vector = count % kVector == 0 ? kVector : 1, groups = o.width / vector;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t within = i % vector, step = i / vector;
      if (along_k) {
        visit(i, lane / t_.depth * vector + (within + step * (lanes_ / t_.depth * vector)), lane % t_.depth);
      } else if (lanes_ >= groups) {
        visit(i, lane % groups * vector + within, lane / groups + step * (lanes_ / groups));
      } else {
        const int64_t pieces = groups / lanes_;
        visit(i, lane * vector + (within + step % pieces * lanes_ * vector), Expr(step / pieces));
      }
    }
  }

  // Where an element lies; beyond the matrix's edge, the edge's element instead, which nothing that is stored depends
  // on.
  Expr index(const Operand& o, Expr across, Expr depth) const {
    Expr position = o.first + across;
    if (!p_.whole) position = dsl::min(position, o.extent - 1);
    std::vector<Expr> indices = batch_;
    indices.resize(batch_.size() + 2);
    indices[static_cast<size_t>(o.across_axis)] = position;
    indices[static_cast<size_t>(o.k_axis)] = depth;
    return affine(*o.strides, o.scalars, indices);
  }

  // A block's elements into registers. What moves with the block is added last: the rest is the same for all blocks.
  void fetch(const Operand& o, Expr lane, Expr block) {
    std::vector<Expr> indices(batch_.size() + 2, Expr(0));
    indices[static_cast<size_t>(o.k_axis)] = block * t_.depth;
    const Expr moved = affine(*o.strides, o.scalars, indices);
    each_staged(o, lane, [&](int64_t i, Expr across, Expr depth) {
      o.next.store(own(i, lane), Arguments::wide(p_, o.memory[index(o, across, depth) + moved]));
    });
  }

  void multiply(const Operand& a, const Operand& b, int which, const Buffer& sums, Expr lane, Expr depth) {
    for (int64_t i = 0; i < t_.own_rows; ++i)
      for (int64_t j = 0; j < t_.own_columns; ++j) {
        const Expr sum = own(i * t_.own_columns + j, lane);
        sums.store(sum, fma(a.staged[which][staged_index(a, own_row(i, lane), depth)],
                            b.staged[which][staged_index(b, own_column(j, lane), depth)], sums[sum]));
      }
  }

  void store(Expr row, Expr column, Expr product) {
    std::vector<Expr> position = batch_;
    position.push_back(row);
    position.push_back(column);
    const Expr value = args_.epilogue ? args_.epilogue->evaluate(k_, position, &product) : product;
    const Expr where = affine(p_.c, args_.c_strides, position);
    if (p_.whole)
      args_.c.store(where, value);
    else
      args_.c.store(where, value, (row < args_.rows) & (column < args_.columns));
  }

  KernelBuilder& k_;
  const WorkgroupProduct& p_;
  const tune::GpuTile& t_;
  const int64_t lanes_;
  Arguments args_;
  std::vector<Expr> batch_;
};

}  // namespace

ir::Kernel trace_workgroup_product(const WorkgroupProduct& product) {
  return dsl::trace("matmul", [&](KernelBuilder& k) { TiledProduct(k, product).trace(); });
}

ir::Kernel trace_element_product(const WorkgroupProduct& p) {
  return dsl::trace("matmul", [&](KernelBuilder& k) {
    Arguments args(k, p);
    std::vector<Expr> position;
    const std::function<void()> loops = [&] {
      const size_t axis = position.size(), batches = args.batches.size();
      if (axis == batches + 2) {
        const Expr product = k.fma_chain("k", args.depth, dsl::constant(p.dtype, 0.0), [&](Expr i) {
          std::vector<Expr> a = position, b = position;
          a[batches + 1] = i;
          b[batches] = i;
          return std::pair(Arguments::wide(p, args.a[affine(p.a, args.a_strides, a)]),
                           Arguments::wide(p, args.b[affine(p.b, args.b_strides, b)]));
        });
        args.c.store(affine(p.c, args.c_strides, position),
                     args.epilogue ? args.epilogue->evaluate(k, position, &product) : product);
        return;
      }
      const Expr extent = axis < batches ? args.batches[axis] : axis == batches ? args.rows : args.columns;
      k.range("i" + std::to_string(axis), extent, [&](Expr i) {
        position.push_back(i);
        loops();
        position.pop_back();
      });
    };
    loops();
  });
}

Status launch_workgroup_matmul(Launcher& launcher, const Step& step) {
  const Node* node = step.node;
  const Shape& shape = node->shape;
  const int rank = shape.rank();
  const int64_t element_size = ir::dtype_size(node->inputs[0]->dtype);
  const int64_t rows = shape[rank - 2], columns = shape[rank - 1], depth = node->inputs[0]->shape[rank - 1];
  const int64_t batches = element_count(Shape(std::span(shape.begin(), shape.end() - 2)));
  WorkgroupProduct product{node->dtype,
                           rank - 2,
                           step.a.view.strides,
                           step.b.view.strides,
                           step.result_strides,
                           {},
                           false,
                           step.program.result >= 0 ? &step.program : nullptr,
                           node->inputs[0]->dtype,
                           step.results[0]->dtype};
  // The stride of an axis of one element is of no consequence; the usual one keeps kernels few.
  if (columns == 1) product.b[rank - 1] = 1;
  if (depth == 1) product.a[rank - 1] = 1;
  const int size = static_cast<int>(ir::dtype_size(node->dtype));
  const tune::GpuPlan plan =
      launcher.context().plan_gpu_product({size, batches, rows, columns, depth, product.a[rank - 1] == 1,
                                           product.b[rank - 1] == 1, std::abs(product.b[rank - 2]) * element_size});
  const bool by_element = plan.by_element;
  product.tile = plan.tile;
  product.whole = !by_element && rows % plan.tile.rows == 0 && columns % plan.tile.columns == 0;

  std::string key = "workgroup matmul " + std::string(ir::dtype_name(node->dtype)) + " " + stride_classes(product.a) +
                    " " + stride_classes(product.b) + " " + stride_classes(product.c);
  key += " " + plan.text() + (by_element ? "" : product.whole ? " whole" : " edged");
  if (product.operands != product.dtype) key += " of " + std::string(ir::dtype_name(product.operands));
  if (product.result != product.dtype) key += " to " + std::string(ir::dtype_name(product.result));
  if (product.epilogue) key += " " + ProgramCode::key(*product.epilogue);
  const auto offset = [&](const MatrixOperand& operand) {
    return static_cast<uint64_t>(operand.view.offset * element_size);
  };
  std::vector<hal::Binding> bindings{{step.a.base->storage->buffer(), offset(step.a)},
                                     {step.b.base->storage->buffer(), offset(step.b)}};
  if (product.epilogue) ProgramCode::append_bindings(*product.epilogue, &bindings);
  bindings.push_back({step.results[0]->storage->buffer(), 0});
  Scalars scalars;
  for (int i = 0; i < rank - 2; ++i) scalars.push_back(static_cast<uint64_t>(shape[i]));
  for (const int64_t value : {rows, columns, depth}) scalars.push_back(static_cast<uint64_t>(value));
  for (const Strides* strides : {&product.a, &product.b, &product.c}) append_strides(*strides, &scalars);
  if (product.epilogue) ProgramCode::append_scalars(*product.epilogue, &scalars);
  return launcher.dispatch(
      key, "", [&] { return by_element ? trace_element_product(product) : trace_workgroup_product(product); },
      std::move(bindings), std::move(scalars));
}

}  // namespace sporkle::tensor
