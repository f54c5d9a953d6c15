// Attention in bf16 on a GPU's matrix units: calls of the kernels that codegen/attention_form.h defines.
#include "base/log.h"
#include "codegen/attention_form.h"
#include "tensor/context.h"
#include "tensor/kernels/attention.h"
#include "tensor/low_precision.h"

namespace sporkle::tensor {
namespace {

using codegen::AttentionForm;

KernelCall call_of(AttentionForm::Kind kind, const AttentionShape& shape, double scale) {
  const AttentionForm form{kind, shape.size, shape.packed};
  KernelCall call;
  call.key = form.name();
  call.define = [form](dsl::KernelBuilder& k) { codegen::define_attention(k, form); };
  call.schedule = kind == AttentionForm::Kind::keys ? "key:thread" : "query:thread";
  codegen::append_attention_scalars(shape.rows, shape.heads, shape.kv_heads, shape.queries, static_cast<float>(scale),
                                    &call.scalars);
  return call;
}

}  // namespace

bool runs_on_units(Context& context, const AttentionShape& shape, const AttentionOptions& options) {
  const bool asked = shape.dtype == DType::f32 && context.options().product_type == DType::bf16 &&
                     has_matrix_units(context) && multiplies_bf16(context);
  if (!asked || options.dropout > 0 || shape.queries != shape.keys || shape.queries % codegen::kAttentionTile != 0)
    return false;
  const auto target = codegen::VulkanTarget::parse(context.device().info().target);
  const auto refusal = codegen::attention_refusal(*target, shape.size);
  if (refusal && debug_level() >= 1) log(LogLevel::info, "attention", *refusal);
  return !refusal;
}

KernelCall unit_attention_call(const AttentionShape& shape, double scale) {
  KernelCall call = call_of(AttentionForm::Kind::forward, shape, scale);
  call.results = {{DType::bf16, shape.result_shape()}, {DType::f32, {shape.rows, shape.heads, shape.queries}}};
  return call;
}

std::vector<Tensor> unit_attention_gradients(const AttentionShape& shape, double scale,
                                             std::span<const Tensor> inputs) {
  KernelCall keys = call_of(AttentionForm::Kind::keys, shape, scale);
  KernelCall queries = call_of(AttentionForm::Kind::queries, shape, scale);
  if (!shape.packed) {
    keys.results = {{DType::bf16, shape.key_shape()}, {DType::bf16, shape.key_shape()}};
    queries.results = {{DType::bf16, shape.query_shape()}};
    const std::vector<Tensor> of_keys = call_kernel(std::move(keys), inputs);
    return {call_kernel(std::move(queries), inputs)[0], of_keys[0], of_keys[1]};
  }
  keys.results = {{DType::bf16, shape.packed_shape()}};
  queries.results = keys.results;
  queries.takes = {static_cast<int>(inputs.size())};
  std::vector<Tensor> all(inputs.begin(), inputs.end());
  all.push_back(call_kernel(std::move(keys), inputs)[0]);
  return call_kernel(std::move(queries), all);
}

}  // namespace sporkle::tensor
