// What the traces of base/trace.h say about kernels: one row for each kernel and the line of code that asked for it.
// Not thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace sporkle::app {

struct ProfileRow {
  std::string kernel, key, structure, schedule, source, device;
  uint64_t calls = 0;
  double seconds = 0;
  double flops = 0, bytes = 0;  // all calls together
  bool estimated = false;       // the work of some call
};

class ProfileReport {
 public:
  // Takes in the trace of one process. A last line that its process did not finish is dropped; corrupt_data for a line
  // that is no event. `events` gets the lines, without commas, for a trace of all processes.
  Status add(std::string_view trace, std::vector<std::string>* events);

  // The longest first.
  std::vector<ProfileRow> rows() const;
  double launch_seconds() const { return launch_seconds_; }
  double plan_seconds() const { return plan_seconds_; }
  double compile_seconds() const { return compile_seconds_; }

 private:
  std::map<std::vector<std::string>, ProfileRow> rows_;
  double launch_seconds_ = 0, plan_seconds_ = 0, compile_seconds_ = 0;
};

}  // namespace sporkle::app
