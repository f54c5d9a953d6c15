#include "tensor/random_graph.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <random>

#include "hal/reference/edited_device.h"
#include "tensor/random.h"

namespace sporkle::tensor {
namespace {

using Kind = GraphStep::Kind;

struct KindRow {
  std::string_view name;
  int operands;
};
constexpr KindRow kKinds[] = {
    {"leaf", 0},       {"neg", 1},  {"abs", 1},         {"sqrt", 1},      {"floor", 1},     {"exp", 1},
    {"log", 1},        {"tanh", 1}, {"sin", 1},         {"gelu", 1},      {"scale", 1},     {"round_trip", 1},
    {"add", 2},        {"sub", 2},  {"mul", 2},         {"div", 2},       {"minimum", 2},   {"maximum", 2},
    {"where_less", 3}, {"fma", 3},  {"flatten", 1},     {"unsqueeze", 1}, {"transpose", 1}, {"expand", 1},
    {"slice", 1},      {"pad", 1},  {"concatenate", 2}, {"sum", 1},       {"max", 1},       {"matmul", 2},
    {"uniform", 0},
};
constexpr size_t kKindCount = std::size(kKinds);
static_assert(static_cast<size_t>(Kind::uniform) + 1 == kKindCount);

constexpr int64_t kMaxElements = 4096;  // keeps the interpreter quick
constexpr int kMaxGraphRank = 4;

const KindRow& row(Kind kind) { return kKinds[static_cast<size_t>(kind)]; }

std::vector<float> leaf_values(int64_t count, uint32_t seed) {
  using Limits = std::numeric_limits<float>;
  static constexpr float edges[] = {
      0.0f,          -0.0f, Limits::infinity(), -Limits::infinity(), Limits::quiet_NaN(), 1e-40f, -1e-45f, 1.0f,
      Limits::max(), 1e-38f};
  std::mt19937 random(seed);
  std::vector<float> values;
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t bits = static_cast<uint32_t>(random());
    // Every fourth leaf has edge values: more of them would leave nothing but NaN to compare.
    if (seed % 4 == 0 && bits % 8 == 0)
      values.push_back(edges[bits / 8 % std::size(edges)]);
    else
      values.push_back(static_cast<float>(bits) * 0x1p-30f - 2);
  }
  return values;
}

bool broadcast_together(const Shape& a, const Shape& b) {
  for (int i = 1; i <= std::min(a.rank(), b.rank()); ++i) {
    const int64_t x = a[a.rank() - i], y = b[b.rank() - i];
    if (x != y && x != 1 && y != 1) return false;
  }
  return true;
}

// What of `b` can be combined with `a`: itself, or its sum.
Tensor fit(const Tensor& a, const Tensor& b) {
  if (broadcast_together(a.shape(), b.shape())) return b;
  return sum(b);
}

Tensor bounded(const Tensor& result, const Tensor& otherwise) {
  return result.ok() && (result.size() > kMaxElements || result.rank() > kMaxGraphRank) ? otherwise : result;
}

Tensor apply_matmul(const Tensor& a, const Tensor& b) {
  if (a.rank() < 2) return a * fit(a, b);
  if (b.rank() == 2 && b.extent(0) == a.extent(-1)) return matmul(a, b);
  return matmul(a, a.transpose(-1, -2));
}

Tensor apply_concatenate(const Tensor& a, const Tensor& b, int axis) {
  return concatenate(a, a.shape() == b.shape() ? b : a, axis);
}

Tensor apply(Context& context, const GraphStep& step, std::span<const Tensor> made) {
  const auto operand = [&](int i) { return made[static_cast<size_t>(i)]; };
  const uint32_t p = step.parameter;
  if (step.kind == Kind::leaf) return from_host<float>(context, leaf_values(element_count(step.shape), p), step.shape);
  if (step.kind == Kind::uniform) return uniform(context, step.shape, {1, 2, p});
  const Tensor a = operand(step.a);
  const Tensor b = row(step.kind).operands > 1 ? operand(step.b) : a;
  const Tensor c = row(step.kind).operands > 2 ? operand(step.c) : a;
  const int rank = a.rank();
  const int axis = rank > 0 ? static_cast<int>(p % static_cast<uint32_t>(rank)) : 0;
  switch (step.kind) {
    case Kind::leaf:
    case Kind::uniform:
      break;
    case Kind::neg:
      return -a;
    case Kind::abs:
      return abs(a);
    case Kind::sqrt:
      return sqrt(a);
    case Kind::floor:
      return floor(a);
    case Kind::exp:
      return exp(a);
    case Kind::log:
      return log(a);
    case Kind::tanh:
      return tanh(a);
    case Kind::sin:
      return sin(a);
    case Kind::gelu:
      return gelu(a);
    case Kind::scale:
      return a * (0.25 * (p % 16)) - 1.0;
    case Kind::round_trip:
      return a.cast(DType::i32).cast(DType::f32);
    case Kind::add:
      return bounded(a + fit(a, b), a + a);
    case Kind::sub:
      return bounded(a - fit(a, b), a - a);
    case Kind::mul:
      return bounded(a * fit(a, b), a * a);
    case Kind::div:
      return bounded(a / fit(a, b), a / a);
    case Kind::minimum:
      return bounded(minimum(a, fit(a, b)), a);
    case Kind::maximum:
      return bounded(maximum(a, fit(a, b)), a);
    case Kind::where_less: {
      const Tensor condition = less(a, sum(b));
      return bounded(where(condition, a, fit(a, c)), a);
    }
    case Kind::fma:
      return fma(a, sum(b).expand(a.shape()), (a * 0.0 + sum(c)));
    case Kind::flatten:
      return a.reshape({-1});
    case Kind::unsqueeze:
      return rank < kMaxGraphRank ? a.unsqueeze(axis) : a;
    case Kind::transpose:
      return rank < 2 ? a : a.transpose(axis, static_cast<int>(p / 8 % static_cast<uint32_t>(rank)));
    case Kind::expand: {
      if (rank == kMaxGraphRank || a.size() > kMaxElements / 3) return a;
      Shape wider{3};
      for (const int64_t extent : a.shape()) wider.push_back(extent);
      return a.expand(wider);
    }
    case Kind::slice: {
      if (rank == 0 || a.extent(axis) == 0) return a;
      const int64_t start = p / 8 % a.extent(axis);
      return a.slice(axis, start, 1 + p / 64 % (a.extent(axis) - start));
    }
    case Kind::pad:
      return rank == 0 ? a : bounded(a.pad(axis, p / 8 % 3, p / 32 % 3), a);
    case Kind::concatenate:
      return rank == 0 ? a : bounded(apply_concatenate(a, b, axis), a);
    case Kind::sum:
      return rank == 0 ? a : sum(a, {axis}, p / 8 % 2 == 0);
    case Kind::max:
      return rank == 0 || a.extent(axis) == 0 ? a : max(a, {axis}, p / 8 % 2 == 0);
    case Kind::matmul:
      return bounded(apply_matmul(a, b), a);
  }
  return a;
}

// Without the steps that no root needs.
RandomGraph compacted(const RandomGraph& graph) {
  std::vector<bool> needed(graph.steps.size());
  for (const int root : graph.roots) needed[static_cast<size_t>(root)] = true;
  const auto operands_of = [](GraphStep& step) { return std::array{&step.a, &step.b, &step.c}; };
  RandomGraph source = graph, result;
  for (size_t i = source.steps.size(); i-- > 0;)
    for (int n = 0; needed[i] && n < row(source.steps[i].kind).operands; ++n)
      needed[static_cast<size_t>(*operands_of(source.steps[i])[static_cast<size_t>(n)])] = true;
  std::vector<int> moved(graph.steps.size(), -1);
  for (size_t i = 0; i < source.steps.size(); ++i) {
    if (!needed[i]) continue;
    GraphStep step = source.steps[i];
    for (int n = 0; n < row(step.kind).operands; ++n) {
      int* operand = operands_of(step)[static_cast<size_t>(n)];
      *operand = moved[static_cast<size_t>(*operand)];
    }
    moved[i] = static_cast<int>(result.steps.size());
    result.steps.push_back(step);
  }
  for (const int root : graph.roots) result.roots.push_back(moved[static_cast<size_t>(root)]);
  return result;
}

// Every reader of `from`, and the roots, take `to` instead.
RandomGraph redirected(RandomGraph graph, int from, int to) {
  const auto redirect = [&](int& step) { step = step == from ? to : step; };
  for (GraphStep& step : graph.steps) {
    redirect(step.a);
    redirect(step.b);
    redirect(step.c);
  }
  for (int& root : graph.roots) redirect(root);
  std::ranges::sort(graph.roots);
  graph.roots.erase(std::unique(graph.roots.begin(), graph.roots.end()), graph.roots.end());
  return compacted(graph);
}

// Every graph that is one simplification away, the greatest simplifications first.
std::vector<RandomGraph> simpler(const RandomGraph& graph) {
  std::vector<RandomGraph> result;
  if (graph.roots.size() > 1)
    for (const int root : graph.roots) result.push_back(compacted({graph.steps, {root}}));
  if (graph.roots.size() > 2)
    for (size_t i = 0; i < graph.roots.size(); ++i) {
      RandomGraph fewer = graph;
      fewer.roots.erase(fewer.roots.begin() + static_cast<ptrdiff_t>(i));
      result.push_back(compacted(fewer));
    }
  for (int i = static_cast<int>(graph.steps.size()) - 1; i >= 0; --i) {
    const GraphStep& step = graph.steps[static_cast<size_t>(i)];
    const std::array operands{step.a, step.b, step.c};
    for (int n = 0; n < row(step.kind).operands; ++n)
      result.push_back(redirected(graph, i, operands[static_cast<size_t>(n)]));
    if (step.kind != Kind::leaf) {
      RandomGraph cut = graph;
      cut.steps[static_cast<size_t>(i)] = {.kind = Kind::leaf, .parameter = 1, .shape = Shape{2, 3}};
      result.push_back(compacted(cut));
      continue;
    }
    for (int axis = 0; axis < step.shape.rank(); ++axis)
      for (const int64_t extent : {int64_t{1}, step.shape[axis] / 2, step.shape[axis] - 1}) {
        if (extent < 1 || extent >= step.shape[axis]) continue;
        RandomGraph smaller = graph;
        smaller.steps[static_cast<size_t>(i)].shape[axis] = extent;
        result.push_back(std::move(smaller));
      }
  }
  return result;
}

}  // namespace

