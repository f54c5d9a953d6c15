#include "tensor/op_table.h"

#include <algorithm>

#include "tensor/context.h"
#include "tensor/pointwise.h"

namespace sporkle::tensor {
namespace {

using Operands = std::span<const Tensor>;

Apply one(std::function<Tensor(Operands)> apply) {
  return [apply = std::move(apply)](Operands x) { return Tensors{apply(x)}; };
}

// ---- Pointwise ----

std::vector<DType> types_of(Domain domain) {
  switch (domain) {
    case Domain::any:
      return {DType::f32, DType::f64, DType::i32, DType::boolean};
    case Domain::number:
      return {DType::f32, DType::f64, DType::i32};
    case Domain::real:
      return {DType::f32, DType::f64};
    case Domain::boolean:
      return {DType::boolean};
  }
  return {};
}

// `shape`, or one that broadcasts to it.
Shape broadcastable(Draw& draw, const Shape& shape) {
  Shape result;
  int first = 0;
  if (draw.chance(0.15)) first = static_cast<int>(draw.integer(0, shape.rank()));
  for (int i = first; i < shape.rank(); ++i) result.push_back(draw.chance(0.15) ? 1 : shape[i]);
  return result;
}

OpCall draw_pointwise(Draw& draw, const PointwiseRow& row) {
  const Shape shape = draw.shape(0, 4);
  OpCall call;
  for (int i = 0; i < row.arity; ++i) {
    OperandSpec operand{i == 0 ? shape : broadcastable(draw, shape), draw.type()};
    if (row.op == Op::where && i == 0) {
      operand.type = DType::boolean;
      operand.differentiable = false;
    }
    operand.lowest = row.accuracy.lowest;
    operand.highest = row.accuracy.highest;
    operand.negative = row.accuracy.negative;
    operand.specials = kAllSpecials;
    call.operands.push_back(operand);
  }
  call.apply = one([op = row.op](Operands x) { return pointwise(op, x); });
  call.ulp_limit = row.accuracy.ulp_limit;
  if (row.accuracy.magnitude) call.magnitude = one(row.accuracy.magnitude);
  return call;
}

std::string number_text(double value) {
  std::string text = std::to_string(value);
  text.erase(text.find_last_not_of('0') + 1);
  if (text.ends_with('.')) text.pop_back();
  return text;
}

void append_pointwise_rows(std::vector<OpRow>* rows) {
  for (const PointwiseRow& row : pointwise_table()) {
    if (row.op == Op::cast || row.arity == 0) continue;  // they have rows of their own
    const Accuracy& a = row.accuracy;
    std::string limit = a.ulp_limit == 0 ? "0" : number_text(a.ulp_limit);
    if (a.magnitude) limit += " of \\|x\\|";
    rows->push_back({std::string(row.name), "pointwise", types_of(row.domain), limit, row.gradient != nullptr,
                     [&row](Draw& draw) { return draw_pointwise(draw, row); }});
  }
  rows->push_back(
      {"cast", "pointwise", {DType::f32, DType::f64, DType::i32, DType::boolean}, "0", true, [](Draw& draw) {
         const DType to = draw.for_gradient() ? DType::f64 : draw.one_of({DType::i32, DType::f32, DType::boolean});
         OpCall call;
         call.parameters = "to " + std::string(ir::dtype_name(to));
         call.operands = {{draw.shape(0, 4), draw.type(), 0, 0x1p30, true, kAllSpecials}};
         call.apply = one([to](Operands x) { return x[0].cast(to); });
         return call;
       }});
  rows->push_back({"relu", "pointwise", types_of(Domain::number), "0", true, [](Draw& draw) {
                     OpCall call;
                     call.operands = {{draw.shape(0, 4), draw.type(), 0, 0x1p100, true, kAllSpecials}};
                     call.apply = one([](Operands x) { return relu(x[0]); });
                     return call;
                   }});
}

// ---- Sources ----

void append_source_rows(std::vector<OpRow>* rows) {
  const std::vector<DType> numbers = {DType::f32, DType::f64, DType::i32};
  rows->push_back({"full", "sources", numbers, "0", false, [](Draw& draw) {
                     const double value = static_cast<double>(draw.integer(-1000, 1000));
                     OpCall call;
                     call.parameters = "value " + number_text(value);
                     call.operands = {{draw.shape(0, 4), draw.type()}};
                     call.apply = one([value](Operands x) {
                       return full(x[0].context(), x[0].shape(), value, x[0].dtype()).contiguous();
                     });
                     return call;
                   }});
  rows->push_back({"index", "sources", {DType::i32}, "0", false, [](Draw& draw) {
                     const Shape shape = draw.shape(1, 4);
                     const int axis = static_cast<int>(draw.integer(0, shape.rank() - 1));
                     OpCall call;
                     call.parameters = "axis " + std::to_string(axis);
                     call.operands = {{shape, DType::i32}};
                     call.apply = one([axis](Operands x) { return index(x[0].context(), x[0].shape(), axis) + x[0]; });
                     return call;
                   }});
}

// ---- Reductions ----

struct Axes {
  Dims axes;
  bool keep = false;
  int64_t depth = 1;  // of a sum over them
};

Axes draw_axes(Draw& draw, const Shape& shape) {
  Axes result;
  result.keep = draw.chance(0.3);
  int64_t run = 1;
  const auto end_run = [&] {
    if (run > 1) result.depth += sum_depth(run);
    run = 1;
  };
  const bool all = draw.chance(0.2);
  for (int i = 0; i < shape.rank(); ++i) {
    if (all || draw.chance(0.5)) {
      if (!all) result.axes.push_back(i);
      run *= shape[i];
    } else {
      end_run();
    }
  }
  if (result.axes.rank() == 0)  // stands for all axes
    for (int i = 0, first = 1; i < shape.rank(); ++i, first = 0) run = first ? shape[i] : run * shape[i];
  end_run();
  return result;
}

// Long enough, at times, for sums in chunks.
Shape reduced_shape(Draw& draw) {
  if (!draw.for_gradient() && draw.chance(0.06))
    return draw.one_of<Shape>({{70001}, {2, 66000}, {1031, 3}, {3, 701, 2}, {700, 17}});
  return draw.shape(1, 4);
}

OpCall draw_reduction(Draw& draw, Tensor (*reduce)(const Operand&, const Dims&, bool), uint8_t specials) {
  Shape shape = reduced_shape(draw);
  if (reduce != &sum)  // needs elements
    for (int i = 0; i < shape.rank(); ++i) shape[i] = std::max<int64_t>(shape[i], 1);
  const Axes axes = draw_axes(draw, shape);
  OpCall call;
  call.parameters = "axes " + to_string(axes.axes) + (axes.keep ? " kept" : "");
  call.operands = {{shape, draw.type(), 0, 0x1p20, true, specials}};
  call.apply = one([reduce, axes](Operands x) { return reduce(x[0], axes.axes, axes.keep); });
  if (reduce == &max) return call;
  call.ulp_limit = static_cast<double>(axes.depth + (reduce == &mean ? 2 : 0));
  call.magnitude = one([reduce, axes](Operands x) { return reduce(abs(x[0]), axes.axes, axes.keep); });
  return call;
}

void append_reduction_rows(std::vector<OpRow>* rows) {
  const std::vector<DType> numbers = {DType::f32, DType::f64, DType::i32}, real = {DType::f32, DType::f64};
  rows->push_back({"sum", "reductions", numbers, "depth(n) of Σ\\|x\\|", true,
                   [](Draw& draw) { return draw_reduction(draw, &sum, kModerateSpecials); }});
  rows->push_back({"mean", "reductions", real, "depth(n) + 2 of the mean of \\|x\\|", true,
                   [](Draw& draw) { return draw_reduction(draw, &mean, kModerateSpecials); }});
  rows->push_back(
      {"max", "reductions", numbers, "0", true, [](Draw& draw) { return draw_reduction(draw, &max, kAllSpecials); }});
}

// ---- Products ----

OpCall draw_matmul(Draw& draw) {
  const bool deep = !draw.for_gradient() && draw.chance(0.06);
  const int64_t most = draw.for_gradient() ? 3 : 40;
  const int64_t rows = deep ? 5 : draw.extent_or_none(most), columns = deep ? 7 : draw.extent_or_none(most);
  const int64_t depth = deep ? 2500 : draw.extent_or_none(most);
  Shape a, b;
  if (draw.chance(0.4)) {
    const int64_t batch = draw.extent(4);
    if (draw.chance(0.8)) a.push_back(draw.chance(0.2) ? 1 : batch);
    if (draw.chance(0.7) || a.rank() == 0) b.push_back(batch);
  }
  for (const int64_t extent : {rows, depth}) a.push_back(extent);
  for (const int64_t extent : {depth, columns}) b.push_back(extent);
  OpCall call;
  call.operands = {{a, draw.type(), 0, 0x1p20, true, kModerateSpecials},
                   {b, draw.type(), 0, 0x1p20, true, kModerateSpecials}};
  call.apply = one([](Operands x) { return matmul(x[0], x[1]); });
  call.ulp_limit = static_cast<double>(std::max<int64_t>(depth, 1));
  call.magnitude = one([](Operands x) { return matmul(abs(x[0]), abs(x[1])); });
  return call;
}

// ---- Movements ----

struct Movement {
  const char* name;
  // The call's parameters and what it does to an operand of this shape.
  std::function<std::pair<std::string, std::function<Tensor(const Tensor&)>>(Draw&, const Shape&)> draw;
};

int draw_axis(Draw& draw, const Shape& shape) { return static_cast<int>(draw.integer(0, shape.rank() - 1)); }

std::vector<Movement> movements() {
  using Move = std::function<Tensor(const Tensor&)>;
  using Drawn = std::pair<std::string, Move>;
  return {
      {"reshape",
       [](Draw& draw, const Shape& shape) -> Drawn {
         Shape to;
         for (int i = 0; i < shape.rank(); ++i) {
           const int64_t extent = shape[i];
           const int64_t divisor = extent > 0 && extent % 2 == 0 ? 2 : extent > 0 && extent % 3 == 0 ? 3 : 1;
           if (draw.chance(0.5) && to.rank() > 0 && to.rank() < 5) {
             to[to.rank() - 1] *= extent;
           } else if (divisor > 1 && to.rank() < 5) {
             to.push_back(extent / divisor);
             to.push_back(divisor);
           } else {
             to.push_back(extent);
           }
         }
         return {"to " + to_string(to), [to](const Tensor& x) { return x.reshape(to); }};
       }},
      {"permute",
       [](Draw& draw, const Shape& shape) -> Drawn {
         Dims axes;
         for (int i = 0; i < shape.rank(); ++i) axes.push_back(i);
         for (int i = shape.rank() - 1; i > 0; --i) std::swap(axes[i], axes[static_cast<int>(draw.integer(0, i))]);
         return {"axes " + to_string(axes), [axes](const Tensor& x) { return x.permute(axes); }};
       }},
      {"expand",
       [](Draw& draw, const Shape& shape) -> Drawn {
         Shape to{draw.extent(3)};
         for (const int64_t extent : shape) to.push_back(extent == 1 ? draw.extent(4) : extent);
         return {"to " + to_string(to), [to](const Tensor& x) { return x.expand(to); }};
       }},
      {"slice",
       [](Draw& draw, const Shape& shape) -> Drawn {
         const int axis = draw_axis(draw, shape);
         const int64_t start = draw.integer(0, shape[axis]), size = draw.integer(0, shape[axis] - start);
         return {"axis " + std::to_string(axis) + " from " + std::to_string(start) + " size " + std::to_string(size),
                 [=](const Tensor& x) { return x.slice(axis, start, size); }};
       }},
      {"pad",
       [](Draw& draw, const Shape& shape) -> Drawn {
         const int axis = draw_axis(draw, shape);
         const int64_t before = draw.integer(0, 3), after = draw.integer(0, 3);
         return {"axis " + std::to_string(axis) + " by " + std::to_string(before) + ", " + std::to_string(after),
                 [=](const Tensor& x) { return x.pad(axis, before, after); }};
       }},
      {"squeeze",
       [](Draw& draw, const Shape& shape) -> Drawn {
         const int axis = static_cast<int>(draw.integer(0, shape.rank()));
         return {"axis " + std::to_string(axis) + " and back",
                 [=](const Tensor& x) { return x.unsqueeze(axis).contiguous().squeeze(axis); }};
       }},
  };
}

void append_movement_rows(std::vector<OpRow>* rows) {
  const std::vector<DType> any = types_of(Domain::any);
  for (const Movement& movement : movements())
    rows->push_back({movement.name, "movements", any, "0", true, [movement](Draw& draw) {
                       const Shape shape = draw.shape(1, 4);
                       auto [parameters, move] = movement.draw(draw, shape);
                       OpCall call;
                       call.parameters = parameters;
                       call.operands = {{shape, draw.type(), 0, 0x1p100, true, kAllSpecials}};
                       call.apply = one([move = std::move(move)](Operands x) { return move(x[0]).contiguous(); });
                       return call;
                     }});
  rows->push_back({"concatenate", "movements", {DType::f32, DType::f64, DType::i32}, "0", true, [](Draw& draw) {
                     const Shape first = draw.shape(1, 4);
                     const int axis = draw_axis(draw, first);
                     Shape second = first;
                     second[axis] = draw.extent_or_none(7);
                     OpCall call;
                     call.parameters = "axis " + std::to_string(axis);
                     for (const Shape& shape : {first, second})
                       call.operands.push_back({shape, draw.type(), 0, 0x1p100, true, kAllSpecials});
                     call.apply = one([axis](Operands x) { return concatenate(x[0], x[1], axis); });
                     return call;
                   }});
}

std::vector<OpRow> make_table() {
  std::vector<OpRow> rows;
  append_pointwise_rows(&rows);
  append_source_rows(&rows);
  append_reduction_rows(&rows);
  rows.push_back({"matmul", "products", {DType::f32, DType::f64}, "k of \\|a\\| · \\|b\\|", true, [](Draw& d) {
                    return draw_matmul(d);
                  }});
  append_movement_rows(&rows);
  append_layer_rows(&rows);
  return rows;
}

}  // namespace

// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
uint64_t Draw::bits() {
  uint64_t x = state_ += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

int64_t Draw::integer(int64_t lowest, int64_t highest) {
  return lowest + static_cast<int64_t>(bits() % static_cast<uint64_t>(highest - lowest + 1));
}

double Draw::uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }

int64_t Draw::extent(int64_t most) {
  if (most <= 1 || chance(0.12)) return 1;
  const int64_t interesting = one_of<int64_t>({2, 3, 5, 7, 8, 13, 15, 16, 17, 31, 32, 33, 61, 64, 67, 127, 128, 131});
  return interesting <= most && chance(0.7) ? interesting : integer(1, most);
}

int64_t Draw::extent_or_none(int64_t most) { return !for_gradient_ && chance(0.03) ? 0 : extent(most); }

Shape Draw::shape(int min_rank, int max_rank) {
  const int rank = static_cast<int>(integer(min_rank, max_rank));
  const double kind = for_gradient_ ? 0.5 : uniform();
  if (kind < 0.06) return Shape::filled(rank, 1);
  // The number of elements to aim at.
  const int64_t most = for_gradient_ ? 12 : scale_ * (kind < 0.7 ? 60 : kind < 0.94 ? 1500 : 20000);
  Shape shape;
  int64_t count = 1;
  for (int i = 0; i < rank; ++i) {
    const int64_t left = std::max<int64_t>(most / count, 1);
    int64_t extent_here = extent(std::min<int64_t>(left, rank == 1 ? left : std::max<int64_t>(left / 2, 2)));
    if (kind >= 0.94 && i == rank - 1) extent_here = std::max(extent_here, left - integer(0, 5));  // a large one
    shape.push_back(extent_here);
    count *= extent_here;
  }
  if (!for_gradient_ && rank > 0 && chance(0.05)) shape[static_cast<int>(integer(0, rank - 1))] = 0;
  return shape;
}

int64_t sum_depth(int64_t n) {
  const int64_t row = n >= 65536 ? 16384 / 16 + 5 + (n + 16383) / 16384 : n / 16 + 5;
  const int64_t column = n <= 256 ? n : 128 + sum_depth((n + 127) / 128);
  return std::max(row, column);
}

std::span<const OpRow> op_table() {
  static const std::vector<OpRow> table = make_table();
  return table;
}

}  // namespace sporkle::tensor
