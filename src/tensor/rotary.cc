// Rotary position embedding.
#include "tensor/graph.h"
#include "tensor/kernel_call.h"
#include "tensor/layers.h"

namespace sporkle::tensor {
namespace {

using dsl::Buffer;
using dsl::Expr;
using dsl::KernelBuilder;

// x, cosines, sines -> turned x; `backward` turns the other way, which is the transposed map.
KernelCall rotary_call(DType type, const Shape& shape, int64_t heads, int64_t half, int64_t first, bool backward) {
  KernelCall call;
  call.key = typed_key(backward ? "rotary_gradient" : "rotary", type);
  call.define = [type, backward](KernelBuilder& k) {
    const Buffer x = k.input(type, "x"), cosines = k.input(type, "cosines"), sines = k.input(type, "sines");
    const Buffer y = k.output(type, "y");
    const Expr positions = k.size("positions"), length = k.size("length"), width = k.size("width");
    const Expr count = k.size("heads"), half_size = k.size("half"), start = k.size("first_position");
    k.range("p", positions, [&](Expr p) {
      const Expr row = p * width, angle = (start + p % length) * half_size;
      k.range("h", count, [&](Expr h) {
        const Expr head = row + h * half_size * 2;
        k.range("c", half_size, [&](Expr c) {
          const Expr a = x[head + c], b = x[head + half_size + c];
          const Expr cosine = cosines[angle + c], sine = backward ? -sines[angle + c] : sines[angle + c];
          y.store(head + c, a * cosine - b * sine);
          y.store(head + half_size + c, b * cosine + a * sine);
        });
      });
      const Expr turned = count * half_size * 2;
      k.range("rest", width - turned, [&](Expr c) { y.store(row + turned + c, x[row + turned + c]); });
    });
  };
  call.schedule = "p:thread c:vec rest:vec";
  call.results = {{type, shape}};
  for (const int64_t value : {shape[0] * shape[1], shape[1], shape[2], heads, half, first})
    call.scalars.push_back(scalar_bits(value));
  return call;
}

}  // namespace

RotaryTables rotary_tables(Context& context, int64_t positions, int64_t size, double base, DType type) {
  if (size <= 0 || size % 2 != 0 || positions < 0 || !(base > 0)) {
    const Tensor failed =
        error_tensor(&context, invalid_argument("rotary_tables needs an even size, positions and a base above 0, not " +
                                                std::to_string(size) + ", " + std::to_string(positions) + " and " +
                                                std::to_string(base)));
    return {failed, failed};
  }
  const Shape shape{positions, size / 2};
  const Tensor place = index(context, shape, 1).cast(DType::f64);
  const Tensor angle = index(context, shape, 0).cast(DType::f64) *
                       exp(place * log(full(context, {}, base, DType::f64)) * (-2.0 / static_cast<double>(size)));
  return {cos(angle).cast(type), sin(angle).cast(type)};
}

Tensor rotary(const Operand& operand, const RotaryTables& tables, int64_t heads, int64_t first_position) {
  const SourceScope scope(operand.source());
  const Tensor& x = operand;
  Tensor failed;
  const Tensor operands[] = {x, tables.cosines, tables.sines};
  if (!check_operands("rotary", operands, &failed).ok()) return failed;
  const Shape& of_table = tables.cosines.shape();
  const bool fits = x.rank() == 3 && of_table.rank() == 2 && tables.sines.shape() == of_table && heads > 0 &&
                    first_position >= 0 && first_position + x.extent(1) <= of_table[0] &&
                    2 * heads * of_table[1] <= x.extent(2);
  if (!fits || !ir::is_float(x.dtype()) || tables.cosines.dtype() != x.dtype() || tables.sines.dtype() != x.dtype())
    return error_tensor(&x.context(),
                        invalid_argument("rotary of " + std::to_string(heads) + " heads from position " +
                                         std::to_string(first_position) +
                                         " needs floats [rows, length, width >= heads * size] and tables [positions, "
                                         "size / 2] of x's type that reach as far, not " +
                                         to_string(x.shape()) + " and " + to_string(of_table)));
  const int64_t half = of_table[1];
  KernelCall call = rotary_call(x.dtype(), x.shape(), heads, half, first_position, false);
  call.gradient = [=](std::span<const Tensor> in, std::span<const Tensor>, std::span<const Tensor> d) {
    const Tensor inputs[] = {d[0], in[1], in[2]};
    const Tensor dx =
        call_kernel(rotary_call(in[0].dtype(), in[0].shape(), heads, half, first_position, true), inputs)[0];
    return std::vector<Tensor>{dx, Tensor(), Tensor()};
  };
  return call_kernel(std::move(call), operands)[0];
}

}  // namespace sporkle::tensor
