// Causal attention as one kernel each way: no matrix of queries x keys lies in memory, and keys that no query of a
// block sees are skipped. Dao et al., "FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness",
// 2022.
#pragma once

#include "tensor/random.h"
#include "tensor/tensor.h"

namespace sporkle::tensor {

struct AttentionOptions {
  double scale = 1;    // of the scores, usually 1 / sqrt(size)
  double dropout = 0;  // of the weights, as tensor::dropout on a tensor [rows, heads, queries, keys]; in [0, 1)
  RandomKey key = {};  // of the dropout
};

// Each row of the result is a mean of v's rows, weighted by the softmax of scale * q k^T. Query i sees keys
// 0 .. i + keys - queries. q: [rows, heads, queries, size], k and v: [rows, kv_heads, keys, size], keys >= queries;
// kv_heads divides heads, and heads / kv_heads neighbouring heads share one (Ainslie et al., "GQA", 2023). f32 or f64.
// Result: as q. Strict: scores and results are chains of fused multiply-adds over size and keys; gradients of k and v
// are chains over the heads that share them and the queries, in order.
Tensor attention(const Operand& q, const Tensor& k, const Tensor& v, const AttentionOptions& options);

// The same of a joined projection [rows, length, (heads + 2 * kv_heads) * size]: the queries of each head, then the
// keys, then the values. Result: [rows, length, heads * size]. Read and written in place: the same bits, no copies.
Tensor packed_attention(const Operand& qkv, int64_t heads, int64_t kv_heads, const AttentionOptions& options);

// Keys and values of the positions so far, for generation. Its memory is written in place: keep no other handle to it.
struct AttentionCache {
  Tensor keys;    // [rows, kv_heads, size, capacity], so that neighbouring keys lie side by side
  Tensor values;  // [rows, kv_heads, capacity, size]
};
AttentionCache attention_cache(Context& context, int64_t rows, int64_t kv_heads, int64_t capacity, int64_t size,
                               DType type = DType::f32);

// packed_attention of qkv [rows, length, ...] at positions `position` and on, whose keys and values go into the cache,
// over all that it then holds. position: i32 [1], data, so that one plan serves all of them; position + length <=
// capacity (the caller has checked). The same bits as packed_attention of the whole sequence.
// The result must be realised once, and before that of the next call with this cache. It has no gradient.
Tensor cached_attention(const Operand& qkv, int64_t heads, const AttentionCache& cache, const Tensor& position,
                        double scale);

}  // namespace sporkle::tensor
