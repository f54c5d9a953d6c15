#include <limits>

#include "tensor/convolution.h"
#include "tensor/graph.h"
#include "tensor/kernel_call.h"

namespace sporkle::tensor {
namespace {

using dsl::Buffer;
using dsl::Expr;
using dsl::KernelBuilder;

constexpr int64_t kMaxOption = int64_t{1} << 20;  // keeps every sum and product below far from overflow

// Images as planes [channels * images, height, width].
struct PoolShape {
  DType dtype = DType::f32;
  int64_t planes = 0, height = 0, width = 0, output_height = 0, output_width = 0;
  PoolOptions options;

  int64_t taps() const { return options.window.height * options.window.width; }
};

// The kernels know window, stride and padding as constants: they are few, and divisions by them are cheap then.
std::string key_of(const char* name, const PoolShape& s) {
  std::string key = std::string(name) + "." + std::string(ir::dtype_name(s.dtype));
  for (const Size2d& size : {s.options.window, s.options.stride, s.options.padding})
    key += " " + std::to_string(size.height) + "x" + std::to_string(size.width);
  return key;
}

class Geometry {
 public:
  Geometry(KernelBuilder& k, const PoolShape& shape)
      : planes(k.size("planes")),
        height(k.size("height")),
        width(k.size("width")),
        output_height(k.size("output_height")),
        output_width(k.size("output_width")),
        options_(shape.options) {}
  static std::vector<uint64_t> scalars(const PoolShape& s) {
    return {scalar_bits(s.planes), scalar_bits(s.height), scalar_bits(s.width), scalar_bits(s.output_height),
            scalar_bits(s.output_width)};
  }

  struct Place {
    Expr index, inside;
  };
  // The element of the images that tap `tap` of output (row, column) reads.
  Place element(Expr plane, Expr row, Expr column, Expr tap) const {
    const Expr y = row * options_.stride.height - options_.padding.height + tap / options_.window.width;
    const Expr x = column * options_.stride.width - options_.padding.width + tap % options_.window.width;
    return {(plane * height + y) * width + x, (y >= 0) & (y < height) & (x >= 0) & (x < width)};
  }
  // The output whose tap `tap` reads element (row, column) of the images.
  Place reader(Expr plane, Expr row, Expr column, Expr tap) const {
    const Expr y = row + options_.padding.height - tap / options_.window.width;
    const Expr x = column + options_.padding.width - tap % options_.window.width;
    const Expr v = y / options_.stride.height, u = x / options_.stride.width;
    return {(plane * output_height + v) * output_width + u, (y >= 0) & (x >= 0) & (v * options_.stride.height == y) &
                                                                (u * options_.stride.width == x) & (v < output_height) &
                                                                (u < output_width)};
  }

  Expr planes, height, width, output_height, output_width;

