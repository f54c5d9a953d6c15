// What a result was measured on and with: the line {"name":"machine",...} that starts every results file.
//
// Plain values; the functions are thread-safe.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace sporkle::bench {

struct Cache {
  int level = 1;
  std::string type;  // "data", "instruction" or "unified"
  uint64_t size_bytes = 0;
  int shared_by = 1;  // how many processors share one such cache
  bool operator==(const Cache&) const = default;
};

struct MachineDevice {
  std::string id, name, driver;
  bool operator==(const MachineDevice&) const = default;
};

// Text that could not be found out is empty, and a number 0.
struct Machine {
  std::string machine;       // short, for file names: "amd-epyc-9r14-2-cores"
  std::string date;          // of the measurement, UTC: "2026-11-24"
  std::string cpu;           // as the system names it
  std::string cpu_features;  // those that kernels are generated for, as the system names them, separated by spaces
  int cores = 0;             // processors online, hardware threads counted
  std::vector<Cache> caches;
  uint64_t memory_bytes = 0;
  std::vector<MachineDevice> devices;  // that kernels can run on; drivers with their versions
  std::string kernel;                  // "Linux 6.1.0-18-amd64"
  std::string governor;                // of the processor's clock: "performance"
  std::string compiler;                // that this program was built with: "g++ 12.2.0, optimised"
  std::string llvm;                    // that generates kernels: "19.1.7"
  std::string commit;                  // that this program was built from, with "-modified" where files had changed
  // Spread of one product that was run over and over while the results were measured: half of the interquartile range
  // of its times over their median.
  std::optional<double> noise;

  bool operator==(const Machine&) const = default;
  // The same hardware: what is faster or slower on it is not another machine's doing.
  bool same_hardware(const Machine& other) const;
};

struct MachineOptions {
  std::string commit;
  std::optional<double> noise;
  std::filesystem::path root = "/";  // where proc/ and sys/ are; for tests
};

// Looks at the system and the devices. Opens each device for a moment.
Machine describe_machine(const MachineOptions& options);

// One line without its end.
std::string to_json(const Machine& machine);

// Reads what to_json wrote. `machine`, `date` and `cpu` must be there; others may lack or be null, and unknown ones are
// ignored. corrupt_data names the field, what it holds and what it should hold.
Result<Machine> parse_machine(std::string_view line);

}  // namespace sporkle::bench
