// Reverse-mode differentiation over the lazy graph. The gradients are lazy tensors as well, and may be differentiated.
#pragma once

#include <span>
#include <vector>

#include "tensor/tensor.h"

namespace sporkle::tensor {

// d loss / d parameter for each parameter, in their order and shapes; zeros where the loss does not depend on it. The
// loss is a float tensor of one element. Parameters are any tensors that the loss was made from.
// An error operand is returned; invalid_argument when the loss has more than one element; unsupported names an
// operation without a gradient.
Result<std::vector<Tensor>> grad(const Tensor& loss, std::span<const Tensor> parameters);

}  // namespace sporkle::tensor
