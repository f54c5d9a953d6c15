#include "hal/registry.h"

#include <cstdlib>

#include "base/edit_distance.h"
#include "hal/cpu/cpu_device.h"
#include "hal/host/system.h"
#include "hal/null/null_device.h"
#include "hal/reference/reference_device.h"

namespace sporkle::hal {
namespace {

using DeviceRef = std::shared_ptr<Device>;

struct Entry {
  std::string_view id;
  Result<DeviceRef> (*open)(const DeviceOptions& options);
};

size_t memory_limit(const DeviceOptions& options) {
  return options.memory_limit_bytes > 0 ? options.memory_limit_bytes : usable_memory_bytes();
}

Result<DeviceRef> open_cpu(const DeviceOptions& options) {
  SPORKLE_ASSIGN_OR_RETURN(const int threads, thread_count(options.threads));
  return CpuDevice::open(threads, memory_limit(options), options.cpu_target);
}
Result<DeviceRef> open_reference(const DeviceOptions& options) {
  return DeviceRef(std::make_shared<ReferenceDevice>(memory_limit(options)));
}
Result<DeviceRef> open_null(const DeviceOptions&) { return DeviceRef(std::make_shared<NullDevice>()); }

// The default first.
constexpr Entry kDevices[] = {{"cpu", open_cpu}, {"reference", open_reference}, {"null", open_null}};

}  // namespace

Result<DeviceRef> open_device(std::string_view id, const DeviceOptions& options) {
  const char* variable = std::getenv("SPORKLE_DEVICE");
  const bool from_environment = id.empty() && variable && *variable;
  if (id.empty()) id = from_environment ? std::string_view(variable) : kDevices[0].id;

  std::vector<std::string> known;
  for (const Entry& entry : kDevices) {
    if (entry.id == id) return entry.open(options);
    known.emplace_back(entry.id);
  }
  std::string message = "unknown device \"" + std::string(id) + "\"";
  if (from_environment) message += " in SPORKLE_DEVICE";
  if (const std::string nearest = nearest_name(id, known); !nearest.empty())
    message += "; did you mean \"" + nearest + "\"?";
  message += " (known:";
  for (const std::string& name : known) message += " " + name;
  return not_found(message + ")");
}

std::vector<DeviceListing> list_devices(const DeviceOptions& options) {
  std::vector<DeviceListing> listings;
  for (const Entry& entry : kDevices) {
    const Result<DeviceRef> device = entry.open(options);
    listings.push_back({std::string(entry.id), device.ok() ? (*device)->info() : DeviceInfo{}, device.status()});
  }
  return listings;
}

}  // namespace sporkle::hal
