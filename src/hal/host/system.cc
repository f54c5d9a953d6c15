#include "hal/host/system.h"

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>

#include "base/file.h"

namespace sporkle::hal {
namespace {

std::optional<int64_t> parse_number(std::string_view text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.remove_suffix(1);
  int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

// Calls `visit` with the text of `file` in the folder of this process's control group (version 2) and of each above it:
// a limit anywhere on the way binds. Inside a container the path may not exist; the root of the mount then counts.
template <typename Visit>
void for_each_control_group(const char* file, const Visit& visit) {
  namespace fs = std::filesystem;
  const fs::path root = "/sys/fs/cgroup";
  fs::path folder = root;
  if (const Result<std::string> groups = read_file("/proc/self/cgroup"); groups.ok()) {
    std::istringstream lines(*groups);
    for (std::string line; std::getline(lines, line);) {
      if (line.starts_with("0::/")) folder = root / line.substr(4);
    }
  }
  for (;; folder = folder.parent_path()) {
    if (const Result<std::string> text = read_file(folder / file); text.ok()) visit(*text);
    if (folder == root || !folder.has_relative_path()) return;
  }
}

}  // namespace

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("model name")) continue;
    const size_t colon = line.find(": ");
    if (colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown processor";
}

int usable_cores() {
  int cores = 1;
  cpu_set_t set;
  if (::sched_getaffinity(0, sizeof set, &set) == 0) {
    cores = CPU_COUNT(&set);
  } else {
    cores = static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN));  // more processors than a cpu_set_t has bits
  }
  // "QUOTA PERIOD" in microseconds, or "max PERIOD".
  for_each_control_group("cpu.max", [&](const std::string& text) {
    const size_t space = text.find(' ');
    if (space == std::string::npos) return;
    const auto quota = parse_number(std::string_view(text).substr(0, space));
    const auto period = parse_number(std::string_view(text).substr(space + 1));
    if (!quota || !period || *quota <= 0 || *period <= 0) return;
    cores = static_cast<int>(std::min<int64_t>(cores, (*quota + *period - 1) / *period));
  });
  return std::max(1, cores);
}

namespace {

// Cores left to compute with, at most what is usable.
Result<int> unreserved_cores() {
  const int usable = std::min(usable_cores(), kMostThreads);
  const char* text = std::getenv("SPORKLE_RESERVE_CORES");
  if (!text || !*text) return usable;
  const auto reserved = parse_number(text);
  if (!reserved || *reserved < 0)
    return invalid_argument("SPORKLE_RESERVE_CORES is \"" + std::string(text) +
                            "\": give the number of cores to leave alone, or unset it");
  if (*reserved >= usable)
    return invalid_argument("reserving " + std::to_string(*reserved) + " of " + std::to_string(usable) +
                            " cores leaves none to compute with; reserve at most " + std::to_string(usable - 1));
  return usable - static_cast<int>(*reserved);
}

}  // namespace

Result<int> thread_count(int requested) {
  SPORKLE_ASSIGN_OR_RETURN(const int cores, unreserved_cores());
  const char* reserve = std::getenv("SPORKLE_RESERVE_CORES");
  const bool reserves = reserve && *reserve && std::string_view(reserve) != "0";
  std::string asked = std::to_string(requested) + " threads asked for";
  int64_t wanted = requested;
  if (requested == 0) {
    const char* text = std::getenv("SPORKLE_THREADS");
    if (!text || !*text) return cores;
    asked = "SPORKLE_THREADS is \"" + std::string(text) + "\"";
    wanted = parse_number(text).value_or(0);
  }
  if (wanted < 1 || wanted > kMostThreads) {
    return invalid_argument(asked + ": give a number from 1 to " + std::to_string(kMostThreads) +
                            (requested == 0 ? ", or unset it to use every core" : ", or 0 to use every core"));
  }
  return static_cast<int>(reserves ? std::min<int64_t>(wanted, cores) : wanted);
}

Status set_nice_level(int level) {
  if (level < 0 || level > kMostNice)
    return invalid_argument("a nice level of " + std::to_string(level) + " was asked for: give a number from 0 (the " +
                            "usual one) to " + std::to_string(kMostNice) + " (computes only when nobody else does)");
  // Of this thread, and of those that it starts from now on.
  errno = 0;
  if (const int now = ::getpriority(PRIO_PROCESS, 0); errno == 0 && now >= level) return {};
  if (::setpriority(PRIO_PROCESS, 0, level) != 0)
    return errno_status(errno, "cannot set the nice level " + std::to_string(level));
  return {};
}

uint64_t usable_memory_bytes() {
  const int64_t pages = ::sysconf(_SC_PHYS_PAGES), page = ::sysconf(_SC_PAGE_SIZE);
  uint64_t bytes = pages > 0 && page > 0 ? static_cast<uint64_t>(pages) * static_cast<uint64_t>(page)
                                         : std::numeric_limits<uint64_t>::max();
  for_each_control_group("memory.max", [&](const std::string& text) {
    if (const auto limit = parse_number(text); limit && *limit > 0)
      bytes = std::min(bytes, static_cast<uint64_t>(*limit));
  });
  return bytes;
}

}  // namespace sporkle::hal
