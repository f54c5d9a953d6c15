#include "base/seconds.h"

#include <time.h>
#include <unistd.h>

#include <chrono>
#include <sstream>

#include "base/file.h"

namespace sporkle {

double now_s() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

double process_age_s() {
  static const double first_call_s = now_s();
  const Result<std::string> text = read_file("/proc/self/stat");
  const size_t name_end = text.ok() ? text->rfind(')') : std::string::npos;
  if (name_end == std::string::npos) return now_s() - first_call_s;
  // Fields 3 to 22 of proc_pid_stat(5) follow the name, which may hold anything: the last is the start, in clock ticks
  // since the system booted.
  constexpr int kSkipped = 19;
  std::istringstream fields(text->substr(name_end + 1));
  std::string skipped;
  for (int i = 0; i < kSkipped; ++i) fields >> skipped;
  double start_ticks = 0;
  timespec booted{};
  if (!(fields >> start_ticks) || clock_gettime(CLOCK_BOOTTIME, &booted) != 0) return now_s() - first_call_s;
  return static_cast<double>(booted.tv_sec) + 1e-9 * static_cast<double>(booted.tv_nsec) -
         start_ticks / static_cast<double>(sysconf(_SC_CLK_TCK));
}

}  // namespace sporkle
