#include <cstdio>
#include <memory>

#include "apps/sporkle/cli.h"
#include "apps/sporkle/commands.h"
#include "base/format_units.h"
#include "base/json_writer.h"
#include "base/terminal.h"
#include "hal/registry.h"

namespace sporkle::app {

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
      }
      std::printf("%-9s  %s\n", device.id.c_str(), printable(text).c_str());
    }
    return {};
  });
}

}  // namespace sporkle::app
