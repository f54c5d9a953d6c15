// For tests: a processor that is lost, as a GPU is by a reset, and opened again.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "hal/registry.h"
#include "hal/testing_device.h"
#include "tensor/context.h"

namespace sporkle::train::testing {

// Lost at the submissions with these numbers, which count through all that are opened.
class Losing {
 public:
  explicit Losing(std::vector<int64_t> numbers) : numbers_(std::move(numbers)) {}

  Result<std::unique_ptr<tensor::Context>> open() {
    SPORKLE_ASSIGN_OR_RETURN(std::shared_ptr<hal::Device> inner, hal::open_device("cpu", {.threads = 1}));
    hal::testing::Fault fault;
    fault.before_submission = [this, lost = false]() mutable -> Status {
      lost |= std::ranges::count(numbers_, submissions_++) > 0;
      return lost ? device_lost("device cpu was lost") : Status();
    };
    devices_.push_back(std::make_unique<hal::testing::FaultyDevice>(std::move(inner), std::move(fault)));
    kernels_.push_back(std::make_unique<cache::KernelCache>(*devices_.back()));
    return std::make_unique<tensor::Context>(*devices_.back(), *kernels_.back());
  }
  size_t opened() const { return devices_.size(); }
  int64_t submissions() const { return submissions_; }

 private:
  std::vector<int64_t> numbers_;
  int64_t submissions_ = 0;
  std::vector<std::unique_ptr<hal::testing::FaultyDevice>> devices_;
  std::vector<std::unique_ptr<cache::KernelCache>> kernels_;
};

}  // namespace sporkle::train::testing
