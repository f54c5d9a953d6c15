#include <cstdio>
#include <memory>

#include "apps/sporkle/cli.h"
#include "apps/sporkle/commands.h"
#include "base/file.h"
#include "base/format_units.h"
#include "base/json_writer.h"
#include "base/terminal.h"
#include "hal/probe.h"
#include "hal/registry.h"

namespace sporkle::app {
namespace {

// What is known of the device's arithmetic; nothing for one that computes nothing.
Result<hal::NumericsProbe> numerics_of(const std::string& id) {
  if (id == "null") return unsupported("it computes nothing");
  SPORKLE_ASSIGN_OR_RETURN(const std::shared_ptr<hal::Device> device, hal::open_device(id));
  return hal::cached_numerics(*device, cache_directory());
}

std::string list_of(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

}  // namespace

void register_devices(Cli& cli) {
  auto json = std::make_shared<bool>(false);
  Command command = cli.command("devices", "List where models can compute on this machine");
  command.flag("--json", json.get(), "Print one JSON object a line");
  command.example("devices", "A device that cannot be used says why, and what to install.");
  command.action([json]() -> Status {
    for (const hal::DeviceListing& device : hal::list_devices()) {
      const hal::DeviceInfo& info = device.info;
      if (*json) {
        JsonObject object;
        object.add("id", device.id).add("available", device.status.ok());
        if (device.status.ok()) {
          object.add("name", info.name).add("driver", info.driver).add("target", info.target);
          object.add("threads", info.threads).add("memory_bytes", info.memory_bytes);
          if (const auto numerics = numerics_of(device.id); numerics.ok()) {
            JsonArray failures;
            for (const std::string& failure : numerics->failures) failures.add(failure);
            object.add("numerics", hal::verdict_name(numerics->verdict)).add("numerics_failures", failures);
          }
        } else {
          object.add("reason", device.status.message());
        }
        std::printf("%s\n", object.text().c_str());
        continue;
      }
      std::string text = "not available: " + device.status.message();
      if (device.status.ok()) {
        text = info.name;
        if (!info.driver.empty()) text += "; " + info.driver;
        text += "; " + std::to_string(info.threads) + (info.threads == 1 ? " thread" : " threads");
        if (info.memory_bytes > 0) text += ", " + format_bytes(static_cast<double>(info.memory_bytes));
        if (const auto numerics = numerics_of(device.id); numerics.ok()) {
          text += "; numerics: " + std::string(hal::verdict_name(numerics->verdict));
          if (!numerics->failures.empty()) text += " (other bits: " + list_of(numerics->failures) + ")";
        }
      }
      std::printf("%-9s  %s\n", device.id.c_str(), printable(text).c_str());
    }
    return {};
  });
}

}  // namespace sporkle::app
