#include "hal/registry.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <optional>

#include "base/edit_distance.h"
#include "hal/cpu/cpu_device.h"
#include "hal/host/system.h"
#include "hal/null/null_device.h"
#include "hal/reference/reference_device.h"
#include "hal/vulkan/vulkan_device.h"

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

constexpr std::string_view kVulkan = "vulkan";

VulkanOptions vulkan_options(const DeviceOptions& options) {
  VulkanOptions result;
  result.memory_limit_bytes = options.memory_limit_bytes;
  return result;
}

// The number in "vulkan:1"; 0 for "vulkan"; nothing for the ID of no Vulkan device.
std::optional<size_t> vulkan_index(std::string_view id) {
  if (!id.starts_with(kVulkan)) return std::nullopt;
  id.remove_prefix(kVulkan.size());
  if (id.empty()) return 0;
  size_t index = 0;
  const auto [end, error] = std::from_chars(id.data() + 1, id.data() + id.size(), index);
  if (id.front() != ':' || error != std::errc() || end != id.data() + id.size()) return std::nullopt;
  return index;
}

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
  if (const std::optional<size_t> index = vulkan_index(id)) return open_vulkan_device(*index, vulkan_options(options));
  known.emplace_back(kVulkan);
  std::string message = "unknown device \"" + std::string(id) + "\"";
  if (from_environment) message += " in SPORKLE_DEVICE";
  if (const std::string nearest = nearest_name(id, known); !nearest.empty())
    message += "; did you mean \"" + nearest + "\"?";
  message += " (known:";
  for (const std::string& name : known) message += " " + name;
  return not_found(message + ")");
}

Result<std::vector<std::string>> parse_device_list(std::string_view ids) {
  const char* variable = std::getenv("SPORKLE_DEVICES");
  const bool from_environment = ids.empty() && variable && *variable;
  if (from_environment) ids = variable;
  std::vector<std::string> list;
  for (std::string_view rest = ids;;) {
    const size_t comma = std::min(rest.find(','), rest.size());
    const std::string id(rest.substr(0, comma));
    const auto refuse = [&](const std::string& why) {
      return invalid_argument("the devices \"" + std::string(ids) + "\"" +
                              (from_environment ? " in SPORKLE_DEVICES" : "") + ": " + why);
    };
    if (id.empty() && !ids.empty()) return refuse("an ID is missing; IDs are parted by single commas");
    if (std::ranges::count(list, id) > 0) return refuse("\"" + id + "\" stands there twice");
    list.push_back(id);
    if (comma == rest.size()) return list;
    rest.remove_prefix(comma + 1);
  }
}

std::vector<DeviceListing> list_devices(const DeviceOptions& options) {
  std::vector<DeviceListing> listings;
  for (const Entry& entry : kDevices) {
    const Result<DeviceRef> device = entry.open(options);
    listings.push_back({std::string(entry.id), device.ok() ? (*device)->info() : DeviceInfo{}, device.status()});
  }
  const VulkanOptions vulkan = vulkan_options(options);
  const Result<size_t> count = count_vulkan_devices(vulkan);
  if (!count.ok()) listings.push_back({std::string(kVulkan), DeviceInfo{}, count.status()});
  for (size_t i = 0; count.ok() && i < *count; ++i) {
    const Result<DeviceRef> device = open_vulkan_device(i, vulkan);
    listings.push_back({std::string(kVulkan) + ":" + std::to_string(i), device.ok() ? (*device)->info() : DeviceInfo{},
                        device.status()});
  }
  return listings;
}

}  // namespace sporkle::hal
