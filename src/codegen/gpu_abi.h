// The contract between generated GPU code and its loader (hal/vulkan): what codegen::compile gives for a target
// "vulkan:..." (codegen/vulkan_target.h).
//
// Memory is reached by 64-bit device addresses (bufferDeviceAddress), so a binding may begin at any element and there
// are no descriptors. A kernel takes a push-constant block of 64-bit words, little-endian:
//
//   0  first iteration of this dispatch
//   1  end: iterations [first, end) run; invocations past the end do nothing
//   2  address of the scratch memory (0 when the kernel has none)
//   3  the arguments, when GpuCode::arguments_inline: the address of each buffer argument (its binding's offset added),
//      then each scalar's 64 bits as in a constant node of its type; else the address of the same words in device
//      memory, 8-byte aligned
//
// A dispatch of [first, end) has (end - first + n - 1) / n workgroups in x and one in y and z, n being
// iterations_per_workgroup. The iterations of a kernel, [0, launch's iterations), are independent, so the loader cuts
// them into dispatches as it likes: to stay below maxComputeWorkGroupCount[0], to keep a dispatch short on a desktop's
// GPU, or to bound scratch memory, of which a dispatch needs (end - first) * launch's scratch_bytes. Dispatches that
// use the same scratch memory need a barrier between them; no other pieces of one kernel do.
//
// The entry point is "main". A GpuCode is a plain value; its functions are thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "codegen/launch_formula.h"
#include "ir/kernel.h"

namespace sporkle::codegen {

inline constexpr size_t kPushConstantHeaderWords = 3;
inline constexpr size_t kPushConstantBytes = 128;
inline constexpr size_t kMaxInlineArguments = kPushConstantBytes / 8 - kPushConstantHeaderWords;

struct GpuBuffer {
  uint32_t element_bytes = 0;
  ir::Access access = ir::Access::read;
  uint32_t alignment_bytes = 1;  // of what is bound; at least the element's size in any case
};

struct GpuCode {
  std::vector<GpuBuffer> buffers;
  bool arguments_inline = true;           // where they all fit: buffers + scalars <= kMaxInlineArguments
  uint32_t workgroup_size = 0;            // invocations of a workgroup, in x
  uint32_t iterations_per_workgroup = 0;  // the workgroup size, or 1 where a workgroup shares one iteration
  uint32_t shared_bytes = 0;              // workgroup memory in use
  LaunchFormula launch;                   // from the scalars: all iterations; scratch bytes of each, a multiple of 16
  std::vector<uint32_t> spirv;

  // Bytes of the push-constant block.
  size_t push_constant_bytes() const {
    return 8 * (kPushConstantHeaderWords + (arguments_inline ? buffers.size() + launch.scalar_count() : 1));
  }
};

std::vector<std::byte> encode(const GpuCode& code);
// corrupt_data names what is wrong: any bytes may be given.
Result<GpuCode> decode_gpu_code(std::span<const std::byte> bytes);

}  // namespace sporkle::codegen
