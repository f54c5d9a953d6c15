#include "codegen/cpu_target.h"

#include <cstdlib>

namespace sporkle::codegen {
namespace {

using Level = CpuTarget::Level;

constexpr std::string_view kLevels[] = {"x86-64", "x86-64-v3", "x86-64-v4", "aarch64"};
constexpr std::string_view kBf16 = "+bf16", kVnni = "+vnni";

bool take_suffix(std::string_view& text, std::string_view suffix) {
  if (!text.ends_with(suffix)) return false;
  text.remove_suffix(suffix.size());
  return true;
}

// Whether what `a` asks for is part of what `b` has.
bool is_within(const CpuTarget& a, const CpuTarget& b) {
  return a.is_x86() == b.is_x86() && a.level <= b.level && (!a.bf16 || b.bf16) && (!a.vnni || b.vnni);
}

#if defined(__x86_64__)
// AVX-VNNI, the form that processors without AVX-512 have: CPUID leaf 7, subleaf 1, EAX bit 4. GCC 12 has no name for
// it in __builtin_cpu_supports.
bool has_avx_vnni() {
  unsigned eax = 7, ebx = 0, ecx = 1, edx = 0;
  asm volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
  return (eax >> 4 & 1) != 0;
}
#endif

}  // namespace

std::string CpuTarget::name() const {
  return std::string(kLevels[static_cast<size_t>(level)]) + std::string(bf16 ? kBf16 : "") +
         std::string(vnni ? kVnni : "");
}

Result<CpuTarget> CpuTarget::from_name(std::string_view name) {
  CpuTarget target;
  std::string_view rest = name;
  target.vnni = take_suffix(rest, kVnni);
  target.bf16 = take_suffix(rest, kBf16);
  for (size_t i = 0; i < std::size(kLevels); ++i) {
    if (kLevels[i] != rest) continue;
    target.level = static_cast<Level>(i);
    const bool has_bf16 = target.level == Level::x86_64_v4;
    const bool has_vnni = has_bf16 || target.level == Level::x86_64_v3;
    if ((target.bf16 && !has_bf16) || (target.vnni && !has_vnni)) break;
    return target;
  }
  return invalid_argument(std::string(name) +
                          " is not known; use x86-64, x86-64-v3 (AVX2; +vnni), x86-64-v4 (AVX-512; +bf16, +vnni or "
                          "+bf16+vnni) or aarch64");
}

Result<CpuTarget> CpuTarget::parse(std::string_view text) {
  if (!text.starts_with(kCpuPrefix)) return invalid_argument("\"" + std::string(text) + "\" is no CPU target");
  Result<CpuTarget> target = from_name(text.substr(kCpuPrefix.size()));
  if (!target.ok()) return invalid_argument("CPU target " + target.status().message());
  return target;
}

int CpuTarget::vector_width() const { return level == Level::x86_64_v4 ? 16 : level == Level::x86_64_v3 ? 8 : 4; }

std::string_view CpuTarget::triple() const {
  return is_x86() ? "x86_64-unknown-linux-gnu" : "aarch64-unknown-linux-gnu";
}

std::string_view CpuTarget::llvm_cpu() const { return is_x86() ? kLevels[static_cast<size_t>(level)] : "generic"; }

std::string CpuTarget::llvm_features() const {
  std::string features;
  if (bf16) features = "+avx512bf16";
  if (vnni) features += (features.empty() ? "" : ",") + std::string(vector_width() == 16 ? "+avx512vnni" : "+avxvnni");
  return features;
}

int vector_width_of(std::string_view target) {
  const Result<CpuTarget> cpu = CpuTarget::parse(target);
  return cpu.ok() ? cpu->vector_width() : 4;
}

CpuTarget host_cpu() {
  CpuTarget target;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");
  target.level = v4 ? Level::x86_64_v4 : v3 ? Level::x86_64_v3 : Level::x86_64;
  target.bf16 = v4 && __builtin_cpu_supports("avx512bf16");
  target.vnni = v4 ? __builtin_cpu_supports("avx512vnni") : v3 && has_avx_vnni();
#elif defined(__aarch64__)
  target.level = Level::aarch64;
#endif
  return target;
}

std::vector<std::string> host_cpu_levels() {
  const CpuTarget best = host_cpu();
  std::vector<std::string> levels;
  const Level lowest = best.is_x86() ? Level::x86_64 : best.level;
  for (int level = static_cast<int>(lowest); level <= static_cast<int>(best.level); ++level)
    levels.push_back(CpuTarget{static_cast<Level>(level)}.name());
  if (levels.back() != best.name()) levels.push_back(best.name());
  return levels;
}

Result<std::string> host_cpu_target(std::string_view level) {
  std::string wanted(level), asked = "CPU target ";
  if (const char* variable = std::getenv("SPORKLE_CPU_TARGET"); wanted.empty() && variable && *variable) {
    wanted = variable;
    asked = "SPORKLE_CPU_TARGET=";
  }
  const CpuTarget best = host_cpu();
  if (wanted.empty()) return best.text();
  const Result<CpuTarget> target = CpuTarget::from_name(wanted);
  if (!target.ok()) return invalid_argument(asked + target.status().message());
  if (!is_within(*target, best)) return unsupported(asked + wanted + ", but this CPU reaches only " + best.name());
  return target->text();
}

}  // namespace sporkle::codegen
