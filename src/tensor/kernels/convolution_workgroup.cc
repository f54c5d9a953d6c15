// Convolutions on a GPU: the tiled product of kernels/matmul_workgroup.cc, whose right operand is gathered from the
// images as it is staged. Where an element lies is the sum of where its pixel's first tap finds its element, and how
// far from there its own tap is: two tables, made by kernels of their own, leave no division in the product.
//
//   forward          result[filter, pixel] = sum over (channel, tap) of weight[filter, tap] * images[tap, pixel]
//   weight gradient  dw[filter, tap] = sum over pixels of dy[filter, pixel] * images[pixel, tap]
#include "tensor/context.h"
#include "tensor/kernels/convolution_geometry.h"
#include "tensor/kernels/matmul_workgroup.h"

namespace sporkle::tensor {
namespace {

using dsl::Buffer;
using dsl::KernelBuilder;

constexpr int64_t kFew = 4;  // filters, or pixels, that are not worth a tile

int64_t plane_of(const ConvolutionShape& s) {
  return s.images * s.phase_rows() * s.phase_columns() * s.rows() * s.columns();
}
int64_t taps_of(const ConvolutionShape& s) { return s.channels * s.kernel_height * s.kernel_width; }

std::string geometry_key(const ConvolutionShape& s) {
  return " stride" + std::to_string(s.stride_height) + "x" + std::to_string(s.stride_width) + " dilation" +
         std::to_string(s.dilation_height) + "x" + std::to_string(s.dilation_width);
}

// For each of `count` things where it lies in the images, as `place` says; their elements are of no account.
Tensor table(const Tensor& images, const char* name, const ConvolutionShape& shape, int64_t count,
             const std::function<Expr(const Geometry&, Expr)>& place) {
  KernelCall call;
  call.key = typed_key(name, shape.dtype) + geometry_key(shape);
  call.define = [shape, place](KernelBuilder& k) {
    (void)k.input(shape.dtype, "images");
    const Buffer places = k.output(DType::i32, "places");
    const Geometry g(k, shape);
    const Expr extent = k.size("count");
    k.range("i", extent, [&](Expr i) { places.store(i, cast(DType::i32, place(g, i))); });
  };
  call.schedule = "i:thread";
  call.results = {{DType::i32, {count}}};
  Geometry::append(shape, &call.scalars);
  call.scalars.push_back(scalar_bits(count));
  const Tensor inputs[] = {images};
  return call_kernel(std::move(call), inputs)[0];
}

// Of each pixel of the result: the element that its first tap needs.
Tensor pixel_places(const Tensor& images, const ConvolutionShape& shape) {
  return table(images, "conv2d_pixels", shape, shape.pixels(),
               [](const Geometry& g, Expr pixel) { return g.line_offset(pixel / g.width) + pixel % g.width; });
}

// Of each tap of each channel of a group: how far it is from there.
Tensor tap_places(const Tensor& images, const ConvolutionShape& shape) {
  return table(images, "conv2d_taps", shape, taps_of(shape), [](const Geometry& g, Expr tap) {
    const Expr taps = g.kernel_height * g.kernel_width, within = tap % taps;
    return g.channel_offset(tap / taps) + g.tap_offset(within / g.kernel_width, within % g.kernel_width);
  });
}

// The product of every group: `left` [groups, rows, depth] row-major, result [groups, rows, columns].
Tensor product(const char* name, const ConvolutionShape& shape, int64_t rows, int64_t columns, int64_t depth,
               bool neighbours_along_depth, std::span<const Tensor> inputs, const Shape& result,
               KernelGradient gradient) {
  Context& context = inputs[0].context();
  const int bytes = static_cast<int>(ir::dtype_size(shape.dtype));
  const tune::ProductShape tuned{bytes,          shape.groups, rows, columns, depth, true, !neighbours_along_depth,
                                 columns * bytes};
  tune::GpuPlan plan = context.plan_gpu_product(tuned);
  if (plan.by_element) {
    // A tile all the same: single elements would look up every place anew.
    const tune::ProductShape larger{bytes, shape.groups, std::max(rows, 2 * kFew), std::max(columns, 2 * kFew), depth,
                                    true,  true,         columns * bytes};
    plan = tune::preset_gpu_plan(larger, *context.gpu());
  }
  WorkgroupProduct p{shape.dtype,
                     1,
                     {rows * depth, depth, 1},
                     {shape.channels * plane_of(shape), neighbours_along_depth ? 1 : 0, neighbours_along_depth ? 0 : 1},
                     {rows * columns, columns, 1},
                     plan.tile,
                     rows % plan.tile.rows == 0 && columns % plan.tile.columns == 0,
                     nullptr};
  p.gathers_b = true;
  KernelCall call;
  call.key = typed_key(name, shape.dtype) + " " + plan.text() + (p.whole ? " whole " : " edged ") +
             stride_classes(p.a) + " " + stride_classes(p.b) + " " + stride_classes(p.c);
  call.define = [p](KernelBuilder& k) { define_workgroup_product(k, p); };
  call.results = {{shape.dtype, result}};
  for (const int64_t value : {shape.groups, rows, columns, depth}) call.scalars.push_back(scalar_bits(value));
  for (const Strides* strides : {&p.a, &p.b, &p.c}) append_strides(*strides, &call.scalars);
  call.gradient = std::move(gradient);
  return call_kernel(std::move(call), inputs)[0];
}

}  // namespace

bool runs_in_workgroups(const Context& context, const ConvolutionShape& shape) {
  return context.is_gpu() && shape.filters > kFew && shape.pixels() > kFew && taps_of(shape) > 0 &&
         shape.channels * plane_of(shape) <= INT32_MAX;
}

Tensor convolve_in_workgroups(const ConvolutionShape& shape, const Tensor& images, const Tensor& weight,
                              KernelGradient gradient) {
  const Tensor inputs[] = {weight, images, pixel_places(images, shape), tap_places(images, shape)};
  KernelGradient reordered;
  if (gradient)
    reordered = [gradient](std::span<const Tensor> in, std::span<const Tensor> out, std::span<const Tensor> d) {
      const Tensor usual[] = {in[1], in[0]};
      const std::vector<Tensor> found = gradient(usual, out, d);
      return std::vector<Tensor>{found[1], found[0], Tensor(), Tensor()};
    };
  return product("conv2d_tiles", shape, shape.filters, shape.pixels(), taps_of(shape),
                 /*neighbours_along_depth=*/false, inputs,
                 {shape.groups * shape.filters, shape.images, shape.output_height, shape.output_width},
                 std::move(reordered));
}

Tensor weight_gradient_in_workgroups(const ConvolutionShape& shape, const Tensor& images, const Tensor& gradient) {
  const Tensor inputs[] = {gradient, images, tap_places(images, shape), pixel_places(images, shape)};
  return product("conv2d_dw_tiles", shape, shape.filters, taps_of(shape), shape.pixels(),
                 /*neighbours_along_depth=*/true, inputs,
                 {shape.groups * shape.filters, shape.channels, shape.kernel_height, shape.kernel_width}, nullptr);
}

}  // namespace sporkle::tensor
