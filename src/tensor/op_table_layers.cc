// The rows of the op table that are layers, image operations and random numbers.
#include <cmath>
#include <numbers>

#include "tensor/attention.h"
#include "tensor/context.h"
#include "tensor/convolution.h"
#include "tensor/layers.h"
#include "tensor/op_table.h"
#include "tensor/random.h"

namespace sporkle::tensor {
namespace {

using Operands = std::span<const Tensor>;

const std::vector<DType> kReal = {DType::f32, DType::f64};

Apply one(std::function<Tensor(Operands)> apply) {
  return [apply = std::move(apply)](Operands x) { return Tensors{apply(x)}; };
}

OperandSpec parameter(const Shape& shape, DType type) { return {shape, type, 0, 2, true, kNoSpecials, false}; }
OperandSpec positive(const Shape& shape, DType type) { return {shape, type, 0.1, 2, false, kNoSpecials, false, false}; }
OperandSpec choices(const Shape& shape, int64_t count) {
  return {shape, DType::i32, 0, static_cast<double>(count - 1), false, kNoSpecials, false, false};
}

// ---- Rows of numbers ----

// What the error of (x - mean) / sqrt(variance + epsilon) * weight + bias is measured at: `axis` of weight and bias is
// where they lie in x, the statistics are over the other axes in `over`.
Tensor normalised_magnitude(Operands x, const Dims& over, const Shape& parameter_shape, double epsilon) {
  const Tensor centred = x[0] - mean(x[0], over, true);
  const Tensor deviation = sqrt(mean(centred * centred, over, true) + epsilon);
  return (abs(x[0]) + mean(abs(x[0]), over, true)) / deviation * abs(x[1].reshape(parameter_shape)) +
         abs(x[2].reshape(parameter_shape));
}

OpCall draw_layer_norm(Draw& draw) {
  Shape shape = draw.shape(1, 3);
  if (shape[shape.rank() - 1] == 0) shape[shape.rank() - 1] = 5;
  const int64_t width = shape[shape.rank() - 1];
  OpCall call;
  call.parameters = "epsilon 2^-10";
  call.operands = {{shape, draw.type(), 0, 4, true, kModerateSpecials},
                   parameter({width}, draw.type()),
                   parameter({width}, draw.type())};
  call.apply = one([](Operands x) { return layer_norm(x[0], x[1], x[2], 0x1p-10); });
  call.ulp_limit = static_cast<double>(2 * sum_depth(width) + 8);
  call.magnitude = one([width](Operands x) { return normalised_magnitude(x, {-1}, {width}, 0x1p-10); });
  return call;
}

OpCall draw_rms_norm(Draw& draw) {
  Shape shape = draw.shape(1, 3);
  if (shape[shape.rank() - 1] == 0) shape[shape.rank() - 1] = 5;
  const int64_t width = shape[shape.rank() - 1];
  OpCall call;
  call.parameters = "epsilon 2^-10";
  call.operands = {{shape, draw.type(), 0, 4, true, kModerateSpecials}, parameter({width}, draw.type())};
  call.apply = one([](Operands x) { return rms_norm(x[0], x[1], 0x1p-10); });
  call.ulp_limit = static_cast<double>(sum_depth(width) + 6);
  return call;
}

OpCall draw_swiglu(Draw& draw) {
  const Shape shape = draw.shape(0, 3);
  OpCall call;
  call.operands = {{shape, draw.type(), 0, 16, true, kModerateSpecials}, parameter(shape, draw.type())};
  call.apply = one([](Operands x) { return swiglu(x[0], x[1]); });
  call.ulp_limit = 6;
  return call;
}

OpCall draw_rotary(Draw& draw) {
  const bool small = draw.for_gradient();
  const int64_t size = 2 * draw.extent(small ? 2 : 20), heads = draw.extent(small ? 2 : 3);
  const int64_t length = draw.extent(small ? 2 : 30), rest = draw.extent_or_none(small ? 2 : 20);
  const int64_t first = draw.integer(0, 100);
  OpCall call;
  call.parameters = std::to_string(heads) + " heads of " + std::to_string(size) + " from position " +
                    std::to_string(first) + ", base 1000";
  call.operands = {{{draw.extent_or_none(3), length, heads * size + rest}, draw.type(), 0, 0x1p20, true, kNan | kTiny}};
  const auto turn = [=](const Tensor& x) {
    return rotary(x, rotary_tables(x.context(), first + length, size, 1000, x.dtype()), heads, first);
  };
  call.apply = one([=](Operands x) { return turn(x[0]); });
  call.ulp_limit = 4;
  // The length of the pair.
  call.magnitude = one([=](Operands x) {
    const Tensor turned = x[0].slice(2, 0, heads * size).reshape({x[0].extent(0), length, heads, 2, size / 2});
    const Tensor pair = sum(abs(turned), {3}, true).expand(turned.shape());
    const Tensor all = pair.reshape({x[0].extent(0), length, heads * size});
    return rest == 0 ? all : concatenate(all, abs(x[0].slice(2, heads * size, rest)), 2);
  });
  return call;
}

// Sizes are few: each is a kernel of its own.
AttentionOptions draw_attention_options(Draw& draw, OpCall* call) {
  AttentionOptions options{.scale = 0.25};
  if (draw.chance(0.3)) options.dropout = 0.25;
  options.key = {draw.bits() >> 32, 1, 2};
  call->parameters = "scale 0.25, dropout " + std::to_string(options.dropout);
  return options;
}
double attention_limit(int64_t keys, int64_t size) { return static_cast<double>(keys + (size + 2) * size / 2 + 24); }

OpCall draw_attention(Draw& draw) {
  const bool small = draw.for_gradient();
  const int64_t kv_heads = draw.extent(2), heads = kv_heads * draw.extent(small ? 2 : 3);
  const int64_t queries = draw.extent(small ? 3 : 70), size = draw.one_of<int64_t>({2, 16});
  const int64_t keys = queries + (draw.chance(0.6) ? 0 : draw.extent(small ? 2 : 40)), rows = draw.extent(2);
  const OperandSpec of_keys{{rows, kv_heads, keys, size}, draw.type(), 0, 1, true, kNoSpecials, false};
  OpCall call;
  const AttentionOptions options = draw_attention_options(draw, &call);
  call.operands = {{{rows, heads, queries, size}, draw.type(), 0, 1, true, kNoSpecials, false}, of_keys, of_keys};
  call.apply = one([=](Operands x) { return attention(x[0], x[1], x[2], options); });
  call.ulp_limit = attention_limit(keys, size);
  call.magnitude = one([=](Operands x) { return attention(x[0], x[1], abs(x[2]), options); });
  return call;
}

OpCall draw_packed_attention(Draw& draw) {
  const bool small = draw.for_gradient();
  const int64_t kv_heads = draw.extent(2), heads = kv_heads * draw.extent(2);
  const int64_t length = draw.extent(small ? 3 : 70), size = draw.one_of<int64_t>({2, 16}), rows = draw.extent(2);
  OpCall call;
  const AttentionOptions options = draw_attention_options(draw, &call);
  call.parameters += ", " + std::to_string(heads) + " heads over " + std::to_string(kv_heads);
  call.operands = {{{rows, length, (heads + 2 * kv_heads) * size}, draw.type(), 0, 1, true, kNoSpecials, false}};
  call.apply = one([=](Operands x) { return packed_attention(x[0], heads, kv_heads, options); });
  call.ulp_limit = attention_limit(length, size);
  call.magnitude = one([=](Operands x) {
    const int64_t width = (heads + kv_heads) * size;
    const Tensor positive = concatenate(x[0].slice(2, 0, width), abs(x[0].slice(2, width, kv_heads * size)), 2);
    return packed_attention(positive, heads, kv_heads, options);
  });
  return call;
}

OpCall draw_causal_softmax(Draw& draw) {
  Shape shape = draw.shape(0, 2);
  const int64_t queries = draw.extent(draw.for_gradient() ? 3 : 20);
  const int64_t keys = queries + (draw.chance(0.5) ? 0 : draw.extent(draw.for_gradient() ? 2 : 50));
  shape.push_back(queries);
  shape.push_back(keys);
  OpCall call;
  call.parameters = "scale 0.75";
  call.operands = {{shape, draw.type(), 0, 4, true, kModerateSpecials}};
  call.apply = one([](Operands x) { return causal_softmax(x[0], 0.75); });
  call.ulp_limit = static_cast<double>(sum_depth(keys) + 20);
  return call;
}

OpCall draw_cross_entropy(Draw& draw) {
  const int64_t rows = draw.extent(draw.for_gradient() ? 3 : 40), classes = draw.extent(draw.for_gradient() ? 4 : 90);
  OpCall call;
  call.operands = {{{rows, classes}, draw.type(), 0, 4, true, kNan | kTiny}, choices({rows}, classes)};
  call.apply = one([](Operands x) { return cross_entropy(x[0], x[1]); });
  call.ulp_limit = static_cast<double>(sum_depth(classes) + sum_depth(rows) + 8);
  call.magnitude = one([](Operands x) { return cross_entropy(x[0], x[1]) + max(abs(x[0])) * 2.0 + 1.0; });
  return call;
}

OpCall draw_linear_cross_entropy(Draw& draw) {
  const bool small = draw.for_gradient();
  const int64_t rows = draw.extent(small ? 3 : 40), classes = draw.extent(small ? 4 : 90),
                width = draw.extent(small ? 2 : 20);
  OpCall call;
  call.operands = {{{rows, width}, draw.type(), 0, 1, true, kTiny},
                   {{classes, width}, draw.type(), 0, 1, true, kTiny},
                   choices({rows}, classes)};
  call.apply = one([](Operands x) { return linear_cross_entropy(x[0], x[1], x[2]); });
  call.ulp_limit = static_cast<double>(width + sum_depth(classes) + sum_depth(rows) + 8);
  call.magnitude = one([](Operands x) {
    return linear_cross_entropy(x[0], x[1], x[2]) + max(matmul(abs(x[0]), abs(x[1]).transpose(0, 1))) * 2.0 + 1.0;
  });
  return call;
}

OpCall draw_embedding(Draw& draw) {
  const int64_t rows = draw.extent(draw.for_gradient() ? 3 : 50), width = draw.extent(draw.for_gradient() ? 4 : 70);
  OpCall call;
  call.operands = {{{rows, width}, draw.type(), 0, 0x1p100, true, kAllSpecials}, choices(draw.shape(0, 2), rows)};
  call.apply = one([](Operands x) { return embedding(x[0], x[1]); });
  return call;
}

// ---- Images ----

Layout draw_layout(Draw& draw) { return draw.one_of({Layout::nchw, Layout::nhwc}); }

Shape image_shape(Layout layout, int64_t images, int64_t channels, Size2d size) {
  if (layout == Layout::nchw) return {images, channels, size.height, size.width};
  return {images, size.height, size.width, channels};
}

std::string size_text(const char* name, Size2d size) {
  return std::string(name) + " " + std::to_string(size.height) + "x" + std::to_string(size.width);
}
std::string layout_text(Layout layout) { return layout == Layout::nchw ? "nchw" : "nhwc"; }

OpCall draw_convolution(Draw& draw) {
  const bool small = draw.for_gradient();
  ConvolutionOptions o;
  o.groups = draw.chance(0.7) ? 1 : draw.integer(1, 3);
  o.stride = {draw.integer(1, 2), draw.chance(0.7) ? 1 : draw.integer(1, 3)};
  o.dilation = {draw.chance(0.7) ? 1 : 2, draw.chance(0.8) ? 1 : 3};
  o.padding = {draw.integer(0, 2), draw.integer(0, 2)};
  o.layout = draw_layout(draw);
  const Size2d kernel{draw.integer(1, small ? 2 : 3), draw.integer(1, small ? 2 : 4)};
  const auto image_extent = [&](int64_t kernel_extent, int64_t dilation) {
    return dilation * (kernel_extent - 1) + draw.extent(small ? 2 : 14);
  };
  const Size2d size{image_extent(kernel.height, o.dilation.height), image_extent(kernel.width, o.dilation.width)};
  const int64_t channels = o.groups * draw.extent(small ? 2 : 5), filters = o.groups * draw.extent(small ? 2 : 9);
  const int64_t images = draw.extent(small ? 2 : 3), group_channels = channels / o.groups;
  const bool bias = draw.chance(0.5);
  OpCall call;
  call.parameters = size_text("stride", o.stride) + ", " + size_text("padding", o.padding) + ", " +
                    size_text("dilation", o.dilation) + ", " + std::to_string(o.groups) + " groups, " +
                    layout_text(o.layout);
  call.operands = {
      {image_shape(o.layout, images, channels, size), draw.type(), 0, 0x1p20, true, kModerateSpecials},
      {{filters, group_channels, kernel.height, kernel.width}, draw.type(), 0, 0x1p20, true, kModerateSpecials}};
  if (bias) call.operands.push_back(parameter({filters}, draw.type()));
  const auto apply = [o](const Tensor& x, const Tensor& weight, const Tensor* added) {
    return added ? conv2d(x, weight, *added, o) : conv2d(x, weight, o);
  };
  call.apply = one([=](Operands x) { return apply(x[0], x[1], bias ? &x[2] : nullptr); });
  call.ulp_limit = static_cast<double>(group_channels * kernel.height * kernel.width + (bias ? 1 : 0));
  call.magnitude = one([=](Operands x) {
    const Tensor added = bias ? abs(x[2]) : Tensor();
    return apply(abs(x[0]), abs(x[1]), bias ? &added : nullptr);
  });
  return call;
}

OpCall draw_pool(Draw& draw, Tensor (*pool)(const Tensor&, const PoolOptions&)) {
  const bool small = draw.for_gradient();
  PoolOptions o;
  o.window = {draw.integer(1, 3), draw.integer(1, 3)};
  o.stride = {draw.integer(1, 3), draw.integer(1, 3)};
  o.padding = {draw.integer(0, o.window.height / 2), draw.integer(0, o.window.width / 2)};
  o.layout = draw_layout(draw);
  const Size2d size{o.window.height + draw.extent(small ? 2 : 15), o.window.width + draw.extent(small ? 2 : 15)};
  const int64_t images = draw.extent(small ? 1 : 3), channels = draw.extent(small ? 2 : 5);
  const bool largest = pool == &max_pool2d;
  OpCall call;
  call.parameters = size_text("window", o.window) + ", " + size_text("stride", o.stride) + ", " +
                    size_text("padding", o.padding) + ", " + layout_text(o.layout);
  call.operands = {{image_shape(o.layout, images, channels, size), draw.type(), 0, 0x1p20, true,
                    largest ? kAllSpecials : kModerateSpecials}};
  call.apply = one([pool, o](Operands x) { return pool(x[0], o); });
  if (largest) return call;
  call.ulp_limit = static_cast<double>(o.window.height * o.window.width + 2);
  call.magnitude = one([pool, o](Operands x) { return pool(abs(x[0]), o); });
  return call;
}

struct BatchNormCall {
  BatchNormOptions options;
  Dims over;              // the axes of the statistics
  Shape parameter_shape;  // that broadcasts over the images
  int64_t count = 0;      // elements of a channel
};

BatchNormCall draw_batch_norm_call(Draw& draw, OpCall* call) {
  const bool small = draw.for_gradient();
  const Layout layout = draw_layout(draw);
  const Size2d size{draw.extent(small ? 2 : 12), draw.extent(small ? 2 : 12)};
  const int64_t channels = draw.extent(small ? 2 : 7), images = 1 + draw.extent(small ? 1 : 4);
  const Shape parameters{channels};
  call->parameters = "epsilon 2^-10, " + layout_text(layout);
  call->operands = {{image_shape(layout, images, channels, size), draw.type(), 0, 4, true, kModerateSpecials},
                    parameter(parameters, draw.type()),
                    parameter(parameters, draw.type()),
                    positive(parameters, draw.type()),
                    positive(parameters, draw.type())};
  BatchNormCall result;
  result.options.epsilon = 0x1p-10;
  result.options.momentum = 0.125;
  result.options.layout = layout;
  const bool nchw = layout == Layout::nchw;
  result.over = nchw ? Dims{0, 2, 3} : Dims{0, 1, 2};
  result.parameter_shape = nchw ? Shape{channels, 1, 1} : Shape{channels};
  result.count = images * size.height * size.width;
  return result;
}

OpCall draw_batch_norm(Draw& draw) {
  OpCall call;
  const BatchNormCall b = draw_batch_norm_call(draw, &call);
  call.apply = [b](Operands x) {
    BatchNorm result = batch_norm(x[0], x[1], x[2], x[3], x[4], b.options);
    return Tensors{result.y, result.running_mean, result.running_variance};
  };
  call.differentiable_results = 1;
  call.ulp_limit = static_cast<double>(2 * sum_depth(b.count) + 8);
  call.magnitude = [b](Operands x) {
    const Tensor average = mean(abs(x[0]), b.over), square = mean(x[0] * x[0], b.over);
    return Tensors{normalised_magnitude(x, b.over, b.parameter_shape, b.options.epsilon), abs(x[3]) + average,
                   abs(x[4]) + square};
  };
  return call;
}

OpCall draw_batch_norm_inference(Draw& draw) {
  OpCall call;
  const BatchNormCall b = draw_batch_norm_call(draw, &call);
  call.apply = one([b](Operands x) { return batch_norm_inference(x[0], x[1], x[2], x[3], x[4], b.options); });
  call.ulp_limit = 6;
  call.magnitude = one([b](Operands x) {
    const auto spread = [&](const Tensor& one) { return one.reshape(b.parameter_shape); };
    return (abs(x[0]) + spread(x[3])) * spread(abs(x[1]) / sqrt(x[4] + b.options.epsilon)) + spread(abs(x[2]));
  });
  return call;
}

// ---- Random numbers ----

RandomKey draw_key(Draw& draw) {
  return {draw.bits() >> 32, static_cast<uint64_t>(draw.integer(0, 9)), static_cast<uint64_t>(draw.integer(0, 99))};
}

std::string key_text(const RandomKey& key) {
  return "seed " + std::to_string(key.seed) + ", stream " + std::to_string(key.stream) + ", step " +
         std::to_string(key.step);
}

OpCall draw_random(Draw& draw, Tensor (*make)(Context&, const Shape&, RandomKey, DType)) {
  const RandomKey key = draw_key(draw);
  OpCall call;
  call.parameters = key_text(key);
  call.operands = {{draw.shape(0, 4), draw.type(), 0, 4, true, kNoSpecials, false}};
  call.apply = one([=](Operands x) { return make(x[0].context(), x[0].shape(), key, x[0].dtype()).contiguous(); });
  return call;
}

OpCall draw_dropout(Draw& draw) {
  const RandomKey key = draw_key(draw);
  const double probability = static_cast<double>(draw.integer(0, 15)) / 16;  // exact in f32, as the comparison must be
  OpCall call;
  call.parameters = "probability " + std::to_string(probability) + ", " + key_text(key);
  call.operands = {{draw.shape(0, 4), draw.type(), 0, 0x1p100, true, kModerateSpecials}};
  call.apply = one([=](Operands x) { return dropout(x[0], probability, key).contiguous(); });
  call.ulp_limit = 2;
  return call;
}

}  // namespace

void append_layer_rows(std::vector<OpRow>* rows) {
  rows->push_back({"layer_norm", "layers", kReal, "2 depth(n) + 8 of (\\|x\\| + mean \\|x\\|) / σ · \\|w\\| + \\|b\\|",
                   true, draw_layer_norm});
  rows->push_back({"rms_norm", "layers", kReal, "depth(n) + 6", true, draw_rms_norm});
  rows->push_back({"swiglu", "layers", kReal, "6", true, draw_swiglu});
  rows->push_back({"rotary", "layers", kReal, "4 of the pair's \\|x\\| + \\|y\\|", true, draw_rotary});
  rows->push_back({"attention", "layers", kReal,
                   "keys + (size + 2) · size / 2 + 24 of the mean of \\|v\\|, \\|q\\|, \\|k\\| ≤ 1", true,
                   draw_attention});
  rows->push_back({"packed_attention", "layers", kReal, "the same", true, draw_packed_attention});
  rows->push_back({"causal_softmax", "layers", kReal, "depth(n) + 20, \\|x\\| ≤ 4", true, draw_causal_softmax});
  rows->push_back({"cross_entropy", "layers", kReal, "depth(classes) + depth(rows) + 8 of 1 + loss + 2 max \\|x\\|",
                   true, draw_cross_entropy});
  rows->push_back({"linear_cross_entropy", "layers", kReal,
                   "width + depth(classes) + depth(rows) + 8 of 1 + loss + 2 max \\|x\\| · \\|w\\|", true,
                   draw_linear_cross_entropy});
  rows->push_back({"embedding", "layers", kReal, "0", true, draw_embedding});

  rows->push_back(
      {"conv2d", "images", kReal, "taps (+ 1 with bias) of \\|x\\| ∗ \\|w\\| + \\|b\\|", true, draw_convolution});
  rows->push_back({"max_pool2d", "images", kReal, "0", true, [](Draw& d) { return draw_pool(d, &max_pool2d); }});
  rows->push_back({"average_pool2d", "images", kReal, "taps + 2 of the mean of \\|x\\|", true,
                   [](Draw& d) { return draw_pool(d, &average_pool2d); }});
  rows->push_back({"batch_norm", "images", kReal, "2 depth(n) + 8 of (\\|x\\| + mean \\|x\\|) / σ · \\|w\\| + \\|b\\|",
                   true, draw_batch_norm});
  rows->push_back({"batch_norm_inference", "images", kReal, "6 of (\\|x\\| + \\|mean\\|) / σ · \\|w\\| + \\|b\\|", true,
                   draw_batch_norm_inference});

  rows->push_back({"uniform", "random numbers", kReal, "0", false, [](Draw& d) { return draw_random(d, &uniform); }});
  // Computed in f32 whatever the type, so that the type does not matter.
  rows->push_back({"normal", "random numbers", kReal, "0 of its f32 definition", false,
                   [](Draw& d) { return draw_random(d, &normal); }});
  rows->push_back({"dropout", "random numbers", kReal, "2", true, draw_dropout});
}

}  // namespace sporkle::tensor
