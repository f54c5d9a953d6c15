// How accurate the mathematical functions are: the f32 kernels that this machine runs, over all 2^32 inputs or an even
// sample of them, against the C library's f64 functions (good to about 2^-52, so that errors are known to 2^-28 units),
// beside the C library's own f32 functions, for single numbers and for vectors.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "tensor/tensor.h"

namespace sporkle::validate {

// A function of one f32 argument.
struct MathFunction {
  std::string_view name;
  tensor::Tensor (*ours)(const tensor::Operand& x);
  double (*exact)(double x);
  float (*c_library)(float x);  // null: it has none
  double limit_ulp = 0;
};

// exp, log, tanh, erf, sin, cos, rsqrt, sqrt, reciprocal (a division); limits from the table of operations.
std::span<const MathFunction> math_functions();

// The largest error found, in units in the last place of the exact result.
struct WorstCase {
  double ulp = 0;      // infinity: one of the two is a NaN or infinite and the other is not
  float input = 0;     // where
  uint64_t above = 0;  // how many results were not the nearest number
};

struct Accuracy {
  uint64_t inputs = 0;  // compared, NaNs included
  WorstCase ours, c_library;
  std::optional<WorstCase> c_vectors;  // none: no such function (vector_math.h)
  int c_vector_lanes = 0;
  bool holds = false;  // ours.ulp is within the limit
};

struct AccuracyOptions {
  uint64_t samples = 1 << 20;  // one from each of so many equal runs of the 2^32 inputs; 2^32: all
  int threads = 0;             // 0: as hal/registry.h says
  std::string device = "cpu";
  std::function<void(uint64_t done)> progress;  // called now and then
};

// invalid_argument: samples is 0 or above 2^32.
Result<Accuracy> measure_accuracy(const MathFunction& function, const AccuracyOptions& options);

// Error of `found` in units in the last place of `exact`, rounded to f32: units of denormals below 2^-126; 0 where both
// are NaN or the same infinity; infinity where only one is.
double error_ulp(float found, double exact);

}  // namespace sporkle::validate
