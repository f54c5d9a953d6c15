// Layers of convolutional networks: convolution, pooling, batch normalisation; with their gradients, f32 and f64. All
// are strict: their orders depend on shapes alone.
//
// Images are [images, channels, height, width], or [images, height, width, channels] with Layout::nhwc. The layout says
// what the axes mean and nothing else: results have the same bits either way. In memory every result lies as [channels,
// images, height, width], which suits convolutions and batch norm alike, and is seen through a view.
//
// Calls belong to the thread of the tensors' Context. Operands that do not fit give an error tensor with code
// invalid_argument, as everywhere in tensor/tensor.h.
#pragma once

#include "tensor/tensor.h"

namespace sporkle::tensor {

enum class Layout : uint8_t { nchw, nhwc };

struct Size2d {
  int64_t height = 1, width = 1;
};

struct ConvolutionOptions {
  Size2d stride{1, 1};
  Size2d padding{0, 0};  // zeros on each of the two sides
  Size2d dilation{1, 1};
  int64_t groups = 1;
  Layout layout = Layout::nchw;  // of the images, not of the weight
};

// Cross-correlation, as the field calls convolution. weight: [filters, channels / groups, kernel height, kernel width],
// whatever the layout. Height of the result: (height + 2 padding - dilation (kernel height - 1) - 1) / stride + 1.
//
// Every element is one chain of fused multiply-adds from 0 over (channel, kernel row, kernel column), the last fastest,
// in which padding takes part as zeros. The gradient of x is such a chain over (filter, kernel row, kernel column), the
// last two backwards, of the taps that reach the element; the gradient of the weight is one over (image, row, column)
// of the result.
Tensor conv2d(const Tensor& x, const Tensor& weight, const ConvolutionOptions& options = {});
// With bias [filters] added to the finished chain.
Tensor conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias, const ConvolutionOptions& options = {});

struct PoolOptions {
  Size2d window{2, 2};
  Size2d stride{2, 2};
  Size2d padding{0, 0};  // at most half of the window
  Layout layout = Layout::nchw;
};

// The largest element of each window; padding does not take part, a NaN wins. The gradient goes to the first of the
// largest elements in row-major order, and nowhere from a NaN.
Tensor max_pool2d(const Tensor& x, const PoolOptions& options = {});
// The sum of each window, in row-major order, over the window's size; padding counts as zeros.
Tensor average_pool2d(const Tensor& x, const PoolOptions& options = {});

struct BatchNormOptions {
  double epsilon = 1e-5;
  double momentum = 0.1;  // the weight of this batch in the running statistics
  Layout layout = Layout::nchw;
};

struct BatchNorm {
  Tensor y;
  // For inference: (1 - momentum) * the old ones + momentum * the batch's mean and unbiased variance. No gradient.
  Tensor running_mean, running_variance;
};

// Training: (x - mean) / sqrt(variance + epsilon) * weight + bias with the mean and (biased) variance of each channel
// of this batch. weight, bias and the running statistics: [channels]. Ioffe and Szegedy, "Batch Normalization", 2015.
BatchNorm batch_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& running_mean,
                     const Tensor& running_variance, const BatchNormOptions& options = {});
// Inference: the same with the running statistics.
Tensor batch_norm_inference(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& running_mean,
                            const Tensor& running_variance, const BatchNormOptions& options = {});

}  // namespace sporkle::tensor
