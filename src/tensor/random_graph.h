// Random tensor graphs for finding faults: the same seed gives the same graph, and a graph that shows a fault shrinks
// to a small one that still shows it.
//
// A graph is a list of steps, each made from earlier ones. Every list is valid: a step adapts to the shapes it is given
// (operands that do not broadcast are summed up first, an axis is taken modulo the rank), so that shrinking may drop
// and reconnect steps freely. All values are f32; NaN, infinities, denormals and -0 are among them.
//
// Stateless; a Context that is handed in belongs to its thread as ever.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/context.h"
#include "tensor/tensor.h"

namespace sporkle::tensor {

struct GraphStep {
  enum class Kind : uint8_t {
    leaf,
    neg,
    abs,
    sqrt,
    floor,
    exp,
    log,
    tanh,
    sin,
    gelu,
    scale,
    round_trip,  // through i32 and back
    add,
    sub,
    mul,
    div,
    minimum,
    maximum,
    where_less,
    fma,
    flatten,
    unsqueeze,
    transpose,
    expand,
    slice,
    pad,
    concatenate,
    sum,
    max,
    matmul,
    uniform,
  };
  Kind kind = Kind::leaf;
  int a = -1, b = -1, c = -1;  // earlier steps; as many as the kind takes
  uint32_t parameter = 0;      // the axis, the amount, the seed of the values
  Shape shape;                 // of a leaf
};
std::string_view graph_step_name(GraphStep::Kind kind);
int graph_step_operands(GraphStep::Kind kind);

struct RandomGraph {
  std::vector<GraphStep> steps;
  std::vector<int> roots;  // the steps whose values are compared

  static RandomGraph generate(uint64_t seed, int step_count = 14);
  // One line a step, in order, then the roots.
  std::string text() const;
};

// The roots' values, row-major, one after the other. An error of the tensor layer is returned as it is.
using GraphValues = std::vector<std::vector<float>>;
Result<GraphValues> run_graph(const RandomGraph& graph, Context& context);

// Whether the values have the same bits, all NaNs being alike.
bool same_values(const GraphValues& a, const GraphValues& b);

// A graph for which `fails` still holds and from which nothing can be left out: no step bypassed or replaced by a leaf,
// no root dropped, no extent lowered. `fails(graph)` must hold and depend on the graph alone.
RandomGraph shrink(RandomGraph graph, const std::function<bool(const RandomGraph&)>& fails);

// The text form (ir/text.h) of every kernel that runs for the graph.
Result<std::string> kernels_of(const RandomGraph& graph, bool fuse);

}  // namespace sporkle::tensor
