#include "hal/launch_trace.h"

#include "base/format_units.h"
#include "base/log.h"
#include "base/source_line.h"
#include "base/trace.h"

namespace sporkle::hal {
namespace {

// Enough for the shapes of any model; beyond, all are counted again.
constexpr size_t kMostRemembered = 1024;

// "12.3 GFLOP/s, 4.56 GB/s"
std::string rates(const ir::Work& work, double seconds) {
  std::string text;
  if (work.flops > 0) text = format_rate(static_cast<double>(work.flops) / seconds, "FLOP/s") + ", ";
  return text + format_bytes(static_cast<double>(work.read_bytes + work.written_bytes) / seconds) + "/s";
}

}  // namespace

KernelDescription::KernelDescription(const ir::Kernel& kernel, std::string structure, std::string schedule,
                                     std::string key)
    : name_(kernel.name),
      structure_(structure.empty() ? kernel.name : std::move(structure)),
      schedule_(std::move(schedule)),
      key_(std::move(key)),
      source_(source_line(kernel.source)),
      counter_(kernel) {}

ir::Work KernelDescription::work(const std::vector<uint64_t>& scalars,
                                 const std::vector<uint64_t>& buffer_bytes) const {
  std::vector<uint64_t> arguments = scalars;
  arguments.insert(arguments.end(), buffer_bytes.begin(), buffer_bytes.end());
  const std::lock_guard lock(mutex_);
  if (const auto found = work_.find(arguments); found != work_.end()) return found->second;
  if (work_.size() >= kMostRemembered) work_.clear();
  const ir::Work work = counter_.count(scalars, buffer_bytes);
  work_.emplace(std::move(arguments), work);
  return work;
}

bool launches_are_watched() { return debug_level() >= 1 || trace::on(); }

void report_launch(const DeviceInfo& device, const DispatchCommand& command, int64_t start_ns, int64_t end_ns,
                   std::span<const LaunchShare> shares) {
  const KernelDescription* kernel = command.executable->description();
  std::string source = source_line(command.source);
  if (source.empty() && kernel) source = kernel->source();
  const std::string name = kernel ? kernel->name() : "kernel";
  ir::Work work;
  if (kernel) {
    std::vector<uint64_t> buffer_bytes;
    for (const Binding& binding : command.bindings)
      buffer_bytes.push_back(binding.buffer->size_bytes() - binding.offset_bytes);
    work = kernel->work(command.scalars, buffer_bytes);
  }

  if (debug_level() >= 1) {
    std::string line = name;
    if (kernel) line += " " + kernel->key().substr(0, 8) + ", launch " + std::to_string(kernel->count_launch());
    if (!source.empty()) line += ", from " + source;
    if (debug_level() >= 2) {
      line += ": " + format_fixed(static_cast<double>(end_ns - start_ns) * 1e-6, 3) + " ms";
      if (kernel && end_ns > start_ns) line += ", " + rates(work, static_cast<double>(end_ns - start_ns) * 1e-9);
    }
    log(LogLevel::info, "launch", line);
  }
  if (!trace::on()) return;
  JsonObject arguments;
  arguments.add("device", device.id);
  if (kernel) {
    arguments.add("key", kernel->key()).add("structure", kernel->structure()).add("schedule", kernel->schedule());
    arguments.add("flops", work.flops).add("read_bytes", work.read_bytes).add("written_bytes", work.written_bytes);
    if (!work.exact) arguments.add("estimated", true);
  }
  if (!source.empty()) arguments.add("source", source);
  trace::event("launch", name, start_ns, end_ns, arguments);
  for (const LaunchShare& share : shares) {
    if (share.thread == 0) continue;
    trace::name_thread("worker " + std::to_string(&share - shares.data()), share.thread);
    trace::event("share", name, share.start_ns, share.end_ns, JsonObject().add("iterations", share.iterations),
                 share.thread);
  }
}

}  // namespace sporkle::hal
