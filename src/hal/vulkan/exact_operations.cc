#include "hal/vulkan/exact_operations.h"

#include "base/file.h"
#include "base/log.h"
#include "base/sha256.h"
#include "codegen/compile.h"
#include "hal/probe.h"

namespace sporkle::hal {
namespace {

struct Operation {
  std::string_view name;
  ir::DType type;
  bool codegen::VulkanTarget::*flag;
};
constexpr Operation kOperations[] = {
    // What the sequences below build on comes first.
    {"comparison", ir::DType::f32, &codegen::VulkanTarget::compare32},
    {"widening", ir::DType::f32, &codegen::VulkanTarget::widen32},
    {"fma", ir::DType::f32, &codegen::VulkanTarget::fma32},
    {"fma", ir::DType::f64, &codegen::VulkanTarget::fma64},
    {"division", ir::DType::f32, &codegen::VulkanTarget::div32},
    {"division", ir::DType::f64, &codegen::VulkanTarget::div64},
    {"square root", ir::DType::f32, &codegen::VulkanTarget::sqrt32},
    {"square root", ir::DType::f64, &codegen::VulkanTarget::sqrt64},
};

std::string with_hash(const std::string& text) { return text + "\n" + to_hex(sha256(text)) + "\n"; }

}  // namespace

Result<codegen::VulkanTarget> find_exact_operations(Device& device, const codegen::VulkanTarget& offered,
                                                    const std::filesystem::path& folder) {
  const DeviceInfo& info = device.info();
  const Digest key =
      sha256(info.name + "\n" + info.driver + "\n" + offered.text() + "\n" + std::string(codegen::version()));
  const std::filesystem::path path = folder / ("vulkan-exact-" + to_hex(key));
  if (const auto text = read_file(path); text.ok()) {
    const std::string target = text->substr(0, text->find('\n'));
    const auto known = codegen::VulkanTarget::parse(target);
    if (known.ok() && *text == with_hash(target)) return *known;
  }

  codegen::VulkanTarget found = offered;
  found.controls2 = false;
  const auto try_flag = [&](const Operation& operation, bool controls2) -> Status {
    codegen::VulkanTarget trial = found;
    trial.*operation.flag = true;
    trial.controls2 = controls2;
    const auto exact = is_exact(device, operation.name, operation.type, trial.text());
    if (exact.status().code() == Code::device_lost) return exact.status();  // the device is lost
    if (exact.ok() && *exact) found = trial;
    return {};
  };
  for (const Operation& operation : kOperations) {
    if ((operation.type == ir::DType::f64 || operation.name == "widening") && !offered.f64) continue;
    SPORKLE_RETURN_IF_ERROR(try_flag(operation, false));
  }
  if (!found.fma32 && offered.f64) {
    SPORKLE_RETURN_IF_ERROR(try_flag({"fma", ir::DType::f32, &codegen::VulkanTarget::fma32_normal}, false));
    constexpr Operation contraction{"fma of a workgroup", ir::DType::f32, &codegen::VulkanTarget::contract32};
    if (offered.controls2) SPORKLE_RETURN_IF_ERROR(try_flag(contraction, true));
    if (!found.contract32) SPORKLE_RETURN_IF_ERROR(try_flag(contraction, false));
  }
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  const Status written = write_file_atomically(path, with_hash(found.text()));
  if (!written.ok()) log(LogLevel::info, "vulkan", "what was found out is not kept: " + written.message());
  return found;
}

}  // namespace sporkle::hal
