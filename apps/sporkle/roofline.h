// What this machine can do at most: the roofline (Williams, Waterman and Patterson, CACM 52(4), 2009) that profiles
// compare kernels with, measured on the spot.
#pragma once

#include <algorithm>
#include <string_view>

#include "base/status.h"

namespace sporkle::app {

struct Roofline {
  double flops_per_second = 0;  // f32 fused multiply-adds whose operands stay in registers, on all threads
  double bytes_per_second = 0;  // read and written, copying memory
  // The least time that so much work takes.
  double seconds(double flops, double bytes) const {
    return std::max(flops / flops_per_second, bytes / bytes_per_second);
  }
};

// Of a device with a clock (hal::Device::busy_seconds), opened by its ID. Takes about half a second. internal when a
// kernel that measures computes something wrong.
Result<Roofline> measure_roofline(std::string_view device_id);

}  // namespace sporkle::app
