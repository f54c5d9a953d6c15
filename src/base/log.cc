#include "base/log.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <string>

namespace sporkle {
namespace {

std::atomic<LogLevel>& level_slot() {
  static std::atomic<LogLevel> level{debug_level() >= 1 ? LogLevel::info : LogLevel::warning};
  return level;
}

}  // namespace

int debug_level() {
  static const int level = [] {
    const char* text = std::getenv("SPORKLE_DEBUG");
    return text ? std::atoi(text) : 0;
  }();
  return level;
}

void set_log_level(LogLevel level) { level_slot() = level; }
LogLevel log_level() { return level_slot(); }

void log(LogLevel level, std::string_view component, std::string_view message) {
  if (level < log_level()) return;
  static constexpr std::string_view names[] = {"debug", "info", "warning", "error", "off"};
  std::string line;
  line.reserve(component.size() + message.size() + 16);
  line.append(names[static_cast<int>(level)]).append(" [").append(component).append("] ");
  line.append(message).push_back('\n');
  std::fwrite(line.data(), 1, line.size(), stderr);  // one call, so that lines of several threads do not mix
}

}  // namespace sporkle
