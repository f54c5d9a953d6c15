// What a device's arithmetic is worth: kernels with adversarial operands run on it and are compared, bit for bit, with
// the interpreter. Claims of drivers are not trusted. Thread-safe.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "hal/device.h"
#include "ir/kernel.h"

namespace sporkle::hal {

enum class Verdict {
  strict,  // the bits of the interpreter
  stable,  // other bits, the same at every run
  fast,    // bits that change
};
std::string_view verdict_name(Verdict verdict);

struct NumericsProbe {
  Verdict verdict = Verdict::strict;
  std::vector<std::string> failures;  // the tests that gave other bits: "division f32"
  std::vector<std::string> untested;  // those that need what the device or its code generator lacks
};

// An error when nothing can be tested, for example without a code generator: its reason.
Result<NumericsProbe> probe_numerics(Device& device);

// The same, remembered in `folder` for each device, driver and version of the code generator. A file that does not
// check out is ignored and written anew; without a writable folder every call probes.
Result<NumericsProbe> cached_numerics(Device& device, const std::filesystem::path& folder);

// What is behind a failed test.
struct NumericsDifference {
  std::string test;
  size_t elements = 0, different = 0;
  size_t with_denormals = 0;  // of the different: where an operand or a result is a denormal number
  std::string example;        // in bits: "of 0x1, 0x3f800000: 0x0 in place of 0x1"
};

// The tests that give other bits on code for `target` (empty: the device's own), each with what differs.
Result<std::vector<NumericsDifference>> explain_numerics(Device& device, std::string_view target = {});

// Whether one operation gives the interpreter's bits on code compiled for `target` in place of the device's own.
// `operation`: one that probe_case (hal/probe_cases.h) knows; `type`: f32 or f64.
Result<bool> is_exact(Device& device, std::string_view operation, ir::DType type, std::string_view target);

}  // namespace sporkle::hal
