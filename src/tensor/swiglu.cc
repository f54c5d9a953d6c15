// The gated unit of Llama's MLP.
#include "tensor/graph.h"
#include "tensor/kernel_call.h"
#include "tensor/layers.h"

namespace sporkle::tensor {
namespace {

using dsl::Buffer;
using dsl::Expr;
using dsl::KernelBuilder;

KernelCall swiglu_call(DType type, const Shape& shape) {
  KernelCall call;
  call.key = typed_key("swiglu", type);
  call.define = [type](KernelBuilder& k) {
    const Buffer gate = k.input(type, "gate"), up = k.input(type, "up"), y = k.output(type, "y");
    k.range("i", k.size("count"),
            [&](Expr i) { y.store(i, gate[i] / (dsl::constant(type, 1) + exp(-gate[i])) * up[i]); });
  };
  call.schedule = "i:thread4096 i:vec";
  call.results = {{type, shape}};
  call.scalars = {scalar_bits(element_count(shape))};
  return call;
}

KernelCall swiglu_gradient(DType type, const Shape& shape) {
  KernelCall call;
  call.key = typed_key("swiglu_gradient", type);
  call.define = [type](KernelBuilder& k) {
    const Buffer gate = k.input(type, "gate"), up = k.input(type, "up"), dy = k.input(type, "dy");
    const Buffer dgate = k.output(type, "dgate"), dup = k.output(type, "dup");
    k.range("i", k.size("count"), [&](Expr i) {
      const Expr one = dsl::constant(type, 1), share = one / (one + exp(-gate[i])), silu = gate[i] * share;
      dgate.store(i, dy[i] * up[i] * fma(silu, one - share, share));
      dup.store(i, dy[i] * silu);
    });
  };
  call.schedule = "i:thread4096 i:vec";
  call.results = {{type, shape}, {type, shape}};
  call.scalars = {scalar_bits(element_count(shape))};
  return call;
}

}  // namespace

Tensor swiglu(const Operand& operand, const Tensor& up) {
  const SourceScope scope(operand.source());
  const Tensor& gate = operand;
  Tensor failed;
  const Tensor operands[] = {gate, up};
  if (!check_operands("swiglu", operands, &failed).ok()) return failed;
  if (!ir::is_float(gate.dtype()) || up.dtype() != gate.dtype() || up.shape() != gate.shape())
    return error_tensor(&gate.context(),
                        invalid_argument("swiglu needs two tensors of floats of one shape and type, not " +
                                         std::string(ir::dtype_name(gate.dtype())) + to_string(gate.shape()) + " and " +
                                         std::string(ir::dtype_name(up.dtype())) + to_string(up.shape())));
  KernelCall call = swiglu_call(gate.dtype(), gate.shape());
  call.gradient = [](std::span<const Tensor> in, std::span<const Tensor>, std::span<const Tensor> d) {
    const Tensor inputs[] = {in[0], in[1], d[0]};
    return call_kernel(swiglu_gradient(in[0].dtype(), in[0].shape()), inputs);
  };
  return call_kernel(std::move(call), operands)[0];
}

}  // namespace sporkle::tensor
