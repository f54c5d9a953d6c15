#include "base/cpu_topology.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <string>
#include <system_error>

#include "base/file.h"

namespace sporkle {
namespace {

constexpr int kMostProcessors = 1 << 16;

std::vector<int> usable_processors() {
  std::vector<int> processors;
  cpu_set_t set;
  if (::sched_getaffinity(0, sizeof set, &set) == 0) {
    for (int i = 0; i < CPU_SETSIZE; ++i)
      if (CPU_ISSET(i, &set)) processors.push_back(i);
  } else {  // more processors than a cpu_set_t has bits
    for (long i = 0, count = ::sysconf(_SC_NPROCESSORS_ONLN); i < count; ++i) processors.push_back(static_cast<int>(i));
  }
  if (processors.empty()) processors.push_back(0);
  return processors;
}

}  // namespace

int CpuTopology::node_of(int thread) const {
  size_t count = 0;
  for (const std::vector<int>& node : nodes) count += node.size();
  size_t at = static_cast<size_t>(thread) % count;
  for (size_t node = 0; node < nodes.size(); ++node) {
    if (at < nodes[node].size()) return static_cast<int>(node);
    at -= nodes[node].size();
  }
  return 0;
}

std::optional<std::vector<int>> parse_cpu_list(std::string_view text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.remove_suffix(1);
  std::vector<int> processors;
  const auto number = [&](int* value) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value);
    if (error != std::errc() || *value < 0 || *value >= kMostProcessors) return false;
    text.remove_prefix(static_cast<size_t>(end - text.data()));
    return true;
  };
  while (!text.empty()) {
    int first = 0;
    if (!number(&first)) return std::nullopt;
    int last = first;
    if (text.starts_with('-')) {
      text.remove_prefix(1);
      if (!number(&last) || last < first) return std::nullopt;
    }
    for (int i = first; i <= last; ++i) processors.push_back(i);
    if (text.empty()) break;
    if (!text.starts_with(',')) return std::nullopt;
    text.remove_prefix(1);
    if (text.empty()) return std::nullopt;
  }
  return processors;
}

CpuTopology read_topology(const std::filesystem::path& folder, const std::vector<int>& usable) {
  std::map<int, std::vector<int>> found;  // by the node's number
  std::error_code error;
  for (auto entry = std::filesystem::directory_iterator(folder, error);
       !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    const std::string name = entry->path().filename();
    int number = 0;
    if (!name.starts_with("node")) continue;
    const auto [end, bad] = std::from_chars(name.data() + 4, name.data() + name.size(), number);
    if (bad != std::errc() || end != name.data() + name.size()) continue;
    const Result<std::string> text = read_file(entry->path() / "cpulist");
    if (!text.ok()) continue;
    const std::optional<std::vector<int>> processors = parse_cpu_list(*text);
    if (!processors) continue;
    for (const int processor : *processors)
      if (std::ranges::find(usable, processor) != usable.end()) found[number].push_back(processor);
  }
  CpuTopology topology;
  size_t count = 0;
  for (auto& [number, processors] : found) {
    std::ranges::sort(processors);
    processors.erase(std::unique(processors.begin(), processors.end()), processors.end());
    count += processors.size();
    topology.nodes.push_back(std::move(processors));
  }
  // A list that leaves processors out, or has one twice, cannot be trusted.
  if (count != usable.size()) topology.nodes = {usable};
  return topology;
}

CpuTopology host_topology() { return read_topology("/sys/devices/system/node", usable_processors()); }

bool pin_this_thread(const std::vector<int>& processors) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int processor : processors) {
    if (processor >= CPU_SETSIZE) return false;
    CPU_SET(processor, &set);
  }
  return ::sched_setaffinity(0, sizeof set, &set) == 0;
}

}  // namespace sporkle
