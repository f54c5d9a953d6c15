// The kernels of tensor/attention.h. Internal.
#pragma once

#include "tensor/attention.h"
#include "tensor/kernel_call.h"

namespace sporkle::tensor {

struct AttentionShape {
  DType dtype = DType::f32;
  int64_t rows = 0, heads = 0, kv_heads = 0, queries = 0, keys = 0, size = 0;
  bool packed = false;  // q, k and v are parts of one tensor, and so are their gradients; queries == keys

  Shape query_shape() const { return {rows, heads, queries, size}; }
  Shape key_shape() const { return {rows, kv_heads, keys, size}; }
  Shape packed_shape() const { return {rows, queries, (heads + 2 * kv_heads) * size}; }
  Shape result_shape() const { return packed ? Shape{rows, queries, heads * size} : query_shape(); }
};

// q, k, v (or their joined projection) -> result, and [rows, heads, queries]: the logarithm of each query's sum of
// exponentials.
KernelCall attention_call(Context& context, const AttentionShape& shape, const AttentionOptions& options);
// q, k, v (or their joined projection), those logarithms, means, the result's gradient -> dq, dk, dv (or joined).
// means: [rows, heads, queries], the sum over size of result * its gradient.
KernelCall attention_gradient_call(Context& context, const AttentionShape& shape, const AttentionOptions& options);

// qkv, position, keys and values (which it writes) -> result: see cached_attention. shape.keys: the capacity.
KernelCall cached_attention_call(const AttentionShape& shape, double scale);

// scores [..., queries, keys] -> exp(score - the row's highest) and 0 where a query does not see, the logarithms, and
// 1 / the sum of the exponentials: what attention_call does with its scores, under `strict` numerics the same bits.
// The weights are rounded to `weights`, which is `type` or bf16.
KernelCall attention_weights_call(Context& context, DType weights, DType type, const Shape& scores);
// scores, logarithms [rows, heads, queries], the gradient of the weights, means -> the weights over their sum, and the
// gradient of the scores: what attention_gradient_call makes of its scores, the same bits, rounded to `results`.
KernelCall attention_slopes_call(DType results, DType type, const Shape& scores);

// ---- On a GPU's matrix units, in bf16 (codegen/attention_form.h) ----

bool runs_on_units(Context& context, const AttentionShape& shape, const AttentionOptions& options);
// bf16 q, k, v (or their joined projection) -> bf16 result and f32 logs, as attention_call's.
KernelCall unit_attention_call(const AttentionShape& shape, double scale);
// bf16 q, k, v (or joined), logs, means, bf16 gradient of the result -> bf16 dq, dk, dv (or joined).
std::vector<Tensor> unit_attention_gradients(const AttentionShape& shape, double scale, std::span<const Tensor> inputs);

}  // namespace sporkle::tensor
