#include "bench/resnet_reference.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "bench/fma_chain.h"

namespace sporkle::bench {
namespace {

using Vector = std::vector<double>;

size_t at(int64_t i) { return static_cast<size_t>(i); }

// Images in one layout throughout: [images, channels, size, size].
struct Images {
  int64_t count, channels, size;
  Vector values;
};

class Forward {
 public:
  Forward(ThreadPool& pool, const ResNetProblem& problem, std::span<const double> parameters)
      : pool_(pool), p_(problem), rest_(parameters) {}

  double loss(std::span<const double> images, std::span<const int32_t> classes) {
    Images x{p_.images, p_.channels, p_.size, Vector(images.begin(), images.end())};
    x = unit(x, p_.width, 3, 1);
    relu(&x);
    for (size_t stage = 0; stage < p_.blocks.size(); ++stage) {
      const int64_t filters = p_.width << stage;
      for (int64_t i = 0; i < p_.blocks[stage]; ++i) {
        const int64_t stride = stage > 0 && i == 0 ? 2 : 1;
        Images inner = unit(x, filters, 3, stride);
        relu(&inner);
        inner = unit(inner, filters, 3, 1);
        const Images shortcut = stride != 1 || x.channels != filters ? unit(x, filters, 1, stride) : std::move(x);
        for (size_t e = 0; e < inner.values.size(); ++e) inner.values[e] += shortcut.values[e];
        x = std::move(inner);
        relu(&x);
      }
    }
    return cross_entropy(x, classes);
  }

 private:
  // Parameters are used in the order in which they lie.
  std::span<const double> take(int64_t count) {
    const std::span<const double> taken = rest_.first(at(count));
    rest_ = rest_.subspan(at(count));
    return taken;
  }

  static void relu(Images* x) {
    for (double& value : x->values) value = std::max(value, 0.0);
  }

  // A convolution and its norm.
  Images unit(const Images& x, int64_t filters, int64_t kernel, int64_t stride) {
    const std::span<const double> weight = take(filters * x.channels * kernel * kernel);
    const std::span<const double> scale = take(filters), shift = take(filters);
    const int64_t size = (x.size + 2 * (kernel / 2) - kernel) / stride + 1, pixels = size * size;
    const int64_t taps = x.channels * kernel * kernel;
    Images y{x.count, filters, size, Vector(at(x.count * filters * pixels))};
    Vector patches(at(taps * pixels));
    for (int64_t image = 0; image < x.count; ++image) {
      pool_.parallel_for(taps, [&](int64_t begin, int64_t end, int) {
        for (int64_t tap = begin; tap < end; ++tap) {
          const int64_t channel = tap / (kernel * kernel), dy = tap / kernel % kernel, dx = tap % kernel;
          const double* plane = &x.values[at((image * x.channels + channel) * x.size * x.size)];
          for (int64_t pixel = 0; pixel < pixels; ++pixel) {
            const int64_t row = pixel / size * stride + dy - kernel / 2,
                          column = pixel % size * stride + dx - kernel / 2;
            const bool inside = row >= 0 && row < x.size && column >= 0 && column < x.size;
            patches[at(tap * pixels + pixel)] = inside ? plane[row * x.size + column] : 0;
          }
        }
      });
      const std::span<double> result(&y.values[at(image * filters * pixels)], at(filters * pixels));
      fma_chain_product(pool_, {filters, pixels, taps}, weight, std::span<const double>(patches), result);
    }
    normalise(&y, scale, shift);
    return y;
  }

  void normalise(Images* x, std::span<const double> scale, std::span<const double> shift) {
    const int64_t pixels = x->size * x->size;
    const double count = static_cast<double>(x->count * pixels);
    for (int64_t channel = 0; channel < x->channels; ++channel) {
      const auto each = [&](const std::function<void(double&)>& visit) {
        for (int64_t image = 0; image < x->count; ++image)
          for (int64_t i = 0; i < pixels; ++i) visit(x->values[at((image * x->channels + channel) * pixels + i)]);
      };
      double mean = 0, variance = 0;
      each([&](const double& value) { mean += value / count; });
      each([&](const double& value) { variance += (value - mean) * (value - mean) / count; });
      const double factor = scale[at(channel)] / std::sqrt(variance + p_.epsilon);
      each([&](double& value) { value = (value - mean) * factor + shift[at(channel)]; });
    }
  }

  double cross_entropy(const Images& x, std::span<const int32_t> classes) {
    const int64_t pixels = x.size * x.size;
    const std::span<const double> weight = take(p_.classes * x.channels), bias = take(p_.classes);
    double total = 0;
    for (int64_t image = 0; image < x.count; ++image) {
      Vector scores(bias.begin(), bias.end());
      for (int64_t channel = 0; channel < x.channels; ++channel) {
        const double* plane = &x.values[at((image * x.channels + channel) * pixels)];
        double mean = 0;
        for (int64_t i = 0; i < pixels; ++i) mean += plane[i] / static_cast<double>(pixels);
        for (int64_t c = 0; c < p_.classes; ++c) scores[at(c)] += mean * weight[at(c * x.channels + channel)];
      }
      const double top = *std::ranges::max_element(scores);
      double sum = 0;
      for (const double score : scores) sum += std::exp(score - top);
      total += std::log(sum) + top - scores[at(classes[at(image)])];
    }
    return total / static_cast<double>(x.count);
  }

  ThreadPool& pool_;
  const ResNetProblem& p_;
  std::span<const double> rest_;
};

}  // namespace

double resnet_loss(ThreadPool& pool, const ResNetProblem& problem, std::span<const double> parameters,
                   std::span<const double> images, std::span<const int32_t> classes) {
  return Forward(pool, problem, parameters).loss(images, classes);
}

double resnet_flops(const ResNetProblem& p) {
  double flops = 0;
  int64_t channels = p.channels, size = p.size;
  const auto convolution = [&](int64_t from, int64_t filters, int64_t kernel, int64_t result) {
    flops += 2.0 * static_cast<double>(from * kernel * kernel) * static_cast<double>(filters * result * result);
  };
  convolution(channels, p.width, 3, size);
  channels = p.width;
  for (size_t stage = 0; stage < p.blocks.size(); ++stage) {
    const int64_t filters = p.width << stage;
    for (int64_t i = 0; i < p.blocks[stage]; ++i) {
      const int64_t stride = stage > 0 && i == 0 ? 2 : 1, result = (size - 1) / stride + 1;
      convolution(channels, filters, 3, result);
      convolution(filters, filters, 3, result);
      if (stride != 1 || channels != filters) convolution(channels, filters, 1, result);
      channels = filters;
      size = result;
    }
  }
  return flops + 2.0 * static_cast<double>(channels * p.classes);
}

}  // namespace sporkle::bench
