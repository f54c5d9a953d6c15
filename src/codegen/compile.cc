#include "codegen/compile.h"

#include <algorithm>

#include "base/log.h"
#include "codegen/llvm/emitter.h"
#include "codegen/llvm/library.h"
#include "codegen/matrix_product.h"
#include "codegen/spirv/attention_emitter.h"
#include "codegen/spirv/emitter.h"
#include "codegen/spirv/matrix_emitter.h"
#include "ir/text.h"

namespace sporkle::codegen {
namespace {

std::vector<std::byte> bytes_of(std::string_view text) {
  const auto* data = reinterpret_cast<const std::byte*>(text.data());
  return {data, data + text.size()};
}

// What a schedule says of workgroups whose invocations share nothing, as far as the device goes.
uint32_t workgroup_of(const lower::Schedule& schedule, const VulkanTarget& target) {
  uint32_t size = spirv::kUsualWorkgroup;
  for (const lower::ScheduleItem& item : schedule.items)
    if (item.kind == lower::ScheduleItem::Kind::workgroup) size = static_cast<uint32_t>(item.size);
  return std::min(size, target.workgroup);
}

// `fast` kernels take a device's own arithmetic, correctly rounded and careful of denormal numbers or not.
VulkanTarget with_own_arithmetic(VulkanTarget target) {
  target.fma32 = target.div32 = target.sqrt32 = target.compare32 = target.widen32 = true;
  return target;
}

}  // namespace

std::string_view version() { return "sporkle-codegen-8"; }

Result<std::vector<std::byte>> compile(const ir::Kernel& kernel, const lower::Schedule& schedule,
                                       std::string_view target, const StageSink& seen) {
  if (target == "null") return bytes_of("null");
  if (target == "reference") return bytes_of(ir::print(kernel));
  const auto context = "kernel \"" + kernel.name + "\"";
  lower::PassSink show_pass;
  if (seen) show_pass = [&](std::string_view pass, const ir::Kernel& after) { seen(pass, ir::print(after)); };
  if (target.starts_with(kVulkanPrefix)) {
    SPORKLE_ASSIGN_OR_RETURN(VulkanTarget vulkan, VulkanTarget::parse(target));
    SPORKLE_RETURN_IF_ERROR(lower::check_ranges(kernel, schedule).with_context(context));
    if (kernel.numerics == ir::Numerics::fast) {
      const ir::Kernel copy = lower::clone(kernel);
      if (const auto product = find_matrix_product(copy)) {
        const spirv::MatrixTile tile = spirv::choose_matrix_tile(*product, vulkan, schedule);
        const auto code = spirv::emit_matrix_product(copy, *product, tile, vulkan);
        if (code.ok()) return encode(*code);
        if (code.status().code() != Code::unsupported) return code.status().with_context(context);
      }
      if (const auto form = find_attention(copy)) {
        const auto code = spirv::emit_attention(copy, *form, vulkan);
        if (code.ok()) return encode(*code);
        if (code.status().code() != Code::unsupported) return code.status().with_context(context);
      }
      vulkan = with_own_arithmetic(vulkan);
    }
    const auto mapped = lower::lower_for_gpu(kernel, schedule, show_pass);
    if (!mapped.ok()) return mapped.status().with_context(context);
    const auto code =
        spirv::emit(*mapped, vulkan, schedule.has(lower::ScheduleItem::Kind::pack), workgroup_of(schedule, vulkan));
    if (!code.ok()) return code.status().with_context(context);
    return encode(*code);
  }
  const auto processor = CpuTarget::parse(target);
  if (!processor.ok()) return unsupported("no code generator for target \"" + std::string(target) + "\"");
  const auto lowered = lower::lower(kernel, schedule, show_pass);
  if (!lowered.ok()) return lowered.status().with_context(context);
  const auto text = llvm::emit(*lowered, *processor);
  if (!text.ok()) return text.status().with_context(context);
  if (seen) seen("llvm", *text);
  if (debug_level() >= 5) log(LogLevel::info, "source", kernel.name + " as LLVM IR:\n" + *text);
  SPORKLE_ASSIGN_OR_RETURN(llvm::Library * library, llvm::Library::get());
  if (seen || debug_level() >= 6) {
    const auto assembly = library->compile(*text, *processor, llvm::Library::Output::assembly);
    if (!assembly.ok()) return assembly.status().with_context(context);
    const std::string_view shown(reinterpret_cast<const char*>(assembly->data()), assembly->size());
    if (seen) seen("assembly", shown);
    if (debug_level() >= 6)
      log(LogLevel::info, "assembly", kernel.name + " for " + std::string(target) + ":\n" + std::string(shown));
  }
  auto code = library->compile(*text, *processor);
  if (!code.ok()) return code.status().with_context(context);
  return code;
}

}  // namespace sporkle::codegen
