#include <cstdio>
#include <memory>

#include "apps/sporkle/cli.h"
#include "apps/sporkle/commands.h"
#include "apps/sporkle/device_rates.h"
#include "base/file.h"
#include "base/format_units.h"
#include "base/json_writer.h"
#include "base/terminal.h"
#include "hal/probe.h"
#include "hal/registry.h"
#include "tune/gpu_plan.h"

namespace sporkle::app {
namespace {

struct DevicesOptions {
  bool json = false;
  bool measure = false;
  bool explain = false;
  bool presets = false;
};

// The preset that the device's kernels are scheduled by; nothing for one that is no GPU.
const tune::GpuPreset* preset_of(const hal::DeviceInfo& info) {
  const auto target = codegen::VulkanTarget::parse(info.target);
  return target.ok() ? &tune::gpu_preset(*target) : nullptr;
}

std::string tested_text(const tune::GpuPreset& preset) {
  return preset.tested_on.empty() ? "untested on hardware" : "tested on " + std::string(preset.tested_on);
}

void print_presets(bool json) {
  for (const tune::GpuPreset& preset : tune::gpu_presets()) {
    if (json) {
      JsonObject object;
      object.add("preset", preset.name).add("schedules", preset.text()).add("tested", !preset.tested_on.empty());
      object.add("tested_on", preset.tested_on);
      std::printf("%s\n", object.text().c_str());
    } else {
      std::printf("%-13s  %s: %s\n", std::string(preset.name).c_str(), tested_text(preset).c_str(),
                  preset.text().c_str());
    }
  }
}

// What is known of the device's arithmetic; nothing for one that computes nothing.
Result<hal::NumericsProbe> numerics_of(const std::string& id) {
  if (id == "null") return unsupported("it computes nothing");
  SPORKLE_ASSIGN_OR_RETURN(const std::shared_ptr<hal::Device> device, hal::open_device(id));
  return hal::cached_numerics(*device, cache_directory());
}

// The interpreter is not worth measuring, and null has nothing to measure.
Result<DeviceRates> rates_of(const std::string& id) {
  if (id == "null" || id == "reference") return unsupported("it is not made for speed");
  return measure_rates(id);
}

Result<std::vector<hal::NumericsDifference>> differences_of(const std::string& id) {
  SPORKLE_ASSIGN_OR_RETURN(const std::shared_ptr<hal::Device> device, hal::open_device(id));
  return hal::explain_numerics(*device);
}

std::string giga(double rate) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4g G", rate / 1e9);
  return text;
}

std::string list_of(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

void print_json(const hal::DeviceListing& device, const DevicesOptions& o) {
  const hal::DeviceInfo& info = device.info;
  JsonObject object;
  object.add("id", device.id).add("available", device.status.ok());
  if (device.status.ok()) {
    object.add("name", info.name)
        .add("kind", hal::device_kind_name(info.kind))
        .add("driver", info.driver)
        .add("target", info.target);
    object.add("threads", info.threads).add("memory_bytes", info.memory_bytes);
    if (const auto numerics = numerics_of(device.id); numerics.ok()) {
      JsonArray failures;
      for (const std::string& failure : numerics->failures) failures.add(failure);
      object.add("numerics", hal::verdict_name(numerics->verdict)).add("numerics_failures", failures);
    }
    if (const tune::GpuPreset* preset = preset_of(info))
      object.add("preset", preset->name).add("preset_tested", !preset->tested_on.empty());
    if (const auto rates = o.measure ? rates_of(device.id) : unsupported(""); rates.ok())
      object.add("gemm_flops_per_second", rates->gemm_flops_per_second)
          .add("matrix_4096_flops_per_second", rates->matrix_4096_flops_per_second)
          .add("matrix_8192_flops_per_second", rates->matrix_8192_flops_per_second)
          .add("copy_bytes_per_second", rates->copy_bytes_per_second);
  } else {
    object.add("reason", device.status.message());
  }
  std::printf("%s\n", object.text().c_str());
}

void print(const hal::DeviceListing& device, const DevicesOptions& o) {
  const hal::DeviceInfo& info = device.info;
  std::string text = "not available: " + device.status.message();
  bool differs = false;
  if (device.status.ok()) {
    text = info.name;
    if (info.kind != hal::DeviceKind::processor) text += " (" + std::string(hal::device_kind_name(info.kind)) + ")";
    if (!info.driver.empty()) text += "; " + info.driver;
    text += "; " + std::to_string(info.threads) + (info.threads == 1 ? " thread" : " threads");
    if (info.memory_bytes > 0) text += ", " + format_bytes(static_cast<double>(info.memory_bytes));
    if (const auto numerics = numerics_of(device.id); numerics.ok()) {
      text += "; numerics: " + std::string(hal::verdict_name(numerics->verdict));
      differs = !numerics->failures.empty();
      if (differs) text += " (other bits: " + list_of(numerics->failures) + ")";
    }
    if (const tune::GpuPreset* preset = preset_of(info))
      text += "; schedules for " + std::string(preset->name) + " (" + tested_text(*preset) + ")";
    if (o.measure) {
      const auto rates = rates_of(device.id);
      if (rates.ok())
        text += "; f32 products " + giga(rates->gemm_flops_per_second) + "FLOP/s" +
                (rates->matrix_8192_flops_per_second > 0
                     ? ", on matrix units " + giga(rates->matrix_8192_flops_per_second) + "FLOP/s"
                     : "") +
                ", copies " + giga(rates->copy_bytes_per_second) + "B/s";
      else if (rates.status().code() != Code::unsupported)
        text += "; not measured: " + rates.status().message();
    }
  }
  std::printf("%-9s  %s\n", device.id.c_str(), printable(text).c_str());
  if (!o.explain || !differs) return;
  const auto differences = differences_of(device.id);
  if (!differences.ok()) return;
  for (const hal::NumericsDifference& d : *differences)
    std::printf("           %s: %zu of %zu results differ, %zu where denormal numbers are involved; for example %s\n",
                d.test.c_str(), d.different, d.elements, d.with_denormals, d.example.c_str());
}

}  // namespace

void register_devices(Cli& cli) {
  auto options = std::make_shared<DevicesOptions>();
  Command command = cli.command("devices", "List where models can compute on this machine");
  command.flag("--json", &options->json, "Print one JSON object a line");
  command.flag("--measure", &options->measure, "Also measure products of matrices and copies, about a second each");
  command.flag("--explain", &options->explain,
               "Say of each test that gives other bits how many differ, with an example");
  command.flag("--presets", &options->presets, "List how kernels are scheduled on each maker's GPUs instead");
  command.example("devices", "A device that cannot be used says why, and what to install.");
  command.action([options]() -> Status {
    if (options->presets) {
      print_presets(options->json);
      return {};
    }
    for (const hal::DeviceListing& device : hal::list_devices())
      options->json ? print_json(device, *options) : print(device, *options);
    return {};
  });
}

}  // namespace sporkle::app
