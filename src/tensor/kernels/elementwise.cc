// Kernels of fused pointwise expressions.
//
// Where an operand is read across its rows (a transposed copy, above all), a plain loop would touch a new cache line
// for every element and come back to it only after a whole row, when it is gone. Such loops run in blocks of kBlock
// rows, which use each line kBlock times while it is near.
#include "tensor/context.h"
#include "tensor/launch.h"

namespace sporkle::tensor {
namespace {

// The loops of a kernel for `rank` merged axes: the innermost is a vector, the next an ordinary loop, and all in front
// are one loop over threads, taken apart by division once for each of its iterations.
std::string schedule_of(int rank) {
  switch (rank) {
    case 1:
      return "i0:thread8192 i0:vecx2";
    case 2:
      return "i0:thread i1:vec";
    default:
      return "outer:thread i" + std::to_string(rank - 1) + ":vec";
  }
}

// Rows of a block, which share the lines of the operand that lies the other way.
constexpr int kBlock = 16;

// Lanes of a block's vectors, and as many of its rows at a time: such a square is transposed in registers.
int block_lanes(const Context& context) { return context.vector_width() >= 16 ? 16 : 8; }

// The axis along which an operand that does not follow the innermost axis is contiguous; -1: there is none.
int crossing_axis(const Program& program) {
  const int last = program.loops.rank() - 1;
  if (last < 1 || program.loops[last] < kBlock / 2) return -1;
  for (const Leaf& leaf : program.leaves) {
    if (leaf.kind != Leaf::Kind::load || leaf.view.strides[last] == 0 || leaf.view.strides[last] == 1) continue;
    for (int axis = 0; axis < last; ++axis)
      if (leaf.view.strides[axis] == 1 && program.loops[axis] >= kBlock) return axis;
  }
  return -1;
}

// From this size on a result is gone from the caches before it is read; storing past them saves reading its lines
// first.
constexpr int64_t kLeastStreamed = int64_t{64} << 20;

// Whether whole vectors of the result lie at multiples of their size, and pay when they pass the caches. Results begin
// at multiples of 64 bytes.
bool streams(const Context& context, const Node& result, const Strides& strides) {
  const int64_t element = ir::dtype_size(result.dtype), last = strides.rank() - 1;
  if (context.is_gpu() || context.vector_width() < 4 || element < 4) return false;
  if (result.count() * element < kLeastStreamed || strides[static_cast<int>(last)] != 1) return false;
  for (int i = 0; i < last; ++i)
    if (strides[i] * element % 64 != 0) return false;
  return true;
}

// On a GPU an invocation makes so many neighbouring elements, and reads and writes them as vectors: one calculation of
// where they are for all, and a fourth of the accesses.
constexpr int64_t kPack = 4;
constexpr int64_t kLeastPacked = int64_t{1} << 16;  // elements; with fewer, more invocations are worth more

// Whether the result can be written so; then leaves that can be read so are marked.
bool packs(Program* program, const Strides& result_strides, const Node& result) {
  const int last = program->loops.rank() - 1;
  if (program->loops[last] % kPack != 0 || result.count() < kLeastPacked || result_strides[last] != 1 ||
      !has_stride_unit(result_strides, kPack))
    return false;
  for (Leaf& leaf : program->leaves) {
    if (leaf.kind != Leaf::Kind::load || leaf.mask >= 0 || leaf.view.strides[last] != 1) continue;
    if (leaf.view.offset % kPack == 0 && has_stride_unit(leaf.view.strides, kPack)) leaf.stride_unit = kPack;
  }
  return true;
}

ir::Kernel trace_blocks(const Program& program, int axis, int lane_count, const Strides& result_strides,
                        DType result_type) {
  return dsl::trace("pointwise_blocks", [&](dsl::KernelBuilder& k) {
    ProgramCode code(program);
    code.declare_buffers(k);
    const dsl::Buffer result = k.output(result_type, "result");
    const int rank = program.loops.rank();
    const size_t across = static_cast<size_t>(axis), last = static_cast<size_t>(rank - 1);
    std::vector<dsl::Expr> extents, indices(static_cast<size_t>(rank));
    for (int i = 0; i < rank; ++i) extents.push_back(k.size("n" + std::to_string(i)));
    code.declare_scalars(k);
    const std::vector<dsl::Expr> strides = declare_strides(k, result_strides, "result");

    const dsl::Expr rows(kBlock), lanes(lane_count);
    dsl::Expr blocks = (extents[across] + rows - 1) / rows;
    for (size_t i = 0; i < last; ++i)
      if (i != across) blocks = blocks * extents[i];
    k.range("block", blocks, [&](dsl::Expr block) {
      for (size_t i = last; i-- > 0;) {
        if (i == across) continue;
        indices[i] = block % extents[i];
        block = block / extents[i];
      }
      const dsl::Expr first_row = block * rows;
      const auto columns = [&](dsl::Expr start, dsl::Expr count) {
        k.range("row", dsl::min(rows, extents[across] - first_row), [&](dsl::Expr row) {
          indices[across] = first_row + row;
          k.range("lane", count, [&](dsl::Expr lane) {
            indices[last] = start + lane;
            result.store(affine(result_strides, strides, indices), code.evaluate(k, indices));
          });
        });
      };
      const dsl::Expr whole = extents[last] / lanes, left = extents[last] % lanes;
      k.range("columns", whole, [&](dsl::Expr i) { columns(i * lanes, lanes); });
      k.range("rest", dsl::min(left, dsl::Expr(1)), [&](dsl::Expr) { columns(whole * lanes, left); });
    });
  });
}

// pack: elements that the innermost loop takes at once, and that its extent and the result's strides are multiples of.
ir::Kernel trace(const Program& program, const Strides& result_strides, DType result_type, int64_t pack) {
  return dsl::trace("pointwise", [&](dsl::KernelBuilder& k) {
    ProgramCode code(program);
    code.declare_buffers(k);
    const dsl::Buffer result = k.output(result_type, "result");
    const int rank = program.loops.rank();
    std::vector<dsl::Expr> extents, indices(static_cast<size_t>(rank));
    for (int i = 0; i < rank; ++i) extents.push_back(k.size("n" + std::to_string(i)));
    code.declare_scalars(k);
    const std::vector<dsl::Expr> strides = declare_strides(k, result_strides, "result", pack);

    const std::function<void(int)> loop = [&](int axis) {
      if (axis == rank) {
        result.store(affine(result_strides, strides, indices), code.evaluate(k, indices));
        return;
      }
      const size_t a = static_cast<size_t>(axis);
      if (pack > 1 && axis == rank - 1) {
        k.range("i" + std::to_string(axis), extents[a], [&](dsl::Expr i) {
          k.range("lane", dsl::Expr(pack), [&](dsl::Expr lane) {
            indices[a] = i * pack + lane;
            loop(rank);
          });
        });
        return;
      }
      k.range("i" + std::to_string(axis), extents[a], [&](dsl::Expr i) {
        indices[a] = i;
        loop(axis + 1);
      });
    };
    if (rank <= 2) return loop(0);
    dsl::Expr outer_extent = extents[0];
    for (int i = 1; i < rank - 2; ++i) outer_extent = outer_extent * extents[static_cast<size_t>(i)];
    k.range("outer", outer_extent, [&](dsl::Expr outer) {
      for (int i = rank - 3; i > 0; --i) {
        const size_t a = static_cast<size_t>(i);
        indices[a] = outer % extents[a];
        outer = outer / extents[a];
      }
      indices[0] = outer;
      loop(rank - 2);
    });
  });
}

}  // namespace

Status launch_pointwise(Launcher& launcher, const Step& step) {
  const Node* node = step.results[0];
  if (node->count() == 0) return {};
  return launch_program(launcher, step.program, contiguous_strides(node->shape), *node);
}

Status launch_program(Launcher& launcher, Program program, Strides result_strides, const Node& result) {
  std::vector<Strides*> accesses{&result_strides};
  for (Leaf& leaf : program.leaves)
    if (leaf.kind == Leaf::Kind::load || leaf.kind == Leaf::Kind::index) accesses.push_back(&leaf.view.strides);
  merge_loops(&program.loops, accesses);
  if (program.loops.rank() == 0) {
    program.loops = {1};
    for (Strides* access : accesses) *access = {0};
  }

  // Two interleaved lines: a vector runs along a line, and stores every second element.
  const int last = program.loops.rank() - 1;
  if (!launcher.context().is_gpu() && last > 0 && program.loops[last] == 2 && program.loops[last - 1] >= 8 &&
      result_strides[last - 1] == 2) {
    std::swap(program.loops[last], program.loops[last - 1]);
    for (Strides* access : accesses) std::swap((*access)[last], (*access)[last - 1]);
  }

  // On a GPU neighbouring invocations store to neighbouring places, and its cache holds the lines that they read.
  const int across = launcher.context().is_gpu() ? -1 : crossing_axis(program);
  const bool packed = launcher.context().is_gpu() && packs(&program, result_strides, result);
  std::string key = (across < 0 ? "pointwise " : "pointwise blocks " + std::to_string(across) + " ") +
                    std::string(ir::dtype_name(result.dtype)) + ":" + stride_classes(result_strides) + " " +
                    ProgramCode::key(program);
  std::vector<hal::Binding> bindings;
  ProgramCode::append_bindings(program, &bindings);
  bindings.push_back({result.storage->buffer(), 0});
  Scalars scalars;
  Shape extents = program.loops;
  if (packed) extents[last] /= kPack;
  for (const int64_t extent : extents) scalars.push_back(static_cast<uint64_t>(extent));
  ProgramCode::append_scalars(program, &scalars);
  append_strides(result_strides, &scalars, packed ? kPack : 1);
  if (across >= 0) {
    const int lanes = block_lanes(launcher.context());
    const std::string count = std::to_string(lanes);
    return launcher.dispatch(
        key, "block:thread row:tile" + count + " lane:vec" + count,
        [&] { return trace_blocks(program, across, lanes, result_strides, result.dtype); }, std::move(bindings),
        std::move(scalars));
  }
  std::string schedule = schedule_of(program.loops.rank());
  if (packed) {
    schedule = program.loops.rank() <= 2 ? "i0:thread lane:pack4" : "outer:thread lane:pack4";
    key += " packed";
  }
  if (streams(launcher.context(), result, result_strides)) {
    schedule += " i" + std::to_string(program.loops.rank() - 1) + ":stream";
    key += " streamed";
  }
  return launcher.dispatch(
      key, schedule, [&] { return trace(program, result_strides, result.dtype, packed ? kPack : 1); },
      std::move(bindings), std::move(scalars));
}

}  // namespace sporkle::tensor
