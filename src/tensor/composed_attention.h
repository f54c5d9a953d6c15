// Attention for GPUs, where a workgroup has no memory for a block's scores: products of whole matrices, for a block of
// queries after the other, over the keys that one of the block sees. Internal.
#pragma once

#include <vector>

#include "tensor/kernels/attention.h"

namespace sporkle::tensor {

// q: [rows, heads, queries, size], k and v: [rows, kv_heads, keys, size] -> the result, as q, and the logarithms
// [rows, heads, queries] of attention_call. Under `strict` numerics the same bits.
std::vector<Tensor> composed_attention(const AttentionShape& shape, const AttentionOptions& options, const Tensor& q,
                                       const Tensor& k, const Tensor& v);
// The gradients of q, k and v, from the logarithms, the means of attention_gradient_call and the result's gradient, as
// q. Under `strict` numerics the same bits.
std::vector<Tensor> composed_attention_gradients(const AttentionShape& shape, const AttentionOptions& options,
                                                 const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& logs,
                                                 const Tensor& means, const Tensor& dy);

}  // namespace sporkle::tensor
