// A convolution's definition, computed by plain C++ that shares nothing with the kernels under test: matrices of
// patches are written out in full, and multiplied by fma_chain_product. Images are [images, channels, height, width].
#pragma once

#include <cstdint>
#include <span>

#include "base/thread_pool.h"

namespace sporkle::bench {

struct ConvolutionProblem {
  int64_t images = 1, channels = 1, height = 1, width = 1;
  int64_t filters = 1, kernel_height = 1, kernel_width = 1;
  int64_t stride = 1, padding = 0, dilation = 1, groups = 1;

  int64_t output_height() const { return (height + 2 * padding - dilation * (kernel_height - 1) - 1) / stride + 1; }
  int64_t output_width() const { return (width + 2 * padding - dilation * (kernel_width - 1) - 1) / stride + 1; }
  int64_t image_count() const { return images * channels * height * width; }
  int64_t weight_count() const { return filters * (channels / groups) * kernel_height * kernel_width; }
  int64_t result_count() const { return images * filters * output_height() * output_width(); }
};

// T: float (each element the chain of fused multiply-adds that tensor/convolution.h states) or double. Outputs are
// overwritten.
template <typename T>
void convolution_forward(ThreadPool& pool, const ConvolutionProblem& problem, std::span<const float> images,
                         std::span<const float> weight, std::span<T> result);
template <typename T>
void convolution_image_gradient(ThreadPool& pool, const ConvolutionProblem& problem, std::span<const float> weight,
                                std::span<const float> gradient, std::span<T> image_gradient);
template <typename T>
void convolution_weight_gradient(ThreadPool& pool, const ConvolutionProblem& problem, std::span<const float> images,
                                 std::span<const float> gradient, std::span<T> weight_gradient);

}  // namespace sporkle::bench
