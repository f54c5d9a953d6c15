// Tensors: multi-dimensional arrays that are computed lazily, differentiated by tensor/autograd.h, and run as fused
// kernels on the device of a tensor/context.h.
//
//   Tensor x = tensor::from_host<float>(context, values, {64, 32});
//   Tensor y = sum(gelu(matmul(x, w) + b) * 0.5, {1});     // nothing has run yet
//   Result<std::vector<float>> host = y.to_host<float>();  // now it has
//
// A Tensor is a small handle to an immutable node of a graph; copies are cheap and share it. Reshaping, permuting,
// expanding and slicing make views and never copy elements. Element types: f32, f64, f16, bf16, i32 and boolean.
// The 16-bit types are for storage: every operation computes in f32 and rounds its result once.
//
// Errors: an operation whose operands do not fit gives an error tensor, and so does everything made from one; status()
// says why, and realize(), grad() and every read return it. Nothing here throws or aborts on wrong operands.
//
// A Context and all its tensors belong to one thread at a time. A Context must outlive its tensors.
#pragma once

#include <optional>
#include <source_location>
#include <span>
#include <vector>

#include "tensor/node.h"

namespace sporkle::tensor {

class Tensor {
 public:
  Tensor() = default;  // undefined: an error in every use
  explicit Tensor(NodeRef node) : node_(std::move(node)) {}

  bool defined() const { return node_ != nullptr; }
  Status status() const;
  bool ok() const { return node_ && node_->op != Op::error; }
  // Of an error tensor: an empty shape, type none.
  const Shape& shape() const;
  int rank() const { return shape().rank(); }
  // Extent of an axis; negative axes count from the end. 0 when there is no such axis.
  int64_t extent(int axis) const;
  int64_t size() const { return element_count(shape()); }
  DType dtype() const { return node_ ? node_->dtype : DType::none; }
  Context& context() const { return *node_->context; }
  const NodeRef& node() const { return node_; }

  // ---- Views ----
  // One extent may be -1: it takes what is left.
  Tensor reshape(const Shape& shape) const;
  // Axis i of the result is axis axes[i] of this.
  Tensor permute(const Dims& axes) const;
  Tensor transpose(int a, int b) const;
  // Axes of extent 1 stretch, new axes appear in front.
  Tensor expand(const Shape& shape) const;
  Tensor slice(int axis, int64_t start, int64_t size) const;
  Tensor unsqueeze(int axis) const;
  Tensor squeeze(int axis) const;
  // Zeros (false) before and after along an axis.
  Tensor pad(int axis, int64_t before, int64_t after) const;
  // The same values, through which no gradient flows; once realised, it forgets what it was made from.
  Tensor detach() const;
  // The same values in row-major order of their own: itself where they already are.
  Tensor contiguous(std::source_location source = std::source_location::current()) const;
  Tensor cast(DType type, std::source_location source = std::source_location::current()) const;

  // ---- Reading: realises what is needed, waits, copies to the host in row-major order ----
  // T: float, double, int32_t, or uint8_t for booleans; cast 16-bit types first. invalid_argument when the element type
  // differs.
  template <typename T>
  Result<std::vector<T>> to_host() const;
  // The same into memory that is there already, of size() elements; T: float.
  template <typename T>
  Status read(std::span<T> values) const;
  // The one element of a tensor of one element, whatever its type.
  Result<double> item() const;

 private:
  NodeRef node_;
};

// A tensor as the first operand of an operation, with the line of code that the operation stands on: what profiles show
// (`sporkle profile`). Pass a Tensor; it becomes one by itself.
class Operand {
 public:
  Operand(const Tensor& tensor, std::source_location source = std::source_location::current())
      : tensor_(&tensor), source_(source) {}
  operator const Tensor&() const { return *tensor_; }
  const Tensor& tensor() const { return *tensor_; }
  const std::source_location& source() const { return source_; }

