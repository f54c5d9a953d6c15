// How fast a device multiplies matrices and copies its memory, measured on the spot: what `sporkle devices --measure`
// shows. (`sporkle bench` measures with rivals and checks every element.)
#pragma once

#include <string_view>

#include "base/status.h"

namespace sporkle::app {

struct DeviceRates {
  double gemm_flops_per_second = 0;  // strict f32, square matrices that take some time
  // `fast` products of bf16 (f16 where there are no units for it) on matrix units, sums in f32; 0 where there are none.
  double matrix_4096_flops_per_second = 0, matrix_8192_flops_per_second = 0;
  double copy_bytes_per_second = 0;  // read and written, within the device's memory
};

// Of a device with a clock, opened by its ID, in a second or a few. internal when a product is wrong.
Result<DeviceRates> measure_rates(std::string_view device_id);

}  // namespace sporkle::app
