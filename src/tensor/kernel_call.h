// Kernels of one's own in the graph: a definition in the kernel language, applied to tensors.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "dsl/kernel.h"
#include "tensor/tensor.h"

namespace sporkle::tensor {

// What a kernel's results look like.
struct TensorSpec {
  DType dtype = DType::f32;
  Shape shape;
};

// The gradients of a call's inputs (undefined where there is none), from its inputs, its results, and the gradients of
// the results (zeros where nothing depends on one).
using KernelGradient = std::function<std::vector<Tensor>(
    std::span<const Tensor> inputs, std::span<const Tensor> results, std::span<const Tensor> result_gradients)>;

struct KernelCall {
  // Names everything that shapes the trace: calls with equal keys share one compiled kernel.
  std::string key;
  // Declares one buffer for each input that no result takes, then one for each result (in_out for one that takes an
  // input), then the scalars, all in order.
  std::function<void(dsl::KernelBuilder&)> define;
  std::string schedule;  // see lower/schedule.h; "vec" without a number stands for the target's vector of f32
  std::vector<TensorSpec> results;
  std::vector<uint64_t> scalars;  // bits, see scalar_bits
  KernelGradient gradient;        // none: a loss that depends on the results is an error
  // For each result the input whose elements its memory holds at first, or -1; empty: all -1. Where the input is data
  // that no other tensor shares and that nothing reads later, the result is that very memory: what still refers to the
  // input is an error from then on. Elsewhere the elements are copied.
  std::vector<int> takes = {};
};

// The key of a kernel that its name and element type determine: "name.type".
std::string typed_key(std::string_view name, DType type);

// The bits of a kernel argument.
uint64_t scalar_bits(int64_t value);
uint64_t scalar_bits(DType type, double value);

// Inputs are passed row-major (copied where they are not).
std::vector<Tensor> call_kernel(KernelCall call, std::span<const Tensor> inputs,
                                std::source_location source = std::source_location::current());

}  // namespace sporkle::tensor
