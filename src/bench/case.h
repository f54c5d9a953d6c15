// What `sporkle bench` measures: a case (ours) and its rivals, over the same input.
//
// A Case makes its input sets, runs our code on them, and judges outputs: its own and its rivals'. measure.h owns the
// method (rounds, rotation, poison, checks, clocks); a case only says what one run is. Cases belong to one thread.
//
// A new case is one file case_NAME.cc with a function that returns its CaseKind, listed in case_kinds().
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "ir/kernel.h"
#include "tensor/context.h"

namespace sporkle::bench {

// What to measure, by the names that the command line takes.
struct Setting {
  std::string shape;
  ir::DType dtype = ir::DType::f32;
  ir::Numerics numerics = ir::Numerics::strict;
  std::string device = "cpu";
  int threads = 1;
  // Where a case's tensors live; empty: tensor::Context::open(device, threads). For tests.
  std::function<Result<std::unique_ptr<tensor::Context>>()> open_context;
};

// An array in host memory, row-major.
struct HostArray {
  std::string name;
  ir::DType dtype = ir::DType::f32;
  std::vector<int64_t> shape;
  std::vector<std::byte> bytes;

  template <typename T>
  std::span<const T> values() const {
    return {reinterpret_cast<const T*>(bytes.data()), bytes.size() / sizeof(T)};
  }
  template <typename T>
  std::span<T> values() {
    return {reinterpret_cast<T*>(bytes.data()), bytes.size() / sizeof(T)};
  }
};
// Of the given shape, its bytes zero.
HostArray make_array(std::string name, ir::DType dtype, std::vector<int64_t> shape);
// Poison: as f32 and as f64 a NaN that no computation makes, so that an element that is not written cannot look right.
inline constexpr uint32_t kPoison = 0x7ff5a5a5;
void poison(HostArray* array);

// The work of one run.
struct Work {
  double flops = 0;
  double bytes = 0;  // what must be read and written at least, each input and output once
};

// How long `repetitions` runs took, all together.
struct Sample {
  double wall_seconds = 0;
  // The part in which the host planned and recorded launches before the device had anything to do.
  double host_seconds = 0;
  // What the device itself counted (hal::Device::busy_seconds); none where a device has no clock.
  std::optional<double> device_seconds;
  int waits = 1;  // how often the host waited until the device was done
};

// What a rival is asked to compute: enough for a program that knows nothing of Sporkle.
struct Problem {
  std::string operation;                                    // "gemm"
  std::vector<std::pair<std::string, int64_t>> parameters;  // {"m", 64}, {"transpose_a", 0} ...
  std::vector<std::vector<const HostArray*>> inputs;        // of each input set; owned by the case
  std::vector<HostArray> outputs;                           // their names, types and shapes; bytes empty
};

class Case {
 public:
  virtual ~Case() = default;

  // Makes the input sets and what outputs are compared with, and runs once, so that kernels are compiled. Called first.
  virtual Status prepare() = 0;

  virtual Work work() const = 0;
  // The record's unit, and its value for one run of so many seconds, from work() or a count of the case's own.
  virtual std::string unit() const = 0;
  virtual double value(double seconds) const = 0;
  // At most, once it is prepared and its rivals are open; 0 where that is next to nothing.
  double memory_bytes() const { return memory_bytes_; }
  void set_memory_bytes(double bytes) { memory_bytes_ = bytes; }
  // Whether percent_of_peak means something.
  virtual bool has_roofline() const { return true; }

  // How many input sets there are. Run i of a sample takes set i % sets().
  virtual int sets() const = 0;
  // Runs `repetitions` times (a multiple of sets() where outputs are to be checked) and keeps the outputs.
  virtual Result<Sample> run(int repetitions) = 0;

  // Overwrites the memory that the next run's outputs will get.
  virtual Status poison_outputs() = 0;
  // Compares every element of every output of the last run with float64, and in `strict` also the bits with what the
  // kernel's definition gives. Returns the largest relative error; internal names the element when one is wrong.
  virtual Result<double> check() = 0;

  // For rivals; valid after prepare(). An empty operation: no rival can run this.
  virtual const Problem& problem() const = 0;
  // The same check of a rival's outputs for input set `set`; the error limit of floating-point arithmetic in any order.
  virtual Result<double> check_rival(int set, std::span<const HostArray> outputs) = 0;

 private:
  double memory_bytes_ = 0;
};

// Another program's way to do the same, opened at run time. It may run in a process of its own.
class Rival {
 public:
  virtual ~Rival() = default;
  // With the kernel it chose: "OpenBLAS 0.3.21 DYNAMIC_ARCH, kernel SkylakeX".
  virtual std::string version() const = 0;
  // Its value for one run of so many seconds, in the case's unit.
  virtual double value(double seconds) const = 0;
  // The seconds that `repetitions` runs took, measured where they ran. Run i takes set i % sets.
  virtual Result<double> run(int repetitions) = 0;
  virtual Status poison_outputs() = 0;
  // The outputs of the last run of every set, checked by `judge` (Case::check_rival). Returns the largest error.
  virtual Result<double> check(Case& judge) = 0;
  // Between its turns a rival must not use a processor: its idle threads may spin.
  virtual void pause() = 0;
  virtual void resume() = 0;
};

struct CaseKind {
  std::string name;                         // "gemm"
  std::string summary;                      // one line for help
  std::string shape_form;                   // "MxNxK[:nn|nt|tn|tt]"
  std::vector<std::string> default_shapes;  // at least one
  std::vector<ir::DType> dtypes;            // the first is the default
  std::vector<ir::Numerics> numerics;       // the first is the default
  std::vector<std::string> rivals;          // names that open_rival knows
  std::vector<std::string> default_rivals;  // of these, when --against does not say
  // invalid_argument for a shape that is none. Allocates nothing large: that is prepare()'s.
  std::function<Result<std::unique_ptr<Case>>(const Setting&)> make;
};

}  // namespace sporkle::bench
