#include "tensor/convolution.h"

#include <numeric>

#include "tensor/graph.h"
#include "tensor/kernels/convolution.h"

namespace sporkle::tensor {
namespace {

constexpr int64_t kMaxOption = int64_t{1} << 20;  // keeps every sum and product below far from overflow

std::string to_text(const Size2d& size) { return std::to_string(size.height) + "x" + std::to_string(size.width); }

bool within(const Size2d& size, int64_t least) {
  return std::min(size.height, size.width) >= least && std::max(size.height, size.width) <= kMaxOption;
}

// Elements [start, start + length) along an axis, where those outside of x are zeros.
Tensor window(const Tensor& x, int axis, int64_t start, int64_t length) {
  const int64_t before = std::max<int64_t>(-start, 0), after = std::max<int64_t>(start + length - x.extent(axis), 0);
  return x.pad(axis, before, after).slice(axis, start + before, length);
}

// What [images, channels, height, width] looks like to the kernels.
Tensor prepare(const ConvolutionShape& shape, const Size2d& padding, const Tensor& x) {
  const int64_t sh = shape.stride_height, sw = shape.stride_width, rows = shape.rows(), columns = shape.columns();
  const Tensor padded =
      window(window(x.permute({1, 0, 2, 3}), 2, -padding.height, rows * sh), 3, -padding.width, columns * sw);
  return padded.reshape({x.extent(1), x.extent(0), rows, sh, columns, sw})
      .slice(3, 0, shape.phase_rows())
      .slice(5, 0, shape.phase_columns())
      .permute({0, 1, 3, 5, 2, 4});
}

// One axis of the gradient of one phase of the images.
struct PhaseAxis {
  Taps taps;                      // that read this phase
  int64_t dilation = 1;           // of them, within the phase
  int64_t begin = 0, end = 0;     // the rows of the phase that are no padding
  int64_t start = 0, length = 0;  // the window of the result's gradient that those rows need
};

PhaseAxis phase_axis(int64_t phase, int64_t extent, int64_t padding, int64_t kernel, int64_t stride, int64_t dilation,
                     int64_t phase_extent) {
  PhaseAxis axis;
  axis.taps.step = stride / std::gcd(stride, dilation);
  axis.dilation = dilation * axis.taps.step / stride;
  while (axis.taps.first < kernel && axis.taps.first * dilation % stride != phase) ++axis.taps.first;
  axis.taps.count = (kernel - axis.taps.first + axis.taps.step - 1) / axis.taps.step;
  // Row r of the phase is row r * stride + phase - padding of the images.
  const auto first_at_least = [&](int64_t row) {
    const int64_t distance = row + padding - phase;
    return std::min(std::max<int64_t>((distance + stride - 1) / stride, 0), phase_extent);
  };
  axis.begin = first_at_least(0);
  axis.end = std::max(first_at_least(extent), axis.begin);
  const int64_t reach = (axis.taps.count - 1) * axis.dilation;
  axis.start = axis.begin - axis.taps.first * dilation / stride - reach;
  axis.length = axis.end - axis.begin + reach;
  return axis;
}

// The gradient of prepared images. Its elements in the padding stay zero: no image reads them.
Tensor image_gradient(const ConvolutionShape& shape, const Size2d& padding, const Size2d& image, const Tensor& weight,
                      const Tensor& dy) {
  const int64_t rows = shape.rows(), columns = shape.columns();
  std::vector<Phase> phases;
  for (int64_t a = 0; a < shape.phase_rows(); ++a) {
    const PhaseAxis y = phase_axis(a, image.height, padding.height, shape.kernel_height, shape.stride_height,
                                   shape.dilation_height, rows);
    for (int64_t b = 0; b < shape.phase_columns(); ++b) {
      const PhaseAxis x = phase_axis(b, image.width, padding.width, shape.kernel_width, shape.stride_width,
                                     shape.dilation_width, columns);
      Phase& phase = phases.emplace_back();
      if (y.taps.count <= 0 || x.taps.count <= 0 || y.begin == y.end || x.begin == x.end) continue;
      ConvolutionShape turned{shape.dtype, shape.images, shape.groups, shape.filters, shape.channels};
      turned.kernel_height = y.taps.count;
      turned.kernel_width = x.taps.count;
      turned.output_height = y.end - y.begin;
      turned.output_width = x.end - x.begin;
      turned.dilation_height = y.dilation;
      turned.dilation_width = x.dilation;
      const Tensor needed = window(window(dy, 2, y.start, y.length), 3, x.start, x.length);
      phase = {convolve(turned, needed, turned_weight(shape, weight, y.taps, x.taps), nullptr), y.begin,
               turned.output_height, x.begin, turned.output_width};
    }
  }
  return join_phases(shape, dy.context(), phases);
}

Status check(const Tensor& x, const Tensor& weight, const ConvolutionOptions& o, ConvolutionShape* shape) {
  const auto fail = [&](const std::string& why) {
    return invalid_argument("conv2d of images " + to_string(x.shape()) + " and weight " + to_string(weight.shape()) +
                            ": " + why);
  };
  if (x.rank() != 4 || weight.rank() != 4) return fail("both need four axes");
  if (x.dtype() != weight.dtype() || !ir::is_float(x.dtype()) || is_16_bit(x.dtype()))
    return fail("both must be f32, or both f64");
  if (!within(o.stride, 1) || !within(o.dilation, 1) || !within(o.padding, 0))
    return fail("stride " + to_text(o.stride) + " and dilation " + to_text(o.dilation) +
                " must be at least 1, padding " + to_text(o.padding) + " at least 0, all at most " +
                std::to_string(kMaxOption));
  const int64_t channels = x.extent(1), filters = weight.extent(0);
  if (o.groups < 1 || channels % o.groups != 0 || filters % o.groups != 0)
    return fail(std::to_string(o.groups) + " groups do not divide " + std::to_string(channels) + " channels and " +
                std::to_string(filters) + " filters");
  if (weight.extent(1) != channels / o.groups)
    return fail("the weight must have " + std::to_string(channels / o.groups) + " channels (those of a group)");
  if (channels == 0 || weight.size() == 0) return fail("channels, filters and kernel must not be empty");
  *shape = {x.dtype(), x.extent(0), o.groups, channels / o.groups, filters / o.groups};
  shape->kernel_height = weight.extent(2);
  shape->kernel_width = weight.extent(3);
  shape->stride_height = o.stride.height;
  shape->stride_width = o.stride.width;
  shape->dilation_height = o.dilation.height;
  shape->dilation_width = o.dilation.width;
  const int64_t height = x.extent(2) + 2 * o.padding.height - (shape->kernel_height - 1) * o.dilation.height;
  const int64_t width = x.extent(3) + 2 * o.padding.width - (shape->kernel_width - 1) * o.dilation.width;
  if (height < 1 || width < 1) return fail("the kernel is larger than the padded images");
  shape->output_height = (height - 1) / o.stride.height + 1;
  shape->output_width = (width - 1) / o.stride.width + 1;
  return {};
}

Tensor convolve_images(const Tensor& x, const Tensor& weight, const ConvolutionOptions& options) {
  ConvolutionShape shape;
  if (Status s = check(x, weight, options, &shape); !s.ok()) return error_tensor(&x.context(), s);
  const Size2d padding = options.padding, image{x.extent(2), x.extent(3)};
  const KernelGradient gradient = [shape, padding, image](std::span<const Tensor> in, std::span<const Tensor>,
                                                          std::span<const Tensor> d) {
    return std::vector<Tensor>{image_gradient(shape, padding, image, in[1], d[0]),
                               convolution_weight_gradient(shape, in[0], d[0])};
  };
  return convolve(shape, prepare(shape, padding, x), weight, gradient).permute({1, 0, 2, 3});
}

}  // namespace

Tensor conv2d(const Tensor& x, const Tensor& weight, const ConvolutionOptions& options) {
  Tensor failed;
  const Tensor operands[] = {x, weight};
  if (!check_operands("conv2d", operands, &failed).ok()) return failed;
  if (options.layout == Layout::nchw || x.rank() != 4) return convolve_images(x, weight, options);
  return convolve_images(x.permute({0, 3, 1, 2}), weight, options).permute({0, 2, 3, 1});
}

Tensor conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias, const ConvolutionOptions& options) {
  Tensor failed;
  const Tensor operands[] = {x, weight, bias};
  if (!check_operands("conv2d", operands, &failed).ok()) return failed;
  if (bias.rank() != 1 || bias.extent(0) != weight.extent(0) || bias.dtype() != x.dtype())
    return error_tensor(&x.context(), invalid_argument("conv2d with weight " + to_string(weight.shape()) +
                                                       " needs a bias of shape [" + std::to_string(weight.extent(0)) +
                                                       "] and the images' type, not " + to_string(bias.shape())));
  const Tensor y = conv2d(x, weight, options);
  return options.layout == Layout::nhwc ? y + bias : y + bias.reshape({bias.extent(0), 1, 1});
}

}  // namespace sporkle::tensor
