// Linear layers whose weights are 8-bit numbers, for inference: a quarter of the memory to read.
//
// Each column of a weight has a scale (its largest magnitude / 127) and whole numbers from -127 to 127. Each row of the
// operand is quantised when it comes, in the same way. The products are summed exactly, as whole numbers (ir::Op::dot,
// for which many processors have an instruction), then scaled in f32: the bits are the same on every device.
// Belongs to its Context's thread.
#pragma once

#include "base/status.h"
#include "tensor/tensor.h"

namespace sporkle::nn {

struct QuantizedWeight {
  // i32 [ceil(inputs / 4), outputs]: four signed bytes each, the first lowest; zeros where the inputs end.
  tensor::Tensor words;
  tensor::Tensor scales;  // f32 [outputs]
  tensor::Tensor sums;    // i32 [outputs]: of each column's whole numbers
  int64_t inputs = 0;
};

// From an f32 weight [inputs, outputs], or with `transposed` from [outputs, inputs]. Realises it. invalid_argument for
// another type or rank, more than 2^16 inputs (the sums would not fit), or a value that is not finite.
Result<QuantizedWeight> quantize_weight(const tensor::Tensor& weight, bool transposed = false);

// x [..., inputs] f32 times the weight: [..., outputs] f32. No gradient.
tensor::Tensor quantized_linear(const tensor::Tensor& x, const QuantizedWeight& weight);

}  // namespace sporkle::nn
