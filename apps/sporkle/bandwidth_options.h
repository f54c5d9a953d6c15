// --upload-limit and --download-limit, of every command that talks to the mesh. Thread-safe.
#pragma once

#include <cstdint>
#include <string>

#include "apps/sporkle/cli.h"

namespace sporkle::app {

// Of megabits (10^6 bits) a second, as lines are sold by. 0 stays 0, which is no limit; else at least 1.
inline uint64_t bytes_per_second(double megabits_per_second) {
  if (megabits_per_second <= 0) return 0;
  return megabits_per_second < 1e-5 ? 1 : static_cast<uint64_t>(megabits_per_second * 1e6 / 8);
}

// `to` and `from` say whom: "to the coordinator".
inline void add_bandwidth_options(Command& command, double* upload_mbit, double* download_mbit, const std::string& to,
                                  const std::string& from) {
  command.option("--upload-limit", upload_mbit, "Send " + to + " at most so many Mbit/s; 0: no limit")
      .range(0, 1e6)
      .value_name("MBIT");
  command.option("--download-limit", download_mbit, "Receive " + from + " at most so many Mbit/s; 0: no limit")
      .range(0, 1e6)
      .value_name("MBIT");
}

}  // namespace sporkle::app
