// From a planned step to recorded kernel launches. Internal.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "hal/device.h"
#include "ir/kernel.h"
#include "lower/schedule.h"
#include "tensor/fuse.h"

namespace sporkle::tensor {

// Records launches into one command buffer.
class Launcher {
 public:
  explicit Launcher(Context& context) : context_(context) {}

  Context& context() { return context_; }
  hal::CommandBuffer& commands() { return commands_; }
  // The line of user code that the next launches come from.
  void set_source(std::source_location source) { source_ = source; }

  // Launches the kernel named by `key`, which says all that `trace` depends on; it is traced and compiled only when it
  // is new.
  Status dispatch(const std::string& key, const std::string& schedule, const std::function<ir::Kernel()>& trace,
                  std::vector<hal::Binding> bindings, std::vector<uint64_t> scalars);

 private:
  Context& context_;
  hal::CommandBuffer commands_;
  std::source_location source_;
};

// A schedule as in lower/schedule.h, in which "vec" without a width stands for a vector of `vector_width` ("vecx4":
// four of them).
Result<lower::Schedule> parse_schedule(std::string_view text, int vector_width);

// Record one step. The storage of everything it reads and writes exists.
Status launch_pointwise(Launcher& launcher, const Step& step);
Status launch_reduce(Launcher& launcher, const Step& step);
Status launch_matmul(Launcher& launcher, const Step& step);
Status launch_workgroup_matmul(Launcher& launcher, const Step& step);  // on a GPU
// `unwanted`: storage for the results that step.results has no node for, in order.
Status launch_call(Launcher& launcher, const Step& step, std::span<const std::shared_ptr<Storage>> unwanted);

}  // namespace sporkle::tensor
