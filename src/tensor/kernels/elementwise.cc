// Kernels of fused pointwise expressions.
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

ir::Kernel trace(const Program& program, const Strides& result_strides, DType result_type) {
  return dsl::trace("pointwise", [&](dsl::KernelBuilder& k) {
    ProgramCode code(program);
    code.declare_buffers(k);
    const dsl::Buffer result = k.output(result_type, "result");
    const int rank = program.loops.rank();
    std::vector<dsl::Expr> extents, indices(static_cast<size_t>(rank));
    for (int i = 0; i < rank; ++i) extents.push_back(k.size("n" + std::to_string(i)));
    code.declare_scalars(k);
    const std::vector<dsl::Expr> strides = declare_strides(k, result_strides, "result");

    const std::function<void(int)> loop = [&](int axis) {
      if (axis == rank) {
        result.store(affine(result_strides, strides, indices), code.evaluate(k, indices));
        return;
      }
      const size_t a = static_cast<size_t>(axis);
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
  Node* node = step.results[0];
  if (node->count() == 0) return {};
  Program program = step.program;
  Strides result_strides = contiguous_strides(node->shape);
  std::vector<Strides*> accesses{&result_strides};
  for (Leaf& leaf : program.leaves)
    if (leaf.kind == Leaf::Kind::load || leaf.kind == Leaf::Kind::index) accesses.push_back(&leaf.view.strides);
  merge_loops(&program.loops, accesses);
  if (program.loops.rank() == 0) {
    program.loops = {1};
    for (Strides* access : accesses) *access = {0};
  }

  std::string key = "pointwise " + std::string(ir::dtype_name(node->dtype)) + ":" + stride_classes(result_strides) +
                    " " + ProgramCode::key(program);
  std::vector<hal::Binding> bindings;
  ProgramCode::append_bindings(program, &bindings);
  bindings.push_back({node->storage->buffer(), 0});
  std::vector<uint64_t> scalars;
  for (const int64_t extent : program.loops) scalars.push_back(static_cast<uint64_t>(extent));
  ProgramCode::append_scalars(program, &scalars);
  append_strides(result_strides, &scalars);
  return launcher.dispatch(
      key, schedule_of(program.loops.rank()), [&] { return trace(program, result_strides, node->dtype); },
      std::move(bindings), std::move(scalars));
}

}  // namespace sporkle::tensor
