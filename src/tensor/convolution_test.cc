// Convolutions and their gradients equal plain chains of fused multiply-adds bit for bit, whatever the shapes, layout,
// device and number of threads; pooling and batch norm match plain loops in f64.
#include "tensor/convolution.h"

#include "tensor/autograd.h"
#include "tensor/testing.h"

namespace sporkle::tensor {
namespace {

using testing::context;
using testing::random_tensor;
using testing::random_values;
using testing::read;
using testing::read_numbers;
using testing::same_bits;

struct Case {
  int64_t images, channels, height, width, filters, kernel_height, kernel_width;
  ConvolutionOptions options;

  int64_t output_height() const {
    return (height + 2 * options.padding.height - options.dilation.height * (kernel_height - 1) - 1) /
               options.stride.height +
           1;
  }
  int64_t output_width() const {
    return (width + 2 * options.padding.width - options.dilation.width * (kernel_width - 1) - 1) /
               options.stride.width +
           1;
  }
  Shape x_shape() const { return {images, channels, height, width}; }
  Shape w_shape() const { return {filters, channels / options.groups, kernel_height, kernel_width}; }
  Shape y_shape() const { return {images, filters, output_height(), output_width()}; }
};

ConvolutionOptions with(Size2d stride, Size2d padding = {0, 0}, Size2d dilation = {1, 1}, int64_t groups = 1) {
  ConvolutionOptions options;
  options.stride = stride;
  options.padding = padding;
  options.dilation = dilation;
  options.groups = groups;
  return options;
}

std::vector<Case> cases() {
  return {
      {1, 1, 1, 1, 1, 1, 1, with({1, 1})},
      {2, 3, 9, 7, 5, 3, 3, with({1, 1}, {1, 1})},
      {1, 3, 17, 19, 4, 7, 7, with({2, 2}, {3, 3})},
      {2, 4, 8, 8, 6, 3, 3, with({2, 2}, {1, 1})},
      {3, 5, 6, 11, 7, 1, 1, with({1, 1})},
      {2, 4, 9, 8, 3, 1, 1, with({2, 2})},                    // most of the images is never read
      {1, 2, 12, 13, 3, 3, 2, with({1, 1}, {2, 0}, {2, 3})},  // dilated
      {1, 2, 13, 14, 3, 3, 3, with({2, 3}, {2, 1}, {2, 2})},  // strides and dilations with common divisors, and without
      {2, 6, 7, 7, 9, 3, 3, with({1, 1}, {1, 1}, {1, 1}, 3)},
      {1, 8, 9, 10, 8, 3, 3, with({2, 1}, {1, 1}, {1, 1}, 8)},  // depthwise
      {5, 3, 4, 4, 70, 3, 3, with({1, 1}, {1, 1})},             // a panel holds several images
      {1, 2, 5, 70, 3, 2, 5, with({1, 1}, {0, 4})},
      {1, 3, 5, 6, 2, 3, 3, with({4, 5}, {3, 3})},    // strides longer than the kernel, padding longer than that
      {1, 300, 3, 4, 7, 3, 3, with({1, 1}, {1, 1})},  // a chain of several passes
  };
}

std::string describe(const Case& c) {
  return "images " + to_string(c.x_shape()) + ", weight " + to_string(c.w_shape()) + ", stride " +
         std::to_string(c.options.stride.height) + "x" + std::to_string(c.options.stride.width) + ", groups " +
         std::to_string(c.options.groups);
}

// Calls visit(index of y, of x or -1 in the padding, of w) for every product, in the order of the forward chains.
template <typename Visit>
void each_product(const Case& c, const Visit& visit) {
  const int64_t group_channels = c.channels / c.options.groups, group_filters = c.filters / c.options.groups;
  for (int64_t n = 0; n < c.images; ++n)
    for (int64_t f = 0; f < c.filters; ++f)
      for (int64_t i = 0; i < c.output_height(); ++i)
        for (int64_t j = 0; j < c.output_width(); ++j)
          for (int64_t g = 0; g < group_channels; ++g)
            for (int64_t u = 0; u < c.kernel_height; ++u)
              for (int64_t v = 0; v < c.kernel_width; ++v) {
                const int64_t channel = f / group_filters * group_channels + g;
                const int64_t y =
                    i * c.options.stride.height - c.options.padding.height + u * c.options.dilation.height;
                const int64_t x = j * c.options.stride.width - c.options.padding.width + v * c.options.dilation.width;
                const bool inside = y >= 0 && y < c.height && x >= 0 && x < c.width;
                visit(((n * c.filters + f) * c.output_height() + i) * c.output_width() + j,
                      inside ? ((n * c.channels + channel) * c.height + y) * c.width + x : -1,
                      ((f * group_channels + g) * c.kernel_height + u) * c.kernel_width + v);
              }
}

template <typename T>
struct Expected {
  std::vector<T> y, dx, dw;
};

template <typename T>
Expected<T> plain(const Case& c, const std::vector<T>& x, const std::vector<T>& w, const std::vector<T>& dy) {
  const auto at = [](auto& values, int64_t i) -> auto& { return values[static_cast<size_t>(i)]; };
  Expected<T> e{std::vector<T>(dy.size()), std::vector<T>(x.size()), std::vector<T>(w.size())};
  // What belongs to one element of dx, as (place of the weight, product), to be put in order.
  std::vector<std::vector<std::pair<int64_t, int64_t>>> to_x(x.size());
  const int64_t taps = c.kernel_height * c.kernel_width, group_channels = c.channels / c.options.groups;
  each_product(c, [&](int64_t yi, int64_t xi, int64_t wi) {
    at(e.y, yi) = std::fma(at(w, wi), xi < 0 ? T(0) : at(x, xi), at(e.y, yi));
    if (xi >= 0) at(to_x, xi).emplace_back(yi, wi);
  });
  for (size_t i = 0; i < to_x.size(); ++i) {
    const auto order = [&](const std::pair<int64_t, int64_t>& p) {
      return std::pair(p.second / (taps * group_channels), -(p.second % taps));
    };
    std::ranges::sort(to_x[i], {}, order);
    for (const auto& [yi, wi] : to_x[i]) e.dx[i] = std::fma(at(w, wi), at(dy, yi), e.dx[i]);
  }
  // (image, row, column) of the result within each filter is the order in which its products come.
  each_product(c, [&](int64_t yi, int64_t xi, int64_t wi) {
    at(e.dw, wi) = std::fma(xi < 0 ? T(0) : at(x, xi), at(dy, yi), at(e.dw, wi));
  });
  return e;
}

template <typename T>
void check(Context& context, const Case& c, bool nhwc = false) {
  SCOPED_TRACE(describe(c) + (nhwc ? ", nhwc" : ""));
  const auto x = random_values<T>(element_count(c.x_shape()), 1), w = random_values<T>(element_count(c.w_shape()), 2);
  const auto dy = random_values<T>(element_count(c.y_shape()), 3);
  const Expected<T> expected = plain(c, x, w, dy);
  Tensor images = from_host<T>(context, x, c.x_shape()), weight = from_host<T>(context, w, c.w_shape());
  Tensor given = from_host<T>(context, dy, c.y_shape());
  ConvolutionOptions options = c.options;
  options.layout = nhwc ? Layout::nhwc : Layout::nchw;
  if (nhwc) images = images.permute({0, 2, 3, 1}).contiguous();
  if (nhwc) given = given.permute({0, 2, 3, 1});
  Tensor y = conv2d(images, weight, options);
  ASSERT_TRUE(y.ok()) << y.status().to_string();
  const auto gradients = grad(sum(y * given), std::array{images, weight});
  ASSERT_TRUE(gradients.ok()) << gradients.status().to_string();
  Tensor dx = (*gradients)[0];
  EXPECT_EQ(y.shape(), given.shape());
  EXPECT_EQ(dx.shape(), images.shape());
  if (nhwc) y = y.permute({0, 3, 1, 2});
  if (nhwc) dx = dx.permute({0, 3, 1, 2});
  EXPECT_TRUE(same_bits(read<T>(y), expected.y));
  EXPECT_TRUE(same_bits(read<T>(dx), expected.dx));
  EXPECT_TRUE(same_bits(read<T>((*gradients)[1]), expected.dw));
}

TEST(ConvolutionTest, EqualsPlainChainsBitForBit) {
  for (const Case& c : cases()) check<float>(context("cpu"), c);
}
TEST(ConvolutionTest, EqualsPlainChainsBitForBitInF64) {
  for (const Case& c : cases()) check<double>(context("cpu"), c);
}
TEST(ConvolutionTest, EqualsPlainChainsOnOneThread) {
  for (const Case& c : cases()) check<float>(context("cpu", 1), c);
}
TEST(ConvolutionTest, EqualsPlainChainsWithoutFusion) {
  for (const Case& c : cases()) check<float>(context("cpu", 2, false), c);
}
TEST(ConvolutionTest, EqualsPlainChainsOnTheReference) {
  for (const Case& c : cases())
    if (element_count(c.y_shape()) * element_count(c.w_shape()) < 30000) check<float>(context("reference"), c);
}
TEST(ConvolutionTest, HasTheSameBitsInEitherLayout) {
  for (const Case& c : cases()) check<float>(context("cpu"), c, true);
}
TEST(ConvolutionTest, GoesOverManyPixelsInSeveralPasses) {
  check<float>(context("cpu"), {3, 2, 40, 37, 3, 3, 3, with({1, 1}, {1, 1})});
}

TEST(ConvolutionTest, AddsABiasToTheFinishedChain) {
  Context& c = context();
  const Tensor x = random_tensor(c, {2, 3, 5, 4}, 1), w = random_tensor(c, {6, 3, 3, 3}, 2);
  const Tensor bias = random_tensor(c, {6}, 3);
  const std::vector<float> plain_sum = read(conv2d(x, w)), added = read(conv2d(x, w, bias)), b = read(bias);
  for (size_t i = 0; i < added.size(); ++i) EXPECT_EQ(added[i], plain_sum[i] + b[i / 6 % 6]);
  ConvolutionOptions nhwc;
  nhwc.layout = Layout::nhwc;
  const Tensor other = conv2d(x.permute({0, 2, 3, 1}), w, bias, nhwc).permute({0, 3, 1, 2});
  EXPECT_TRUE(same_bits(read(other), added));
}

TEST(ConvolutionTest, TakesNoImages) {
  Context& c = context();
  const Tensor x = zeros(c, {0, 3, 5, 5}), w = random_tensor(c, {2, 3, 3, 3}, 1);
  const Tensor y = conv2d(x, w);
  ASSERT_EQ(y.shape(), (Shape{0, 2, 3, 3}));
  EXPECT_TRUE(read(y).empty());
  const auto gradients = grad(sum(y), std::array{x, w});
  ASSERT_TRUE(gradients.ok()) << gradients.status().to_string();
  EXPECT_EQ(read((*gradients)[1]), std::vector<float>(54, 0.0f));
}

void expect_refused(const Tensor& result, const std::string& words) {
  EXPECT_EQ(result.status().code(), Code::invalid_argument);
  EXPECT_NE(result.status().to_string().find(words), std::string::npos) << result.status().to_string();
}

TEST(ConvolutionTest, RefusesWhatDoesNotFit) {
  Context& c = context();
  const Tensor x = zeros(c, {1, 4, 5, 5}), w = zeros(c, {6, 4, 3, 3});
  expect_refused(conv2d(zeros(c, {4, 5, 5}), w), "four axes");
  expect_refused(conv2d(x, zeros(c, {6, 36})), "four axes");
  expect_refused(conv2d(x, zeros(c, {6, 4, 3, 3}, DType::f64)), "both must be f32");
  expect_refused(conv2d(zeros(c, {1, 4, 5, 5}, DType::i32), zeros(c, {6, 4, 3, 3}, DType::i32)), "both must be f32");
  expect_refused(conv2d(x, zeros(c, {6, 3, 3, 3})), "must have 4 channels");
  expect_refused(conv2d(x, w, with({0, 1})), "stride 0x1");
  expect_refused(conv2d(x, w, with({1, 1}, {-1, 0})), "padding -1x0");
  expect_refused(conv2d(x, w, with({1, 1}, {0, 0}, {1, 0})), "dilation 1x0");
  expect_refused(conv2d(x, w, with({1, int64_t{1} << 40})), "at most");
  expect_refused(conv2d(x, w, with({1, 1}, {0, 0}, {1, 1}, 3)), "3 groups do not divide");
  expect_refused(conv2d(x, w, with({1, 1}, {0, 0}, {1, 1}, 0)), "0 groups");
  expect_refused(conv2d(x, w, with({1, 1}, {0, 0}, {3, 1})), "larger than the padded images");
  expect_refused(conv2d(zeros(c, {1, 0, 5, 5}), zeros(c, {6, 0, 3, 3})), "must not be empty");
  expect_refused(conv2d(x, w, zeros(c, {5})), "bias of shape [6]");
  expect_refused(conv2d(x, w, Tensor()), "undefined");
}

// ---- Pooling ----

struct PoolCase {
  Shape shape;
  PoolOptions options;
};

const PoolCase kPools[] = {
    {{2, 3, 8, 6}, {}},
    {{1, 2, 9, 11}, {{3, 3}, {2, 2}, {1, 1}}},
    {{2, 1, 7, 40}, {{2, 5}, {1, 3}, {0, 2}}},
    {{1, 4, 5, 5}, {{5, 5}, {1, 1}, {0, 0}}},
};

TEST(PoolTest, MatchesPlainLoopsInBothLayouts) {
  for (const PoolCase& p : kPools) {
    for (const char* device : {"cpu", "reference"}) {
      Context& c = context(device);
      const std::vector<double> x = random_values<double>(element_count(p.shape), 4);
      const Tensor images = from_host<double>(c, x, p.shape);
      const Tensor largest = max_pool2d(images, p.options), average = average_pool2d(images, p.options);
      ASSERT_TRUE(largest.ok()) << largest.status().to_string();
      const auto tops = read<double>(largest), means = read<double>(average);
      const int64_t height = largest.extent(2), width = largest.extent(3);
      EXPECT_EQ(height,
                (p.shape[2] + 2 * p.options.padding.height - p.options.window.height) / p.options.stride.height + 1);
      size_t i = 0;
      for (int64_t plane = 0; plane < p.shape[0] * p.shape[1]; ++plane)
        for (int64_t row = 0; row < height; ++row)
          for (int64_t column = 0; column < width; ++column, ++i) {
            double top = -INFINITY, sum = 0;
            for (int64_t u = 0; u < p.options.window.height; ++u)
              for (int64_t v = 0; v < p.options.window.width; ++v) {
                const int64_t y = row * p.options.stride.height - p.options.padding.height + u;
                const int64_t z = column * p.options.stride.width - p.options.padding.width + v;
                if (y < 0 || y >= p.shape[2] || z < 0 || z >= p.shape[3]) continue;
                const double value = x[static_cast<size_t>((plane * p.shape[2] + y) * p.shape[3] + z)];
                top = std::max(top, value);
                sum += value;
              }
            ASSERT_EQ(tops[i], top);
            ASSERT_NEAR(means[i], sum / static_cast<double>(p.options.window.height * p.options.window.width), 1e-13);
          }
      PoolOptions nhwc = p.options;
      nhwc.layout = Layout::nhwc;
      const Tensor turned = images.permute({0, 2, 3, 1});
      EXPECT_TRUE(same_bits(read<double>(max_pool2d(turned, nhwc).permute({0, 3, 1, 2})), tops));
      EXPECT_TRUE(same_bits(read<double>(average_pool2d(turned, nhwc).permute({0, 3, 1, 2})), means));
    }
  }
}

TEST(PoolTest, SendsTheGradientToTheFirstOfEquals) {
  Context& c = context();
  const Tensor x = from_host<float>(c, std::vector<float>{1, 5, 5, 2, /**/ 5, 0, NAN, 1}, {1, 2, 2, 2});
  const Tensor y = max_pool2d(x);
  const auto gradient = grad(sum(y), std::array{x});
  ASSERT_TRUE(gradient.ok()) << gradient.status().to_string();
  const std::vector<float> tops = read(y);
  EXPECT_EQ(tops[0], 5);
  EXPECT_TRUE(std::isnan(tops[1]));
  EXPECT_EQ(read((*gradient)[0]), (std::vector<float>{0, 1, 0, 0, 0, 0, 0, 0}));
}

TEST(PoolTest, RefusesWhatDoesNotFit) {
  Context& c = context();
  const Tensor x = zeros(c, {1, 2, 4, 4});
  expect_refused(max_pool2d(zeros(c, {4, 4})), "four axes");
  expect_refused(average_pool2d(zeros(c, {1, 2, 4, 4}, DType::i32)), "f32 or f64");
  expect_refused(max_pool2d(x, {{0, 2}, {1, 1}, {0, 0}}), "window 0");
  expect_refused(max_pool2d(x, {{2, 2}, {1, 0}, {0, 0}}), "stride 0");
  expect_refused(max_pool2d(x, {{2, 2}, {1, 1}, {2, 0}}), "padding 2");
  expect_refused(average_pool2d(x, {{5, 2}, {1, 1}, {0, 0}}), "larger than the padded images");
  expect_refused(max_pool2d(Tensor()), "undefined");
}

// ---- Batch norm ----

TEST(BatchNormTest, NormalisesEachChannelAndKeepsRunningStatistics) {
  for (const Layout layout : {Layout::nchw, Layout::nhwc}) {
    Context& c = context();
    const int64_t images = 3, channels = 4, pixels = 35;
    const Shape shape{images, channels, 5, 7};
    const std::vector<double> x = random_values<double>(element_count(shape), 1, -1, 5);
    const std::vector<double> w = random_values<double>(channels, 2), b = random_values<double>(channels, 3);
    const std::vector<double> m = random_values<double>(channels, 4), v = random_values<double>(channels, 5, 0.5, 2);
    const auto row = [&](const std::vector<double>& values) { return from_host<double>(c, values, {channels}); };
    BatchNormOptions options;
    options.momentum = 0.3;
    options.layout = layout;
    const bool nhwc = layout == Layout::nhwc;
    Tensor given = from_host<double>(c, x, shape);
    if (nhwc) given = given.permute({0, 2, 3, 1});
    const BatchNorm trained = batch_norm(given, row(w), row(b), row(m), row(v), options);
    ASSERT_TRUE(trained.y.ok()) << trained.y.status().to_string();
    const Tensor inferred = batch_norm_inference(given, row(w), row(b), row(m), row(v), options);
    const auto back = [&](const Tensor& t) { return read<double>(nhwc ? t.permute({0, 3, 1, 2}) : t); };
    const std::vector<double> y = back(trained.y), z = back(inferred);
    const std::vector<double> means = read<double>(trained.running_mean);
    const std::vector<double> variances = read<double>(trained.running_variance);
    const double count = static_cast<double>(images * pixels);
    for (size_t channel = 0; channel < 4; ++channel) {
      const auto each = [&](const auto& visit) {
        for (size_t n = 0; n < 3; ++n)
          for (size_t p = 0; p < 35; ++p) visit((n * 4 + channel) * 35 + p);
      };
      double mean = 0, variance = 0;
      each([&](size_t i) { mean += x[i] / count; });
      each([&](size_t i) { variance += (x[i] - mean) * (x[i] - mean) / count; });
      EXPECT_NEAR(means[channel], 0.7 * m[channel] + 0.3 * mean, 1e-12);
      EXPECT_NEAR(variances[channel], 0.7 * v[channel] + 0.3 * variance * count / (count - 1), 1e-12);
      each([&](size_t i) {
        ASSERT_NEAR(y[i], (x[i] - mean) / std::sqrt(variance + 1e-5) * w[channel] + b[channel], 1e-12);
        ASSERT_NEAR(z[i], (x[i] - m[channel]) / std::sqrt(v[channel] + 1e-5) * w[channel] + b[channel], 1e-12);
      });
    }
  }
}

// A result so large that it passes the caches has the bits of its parts, which do not.
TEST(ConvolutionTest, ALargeResultHasTheBitsOfItsParts) {
  Context& c = context();
  const int64_t side = 640, filters = 10;  // 16 MB
  const Tensor x = random_tensor(c, {1, 2, side, side}, 1), w = random_tensor(c, {filters, 2, 3, 3}, 2);
  const ConvolutionOptions options{.padding = {1, 1}};
  const std::vector<float> whole = read(conv2d(x, w, options));
  std::vector<float> parts;
  for (int64_t first = 0; first < filters; first += 5)
    for (const float value : read(conv2d(x, w.slice(0, first, 5).contiguous(), options))) parts.push_back(value);
  EXPECT_TRUE(same_bits(whole, parts));
}

TEST(BatchNormTest, HasTheSameBitsOnAnyNumberOfThreadsAndOnTheReference) {
  const auto run = [](Context& c) {
    const Tensor x = random_tensor(c, {2, 3, 9, 7}, 1), w = random_tensor(c, {3}, 2), b = random_tensor(c, {3}, 3);
    const BatchNorm norm = batch_norm(x, w, b, zeros(c, {3}), full(c, {3}, 1));
    const auto gradients = grad(sum(norm.y * norm.y * x), std::array{x, w, b});
    std::vector<float> all = read(norm.y);
    for (const Tensor& g : *gradients)
      for (const float value : read(g)) all.push_back(value);
    return all;
  };
  const std::vector<float> two = run(context("cpu"));
  EXPECT_TRUE(same_bits(two, run(context("cpu", 1))));
  EXPECT_TRUE(same_bits(two, run(context("reference"))));
}

TEST(BatchNormTest, RefusesWhatDoesNotFit) {
  Context& c = context();
  const Tensor x = zeros(c, {2, 3, 4, 4}), three = zeros(c, {3}), four = zeros(c, {4});
  expect_refused(batch_norm(zeros(c, {3, 4}), three, three, three, three).y, "four axes");
  expect_refused(batch_norm(x, three, four, three, three).y, "shape [3]");
  expect_refused(batch_norm(x, three, three, three, zeros(c, {3}, DType::f64)).running_mean, "images' type");
  expect_refused(batch_norm(zeros(c, {1, 3, 1, 1}), three, three, three, three).y, "two elements");
  expect_refused(batch_norm(zeros(c, {0, 3, 1, 1}), three, three, three, three).y, "two elements");
  expect_refused(batch_norm(x, three, three, three, three, {-1.0}).y, "epsilon");
  expect_refused(batch_norm(x, three, three, three, three, {1e-5, 1.5}).running_variance, "momentum");
  expect_refused(batch_norm_inference(x, four, three, three, three), "shape [3]");
  expect_refused(batch_norm_inference(x, three, three, three, Tensor()), "undefined");
}

}  // namespace
}  // namespace sporkle::tensor
