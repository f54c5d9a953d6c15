#include "validate/accuracy.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <mutex>

#include "base/thread_pool.h"
#include "tensor/context.h"
#include "tensor/pointwise.h"
#include "validate/vector_math.h"

namespace sporkle::validate {
namespace {

constexpr uint64_t kAll = uint64_t{1} << 32;
constexpr uint64_t kBlock = uint64_t{1} << 20;  // inputs of one launch

double reciprocal(double x) { return 1 / x; }
double reciprocal_root(double x) { return 1 / std::sqrt(x); }
tensor::Tensor divide_one(const tensor::Operand& x) { return 1.0 / x; }

MathFunction row(std::string_view name, tensor::Op op, tensor::Tensor (*ours)(const tensor::Operand&),
                 double (*exact)(double), float (*c_library)(float)) {
  const tensor::Accuracy& stated = tensor::pointwise_row(op).accuracy;
  // 0 stands for correctly rounded: half a unit, and what the f64 function's own error adds.
  const double limit = stated.ulp_limit == 0 ? 0.5 + 0x1p-25 : stated.ulp_limit;
  return {name, ours, exact, c_library, limit};
}

// The input that stands for run `i` of `samples`: the first of the runs where they are single inputs, else one inside
// that a multiplicative hash picks.
uint32_t input_bits(uint64_t i, uint64_t samples) {
  const uint64_t first = i * kAll / samples, end = (i + 1) * kAll / samples;
  const uint64_t hash = (i + 1) * 0x9e3779b97f4a7c15u >> 32;
  return static_cast<uint32_t>(first + hash % (end - first));
}

void merge(WorstCase* into, const WorstCase& other) {
  // Of equal errors the smaller bits, so that the answer does not depend on threads.
  if (other.ulp > into->ulp ||
      (other.ulp == into->ulp && std::bit_cast<uint32_t>(other.input) < std::bit_cast<uint32_t>(into->input)))
    into->ulp = other.ulp, into->input = other.input;
  into->above += other.above;
}

void judge(WorstCase* worst, float input, float found, double exact) {
  const double error = error_ulp(found, exact);
  worst->above += found != static_cast<float>(exact) && !(std::isnan(found) && std::isnan(exact));
  if (error > worst->ulp) worst->ulp = error, worst->input = input;
}

}  // namespace

double error_ulp(float found, double exact) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (std::isnan(found) || std::isnan(exact)) return std::isnan(found) && std::isnan(exact) ? 0 : kInfinity;
  const float rounded = static_cast<float>(exact);
  if (std::isinf(rounded) || std::isinf(found)) return rounded == found ? 0 : kInfinity;
  // A power of two's exponent, taken from the bits: this runs billions of times.
  const int exponent = static_cast<int>(std::bit_cast<uint64_t>(exact) >> 52 & 0x7ff) - 1023;
  const int last_place = std::max(exponent, -126) - 23;
  const double scale = std::bit_cast<double>(static_cast<uint64_t>(1023 - last_place) << 52);
  return std::fabs(static_cast<double>(found) - exact) * scale;
}

std::span<const MathFunction> math_functions() {
  using tensor::Op;
  static const MathFunction functions[] = {
      row("exp", Op::exp, tensor::exp, std::exp, std::exp),
      row("log", Op::log, tensor::log, std::log, std::log),
      row("tanh", Op::tanh, tensor::tanh, std::tanh, std::tanh),
      row("erf", Op::erf, tensor::erf, std::erf, std::erf),
      row("sin", Op::sin, tensor::sin, std::sin, std::sin),
      row("cos", Op::cos, tensor::cos, std::cos, std::cos),
      row("rsqrt", Op::rsqrt, tensor::rsqrt, reciprocal_root, nullptr),
      row("sqrt", Op::sqrt, tensor::sqrt, std::sqrt, std::sqrt),
      row("reciprocal", Op::div, divide_one, reciprocal, nullptr),
  };
  return functions;
}

Result<Accuracy> measure_accuracy(const MathFunction& function, const AccuracyOptions& options) {
  if (options.samples == 0 || options.samples > kAll)
    return invalid_argument(std::to_string(options.samples) + " samples asked for: give a number from 1 to " +
                            std::to_string(kAll) + ", which are all inputs there are");
  SPORKLE_ASSIGN_OR_RETURN(const std::unique_ptr<tensor::Context> context,
                           tensor::Context::open(options.device, {.threads = options.threads}));
  ThreadPool pool(context->device().info().threads);
  const Result<VectorFunction> vectors = VectorFunction::open(function.name);
  Accuracy result;
  if (vectors.ok()) {
    result.c_vectors.emplace();
    result.c_vector_lanes = vectors->lanes();
  }
  std::vector<float> inputs, by_vectors;
  for (uint64_t begin = 0; begin < options.samples; begin += kBlock) {
    const uint64_t count = std::min(kBlock, options.samples - begin);
    inputs.resize(count);
    pool.parallel_for(static_cast<int64_t>(count), [&](int64_t first, int64_t end, int) {
      for (uint64_t i = static_cast<uint64_t>(first); i < static_cast<uint64_t>(end); ++i)
        inputs[i] = std::bit_cast<float>(options.samples == kAll ? static_cast<uint32_t>(begin + i)
                                                                 : input_bits(begin + i, options.samples));
    });
    const tensor::Tensor x = tensor::from_host<float>(*context, inputs, {static_cast<int64_t>(count)});
    SPORKLE_ASSIGN_OR_RETURN(const std::vector<float> found, function.ours(x).to_host<float>());
    by_vectors.resize(vectors.ok() ? count : 0);
    std::mutex mutex;
    pool.parallel_for(static_cast<int64_t>(count), [&](int64_t first, int64_t end, int) {
      WorstCase ours, theirs, theirs_by_vectors;
      if (vectors.ok()) {
        const size_t begin_at = static_cast<size_t>(first), length = static_cast<size_t>(end - first);
        vectors->apply(std::span(inputs).subspan(begin_at, length), std::span(by_vectors).subspan(begin_at, length));
      }
      for (size_t i = static_cast<size_t>(first); i < static_cast<size_t>(end); ++i) {
        const float input = inputs[i];
        const double exact = function.exact(static_cast<double>(input));
        judge(&ours, input, found[i], exact);
        if (function.c_library) judge(&theirs, input, function.c_library(input), exact);
        if (vectors.ok()) judge(&theirs_by_vectors, input, by_vectors[i], exact);
      }
      const std::scoped_lock lock(mutex);
      merge(&result.ours, ours);
      merge(&result.c_library, theirs);
      if (result.c_vectors) merge(&*result.c_vectors, theirs_by_vectors);
    });
    result.inputs += count;
    if (options.progress) options.progress(result.inputs);
  }
  result.holds = result.ours.ulp <= function.limit_ulp;
  return result;
}

}  // namespace sporkle::validate
