// What a processor can do, as far as it changes the code generated for it: the part of a target after "cpu:".
//
//   x86-64            SSE2
//   x86-64-v3         AVX2 and FMA; x86-64-v3+vnni with AVX-VNNI as well
//   x86-64-v4         AVX-512 F, BW, CD, DQ and VL; +bf16 with AVX512_BF16, +vnni with AVX512_VNNI, in this order
//   aarch64           ARMv8: NEON
//
// The levels are the psABI's. What stands after a plus makes `fast` kernels and whole numbers faster and changes no bit
// of a `strict` kernel. Plain values.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace sporkle::codegen {

inline constexpr std::string_view kCpuPrefix = "cpu:";

struct CpuTarget {
  enum class Level { x86_64, x86_64_v3, x86_64_v4, aarch64 };
  Level level = Level::x86_64;
  bool bf16 = false;  // multiplies pairs of bf16 and adds them to an f32
  bool vnni = false;  // multiplies four bytes with four and adds them to an i32

  // "x86-64-v4+bf16+vnni"
  std::string name() const;
  // invalid_argument names the known ones.
  static Result<CpuTarget> from_name(std::string_view name);
  // The same with "cpu:" in front: what compile() takes.
  std::string text() const { return std::string(kCpuPrefix) + name(); }
  static Result<CpuTarget> parse(std::string_view text);

  bool is_x86() const { return level != Level::aarch64; }
  bool has_fma() const { return level != Level::x86_64; }
  int vector_width() const;  // in f32
  // How LLVM calls it.
  std::string_view triple() const;
  std::string_view llvm_cpu() const;
  std::string llvm_features() const;

  bool operator==(const CpuTarget&) const = default;
};

// How many f32 a vector of any target holds; 4 for one that is no processor.
int vector_width_of(std::string_view target);

// What this machine's processor can do at most.
CpuTarget host_cpu();

// The targets that this machine can run, by name, lowest first: its levels, and the highest with all it adds to them.
std::vector<std::string> host_cpu_levels();

// The best target for this machine. A `level` by name lowers it, or else $SPORKLE_CPU_TARGET; asking for more is an
// error.
Result<std::string> host_cpu_target(std::string_view level = {});

}  // namespace sporkle::codegen
