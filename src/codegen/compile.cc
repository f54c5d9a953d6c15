#include "codegen/compile.h"

#include <cstdlib>

#include "base/log.h"
#include "codegen/llvm/emitter.h"
#include "codegen/llvm/library.h"
#include "codegen/matrix_product.h"
#include "codegen/spirv/emitter.h"
#include "codegen/spirv/matrix_emitter.h"
#include "ir/text.h"

namespace sporkle::codegen {
namespace {

// x86-64's micro-architecture levels (the psABI's names), lowest first.
constexpr std::string_view kCpuLevels[] = {"x86-64", "x86-64-v3", "x86-64-v4"};
constexpr std::string_view kCpuPrefix = "cpu:";
constexpr std::string_view kTriple = "x86_64-unknown-linux-gnu";

int level_index(std::string_view name) {
  for (int i = 0; i < 3; ++i)
    if (kCpuLevels[i] == name) return i;
  return -1;
}

int best_level() {
  __builtin_cpu_init();
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");
  return v4 ? 2 : v3 ? 1 : 0;
}

std::vector<std::byte> bytes_of(std::string_view text) {
  const auto* data = reinterpret_cast<const std::byte*>(text.data());
  return {data, data + text.size()};
}

}  // namespace

std::string_view version() { return "sporkle-codegen-4"; }

std::vector<std::string_view> host_cpu_levels() { return {kCpuLevels, kCpuLevels + best_level() + 1}; }

Result<std::string> host_cpu_target(std::string_view level) {
  std::string wanted(level), asked = "CPU target " + wanted;
  if (const char* variable = std::getenv("SPORKLE_CPU_TARGET"); wanted.empty() && variable && *variable) {
    wanted = variable;
    asked = "SPORKLE_CPU_TARGET=" + wanted;
  }
  const int best = best_level();
  const int index = wanted.empty() ? best : level_index(wanted);
  if (index < 0) return invalid_argument(asked + " is not known; use x86-64, x86-64-v3 (AVX2) or x86-64-v4 (AVX-512)");
  if (index > best) return unsupported(asked + ", but this CPU reaches only " + std::string(kCpuLevels[best]));
  return std::string(kCpuPrefix) + std::string(kCpuLevels[index]);
}

Result<std::vector<std::byte>> compile(const ir::Kernel& kernel, const lower::Schedule& schedule,
                                       std::string_view target, const StageSink& seen) {
  if (target == "null") return bytes_of("null");
  if (target == "reference") return bytes_of(ir::print(kernel));
  const auto context = "kernel \"" + kernel.name + "\"";
  lower::PassSink show_pass;
  if (seen) show_pass = [&](std::string_view pass, const ir::Kernel& after) { seen(pass, ir::print(after)); };
  if (target.starts_with(kVulkanPrefix)) {
    SPORKLE_ASSIGN_OR_RETURN(const VulkanTarget vulkan, VulkanTarget::parse(target));
    SPORKLE_RETURN_IF_ERROR(lower::check_ranges(kernel, schedule).with_context(context));
    if (kernel.numerics == ir::Numerics::fast) {
      const ir::Kernel copy = lower::clone(kernel);
      if (const auto product = find_matrix_product(copy)) {
        const spirv::MatrixTile tile = spirv::choose_matrix_tile(*product, vulkan, schedule);
        const auto code = spirv::emit_matrix_product(copy, *product, tile, vulkan);
        if (code.ok()) return encode(*code);
        if (code.status().code() != Code::unsupported) return code.status().with_context(context);
      }
    }
    const auto mapped = lower::lower_for_gpu(kernel, schedule, show_pass);
    if (!mapped.ok()) return mapped.status().with_context(context);
    const auto code = spirv::emit(*mapped, vulkan);
    if (!code.ok()) return code.status().with_context(context);
    return encode(*code);
  }
  if (!target.starts_with(kCpuPrefix) || level_index(target.substr(kCpuPrefix.size())) < 0)
    return unsupported("no code generator for target \"" + std::string(target) + "\"");
  const auto lowered = lower::lower(kernel, schedule, show_pass);
  if (!lowered.ok()) return lowered.status().with_context(context);
  const auto text = llvm::emit(*lowered);
  if (!text.ok()) return text.status().with_context(context);
  if (seen) seen("llvm", *text);
  if (debug_level() >= 5) log(LogLevel::info, "source", kernel.name + " as LLVM IR:\n" + *text);
  SPORKLE_ASSIGN_OR_RETURN(llvm::Library * library, llvm::Library::get());
  const std::string_view cpu = target.substr(kCpuPrefix.size());
  if (seen || debug_level() >= 6) {
    const auto assembly = library->compile(*text, kTriple, cpu, "", llvm::Library::Output::assembly);
    if (!assembly.ok()) return assembly.status().with_context(context);
    const std::string_view shown(reinterpret_cast<const char*>(assembly->data()), assembly->size());
    if (seen) seen("assembly", shown);
    if (debug_level() >= 6)
      log(LogLevel::info, "assembly", kernel.name + " for " + std::string(target) + ":\n" + std::string(shown));
  }
  auto code = library->compile(*text, kTriple, cpu, "");
  if (!code.ok()) return code.status().with_context(context);
  return code;
}

}  // namespace sporkle::codegen
