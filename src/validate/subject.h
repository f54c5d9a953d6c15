// What is validated: devices, each in every way in which this machine can run it.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "hal/device.h"

namespace sporkle::validate {

struct Subject {
  std::string name;  // "cpu x86-64-v3, 2 threads"
  std::string device_id;
  // A device of its own at every call; thread-safe.
  std::function<Result<std::shared_ptr<hal::Device>>()> open;
};

// The devices with these IDs (none: all that are there, but for null, which computes nothing). The processor counts
// once for each instruction set it has and for each of 1 and 2 threads. An unknown ID, or a device that was asked for
// and is not there, is an error.
Result<std::vector<Subject>> find_subjects(const std::vector<std::string>& device_ids = {});

}  // namespace sporkle::validate
