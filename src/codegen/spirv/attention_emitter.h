// Attention and its gradients on a GPU's matrix units, by cooperative matrices: a workgroup makes kAttentionTile
// queries (or keys) of one head while the others pass by in tiles, in workgroup memory. After Dao, "FlashAttention-2:
// Faster Attention with Better Parallelism and Work Partitioning", 2023; unlike there, a first pass over the keys finds
// each query's highest score, so that sums need no rescaling, and keys' and queries' gradients are kernels of their
// own, so that nothing is added by atomics.
#pragma once

#include "base/status.h"
#include "codegen/attention_form.h"
#include "codegen/gpu_abi.h"

namespace sporkle::codegen::spirv {

// kernel: what `form` was found in. unsupported where attention_refusal says so.
Result<GpuCode> emit_attention(const ir::Kernel& kernel, const AttentionForm& form, const VulkanTarget& target);

}  // namespace sporkle::codegen::spirv
