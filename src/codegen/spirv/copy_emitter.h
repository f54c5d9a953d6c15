// The kernel by which a Vulkan device copies its own memory: drivers' copy commands may stay far below what the memory
// gives. Thread-safe.
#pragma once

#include "base/status.h"
#include "codegen/gpu_abi.h"

namespace sporkle::codegen::spirv {

// What one workgroup copies, in vectors of 16 bytes.
inline constexpr uint64_t kCopyBlockBytes = 16384;

// Arguments: the source, the destination (both at multiples of 16 bytes, and apart from each other), and how many
// blocks of kCopyBlockBytes to copy.
Result<GpuCode> emit_copy();

}  // namespace sporkle::codegen::spirv
