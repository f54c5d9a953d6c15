// The kernels and adversarial operands that the probe judges a device's arithmetic by. Internal to the probe.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hal/device.h"
#include "ir/kernel.h"

namespace sporkle::hal {

// One elementwise kernel and its operands.
struct ProbeCase {
  std::string name;
  ir::Kernel kernel;
  std::vector<std::vector<uint64_t>> operands;  // the bits of each element of each input
  ir::DType operand_type, result_type;
  size_t results;
  std::vector<uint64_t> scalars;
};

std::vector<ProbeCase> all_probe_cases();
// `operation`: "fma", "fma of a workgroup", "division", "square root", "comparison" or "widening".
ProbeCase probe_case(std::string_view operation, ir::DType type);

// The bytes of the result, with all NaNs alike: what the interpreter gives, and what the device gives with `code`.
Result<std::vector<std::byte>> interpreted(const ProbeCase& c);
Result<std::vector<std::byte>> computed(Device& device, const ProbeCase& c, std::span<const std::byte> code);
Result<std::vector<std::byte>> compile(const ProbeCase& c, std::string_view target);

}  // namespace sporkle::hal
