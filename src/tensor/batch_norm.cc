#include <cmath>

#include "tensor/convolution.h"
#include "tensor/graph.h"
#include "tensor/kernel_call.h"

namespace sporkle::tensor {
namespace {

using dsl::Buffer;
using dsl::Expr;
using dsl::KernelBuilder;

// x [channels, n], weight, bias -> y, and of each channel the mean, the variance, and 1 / deviation.
KernelCall batch_norm_call(DType type, const Shape& shape, double epsilon) {
  KernelCall call;
  call.key = "batch_norm." + std::string(ir::dtype_name(type));
  call.define = [type](KernelBuilder& k) {
    const Buffer x = k.input(type, "x"), weight = k.input(type, "weight"), bias = k.input(type, "bias");
    const Buffer y = k.output(type, "y"), means = k.output(type, "means"), variances = k.output(type, "variances");
    const Buffer scales = k.output(type, "scales");
    const Expr channels = k.size("channels"), n = k.size("n"), eps = k.scalar(type, "epsilon");
    const Expr one_over_n = k.scalar(type, "one_over_n");
    k.range("r", channels, [&](Expr r) {
      const Expr start = r * n;
      const Expr mean = k.sum("a", n, type, [&](Expr c) { return x[start + c]; }) * one_over_n;
      const Expr variance = k.sum("b", n, type, [&](Expr c) {
        const Expr d = x[start + c] - mean;
        return d * d;
      }) * one_over_n;
      const Expr scale = dsl::constant(type, 1) / sqrt(variance + eps), factor = scale * weight[r], added = bias[r];
      means.store(r, mean);
      variances.store(r, variance);
      scales.store(r, scale);
      k.range("c", n, [&](Expr c) { y.store(start + c, fma(x[start + c] - mean, factor, added)); });
    });
  };
  call.schedule = "r:thread r:group256 c:vec";
  const Shape row{shape[0]};
  call.results = {{type, shape}, {type, row}, {type, row}, {type, row}};
  call.scalars = {scalar_bits(shape[0]), scalar_bits(shape[1]), scalar_bits(type, epsilon),
                  scalar_bits(type, 1.0 / static_cast<double>(shape[1]))};
  return call;
}

// x, weight, means, scales, dy -> dx, dweight, dbias.
KernelCall batch_norm_gradient(DType type, const Shape& shape) {
  KernelCall call;
  call.key = "batch_norm_dx." + std::string(ir::dtype_name(type));
  call.define = [type](KernelBuilder& k) {
    const Buffer x = k.input(type, "x"), weight = k.input(type, "weight"), means = k.input(type, "means");
    const Buffer scales = k.input(type, "scales"), dy = k.input(type, "dy"), dx = k.output(type, "dx");
    const Buffer dweight = k.output(type, "dweight"), dbias = k.output(type, "dbias");
    const Expr channels = k.size("channels"), n = k.size("n"), one_over_n = k.scalar(type, "one_over_n");
    k.range("r", channels, [&](Expr r) {
      const Expr start = r * n, mean = means[r], scale = scales[r];
      const auto normal = [&](Expr c) { return (x[start + c] - mean) * scale; };
      const Expr total = k.sum("a", n, type, [&](Expr c) { return dy[start + c]; });
      const Expr slope = k.sum("a", n, type, [&](Expr c) { return dy[start + c] * normal(c); });
      const Expr factor = scale * weight[r], average = total * one_over_n, tilt = slope * one_over_n;
      dbias.store(r, total);
      dweight.store(r, slope);
      k.range("c", n, [&](Expr c) { dx.store(start + c, (dy[start + c] - average - normal(c) * tilt) * factor); });
    });
  };
  call.schedule = "r:thread r:group256 c:vec";
  const Shape row{shape[0]};
  call.results = {{type, shape}, {type, row}, {type, row}};
  call.scalars = {scalar_bits(shape[0]), scalar_bits(shape[1]), scalar_bits(type, 1.0 / static_cast<double>(shape[1]))};
  return call;
}

Status check(const char* name, std::span<const Tensor> operands, const BatchNormOptions& options) {
  const Tensor& x = operands[0];
  const auto fail = [&](const std::string& why) {
    return invalid_argument(std::string(name) + " of images " + to_string(x.shape()) + ": " + why);
  };
  if (x.rank() != 4 || !ir::is_float(x.dtype()) || is_16_bit(x.dtype()))
    return fail("they need four axes, and f32 or f64");
  const Shape channels{x.extent(options.layout == Layout::nchw ? 1 : 3)};
  for (const Tensor& one : operands.subspan(1))
    if (one.shape() != channels || one.dtype() != x.dtype())
      return fail("weight, bias and running statistics must have the images' type and the shape " +
                  to_string(channels) + " (their channels), not " + to_string(one.shape()));
  if (!(options.epsilon >= 0) || !std::isfinite(options.epsilon))
    return fail("epsilon must be 0 or more, not " + std::to_string(options.epsilon));
  if (!(options.momentum >= 0 && options.momentum <= 1))
    return fail("momentum must be from 0 to 1, not " + std::to_string(options.momentum));
  return {};
}

}  // namespace

BatchNorm batch_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& running_mean,
                     const Tensor& running_variance, const BatchNormOptions& options) {
  Tensor failed;
  const Tensor operands[] = {x, weight, bias, running_mean, running_variance};
  if (!check_operands("batch_norm", operands, &failed).ok()) return {failed, failed, failed};
  Status status = check("batch_norm", operands, options);
  const int64_t channels = weight.size(), count = channels > 0 ? x.size() / channels : 0;
  if (status.ok() && count < 2)
    status = invalid_argument("batch_norm of images " + to_string(x.shape()) +
                              ": a channel needs two elements or more to have a variance");
  if (!status.ok()) {
    failed = error_tensor(&x.context(), status);
    return {failed, failed, failed};
  }
  const bool nchw = options.layout == Layout::nchw;
  const Tensor planes = x.permute(nchw ? Dims{1, 0, 2, 3} : Dims{3, 0, 1, 2});
  KernelCall call = batch_norm_call(x.dtype(), {channels, count}, options.epsilon);
  call.gradient = [](std::span<const Tensor> in, std::span<const Tensor> out, std::span<const Tensor> d) {
    const Tensor inputs[] = {in[0], in[1], out[1], out[3], d[0]};
    return call_kernel(batch_norm_gradient(in[0].dtype(), in[0].shape()), inputs);
  };
  const Tensor inputs[] = {planes.reshape({channels, count}), weight, bias};
  const std::vector<Tensor> results = call_kernel(std::move(call), inputs);
  const double m = options.momentum, unbiased = static_cast<double>(count) / static_cast<double>(count - 1);
  return {results[0].reshape(planes.shape()).permute(nchw ? Dims{1, 0, 2, 3} : Dims{1, 2, 3, 0}),
          (running_mean * (1 - m) + results[1] * m).detach(),
          (running_variance * (1 - m) + results[2] * (m * unbiased)).detach()};
}

Tensor batch_norm_inference(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& running_mean,
                            const Tensor& running_variance, const BatchNormOptions& options) {
  Tensor failed;
  const Tensor operands[] = {x, weight, bias, running_mean, running_variance};
  if (!check_operands("batch_norm_inference", operands, &failed).ok()) return failed;
  if (Status s = check("batch_norm_inference", operands, options); !s.ok()) return error_tensor(&x.context(), s);
  const Shape shape = options.layout == Layout::nchw ? Shape{weight.size(), 1, 1} : Shape{weight.size()};
  const Tensor factor = weight / sqrt(running_variance + options.epsilon);
  return fma((x - running_mean.reshape(shape)), factor.reshape(shape).expand(x.shape()),
             bias.reshape(shape).expand(x.shape()));
}

}  // namespace sporkle::tensor
