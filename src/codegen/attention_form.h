// Causal attention and its gradients as kernels of bf16 that a code generator may give to a GPU's matrix units.
//
// define_attention says in the kernel language what such a kernel means: this is what the interpreter and every device
// without matrix units run. find_attention knows a kernel again by that very definition, so that spirv/
// attention_emitter.h may make it in another way (Dao, "FlashAttention-2", 2023: no matrix of all scores in memory).
// Only kernels of `fast` numerics may be made so. Plain values; thread-safe.
//
// For every row r, head h and query m, over the keys n <= m of the head's kv_head (GQA: h / (heads / kv_heads)):
//
//   score = scale * sum over c of q[m, c] * k[n, c];   logs[m] = log(sum over n of exp(score))
//   weight = exp(score - logs[m]);                     result[m, c] = sum over n of weight * v[n, c]
//   slope = weight * (sum over c of dy[m, c] * v[n, c] - means[m])
//   dq[m, c] = scale * sum over n of slope * k[n, c]
//   dk[n, c] = scale * sum over m of slope * q[m, c];  dv[n, c] = sum over m of weight * dy[m, c]
//
// Buffers, in order: q, k and v (one, where packed), then what the kind takes and makes. All are bf16, logs and means
// f32 [rows, heads, length]. q, k and v are [rows, heads or kv_heads, length, size], or packed: parts of [rows, length,
// (heads + 2 kv_heads) * size], q before k before v; result and dy are [rows, heads, length, size], or packed [rows,
// length, heads * size].
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "codegen/vulkan_target.h"
#include "dsl/kernel.h"

namespace sporkle::codegen {

struct AttentionForm {
  enum class Kind {
    forward,  // -> result, logs
    keys,     // logs, means, dy -> dk, dv (packed: their parts of one tensor, whose part of q is left as it was)
    queries,  // logs, means, dy -> dq (packed: its part of a tensor that has the others already)
  };
  Kind kind = Kind::forward;
  int64_t size = 0;  // of a head: a multiple of 16
  bool packed = false;

  // Of the kernel: all that is above.
  std::string name() const;
};

inline constexpr int64_t kAttentionTile = 64;  // queries or keys of a workgroup; what the length is a multiple of

// Scalars: what append_attention_scalars gives.
void define_attention(dsl::KernelBuilder& k, const AttentionForm& form);
// length: a multiple of kAttentionTile.
void append_attention_scalars(int64_t rows, int64_t heads, int64_t kv_heads, int64_t length, float scale,
                              std::vector<uint64_t>* scalars);

std::optional<AttentionForm> find_attention(const ir::Kernel& kernel);

// What keeps a target's matrix units from making it; nothing where they do.
std::optional<std::string> attention_refusal(const VulkanTarget& target, int64_t size);

// Where its parts lie, from the scalars: shared by the definition and the emitter, each with its own arithmetic.
// T: has + and *, and is made of whole numbers.
template <typename T>
struct AttentionPlaces {
  T heads, kv_heads, length, size;
  bool packed;

  T width() const { return (heads + kv_heads * T(2)) * size; }
  T line() const { return packed ? width() : size; }  // elements from a query, key or value to the next
  T result_line() const { return packed ? heads * size : size; }
  T query(T row, T head) const {
    return packed ? row * length * width() + head * size : (row * heads + head) * length * size;
  }
  T key(T row, T kv_head) const {
    return packed ? row * length * width() + (heads + kv_head) * size : (row * kv_heads + kv_head) * length * size;
  }
  T value(T row, T kv_head) const {
    return packed ? row * length * width() + (heads + kv_heads + kv_head) * size
                  : (row * kv_heads + kv_head) * length * size;
  }
  T result(T row, T head) const {
    return packed ? (row * length * heads + head) * size : (row * heads + head) * length * size;
  }
};

}  // namespace sporkle::codegen
