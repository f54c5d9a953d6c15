#include "bench/convolution_reference.h"

#include <vector>

#include "bench/fma_chain.h"

namespace sporkle::bench {
namespace {

size_t at(int64_t i) { return static_cast<size_t>(i); }

// Of one group of one image: a row for each (channel, kernel row, kernel column), a column for each element of the
// result. Row r starts at patches[r * stride].
void write_patches(const ConvolutionProblem& p, std::span<const float> images, int64_t image, int64_t group,
                   float* patches, int64_t stride) {
  const int64_t channels = p.channels / p.groups, height = p.output_height(), width = p.output_width();
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t u = 0; u < p.kernel_height; ++u)
      for (int64_t v = 0; v < p.kernel_width; ++v) {
        float* row = patches + ((c * p.kernel_height + u) * p.kernel_width + v) * stride;
        const int64_t plane = (image * p.channels + group * channels + c) * p.height;
        for (int64_t i = 0; i < height; ++i)
          for (int64_t j = 0; j < width; ++j) {
            const int64_t y = i * p.stride - p.padding + u * p.dilation, x = j * p.stride - p.padding + v * p.dilation;
            const bool inside = y >= 0 && y < p.height && x >= 0 && x < p.width;
            row[i * width + j] = inside ? images[at((plane + y) * p.width + x)] : 0.0f;
          }
      }
}

// Likewise of the result's gradient: a row for each (filter, kernel row, kernel column), the last two backwards, a
// column for each element of the images. Zero where the stride passes an element over.
void write_gradient_patches(const ConvolutionProblem& p, std::span<const float> gradient, int64_t image, int64_t group,
                            float* patches) {
  const int64_t filters = p.filters / p.groups, height = p.output_height(), width = p.output_width();
  for (int64_t f = 0; f < filters; ++f)
    for (int64_t u = 0; u < p.kernel_height; ++u)
      for (int64_t v = 0; v < p.kernel_width; ++v) {
        float* row =
            patches + ((f * p.kernel_height + (p.kernel_height - 1 - u)) * p.kernel_width + (p.kernel_width - 1 - v)) *
                          p.height * p.width;
        const int64_t plane = (image * p.filters + group * filters + f) * height;
        for (int64_t y = 0; y < p.height; ++y)
          for (int64_t x = 0; x < p.width; ++x) {
            const int64_t i = y + p.padding - u * p.dilation, j = x + p.padding - v * p.dilation;
            const bool read = i >= 0 && j >= 0 && i % p.stride == 0 && j % p.stride == 0 && i / p.stride < height &&
                              j / p.stride < width;
            row[y * p.width + x] = read ? gradient[at((plane + i / p.stride) * width + j / p.stride)] : 0.0f;
          }
      }
}

}  // namespace

template <typename T>
void convolution_forward(ThreadPool& pool, const ConvolutionProblem& p, std::span<const float> images,
                         std::span<const float> weight, std::span<T> result) {
  const int64_t filters = p.filters / p.groups, pixels = p.output_height() * p.output_width();
  const int64_t depth = p.channels / p.groups * p.kernel_height * p.kernel_width;
  std::vector<float> patches(at(depth * pixels));
  for (int64_t image = 0; image < p.images; ++image)
    for (int64_t group = 0; group < p.groups; ++group) {
      write_patches(p, images, image, group, patches.data(), pixels);
      fma_chain_product(pool, {filters, pixels, depth},
                        weight.subspan(at(group * filters * depth), at(filters * depth)),
                        std::span<const float>(patches),
                        result.subspan(at((image * p.filters + group * filters) * pixels), at(filters * pixels)));
    }
}

template <typename T>
void convolution_image_gradient(ThreadPool& pool, const ConvolutionProblem& p, std::span<const float> weight,
                                std::span<const float> gradient, std::span<T> image_gradient) {
  const int64_t channels = p.channels / p.groups, filters = p.filters / p.groups, pixels = p.height * p.width;
  const int64_t taps = p.kernel_height * p.kernel_width, depth = filters * taps;
  std::vector<float> patches(at(depth * pixels)), turned(at(channels * depth));
  for (int64_t group = 0; group < p.groups; ++group) {
    for (int64_t f = 0; f < filters; ++f)
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t t = 0; t < taps; ++t)
          turned[at(c * depth + f * taps + taps - 1 - t)] =
              weight[at(((group * filters + f) * channels + c) * taps + t)];
    for (int64_t image = 0; image < p.images; ++image) {
      write_gradient_patches(p, gradient, image, group, patches.data());
      fma_chain_product(
          pool, {channels, pixels, depth}, std::span<const float>(turned), std::span<const float>(patches),
          image_gradient.subspan(at((image * p.channels + group * channels) * pixels), at(channels * pixels)));
    }
  }
}

template <typename T>
void convolution_weight_gradient(ThreadPool& pool, const ConvolutionProblem& p, std::span<const float> images,
                                 std::span<const float> gradient, std::span<T> weight_gradient) {
  const int64_t filters = p.filters / p.groups, pixels = p.output_height() * p.output_width();
  const int64_t rows = p.channels / p.groups * p.kernel_height * p.kernel_width, all = p.images * pixels;
  std::vector<float> patches(at(rows * all)), given(at(filters * all));
  for (int64_t group = 0; group < p.groups; ++group) {
    for (int64_t image = 0; image < p.images; ++image) {
      write_patches(p, images, image, group, patches.data() + image * pixels, all);
      for (int64_t f = 0; f < filters; ++f)
        for (int64_t i = 0; i < pixels; ++i)
          given[at(f * all + image * pixels + i)] =
              gradient[at((image * p.filters + group * filters + f) * pixels + i)];
    }
    ProductShape shape{filters, rows, all};
    shape.transpose_b = true;
    fma_chain_product(pool, shape, std::span<const float>(given), std::span<const float>(patches),
                      weight_gradient.subspan(at(group * filters * rows), at(filters * rows)));
  }
}

template void convolution_forward<float>(ThreadPool&, const ConvolutionProblem&, std::span<const float>,
                                         std::span<const float>, std::span<float>);
template void convolution_forward<double>(ThreadPool&, const ConvolutionProblem&, std::span<const float>,
                                          std::span<const float>, std::span<double>);
template void convolution_image_gradient<float>(ThreadPool&, const ConvolutionProblem&, std::span<const float>,
                                                std::span<const float>, std::span<float>);
template void convolution_image_gradient<double>(ThreadPool&, const ConvolutionProblem&, std::span<const float>,
                                                 std::span<const float>, std::span<double>);
template void convolution_weight_gradient<float>(ThreadPool&, const ConvolutionProblem&, std::span<const float>,
                                                 std::span<const float>, std::span<float>);
template void convolution_weight_gradient<double>(ThreadPool&, const ConvolutionProblem&, std::span<const float>,
                                                  std::span<const float>, std::span<double>);

}  // namespace sporkle::bench
