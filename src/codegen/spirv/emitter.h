// SPIR-V from a lowered kernel.
//
// One pass over the statements. A value is emitted once, in the outermost loop where all it depends on is known, and
// reductions over the same range that stand beside each other share one loop. An iteration of the thread loop is one
// invocation, and everything inside it happens in the order of the IR; or, in a kernel that has loops over invocations,
// it is one workgroup.
#pragma once

#include "base/status.h"
#include "codegen/gpu_abi.h"
#include "codegen/vulkan_target.h"
#include "ir/kernel.h"

namespace sporkle::codegen::spirv {

inline constexpr uint32_t kUsualWorkgroup = 128;  // which every device has

// `kernel`: as lower::lower_for_gpu leaves it. unsupported names what the target lacks for it: f64, buffers of 8- or
// 16-bit elements, an exact operation. `packs`: four loads or stores of one statement that lie side by side in a
// buffer, at what its index shows to be a multiple of four, are one vector; that buffer's binding must be aligned to it
// (GpuBuffer::alignment_bytes). `workgroup`: invocations of a workgroup where they share nothing.
Result<GpuCode> emit(const ir::Kernel& kernel, const VulkanTarget& target, bool packs = false,
                     uint32_t workgroup = kUsualWorkgroup);

}  // namespace sporkle::codegen::spirv
