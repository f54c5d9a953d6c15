// A kernel in the kernel language: the root mean square of every row of a matrix, called on tensors.
//
// The lambda is traced once into Sporkle's kernel IR; the schedule says how its loops run on the device. Neither
// mentions a shape: the same compiled kernel serves every number of rows and columns.
#include <cmath>
#include <cstdio>

#include "tensor/context.h"
#include "tensor/kernel_call.h"

using namespace sporkle;
using tensor::Tensor;

Tensor root_mean_square(const Tensor& x) {
  const int64_t rows = x.extent(0), columns = x.extent(1);
  tensor::KernelCall call;
  call.key = "example.root_mean_square";
  call.define = [](dsl::KernelBuilder& k) {
    const dsl::Buffer in = k.input(ir::DType::f32, "in"), out = k.output(ir::DType::f32, "out");
    const dsl::Expr m = k.size("rows"), n = k.size("columns"), share = k.scalar(ir::DType::f32, "share");
    k.range("row", m, [&](dsl::Expr row) {
      // sum adds in an order that depends on n alone: the result has the same bits on every device.
      const dsl::Expr squares =
          k.sum("column", n, ir::DType::f32, [&](dsl::Expr c) { return in[row * n + c] * in[row * n + c]; });
      out.store(row, sqrt(squares * share));
    });
  };
  call.schedule = "row:thread";
  call.results = {{ir::DType::f32, {rows}}};
  call.scalars = {tensor::scalar_bits(rows), tensor::scalar_bits(columns),
                  tensor::scalar_bits(ir::DType::f32, 1.0 / static_cast<double>(columns))};
  return tensor::call_kernel(call, {&x, 1})[0];
}

int main() {
  const auto context = tensor::Context::open();
  if (!context.ok()) return std::fprintf(stderr, "%s\n", context.status().to_string().c_str()), 1;

  const std::vector<float> values = {3, -4, 3, -4, 1, 1, 1, 1, 0, 0, 0, 6};
  const Tensor x = tensor::from_host<float>(**context, values, {3, 4});
  const auto result = root_mean_square(x).to_host<float>();
  if (!result.ok()) return std::fprintf(stderr, "%s\n", result.status().to_string().c_str()), 1;

  bool right = true;
  for (size_t row = 0; row < 3; ++row) {
    double squares = 0;
    for (size_t c = 0; c < 4; ++c) squares += values[row * 4 + c] * values[row * 4 + c];
    right &= std::abs((*result)[row] - std::sqrt(squares / 4)) < 1e-6;
    std::printf("row %zu: %.4f\n", row, (*result)[row]);
  }
  std::printf(right ? "as expected\n" : "WRONG\n");
  return right ? 0 : 1;
}