std::string_view graph_step_name(Kind kind) { return row(kind).name; }
int graph_step_operands(Kind kind) { return row(kind).operands; }

RandomGraph RandomGraph::generate(uint64_t seed, int step_count) {
  std::mt19937_64 random(seed);
  const auto below = [&](uint64_t n) { return random() % n; };
  RandomGraph graph;
  for (int i = 0; i < step_count; ++i) {
    GraphStep step;
    step.kind = i < 2 || below(8) == 0 ? Kind::leaf : static_cast<Kind>(below(kKindCount));
    step.parameter = static_cast<uint32_t>(random());
    if (row(step.kind).operands == 0) {
      // Few extents, so that shapes meet.
      static constexpr int64_t extents[] = {1, 2, 3, 5, 8, 16, 17};
      for (uint64_t rank = below(4); rank > 0; --rank) step.shape.push_back(extents[below(std::size(extents))]);
    }
    // Recent steps mostly, so that chains grow long enough to fuse.
    const auto pick = [&] {
      const uint64_t reach = below(3) == 0 ? static_cast<uint64_t>(i) : std::min<uint64_t>(3, static_cast<uint64_t>(i));
      return i - 1 - static_cast<int>(below(reach));
    };
    if (row(step.kind).operands > 0) step.a = pick();
    if (row(step.kind).operands > 1) step.b = pick();
    if (row(step.kind).operands > 2) step.c = pick();
    graph.steps.push_back(step);
  }
  graph.roots = {step_count - 1};
  if (step_count > 3 && below(2))
    graph.roots = {static_cast<int>(below(static_cast<uint64_t>(step_count - 1))), step_count - 1};
  return compacted(graph);
}

