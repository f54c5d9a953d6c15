// Kernels of convolutions over prepared images. Internal to convolution.cc.
//
// Prepared images lie as [groups * channels, images, phases, rows, columns]: padded, and cut by the stride into phases,
// so that the element a tap needs for output (y, x) is at (y + its row, x + its column) of its phase, always inside.
// Every access is then a run of neighbouring elements, without masks. Phases that no tap reads are left out.
#pragma once

#include <span>

#include "tensor/kernel_call.h"

namespace sporkle::tensor {

struct ConvolutionShape {
  DType dtype = DType::f32;
  int64_t images = 0, groups = 1;
  int64_t channels = 0, filters = 0;  // of a group
  int64_t kernel_height = 1, kernel_width = 1;
  int64_t output_height = 0, output_width = 0;
  int64_t stride_height = 1, stride_width = 1;
  int64_t dilation_height = 1, dilation_width = 1;

  int64_t phase_rows() const { return std::min(stride_height, (kernel_height - 1) * dilation_height + 1); }
  int64_t phase_columns() const { return std::min(stride_width, (kernel_width - 1) * dilation_width + 1); }

  // Of a phase: as far as the last tap of the last output reaches.
  int64_t rows() const { return output_height + (kernel_height - 1) * dilation_height / stride_height; }
  int64_t columns() const { return output_width + (kernel_width - 1) * dilation_width / stride_width; }
  int64_t pixels() const { return images * output_height * output_width; }
};

// Prepared images, weight [groups * filters, channels, kernel height, kernel width] -> [groups * filters, images,
// output height, output width]. One chain for each element over (channel, kernel row, kernel column). `gradient` is
// that of {images, weight}.
Tensor convolve(const ConvolutionShape& shape, const Tensor& images, const Tensor& weight, KernelGradient gradient);

// Prepared images, gradient of the result as convolve() gives it -> gradient of the weight, in the weight's shape. One
// chain for each element over (image, row, column) of the result.
Tensor convolution_weight_gradient(const ConvolutionShape& shape, const Tensor& images, const Tensor& gradient);

// Some taps of a kernel, evenly spaced.
struct Taps {
  int64_t first = 0, step = 1, count = 0;
};

// weight [groups * filters, channels, ...] -> [groups * channels, filters, rows.count, columns.count] of the chosen
// taps, the last first: what convolves a result's gradient into the gradient of the images.
Tensor turned_weight(const ConvolutionShape& shape, const Tensor& weight, const Taps& rows, const Taps& columns);

// One phase of prepared images: [channels, images, row_count, column_count] from (first_row, first_column) of the phase
// on, zeros around it; all zeros where `part` is none.
struct Phase {
  Tensor part;
  int64_t first_row = 0, row_count = 0, first_column = 0, column_count = 0;
};

// All phases, row by row of them -> prepared images.
Tensor join_phases(const ConvolutionShape& shape, Context& context, std::span<const Phase> phases);

}  // namespace sporkle::tensor
