#include "apps/sporkle/kernel_run.h"

#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstring>

#include "apps/sporkle/kernel_arguments.h"
#include "base/edit_distance.h"
#include "base/file.h"
#include "base/format_units.h"
#include "cache/kernel_cache.h"
#include "hal/registry.h"
#include "ir/debugger.h"

namespace sporkle::app {
namespace {

constexpr size_t kShownElements = 8;

struct Print {
  size_t buffer;
  size_t count;
};

size_t element_size(const ir::BufferArgument& buffer) { return static_cast<size_t>(ir::dtype_size(buffer.type)); }

Result<std::vector<Print>> parse_prints(const ir::Kernel& kernel, const std::vector<std::string>& texts) {
  std::vector<Print> prints;
  std::vector<std::string> names;
  for (size_t i = 0; i < kernel.buffers.size(); ++i) {
    names.push_back(kernel.buffers[i].name);
    if (texts.empty() && kernel.buffers[i].access != ir::Access::read) prints.push_back({i, kShownElements});
  }
  for (const std::string& text : texts) {
    const size_t colon = std::min(text.find(':'), text.size());
    const std::string name = text.substr(0, colon);
    const auto found = std::ranges::find(names, name);
    if (found == names.end()) {
      const std::string nearest = nearest_name(name, names);
      return not_found("--print: the kernel has no buffer \"" + name + "\"" +
                       (nearest.empty() ? "" : "; did you mean " + nearest + "?"));
    }
    size_t count = kShownElements;
    if (colon < text.size()) {
      const char* const end = text.data() + text.size();
      const auto [stop, error] = std::from_chars(text.data() + colon + 1, end, count);
      if (error != std::errc() || stop != end)
        return invalid_argument("--print " + text + ": \"" + text.substr(colon + 1) + "\" is no number of elements");
    }
    prints.push_back({static_cast<size_t>(found - names.begin()), count});
  }
  return prints;
}

using Buffers = std::vector<std::vector<std::byte>>;

void print_buffers(const ir::Kernel& kernel, const Buffers& buffers, const std::vector<Print>& prints) {
  for (const Print& print : prints) {
    const ir::BufferArgument& buffer = kernel.buffers[print.buffer];
    const std::vector<std::byte>& bytes = buffers[print.buffer];
    const size_t count = bytes.size() / element_size(buffer);
    std::string line =
        buffer.name + ", " + std::to_string(count) + " x " + std::string(ir::dtype_name(buffer.type)) + ":";
    for (size_t i = 0; i < std::min(count, print.count); ++i)
      line += " " + element_text(buffer.type, element_bits(buffer.type, bytes.data() + i * element_size(buffer)));
    std::printf("%s%s\n", line.c_str(), count > print.count ? " ..." : "");
  }
}

// Executes the kernel on `buffers` in the interpreter, and prints what is watched.
Status interpret(const KernelRunOptions& o, const ir::ParsedText& parsed, const KernelArguments& arguments,
                 Buffers& buffers) {
  ir::DebugOptions debug;
  debug.max_steps = static_cast<uint64_t>(o.max_steps);
  debug.initialised = arguments.initialised;
  std::vector<std::string> names;
  for (const std::string& watch : o.watches) {
    const size_t at = std::min(watch.find('@'), watch.size());
    SPORKLE_ASSIGN_OR_RETURN(
        ir::WatchPoint point,
        ir::parse_watch(parsed, watch.substr(0, at), at < watch.size() ? watch.substr(at + 1) : std::string()));
    const auto line = parsed.lines.find(point.node);
    names.push_back((line == parsed.lines.end() ? "" : "line " + std::to_string(line->second) + ", ") +
                    watch.substr(0, at));
    debug.watches.push_back(std::move(point));
  }
  int64_t seen = 0;
  debug.seen = [&](const ir::WatchedValue& value) {
    if (++seen > o.watch_limit) return;
    std::string where;
    for (const auto& [range, index] : value.indices)
      where += (where.empty() ? ", where " : ", ") + std::string(range->name) + " = " + std::to_string(index);
    const ir::DType type = debug.watches[value.watch].node->type;
    std::printf("%s%s: %s\n", names[value.watch].c_str(), where.c_str(), element_text(type, value.bits).c_str());
  };
  std::vector<ir::InterpreterBuffer> memory;
  for (std::vector<std::byte>& buffer : buffers) memory.push_back({buffer.data(), buffer.size()});
  const auto report = ir::interpret_with_checks(parsed, memory, arguments.scalars, debug);
  if (seen > o.watch_limit)
    std::printf("... and %lld values more; --watch-limit shows more of them\n",
                static_cast<long long>(seen - o.watch_limit));
  if (!report.ok()) return report.status().with_context(o.file);
  if (!o.watches.empty() && seen == 0) std::printf("no watched value was computed\n");

  std::printf("kernel %s, %s, interpreted in %llu steps: no access out of bounds, none without a value\n",
              parsed.kernel.name.c_str(), std::string(ir::numerics_name(parsed.kernel.numerics)).c_str(),
              static_cast<unsigned long long>(report->steps));
  for (size_t i = 0; i < buffers.size(); ++i) {
    const ir::BufferArgument& buffer = parsed.kernel.buffers[i];
    const size_t count = buffers[i].size() / element_size(buffer);
    if (const uint64_t without = count - report->elements_with_value[i]; without > 0)
      std::printf("%s: %llu of %zu elements were never written\n", buffer.name.c_str(),
                  static_cast<unsigned long long>(without), count);
  }
  return {};
}

// Executes the kernel on `buffers` on a device; returns the seconds that it took.
Result<double> run_on_device(const KernelRunOptions& o, hal::Device& device, const ir::Kernel& kernel,
                             const KernelArguments& arguments, Buffers& buffers) {
  SPORKLE_ASSIGN_OR_RETURN(const lower::Schedule schedule, lower::Schedule::parse(o.schedule));
  cache::KernelCache kernels(device);
  SPORKLE_ASSIGN_OR_RETURN(const hal::ExecutableRef executable, kernels.get(kernel, schedule));
  std::vector<hal::Binding> bindings;
  for (const std::vector<std::byte>& buffer : buffers) {
    SPORKLE_ASSIGN_OR_RETURN(hal::BufferRef memory, device.allocate(buffer.size()));
    bindings.push_back({std::move(memory), 0});
    SPORKLE_RETURN_IF_ERROR(device.write(bindings.back(), buffer));
  }
  hal::CommandBuffer commands;
  commands.dispatch(executable, bindings, arguments.scalars);
  SPORKLE_ASSIGN_OR_RETURN(const double before, device.busy_seconds());
  SPORKLE_RETURN_IF_ERROR(device.submit(commands));
  SPORKLE_RETURN_IF_ERROR(device.wait_idle());
  SPORKLE_ASSIGN_OR_RETURN(const double after, device.busy_seconds());
  for (size_t i = 0; i < buffers.size(); ++i) SPORKLE_RETURN_IF_ERROR(device.read(bindings[i], buffers[i]));
  return after - before;
}

// The first element whose bits differ; NaNs are equal.
Status compare(const ir::Kernel& kernel, const Buffers& interpreted, const Buffers& computed, std::string_view device) {
  for (size_t i = 0; i < interpreted.size(); ++i) {
    const ir::BufferArgument& buffer = kernel.buffers[i];
    const size_t size = element_size(buffer), count = interpreted[i].size() / size;
    for (size_t e = 0; e < count; ++e) {
      if (std::memcmp(interpreted[i].data() + e * size, computed[i].data() + e * size, size) == 0) continue;
      const std::string expected =
          element_text(buffer.type, element_bits(buffer.type, interpreted[i].data() + e * size));
      const std::string found = element_text(buffer.type, element_bits(buffer.type, computed[i].data() + e * size));
      if (ir::is_float(buffer.type) && expected == "nan" && found == "nan") continue;
      return internal_error(std::string(device) + " computed another result than the interpreter: " + buffer.name +
                            "[" + std::to_string(e) + "] is " + found + ", and " + expected + " is right");
    }
  }
  return {};
}

}  // namespace

Result<ir::ParsedText> read_kernel(const std::string& file) {
  SPORKLE_ASSIGN_OR_RETURN(const std::string text, read_file(file));
  Result<ir::ParsedText> parsed = ir::parse_with_lines(text);
  if (!parsed.ok()) return parsed.status().with_context(file);
  return parsed;
}

Status run_kernel(const KernelRunOptions& o) {
  if (o.interpret && o.unchecked)
    return invalid_argument(
        "--interpret and --unchecked exclude each other: one runs in the interpreter alone, the "
        "other on the device alone");
  if (o.unchecked && !o.watches.empty())
    return invalid_argument("--watch needs the interpreter: leave --unchecked out");
  SPORKLE_ASSIGN_OR_RETURN(const ir::ParsedText parsed, read_kernel(o.file));
  const ir::Kernel& kernel = parsed.kernel;
  SPORKLE_ASSIGN_OR_RETURN(const KernelArguments arguments,
                           parse_kernel_arguments(kernel, o.inputs, o.scalars, static_cast<uint64_t>(o.seed)));
  SPORKLE_ASSIGN_OR_RETURN(const std::vector<Print> prints, parse_prints(kernel, o.prints));
  std::shared_ptr<hal::Device> device;
  if (!o.interpret) {
    SPORKLE_ASSIGN_OR_RETURN(device, hal::open_device(o.device));
  }

  Buffers interpreted = arguments.buffers, computed = arguments.buffers;
  if (!o.unchecked) {
    SPORKLE_RETURN_IF_ERROR(interpret(o, parsed, arguments, interpreted));
    if (o.interpret) return print_buffers(kernel, interpreted, prints), Status();
  }
  SPORKLE_ASSIGN_OR_RETURN(const double seconds, run_on_device(o, *device, kernel, arguments, computed));
  const hal::DeviceInfo& info = device->info();
  const std::string took = info.id + " (" + info.driver + "): " + format_fixed(seconds * 1e3, 3) + " ms";
  if (o.unchecked) {
    std::printf("kernel %s on %s, not compared\n", kernel.name.c_str(), took.c_str());
  } else {
    SPORKLE_RETURN_IF_ERROR(compare(kernel, interpreted, computed, info.id));
    std::printf("on %s, the same bits\n", took.c_str());
  }
  print_buffers(kernel, computed, prints);
  return {};
}

}  // namespace sporkle::app