std::string RandomGraph::text() const {
  std::string result;
  for (size_t i = 0; i < steps.size(); ++i) {
    const GraphStep& step = steps[i];
    result += "t" + std::to_string(i) + " = " + std::string(graph_step_name(step.kind));
    const std::array operands{step.a, step.b, step.c};
    for (int n = 0; n < row(step.kind).operands; ++n) result += " t" + std::to_string(operands[static_cast<size_t>(n)]);
    if (row(step.kind).operands == 0) result += " " + to_string(step.shape);
    result += " parameter " + std::to_string(step.parameter) + "\n";
  }
  result += "roots";
  for (const int root : roots) result += " t" + std::to_string(root);
  return result + "\n";
}

Result<GraphValues> run_graph(const RandomGraph& graph, Context& context) {
  std::vector<Tensor> made;
  for (const GraphStep& step : graph.steps) made.push_back(apply(context, step, made));
  std::vector<Tensor> roots;
  for (const int root : graph.roots) roots.push_back(made[static_cast<size_t>(root)]);
  SPORKLE_RETURN_IF_ERROR(realize(roots));
  GraphValues values;
  for (const Tensor& root : roots) {
    SPORKLE_ASSIGN_OR_RETURN(std::vector<float> host, root.to_host<float>());
    values.push_back(std::move(host));
  }
  return values;
}

bool same_values(const GraphValues& a, const GraphValues& b) {
  const auto same = [](float x, float y) {
    return std::bit_cast<uint32_t>(x) == std::bit_cast<uint32_t>(y) || (std::isnan(x) && std::isnan(y));
  };
  return std::ranges::equal(
      a, b, [&](const std::vector<float>& x, const std::vector<float>& y) { return std::ranges::equal(x, y, same); });
}

RandomGraph shrink(RandomGraph graph, const std::function<bool(const RandomGraph&)>& fails) {
  // Each simplification takes away a root, a step that is no leaf, a step, or elements: the loop ends.
  for (bool changed = true; changed;) {
    changed = false;
    for (RandomGraph& candidate : simpler(graph)) {
      if (!fails(candidate)) continue;
      graph = std::move(candidate);
      changed = true;
      break;
    }
  }
  return graph;
}

Result<std::string> kernels_of(const RandomGraph& graph, bool fuse) {
  std::string text;
  hal::EditedDevice device([&](std::string kernel) {
    text += kernel + "\n";
    return kernel;
  });
  cache::KernelCache kernels(device);
  Context context(device, kernels, {.fuse = fuse});
  SPORKLE_RETURN_IF_ERROR(run_graph(graph, context).status());
  return text;
}

}  // namespace sporkle::tensor