 private:
  PoolOptions options_;
};

// Over all taps of a window in order.
Expr over_taps(KernelBuilder& k, const PoolShape& shape, ir::Combine combine, Expr start,
               const std::function<Expr(Expr)>& value) {
  return k.reduce("tap", combine, 1, Expr(shape.taps()), start, value);
}

// body(plane, row, column) for all of [planes, rows, columns].
void each_element(KernelBuilder& k, Expr planes, Expr rows, Expr columns,
                  const std::function<void(Expr, Expr, Expr, Expr)>& body) {
  k.range("line", planes * rows, [&](Expr line) {
    k.range("x", columns, [&](Expr x) { body(line / rows, line % rows, x, line * columns + x); });
  });
}

// x -> the maxima, and which tap gave them (the number of taps: none, as of a NaN).
KernelCall max_pool_call(const PoolShape& shape) {
  KernelCall call;
  call.key = key_of("max_pool2d", shape);
  call.define = [shape](KernelBuilder& k) {
    const DType type = shape.dtype;
    const Buffer x = k.input(type, "x"), y = k.output(type, "y"), taps = k.output(DType::i32, "taps");
    const Geometry g(k, shape);
    each_element(k, g.planes, g.output_height, g.output_width, [&](Expr plane, Expr row, Expr column, Expr at) {
      const Expr lowest = dsl::constant(type, -std::numeric_limits<double>::infinity());
      const auto value = [&](const Geometry::Place& place) { return x.load(place.index, place.inside, lowest); };
      const Expr top = over_taps(k, shape, ir::Combine::max, lowest,
                                 [&](Expr tap) { return value(g.element(plane, row, column, tap)); });
      const Expr none = Expr(shape.taps());
      const Expr first = over_taps(k, shape, ir::Combine::min, none, [&](Expr tap) {
        const Geometry::Place place = g.element(plane, row, column, tap);
        return select(place.inside & (value(place) == top), tap, none);
      });
      y.store(at, top);
      taps.store(at, cast(DType::i32, first));
    });
  };
  call.schedule = "line:thread x:vec";
  const Shape result{shape.planes, shape.output_height, shape.output_width};
  call.results = {{shape.dtype, result}, {DType::i32, result}};
  call.scalars = Geometry::scalars(shape);
  return call;
}

// taps, dy -> dx.
KernelCall max_pool_gradient(const PoolShape& shape) {
  KernelCall call;
  call.key = key_of("max_pool2d_dx", shape);
  call.define = [shape](KernelBuilder& k) {
    const DType type = shape.dtype;
    const Buffer taps = k.input(DType::i32, "taps"), dy = k.input(type, "dy"), dx = k.output(type, "dx");
    const Geometry g(k, shape);
    each_element(k, g.planes, g.height, g.width, [&](Expr plane, Expr row, Expr column, Expr at) {
      const Expr zero = dsl::constant(type, 0);
      dx.store(at, over_taps(k, shape, ir::Combine::add, zero, [&](Expr tap) {
                 const Geometry::Place place = g.reader(plane, row, column, tap);
                 const Expr chosen = taps.load(place.index, place.inside, dsl::constant(DType::i32, -1));
                 return select(chosen == cast(DType::i32, tap), dy.load(place.index, place.inside, zero), zero);
               }));
    });
  };
  call.schedule = "line:thread x:vec";
  call.results = {{shape.dtype, {shape.planes, shape.height, shape.width}}};
  call.scalars = Geometry::scalars(shape);
  return call;
}

// x -> the means; `backward`: dy -> dx.
KernelCall average_pool_call(const PoolShape& shape, bool backward) {
  KernelCall call;
  call.key = key_of(backward ? "average_pool2d_dx" : "average_pool2d", shape);
  call.define = [shape, backward](KernelBuilder& k) {
    const DType type = shape.dtype;
    const Buffer from = k.input(type, "from"), to = k.output(type, "to");
    const Geometry g(k, shape);
    const Expr rows = backward ? g.height : g.output_height, columns = backward ? g.width : g.output_width;
    each_element(k, g.planes, rows, columns, [&](Expr plane, Expr row, Expr column, Expr at) {
      const Expr zero = dsl::constant(type, 0);
      const Expr total = over_taps(k, shape, ir::Combine::add, zero, [&](Expr tap) {
        const Geometry::Place place = backward ? g.reader(plane, row, column, tap) : g.element(plane, row, column, tap);
        return from.load(place.index, place.inside, zero);
      });
      to.store(at, total / dsl::constant(type, static_cast<double>(shape.taps())));
    });
  };
  call.schedule = "line:thread x:vec";
  call.results = {{shape.dtype, backward ? Shape{shape.planes, shape.height, shape.width}
                                         : Shape{shape.planes, shape.output_height, shape.output_width}}};
  call.scalars = Geometry::scalars(shape);
  return call;
}

Status check(const char* name, const Tensor& x, const PoolOptions& o) {
  const auto fail = [&](const std::string& why) {
    return invalid_argument(std::string(name) + " of images " + to_string(x.shape()) + ": " + why);
  };
  if (x.rank() != 4 || !ir::is_float(x.dtype()) || is_16_bit(x.dtype()))
    return fail("they need four axes, and f32 or f64");
  for (const auto& [window, stride, padding] : {std::array{o.window.height, o.stride.height, o.padding.height},
                                                std::array{o.window.width, o.stride.width, o.padding.width}})
    if (window < 1 || stride < 1 || padding < 0 || padding > window / 2 || std::max(window, stride) > kMaxOption)
      return fail("a window and a stride must be at least 1 and at most " + std::to_string(kMaxOption) +
                  ", and the padding at most half of the window; found window " + std::to_string(window) + ", stride " +
                  std::to_string(stride) + ", padding " + std::to_string(padding));
  const bool nchw = o.layout == Layout::nchw;
  if (x.extent(nchw ? 2 : 1) + 2 * o.padding.height < o.window.height ||
      x.extent(nchw ? 3 : 2) + 2 * o.padding.width < o.window.width)
    return fail("the window of " + std::to_string(o.window.height) + " x " + std::to_string(o.window.width) +
                " is larger than the padded images");
  return {};
}

// Runs `call` over the planes of x.
Tensor pool(const char* name, const Tensor& x, const PoolOptions& options,
            const std::function<KernelCall(const PoolShape&)>& make) {
  Tensor failed;
  const Tensor operands[] = {x};
  if (!check_operands(name, operands, &failed).ok()) return failed;
  if (Status s = check(name, x, options); !s.ok()) return error_tensor(&x.context(), s);
  const bool nchw = options.layout == Layout::nchw;
  const Tensor planes = x.permute(nchw ? Dims{1, 0, 2, 3} : Dims{3, 0, 1, 2});
  PoolShape shape{x.dtype(), planes.extent(0) * planes.extent(1), planes.extent(2), planes.extent(3)};
  shape.options = options;
  const auto outputs = [](int64_t extent, int64_t window, int64_t stride, int64_t padding) {
    return (extent + 2 * padding - window) / stride + 1;
  };
  shape.output_height = outputs(shape.height, options.window.height, options.stride.height, options.padding.height);
  shape.output_width = outputs(shape.width, options.window.width, options.stride.width, options.padding.width);
  const Tensor inputs[] = {planes.reshape({shape.planes, shape.height, shape.width})};
  const Tensor y = call_kernel(make(shape), inputs)[0].reshape(
      {planes.extent(0), planes.extent(1), shape.output_height, shape.output_width});
  return y.permute(nchw ? Dims{1, 0, 2, 3} : Dims{1, 2, 3, 0});
}

}  // namespace

Tensor max_pool2d(const Tensor& x, const PoolOptions& options) {
  return pool("max_pool2d", x, options, [](const PoolShape& shape) {
    KernelCall call = max_pool_call(shape);
    call.gradient = [shape](std::span<const Tensor>, std::span<const Tensor> out, std::span<const Tensor> d) {
      const Tensor inputs[] = {out[1], d[0]};
      return call_kernel(max_pool_gradient(shape), inputs);
    };
    return call;
  });
}

Tensor average_pool2d(const Tensor& x, const PoolOptions& options) {
  return pool("average_pool2d", x, options, [](const PoolShape& shape) {
    KernelCall call = average_pool_call(shape, false);
    call.gradient = [shape](std::span<const Tensor>, std::span<const Tensor>, std::span<const Tensor> d) {
      return call_kernel(average_pool_call(shape, true), d);
    };
    return call;
  });
}

}  // namespace sporkle::tensor
