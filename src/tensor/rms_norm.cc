// RMS norm: rows scaled to a root mean square of 1.
#include "tensor/graph.h"
#include "tensor/kernel_call.h"
#include "tensor/layers.h"

namespace sporkle::tensor {
namespace {

using dsl::Buffer;
using dsl::Expr;
using dsl::KernelBuilder;

// The weight's gradient adds this many rows in one chain, then the chains' results: a fixed order with work for several
// threads.
constexpr int64_t kColumnChunk = 64;

// x, weight -> y, 1 / root mean square of each row.
KernelCall rms_norm_call(DType type, const Shape& shape, int64_t rows, double epsilon) {
  KernelCall call;
  call.key = typed_key("rms_norm", type);
  call.define = [type](KernelBuilder& k) {
    const Buffer x = k.input(type, "x"), weight = k.input(type, "weight");
    const Buffer y = k.output(type, "y"), scales = k.output(type, "scales");
    const Expr count = k.size("rows"), n = k.size("n"), eps = k.scalar(type, "epsilon");
    const Expr one_over_n = k.scalar(type, "one_over_n");
    k.range("r", count, [&](Expr r) {
      const Expr start = r * n;
      const Expr square = k.sum("a", n, type, [&](Expr c) { return x[start + c] * x[start + c]; });
      const Expr scale = dsl::constant(type, 1) / sqrt(fma(square, one_over_n, eps));
      scales.store(r, scale);
      k.range("c", n, [&](Expr c) { y.store(start + c, x[start + c] * scale * weight[c]); });
    });
  };
  call.schedule = "r:thread r:group64 c:vec";
  const int64_t n = shape[shape.rank() - 1];
  call.results = {{type, shape}, {type, {rows}}};
  call.scalars = {scalar_bits(rows), scalar_bits(n), scalar_bits(type, epsilon),
                  scalar_bits(type, 1.0 / static_cast<double>(n))};
  return call;
}

// x, weight, scales, dy -> dx, and partial sums of dy * x * scale for the weight, [chunks, n].
KernelCall rms_norm_gradient(DType type, const Shape& shape, int64_t rows) {
  KernelCall call;
  call.key = typed_key("rms_norm_gradient", type);
  call.define = [type](KernelBuilder& k) {
    const Buffer x = k.input(type, "x"), weight = k.input(type, "weight"), scales = k.input(type, "scales");
    const Buffer dy = k.input(type, "dy"), dx = k.output(type, "dx"), dweight = k.output(type, "dweight");
    const Expr count = k.size("rows"), n = k.size("n"), one_over_n = k.scalar(type, "one_over_n");
    k.range("t", (count + (kColumnChunk - 1)) / kColumnChunk, [&](Expr t) {
      const Expr first = t * kColumnChunk, rows_here = min(Expr(kColumnChunk), count - first);
      k.range("r", rows_here, [&](Expr i) {
        const Expr row = first + i, start = row * n, scale = scales[row];
        const Expr slope = k.sum("a", n, type, [&](Expr c) { return dy[start + c] * weight[c] * x[start + c]; });
        const Expr pull = slope * one_over_n * scale * scale;
        k.range("c", n,
                [&](Expr c) { dx.store(start + c, (dy[start + c] * weight[c] - x[start + c] * pull) * scale); });
      });
      k.range("c", n, [&](Expr c) {
        dweight.store(t * n + c, k.reduce("row", ir::Combine::add, 1, rows_here, dsl::constant(type, 0), [&](Expr i) {
          const Expr at = (first + i) * n + c;
          return dy[at] * (x[at] * scales[first + i]);
        }));
      });
    });
  };
  call.schedule = "t:thread c:vec";
  const int64_t n = shape[shape.rank() - 1];
  call.results = {{type, shape}, {type, {(rows + kColumnChunk - 1) / kColumnChunk, n}}};
  call.scalars = {scalar_bits(rows), scalar_bits(n), scalar_bits(type, 1.0 / static_cast<double>(n))};
  return call;
}

}  // namespace

Tensor rms_norm(const Operand& operand, const Tensor& weight, double epsilon) {
  const SourceScope scope(operand.source());
  const Tensor& x = operand;
  Tensor failed;
  const Tensor operands[] = {x, weight};
  if (!check_operands("rms_norm", operands, &failed).ok()) return failed;
  const Shape row{x.rank() > 0 ? x.extent(-1) : 0};
  if (!ir::is_float(x.dtype()) || x.rank() == 0 || row[0] == 0 || weight.shape() != row || weight.dtype() != x.dtype())
    return error_tensor(
        &x.context(), invalid_argument("rms_norm of " + std::string(ir::dtype_name(x.dtype())) + to_string(x.shape()) +
                                       " needs floats, rows that are not " + "empty, and a weight of shape " +
                                       to_string(row) + " and x's type, not " + to_string(weight.shape())));
  const int64_t rows = x.size() / row[0];
  KernelCall call = rms_norm_call(x.dtype(), x.shape(), rows, epsilon);
  call.gradient = [rows](std::span<const Tensor> in, std::span<const Tensor> out, std::span<const Tensor> d) {
    const Tensor inputs[] = {in[0], in[1], out[1], d[0]};
    const std::vector<Tensor> parts = call_kernel(rms_norm_gradient(in[0].dtype(), in[0].shape(), rows), inputs);
    return std::vector<Tensor>{parts[0], sum(parts[1], {0})};
  };
  return call_kernel(std::move(call), operands)[0];
}

}  // namespace sporkle::tensor
