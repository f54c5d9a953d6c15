// From a kernel and a schedule to the code a device loads.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "ir/kernel.h"
#include "lower/schedule.h"

namespace sporkle::codegen {

// Targets:
//   "cpu:x86-64", "cpu:x86-64-v3", "cpu:x86-64-v4"   a relocatable ELF object (see codegen/cpu_abi.h); needs libLLVM
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

// The best CPU target this machine can run: "cpu:x86-64-v4" with AVX-512 F/BW/CD/DQ/VL, "cpu:x86-64-v3" with AVX2 and
// FMA, else "cpu:x86-64". A `level` (x86-64, x86-64-v3, x86-64-v4) lowers it, or else $SPORKLE_CPU_TARGET; asking for
// more is an error.
Result<std::string> host_cpu_target(std::string_view level = {});

// The levels that this machine can run, lowest first.
std::vector<std::string_view> host_cpu_levels();

}  // namespace sporkle::codegen
