#include "validate/subject.h"

#include "codegen/compile.h"
#include "hal/registry.h"

namespace sporkle::validate {
namespace {

constexpr const char* kProcessor = "cpu";
constexpr const char* kNothing = "null";

void append_subjects(const std::string& id, std::vector<Subject>* subjects) {
  if (id != kProcessor) {
    subjects->push_back({id, id, [id] { return hal::open_device(id, {.threads = 1}); }});
    return;
  }
  for (const std::string& level : codegen::host_cpu_levels())
    for (const int threads : {1, 2}) {
      hal::DeviceOptions options;
      options.threads = threads;
      options.cpu_target = level;
      subjects->push_back(
          {"cpu " + options.cpu_target + ", " + std::to_string(threads) + (threads == 1 ? " thread" : " threads"), id,
           [options] { return hal::open_device(kProcessor, options); }});
    }
}

}  // namespace

Result<std::vector<Subject>> find_subjects(const std::vector<std::string>& device_ids) {
  std::vector<Subject> subjects;
  if (device_ids.empty()) {
    for (const hal::DeviceListing& listing : hal::list_devices())
      if (listing.status.ok() && listing.id != kNothing) append_subjects(listing.id, &subjects);
    return subjects;
  }
  for (const std::string& id : device_ids) {
    if (id == kNothing) return invalid_argument("device null computes nothing that could be validated");
    SPORKLE_RETURN_IF_ERROR(hal::open_device(id, {.threads = 1}).status());
    append_subjects(id, &subjects);
  }
  return subjects;
}

}  // namespace sporkle::validate
