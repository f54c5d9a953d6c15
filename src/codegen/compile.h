// From a kernel and a schedule to the code a device loads.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "codegen/cpu_target.h"
#include "ir/kernel.h"
#include "lower/schedule.h"

namespace sporkle::codegen {

// Targets:
//   "cpu:FEATURES" (see codegen/cpu_target.h)         a relocatable ELF object (see codegen/cpu_abi.h); needs libLLVM
//   "vulkan:FEATURES" (see codegen/vulkan_target.h)   SPIR-V and how to launch it (see codegen/gpu_abi.h)
//   "reference"                                       the kernel's text form, which the interpreter executes
//   "null"                                            nothing but a marker
// `seen` is called with every stage that the kernel goes through, as text: each lowering pass ("expand_math" ...),
// "llvm" (the LLVM IR) and "assembly"; of a Vulkan target the passes alone. Thread-safe (LLVM calls are serialised).
// unsupported names what is missing, for example that no libLLVM was found, the names tried and the package to install.
using StageSink = std::function<void(std::string_view stage, std::string_view text)>;
Result<std::vector<std::byte>> compile(const ir::Kernel& kernel, const lower::Schedule& schedule,
                                       std::string_view target, const StageSink& seen = {});

// Changes whenever generated code could change; part of every cache key.
std::string_view version();

}  // namespace sporkle::codegen