 private:
  const Tensor* tensor_;  // lives as long as the call
  std::source_location source_;
};

// An error tensor. `context` may be null.
Tensor error_tensor(Context* context, Status status);

// ---- Sources ----
// T as in to_host. The values are copied.
template <typename T>
Tensor from_host(Context& context, std::span<const T> values, const Shape& shape);
Tensor full(Context& context, const Shape& shape, double value, DType type = DType::f32);
inline Tensor zeros(Context& context, const Shape& shape, DType type = DType::f32) {
  return full(context, shape, 0.0, type);
}
// i32: the index along `axis` in every element.
Tensor index(Context& context, const Shape& shape, int axis);
// A constant of x's type, shape and context.
Tensor full_like(const Tensor& x, double value);

// ---- Pointwise ----
// Operands broadcast as in NumPy and must have one element type; a number takes the tensor's.
Tensor operator+(const Operand& a, const Tensor& b);
Tensor operator-(const Operand& a, const Tensor& b);
Tensor operator*(const Operand& a, const Tensor& b);
Tensor operator/(const Operand& a, const Tensor& b);
Tensor operator+(const Operand& a, double b);
Tensor operator-(const Operand& a, double b);
Tensor operator*(const Operand& a, double b);
Tensor operator/(const Operand& a, double b);
Tensor operator+(double a, const Operand& b);
Tensor operator-(double a, const Operand& b);
Tensor operator*(double a, const Operand& b);
Tensor operator/(double a, const Operand& b);
Tensor operator-(const Operand& a);
Tensor minimum(const Operand& a, const Tensor& b);
Tensor maximum(const Operand& a, const Tensor& b);
Tensor maximum(const Operand& a, double b);
Tensor fma(const Operand& a, const Tensor& b, const Tensor& c);  // a * b + c, rounded once
// Comparisons give booleans.
Tensor less(const Operand& a, const Tensor& b);
Tensor less_equal(const Operand& a, const Tensor& b);
Tensor equal(const Operand& a, const Tensor& b);
Tensor not_equal(const Operand& a, const Tensor& b);
Tensor logical_and(const Operand& a, const Tensor& b);
Tensor logical_or(const Operand& a, const Tensor& b);
Tensor where(const Operand& condition, const Tensor& a, const Tensor& b);
Tensor sqrt(const Operand& x);
Tensor abs(const Operand& x);
Tensor floor(const Operand& x);
Tensor exp(const Operand& x);
Tensor log(const Operand& x);
Tensor tanh(const Operand& x);
Tensor sin(const Operand& x);
Tensor cos(const Operand& x);
Tensor erf(const Operand& x);
Tensor rsqrt(const Operand& x);     // 1 / sqrt(x)
Tensor gelu(const Operand& x);      // the tanh approximation, GPT-2's "gelu_new"
Tensor gelu_erf(const Operand& x);  // x times the normal distribution's cumulative function
Tensor relu(const Operand& x);

// ---- Reductions: over the given axes (none: all), in an order that depends on the shape alone ----
Tensor sum(const Operand& x, const Dims& axes = {}, bool keep_axes = false);
Tensor max(const Operand& x, const Dims& axes = {}, bool keep_axes = false);
Tensor mean(const Operand& x, const Dims& axes = {}, bool keep_axes = false);

// ---- Products ----
// [..., m, k] x [..., k, n] -> [..., m, n]; the axes in front broadcast. Every element is one chain of fused
// multiply-adds over k. Transposed and otherwise strided operands are read in place.
// 16-bit operands: the sums are f32, then rounded once. Where the context's numerics are `fast`, products of bf16 use
// the processor's instructions or the GPU's matrix units for it (kernels/matmul_low_precision.cc,
// kernels/matmul_matrix_units.cc).
Tensor matmul(const Operand& a, const Tensor& b);
// The same with the sums as they are: of 16-bit operands an f32 result.
Tensor matmul_to_f32(const Operand& a, const Tensor& b);

// ---- Joining ----
Tensor concatenate(const Operand& a, const Tensor& b, int axis);
// The elements of tensors of one type, one tensor after the other, as [n]: what one kernel reads instead of many. Each
// starts at a multiple of kPackAlignment elements; between them are zeros. Values that nothing else keeps are computed
// in their place. Empty: an error.
Tensor pack(std::span<const Tensor> parts);
inline constexpr int64_t kPackAlignment = 16;
// Where in a pack parts of these shapes start, and at the end how long it is.
std::vector<int64_t> pack_offsets(std::span<const Shape> shapes);

// Runs what these tensors need, in one submission, and keeps their values. Intermediate values are not kept: realise
// together what shares work. Returns before the device is done; a failure on the device shows in the next read.
Status realize(std::span<const Tensor> tensors);
inline Status realize(std::initializer_list<Tensor> tensors) {
  return realize(std::span(tensors.begin(), tensors.size()));
}

}  // namespace sporkle::tensor
