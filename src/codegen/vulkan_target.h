// What a Vulkan device can do, as far as it changes the code generated for it: the part of a target after "vulkan:".
//
// Taken for granted: Vulkan 1.2 with shaderInt64 and bufferDeviceAddress, workgroups of 128 invocations, 16 KiB of
// workgroup memory and 128 bytes of push constants. A device without them cannot be used at all; hal/vulkan says so.
// Capability bits are not trusted: what a flag below promises about results is what the device's probe has found.
// Plain values.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/status.h"

namespace sporkle::codegen {

// Whose device it is: what schedules are chosen by (tune/gpu_plan.h). Nothing about results follows from it.
enum class VulkanVendor : uint8_t { other, nvidia, amd, intel, processor };

struct VulkanTarget {
  VulkanVendor vendor = VulkanVendor::other;

  // Features to be enabled when the device is opened.
  bool f64 = false;         // shaderFloat64
  bool storage8 = false;    // storageBuffer8BitAccess: buffers of booleans, i8 and u8
  bool storage16 = false;   // storageBuffer16BitAccess: buffers of f16 and bf16
  bool rte32 = false;       // shaderRoundingModeRTEFloat32
  bool rte64 = false;       // shaderRoundingModeRTEFloat64
  bool nan32 = false;       // shaderSignedZeroInfNanPreserveFloat32
  bool nan64 = false;       // shaderSignedZeroInfNanPreserveFloat64
  bool denormal32 = false;  // shaderDenormPreserveFloat32
  bool denormal64 = false;  // shaderDenormPreserveFloat64

  bool controls2 = false;  // shaderFloatControls2: what may be contracted is said of each operation

  // What the probe found to be correctly rounded; what is not is computed by exact, slower sequences.
  bool fma32 = false;  // GLSL.std.450 Fma is fused
  bool fma64 = false;
  bool fma32_normal = false;  // the same, unless denormal numbers are involved
  bool contract32 = false;    // OpFAdd of an OpFMul becomes one fused multiply-add where both are free to
  bool div32 = false;         // OpFDiv
  bool div64 = false;
  bool sqrt32 = false;  // GLSL.std.450 Sqrt
  bool sqrt64 = false;
  bool compare32 = false;  // comparisons tell denormal numbers from zero
  bool widen32 = false;    // so does OpFConvert to f64

  // Matrix units, for `fast` numerics alone: factors of 16 x 16 by subgroups, sums in f32 (VK_KHR_cooperative_matrix).
  bool matrix_f16 = false;
  bool matrix_bf16 = false;  // with VK_KHR_shader_bfloat16

  uint32_t subgroup = 0;     // subgroupSize, where basic and shuffle operations work in compute shaders; else 0
  uint32_t workgroup = 128;  // maxComputeWorkGroupInvocations
  uint32_t shared_kib = 16;  // maxComputeSharedMemorySize / 1024

  // "vulkan:nvidia,f64,storage8,rte32,fma32,subgroup32,workgroup1024,shared48": the one text of these features.
  std::string text() const;
  // The reverse. Order is free; an unknown, malformed or repeated word is invalid_argument naming it.
  static Result<VulkanTarget> parse(std::string_view text);

  bool operator==(const VulkanTarget&) const = default;
};

inline constexpr std::string_view kVulkanPrefix = "vulkan:";

}  // namespace sporkle::codegen
