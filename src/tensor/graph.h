// Making nodes: what the files of this layer share. Internal.
#pragma once

#include <span>
#include <string_view>

#include "tensor/tensor.h"

namespace sporkle::tensor {

NodeRef make_node(Op op, Context& context, DType dtype, const Shape& shape, std::vector<NodeRef> inputs);

// The same values as a pointwise operation, which can be given storage of its own.
Tensor copy_of(const Tensor& x);

// Ok when all operands are defined, no errors, and of one context; else *failed is the error tensor to return.
Status check_operands(std::string_view what, std::span<const Tensor> operands, Tensor* failed);

}  // namespace sporkle::tensor
