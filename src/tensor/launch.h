// From a planned step to recorded kernel launches. Internal.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "hal/device.h"
#include "ir/kernel.h"
#include "lower/schedule.h"
#include "tensor/fuse.h"
#include "tensor/plan.h"
#include "tensor/scalars.h"

namespace sporkle::tensor {

// Memory that a plan has yet to place (passes/record.cc): it is only a name in bindings.
class PlannedBuffer final : public hal::Buffer {
 public:
  // `offset_bytes`: in what it is part of, if `number` is that of another stand-in.
  PlannedBuffer(size_t size_bytes, int number, size_t offset_bytes = 0)
      : size_bytes_(size_bytes), offset_bytes_(offset_bytes), number_(number) {}
  size_t size_bytes() const override { return size_bytes_; }
  std::byte* host_pointer() override { return nullptr; }
  size_t offset_bytes() const { return offset_bytes_; }
  int number() const { return number_; }

 private:
  size_t size_bytes_, offset_bytes_;
  int number_;
};

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
                  std::vector<hal::Binding> bindings, Scalars scalars);
  // The same for a call, all of whose scalars may differ at the next run.
  Status dispatch_call(const Node& call, const std::string& key, const std::function<ir::Kernel()>& trace,
                       std::vector<hal::Binding> bindings);

  // Memory for the commands that are recorded next: of a step's results, or between its launches.
  std::shared_ptr<Storage> allocate(size_t size_bytes);
  // Part of what allocate() gave.
  std::shared_ptr<Storage> part_of(const Storage& whole, size_t offset_bytes, size_t size_bytes);

  // ---- What was recorded ----
  const std::vector<std::shared_ptr<PlannedBuffer>>& buffers() const { return buffers_; }
  std::vector<Plan::NumberUse>& number_uses() { return number_uses_; }
  std::vector<Plan::CallUse>& call_uses() { return call_uses_; }

 private:
  Context& context_;
  hal::CommandBuffer commands_;
  std::source_location source_;
  std::vector<std::shared_ptr<PlannedBuffer>> buffers_;
  std::vector<Plan::NumberUse> number_uses_;
  std::vector<Plan::CallUse> call_uses_;
};

// A schedule as in lower/schedule.h, in which "vec" without a width stands for a vector of `vector_width` ("vecx4":
// four of them).
Result<lower::Schedule> parse_schedule(std::string_view text, int vector_width);

// Records the kernel that computes `program`, whose loops have `result_strides` in `result`, which has storage.
Status launch_program(Launcher& launcher, Program program, Strides result_strides, const Node& result);

// Record one step. Everything it reads and writes has storage, or a stand-in for it.
Status launch_pointwise(Launcher& launcher, const Step& step);
Status launch_reduce(Launcher& launcher, const Step& step);
Status launch_matmul(Launcher& launcher, const Step& step);
Status launch_low_precision_matmul(Launcher& launcher, const Step& step);  // of bf16, in `fast`, on a CPU
Status launch_workgroup_matmul(Launcher& launcher, const Step& step);      // on a GPU
Status launch_matrix_unit_matmul(Launcher& launcher, const Step& step);    // of bf16 in `fast`, on a GPU that has them
// `unwanted`: storage for the results that step.results has no node for, in order.
Status launch_call(Launcher& launcher, const Step& step, std::span<const std::shared_ptr<Storage>> unwanted);

}  // namespace sporkle::tensor
