// Reductions of fused expressions, in orders that depend on the shapes in the graph alone.
//
// The operand is seen as [outer, k, inner], reduced over k.
//   inner = 1: sixteen lanes over k joined by a tree (ir/node.h); where few long rows are reduced, in fixed chunks.
//   else:      a chain over k for each output, the outputs side by side in vectors, in fixed chunks of k.
// The partial results of chunks, [outer, chunks, inner], are reduced in turn.
#include <limits>

#include "tensor/context.h"
#include "tensor/launch.h"

namespace sporkle::tensor {
namespace {

constexpr int64_t kRowChunk = 16384, kLongRow = 65536, kFewRows = 64, kSharedRow = 128;
constexpr int64_t kColumnChunk = 128, kLongColumn = 256;

// One launch: loops over the merged outer axes, the chunks, k within a chunk, and the merged inner axes.
struct Pass {
  Program program;  // over [outer..., k, inner...]
  int outer_axes = 0, inner_axes = 0;
  bool chunked = false;
  int64_t chunk = 0, chunks = 1;  // elements of k in each; how many
  ir::Combine combine = ir::Combine::add;
  DType dtype = DType::f32;
};

dsl::Expr start_value(ir::Combine combine, DType type) {
  if (combine == ir::Combine::add) return dsl::constant(type, 0.0);
  if (ir::is_float(type)) return dsl::constant(type, -std::numeric_limits<double>::infinity());
  return dsl::constant(type, static_cast<double>(std::numeric_limits<int32_t>::min()));
}

ir::Kernel trace(const Pass& pass) {
  return dsl::trace("reduce", [&](dsl::KernelBuilder& k) {
    ProgramCode code(pass.program);
    code.declare_buffers(k);
    const dsl::Buffer result = k.output(pass.dtype, "result");
    const int rank = pass.program.loops.rank();
    const size_t k_axis = static_cast<size_t>(pass.outer_axes);
    std::vector<dsl::Expr> extents, indices(static_cast<size_t>(rank));
    for (int i = 0; i < rank; ++i) extents.push_back(k.size("n" + std::to_string(i)));
    dsl::Expr chunk, chunks;
    if (pass.chunked) {
      chunk = k.size("chunk");
      chunks = k.size("chunks");
    }
    code.declare_scalars(k);

    // The reduction for one output, whose other indices are set.
    const auto reduce = [&](dsl::Expr chunk_index) {
      const dsl::Expr first = pass.chunked ? chunk_index * chunk : dsl::Expr(0);
      const dsl::Expr count = pass.chunked ? dsl::min(chunk, extents[k_axis] - first) : extents[k_axis];
      return k.reduce("k", pass.combine, pass.inner_axes == 0 ? 16 : 1, count, start_value(pass.combine, pass.dtype),
                      [&](dsl::Expr i) {
                        indices[k_axis] = first + i;
                        return code.evaluate(k, indices);
                      });
    };
    if (pass.outer_axes == 0 && pass.inner_axes == 1 && !pass.chunked) {
      k.range("column", extents[1], [&](dsl::Expr column) {
        indices[1] = column;
        result.store(column, reduce(0));
      });
      return;
    }

    // All axes but k and the innermost, in the order of the result's memory; -1 stands for the chunks.
    std::vector<int> axes;
    for (int i = 0; i < pass.outer_axes; ++i) axes.push_back(i);
    if (pass.chunked) axes.push_back(-1);
    for (int i = pass.outer_axes + 1; i < rank - 1; ++i) axes.push_back(i);
    const auto extent_of = [&](int axis) { return axis < 0 ? chunks : extents[static_cast<size_t>(axis)]; };
    dsl::Expr count(1);
    for (const int axis : axes) count = count * extent_of(axis);
    k.range("outer", count, [&](dsl::Expr outer) {
      dsl::Expr rest = outer, chunk_index(0);
      for (size_t i = axes.size(); i-- > 0;) {
        const dsl::Expr position = i == 0 ? rest : rest % extent_of(axes[i]);
        rest = rest / extent_of(axes[i]);
        (axes[i] < 0 ? chunk_index : indices[static_cast<size_t>(axes[i])]) = position;
      }
      if (pass.inner_axes == 0) {
        result.store(outer, reduce(chunk_index));
        return;
      }
      const dsl::Expr width = extents[static_cast<size_t>(rank - 1)];
      k.range("column", width, [&](dsl::Expr column) {
        indices[static_cast<size_t>(rank - 1)] = column;
        result.store(outer * width + column, reduce(chunk_index));
      });
    });
  });
}

Status launch_pass(Launcher& launcher, const Pass& pass, const hal::BufferRef& result) {
  const bool columns_alone = pass.outer_axes == 0 && pass.inner_axes == 1 && !pass.chunked;
  // What a row's kernel shares out on a GPU must be worth a workgroup.
  const bool long_rows =
      pass.inner_axes == 0 && (pass.chunked ? pass.chunk : pass.program.loops[pass.outer_axes]) >= kSharedRow;
  const std::string schedule = columns_alone          ? "column:thread256 column:vec"
                               : long_rows            ? "outer:thread outer:group32"
                               : pass.inner_axes == 0 ? "outer:thread"
                                                      : "outer:thread column:vecx4";
  const std::string key = "reduce " + std::to_string(static_cast<int>(pass.combine)) + " " +
                          std::string(ir::dtype_name(pass.dtype)) + " " + std::to_string(pass.outer_axes) + "," +
                          std::to_string(pass.inner_axes) + (pass.chunked ? " chunked " : " ") +
                          (long_rows ? "long " : "") + ProgramCode::key(pass.program);
  std::vector<hal::Binding> bindings;
  ProgramCode::append_bindings(pass.program, &bindings);
  bindings.push_back({result, 0});
  Scalars scalars;
  for (const int64_t extent : pass.program.loops) scalars.push_back(static_cast<uint64_t>(extent));
  if (pass.chunked) {
    scalars.push_back(static_cast<uint64_t>(pass.chunk));
    scalars.push_back(static_cast<uint64_t>(pass.chunks));
  }
  ProgramCode::append_scalars(pass.program, &scalars);
  return launcher.dispatch(
      key, schedule, [&] { return trace(pass); }, std::move(bindings), std::move(scalars));
}

// Axes [begin, end) of loops and of every access, merged.
struct Group {
  Shape extents;
  std::vector<Strides> strides;  // of each access
};

Group merge_group(const Program& program, int begin, int end) {
  const auto part = [&](const Dims& dims) { return Dims(std::span(dims.begin() + begin, dims.begin() + end)); };
  Group group{part(program.loops), {}};
  for (const Leaf& leaf : program.leaves)
    if (leaf.kind == Leaf::Kind::load || leaf.kind == Leaf::Kind::index)
      group.strides.push_back(part(leaf.view.strides));
  std::vector<Strides*> accesses;
  for (Strides& strides : group.strides) accesses.push_back(&strides);
  merge_loops(&group.extents, accesses);
  return group;
}

}  // namespace

Status launch_reduce(Launcher& launcher, const Step& step) {
  Node* node = step.node;
  if (node->count() == 0) return {};
  const Shape shape = step.program.loops;
  const int begin = static_cast<int>(node->dims[0]), end = static_cast<int>(node->dims[1]);
  int64_t outer = 1, length = 1, inner = 1;
  for (int i = 0; i < shape.rank(); ++i) (i < begin ? outer : i < end ? length : inner) *= shape[i];
  if (length == 0) {  // a sum of nothing
    const uint64_t bytes = static_cast<uint64_t>(node->count() * ir::dtype_size(node->dtype));
    launcher.commands().fill({node->storage->buffer(), 0}, (bytes + 3) / 4 * 4, 0);
    return {};
  }

  Pass pass;
  pass.combine = static_cast<ir::Combine>(node->number);
  pass.dtype = node->dtype;
  pass.program = step.program;
  const Group groups[] = {merge_group(pass.program, 0, begin), merge_group(pass.program, begin, end),
                          merge_group(pass.program, end, shape.rank())};
  const auto append = [](Dims* to, const Dims& from) {
    for (const int64_t d : from) to->push_back(d);
  };
  pass.program.loops = {};
  for (const Group& group : groups) append(&pass.program.loops, group.extents);
  size_t access = 0;
  for (Leaf& leaf : pass.program.leaves) {
    if (leaf.kind != Leaf::Kind::load && leaf.kind != Leaf::Kind::index) continue;
    leaf.view.strides = {};
    for (const Group& group : groups) append(&leaf.view.strides, group.strides[access]);
    ++access;
  }
  pass.outer_axes = groups[0].extents.rank();
  pass.inner_axes = groups[2].extents.rank();

  // Passes over chunks until one is left. The memory of partial results is free once they are read.
  Node partial;
  for (;;) {
    const bool rows = inner == 1;
    pass.chunked = rows ? length >= kLongRow && outer < kFewRows : length > kLongColumn;
    if (!pass.chunked) return launch_pass(launcher, pass, node->storage->buffer());
    pass.chunk = rows ? kRowChunk : kColumnChunk;
    pass.chunks = (length + pass.chunk - 1) / pass.chunk;
    const size_t bytes = static_cast<size_t>(outer * pass.chunks * inner * ir::dtype_size(pass.dtype));
    std::shared_ptr<Storage> next = launcher.allocate(bytes);
    SPORKLE_RETURN_IF_ERROR(launch_pass(launcher, pass, next->buffer()));

    // Then the partial results, [outer, chunks, inner] in row-major order, are the operand.
    partial.storage = std::move(next);
    length = pass.chunks;
    Pass following;
    following.combine = pass.combine;
    following.dtype = pass.dtype;
    Leaf leaf{Leaf::Kind::load, pass.dtype};
    const auto add_axis = [&](int64_t extent, int64_t stride) {
      following.program.loops.push_back(extent);
      leaf.view.strides.push_back(stride);
    };
    if (outer != 1) add_axis(outer, length * inner);
    add_axis(length, inner);
    if (inner != 1) add_axis(inner, 1);
    following.outer_axes = outer != 1;
    following.inner_axes = inner != 1;
    leaf.base = &partial;
    following.program.leaves = {leaf};
    following.program.code = {{Op::leaf, pass.dtype, {-1, -1, -1}, 0}};
    following.program.result = 0;
    pass = following;
  }
}

}  // namespace sporkle::tensor
