// Making nodes: what the files of this layer share. Internal.
#pragma once

#include <span>
#include <string_view>

#include "tensor/tensor.h"

namespace sporkle::tensor {

// While it lives, nodes that this thread makes come from this line of user code, unless an operation around it has said
// so before: what a layer is made of comes from the line that calls the layer.
class SourceScope {
 public:
  explicit SourceScope(const std::source_location& source);
  ~SourceScope();
  SourceScope(const SourceScope&) = delete;
  SourceScope& operator=(const SourceScope&) = delete;

 private:
  std::source_location outer_;
};

// While it lives, nodes that this thread makes are gradients (Node::gradient).
class GradientScope {
 public:
  GradientScope();
  ~GradientScope();
  GradientScope(const GradientScope&) = delete;
  GradientScope& operator=(const GradientScope&) = delete;

 private:
  bool outer_;
};

NodeRef make_node(Op op, Context& context, DType dtype, const Shape& shape, std::vector<NodeRef> inputs);

inline bool is_16_bit(DType type) { return type == DType::f16 || type == DType::bf16; }

// The same values as a pointwise operation, which can be given storage of its own.
Tensor copy_of(const Tensor& x);

// Ok when all operands are defined, no errors, and of one context; else *failed is the error tensor to return.
Status check_operands(std::string_view what, std::span<const Tensor> operands, Tensor* failed);

}  // namespace sporkle::tensor
