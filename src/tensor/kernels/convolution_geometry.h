// Where things lie in a convolution's kernels, as expressions. Internal to kernels/convolution*.cc.
#pragma once

#include <functional>
#include <vector>

#include "tensor/kernels/convolution.h"

namespace sporkle::tensor {

using dsl::Expr;

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// What the kernels share: the shape as arguments of the kernel, and where things lie.
class Geometry {
 public:
  Geometry(dsl::KernelBuilder& k, const ConvolutionShape& shape) : shape_(shape) {
    images = k.size("images");
    groups = k.size("groups");
    channels = k.size("channels");
    filters = k.size("filters");
    kernel_height = k.size("kernel_height");
    kernel_width = k.size("kernel_width");
    height = k.size("height");
    width = k.size("width");
    phase_columns = k.size("phase_columns");
    phases = k.size("phase_rows") * phase_columns;
    rows = k.size("rows");
    columns = k.size("columns");
    pixels = images * height * width;
  }
  static void append(const ConvolutionShape& s, std::vector<uint64_t>* scalars) {
    for (const int64_t value :
         {s.images, s.groups, s.channels, s.filters, s.kernel_height, s.kernel_width, s.output_height, s.output_width,
          s.phase_columns(), s.phase_rows(), s.rows(), s.columns()})
      scalars->push_back(scalar_bits(value));
  }

  // Of the element that the first tap needs for output (line % height, 0) of image line / height, in its channel.
  Expr line_offset(Expr line) const { return (line / height * phases * rows + line % height) * columns; }
  // Of what another tap needs, from there.
  Expr tap_offset(Expr tap_row, Expr tap_column) const {
    const Expr y = tap_row * shape_.dilation_height, x = tap_column * shape_.dilation_width;
    const Expr phase = y % shape_.stride_height * phase_columns + x % shape_.stride_width;
    return (phase * rows + y / shape_.stride_height) * columns + x / shape_.stride_width;
  }
  Expr channel_offset(Expr channel) const { return channel * images * phases * rows * columns; }

  // The runs of pixels [first, last) that lie in one line each: body(line, column, place in [first, last), length).
  void each_run(dsl::KernelBuilder& k, Expr first, Expr last,
                const std::function<void(Expr, Expr, Expr, Expr)>& body) const {
    const Expr first_line = first / width;
    k.range("line", (last - 1) / width + 1 - first_line, [&](Expr i) {
      const Expr line = first_line + i, start = line * width;
      const Expr begin = dsl::max(start, first), end = dsl::min(start + width, last);
      body(line, begin - start, begin - first, end - begin);
    });
  }

  Expr images, groups, channels, filters, kernel_height, kernel_width, height, width, phase_columns, phases, rows,
      columns, pixels;

 private:
  ConvolutionShape shape_;
};

// Whether direct_convolution() suits the shape: lines of the result that fill vectors, or nearly.
bool runs_directly(const Context& context, const ConvolutionShape& shape);
// One pass over channels [first_channel, first_channel + pass_channels) of each group; from the second pass on the
// first input is what the chains continue.
KernelCall direct_convolution(Context& context, const ConvolutionShape& shape, int64_t first_channel,
                              int64_t pass_channels);

}  // namespace sporkle::tensor
