// The SPIR-V of cooperative matrices, by number: newer than the headers that Debian 12 has. From the specifications
// SPV_KHR_cooperative_matrix and SPV_KHR_bfloat16 (Khronos).
#pragma once

#include <spirv/unified1/spirv.hpp11>

namespace sporkle::codegen::spirv::cooperative {

inline constexpr auto OpTypeCooperativeMatrix = static_cast<spv::Op>(4456);
inline constexpr auto OpLoad = static_cast<spv::Op>(4457);
inline constexpr auto OpStore = static_cast<spv::Op>(4458);
inline constexpr auto OpMulAdd = static_cast<spv::Op>(4459);
inline constexpr auto OpLength = static_cast<spv::Op>(4460);

inline constexpr auto CapabilityMatrix = static_cast<spv::Capability>(6022);
inline constexpr auto CapabilityBFloat16Type = static_cast<spv::Capability>(5116);
inline constexpr auto CapabilityBFloat16Matrix = static_cast<spv::Capability>(5118);

enum class Use : uint32_t { a = 0, b = 1, accumulator = 2 };
enum class Layout : uint32_t { row_major = 0, column_major = 1 };
inline constexpr uint32_t kBFloat16Encoding = 0;

}  // namespace sporkle::codegen::spirv::cooperative
