#include "tensor/tensor.h"

#include <cstring>

#include "ir/float16.h"
#include "tensor/context.h"
#include "tensor/graph.h"
#include "tensor/low_precision.h"

namespace sporkle::tensor {
namespace {

const Shape kNoShape;

std::string describe(const Tensor& t) { return std::string(ir::dtype_name(t.dtype())) + to_string(t.shape()); }

template <typename T>
constexpr DType host_type() {
  if constexpr (std::is_same_v<T, float>) return DType::f32;
  if constexpr (std::is_same_v<T, double>) return DType::f64;
  if constexpr (std::is_same_v<T, int32_t>) return DType::i32;
  return DType::boolean;
}

// A movement of x with this shape.
NodeRef movement(Op op, const Tensor& x, const Shape& shape, const Dims& dims = {}) {
  NodeRef node = make_node(op, x.context(), x.dtype(), shape, {x.node()});
  node->dims = dims;
  return node;
}

bool has_axis(const Tensor& x, int* axis) {
  if (*axis < 0) *axis += x.rank();
  return *axis >= 0 && *axis < x.rank();
}

Tensor no_axis(const Tensor& x, std::string_view what, int axis) {
  return error_tensor(&x.context(), invalid_argument(std::string(what) + ": a tensor of shape " + to_string(x.shape()) +
                                                     " has no axis " + std::to_string(axis)));
}

}  // namespace

namespace {
thread_local std::source_location current_source;
}

SourceScope::SourceScope(const std::source_location& source) : outer_(current_source) {
  if (outer_.line() == 0) current_source = source;
}
SourceScope::~SourceScope() { current_source = outer_; }

namespace {
thread_local bool making_gradients = false;
}

GradientScope::GradientScope() : outer_(making_gradients) { making_gradients = true; }
GradientScope::~GradientScope() { making_gradients = outer_; }

NodeRef make_node(Op op, Context& context, DType dtype, const Shape& shape, std::vector<NodeRef> inputs) {
  NodeRef node = std::make_shared<Node>();
  node->op = op;
  node->dtype = dtype;
  node->shape = shape;
  node->context = &context;
  node->inputs = std::move(inputs);
  node->source = current_source;
  node->gradient = making_gradients;
  return node;
}

Tensor error_tensor(Context* context, Status status) {
  NodeRef node = std::make_shared<Node>();
  node->op = Op::error;
  node->context = context;
  node->error = std::make_unique<Status>(std::move(status));
  return Tensor(std::move(node));
}

Status check_operands(std::string_view what, std::span<const Tensor> operands, Tensor* failed) {
  Context* context = nullptr;
  for (const Tensor& t : operands) {
    Status status = t.status();
    if (status.ok() && context && &t.context() != context)
      status = invalid_argument(std::string(what) + ": the operands belong to two contexts; copy one through the host");
    if (!status.ok()) {
      *failed = t.defined() && !t.ok() ? t : error_tensor(context, status);
      return status;
    }
    context = &t.context();
  }
  return {};
}

Status Tensor::status() const {
  if (!node_) return invalid_argument("an undefined tensor was used: assign it before");
  return node_->op == Op::error ? *node_->error : Status();
}

const Shape& Tensor::shape() const { return node_ ? node_->shape : kNoShape; }

int64_t Tensor::extent(int axis) const {
  if (axis < 0) axis += rank();
  return axis >= 0 && axis < rank() ? shape()[axis] : 0;
}

// ---- Views ----

Tensor Tensor::reshape(const Shape& wanted) const {
  if (!ok()) return defined() ? *this : error_tensor(nullptr, status());
  Shape to = wanted;
  int free_axis = -1, free_axes = 0;
  for (int i = 0; i < std::min(to.rank(), kMaxRank); ++i) {
    if (to[i] != -1) continue;
    to[i] = 1;
    free_axis = i;
    ++free_axes;
  }
  bool fits = free_axes <= 1 && check_shape(to).ok();
  if (fits && free_axis >= 0) {
    const int64_t known = element_count(to);
    fits = known > 0 && size() % known == 0;
    if (fits) to[free_axis] = size() / known;
  }
  if (!fits || element_count(to) != size())
    return error_tensor(&context(),
                        invalid_argument("reshape: " + to_string(shape()) + " does not fit " + to_string(wanted)));
  if (to == shape()) return *this;
  View view;
  Strides strides;
  resolve(node_.get(), &view);
  const bool possible = reshape_strides(shape(), view.strides, to, &strides);
  return Tensor(movement(Op::reshape, possible ? *this : copy_of(*this), to));
}

Tensor Tensor::permute(const Dims& axes) const {
  if (!ok()) return defined() ? *this : error_tensor(nullptr, status());
  Shape to;
  unsigned seen = 0;
  bool identity = true;
  for (const int64_t axis : axes) {
    if (axis < 0 || axis >= rank()) break;
    identity &= axis == to.rank();
    seen |= 1u << axis;
    to.push_back(shape()[static_cast<int>(axis)]);
  }
  if (axes.rank() != rank() || seen != (1u << rank()) - 1)
    return error_tensor(&context(), invalid_argument("permute: " + to_string(axes) +
                                                     " is no permutation of the axes of " + to_string(shape())));
  return identity ? *this : Tensor(movement(Op::permute, *this, to, axes));
}

Tensor Tensor::transpose(int a, int b) const {
  if (!ok()) return defined() ? *this : error_tensor(nullptr, status());
  if (!has_axis(*this, &a)) return no_axis(*this, "transpose", a);
  if (!has_axis(*this, &b)) return no_axis(*this, "transpose", b);
  Dims axes;
  for (int i = 0; i < rank(); ++i) axes.push_back(i == a ? b : i == b ? a : i);
  return permute(axes);
}

Tensor Tensor::expand(const Shape& to) const {
  if (!ok()) return defined() ? *this : error_tensor(nullptr, status());
  if (to == shape()) return *this;
  const Result<Shape> both = check_shape(to).ok() ? broadcast_shapes(shape(), to) : Result<Shape>(check_shape(to));
  if (!both.ok() || !(*both == to))
    return error_tensor(&context(),
                        invalid_argument("expand: " + to_string(shape()) + " does not stretch to " + to_string(to)));
  return Tensor(movement(Op::expand, *this, to));
}

Tensor Tensor::slice(int axis, int64_t start, int64_t count) const {
  if (!ok()) return defined() ? *this : error_tensor(nullptr, status());
  if (!has_axis(*this, &axis)) return no_axis(*this, "slice", axis);
  const int64_t extent = shape()[axis];
  if (start < 0 || count < 0 || start > extent || count > extent - start)
    return error_tensor(
        &context(), invalid_argument("slice: " + std::to_string(count) + " elements from " + std::to_string(start) +
                                     " on of axis " + std::to_string(axis) + " do not lie in " + to_string(shape())));
  if (count == extent) return *this;
  Shape to = shape();
  to[axis] = count;
  Dims starts = Dims::filled(rank(), 0);
  starts[axis] = start;
  return Tensor(movement(Op::slice, *this, to, starts));
}

Tensor Tensor::unsqueeze(int axis) const {
  if (!ok()) return defined() ? *this : error_tensor(nullptr, status());
  if (axis < 0) axis += rank() + 1;
  if (axis < 0 || axis > rank()) return no_axis(*this, "unsqueeze", axis);
  Shape to;
  for (int i = 0; i <= rank(); ++i) {
    if (i == axis) to.push_back(1);
    if (i < rank()) to.push_back(shape()[i]);
  }
  return reshape(to);
}

Tensor Tensor::squeeze(int axis) const {
  if (!ok()) return defined() ? *this : error_tensor(nullptr, status());
  if (!has_axis(*this, &axis)) return no_axis(*this, "squeeze", axis);
  if (shape()[axis] != 1)
    return error_tensor(&context(), invalid_argument("squeeze: axis " + std::to_string(axis) + " of " +
                                                     to_string(shape()) + " is not 1"));
  Shape to;
  for (int i = 0; i < rank(); ++i)
    if (i != axis) to.push_back(shape()[i]);
  return reshape(to);
}

Tensor Tensor::pad(int axis, int64_t before, int64_t after) const {
  if (!ok()) return defined() ? *this : error_tensor(nullptr, status());
  if (!has_axis(*this, &axis)) return no_axis(*this, "pad", axis);
  Shape to = shape();
  const bool sensible = before >= 0 && after >= 0 && before <= kMaxElements && after <= kMaxElements;
  if (sensible) to[axis] += before + after;
  if (!sensible || !check_shape(to).ok())
    return error_tensor(&context(),
                        invalid_argument("pad: cannot add " + std::to_string(before) + " and " + std::to_string(after) +
                                         " to axis " + std::to_string(axis) + " of " + to_string(shape())));
  if (before == 0 && after == 0) return *this;
  Dims starts = Dims::filled(rank(), 0);
  starts[axis] = before;
  return Tensor(movement(Op::pad, *this, to, starts));
}

Tensor Tensor::detach() const {
  if (!ok()) return defined() ? *this : error_tensor(nullptr, status());
  if (node_->op == Op::leaf || node_->op == Op::detach) return *this;
  // A view would keep the whole of what it shows part of.
  return Tensor(movement(Op::detach, is_movement(node_->op) ? copy_of(*this) : *this, shape()));
}

Tensor Tensor::contiguous(std::source_location source) const {
  const SourceScope scope(source);
  if (!ok()) return defined() ? *this : error_tensor(nullptr, status());
  View view;
  const Node* base = resolve(node_.get(), &view);
  Strides strides;
  const Strides wanted = contiguous_strides(shape());
  if (base->op == Op::constant || base->op == Op::index) return copy_of(*this);
  for (int i = 0; i < rank(); ++i)
    if (shape()[i] != 1 && view.strides[i] != wanted[i]) return copy_of(*this);
  return *this;
}

Tensor Tensor::cast(DType type, std::source_location source) const {
  const SourceScope scope(source);
  if (!ok()) return defined() ? *this : error_tensor(nullptr, status());
  if (type == dtype()) return *this;
  if (!ir::is_float(type) && type != DType::i32 && type != DType::boolean)
    return error_tensor(&context(), invalid_argument("cast: tensors of " + std::string(ir::dtype_name(type)) +
                                                     " do not exist; use f32, f64, f16, bf16, i32 or bool"));
  if (type == DType::boolean) return not_equal(*this, full_like(*this, 0.0));
  return Tensor(make_node(Op::cast, context(), type, shape(), {node_}));
}

Tensor copy_of(const Tensor& x) {
  const SourceScope scope(x.node()->source);
  return Tensor(make_node(Op::copy, x.context(), x.dtype(), x.shape(), {x.node()}));
}

// ---- Sources ----

template <typename T>
Tensor from_host(Context& context, std::span<const T> values, const Shape& shape) {
  if (Status status = check_shape(shape); !status.ok()) return error_tensor(&context, status);
  if (static_cast<int64_t>(values.size()) != element_count(shape))
    return error_tensor(&context, invalid_argument("from_host: " + std::to_string(values.size()) +
                                                   " values do not fill shape " + to_string(shape)));
  NodeRef node = make_node(Op::leaf, context, host_type<T>(), shape, {});
  Result<std::shared_ptr<Storage>> storage = context.allocate(values.size_bytes());
  if (!storage.ok()) return error_tensor(&context, storage.status());
  node->storage = std::move(*storage);
  if (!values.empty()) {
    const Status written = context.device().write({node->storage->buffer(), 0}, std::as_bytes(values));
    if (!written.ok()) return error_tensor(&context, written);
  }
  return Tensor(std::move(node));
}
template Tensor from_host(Context&, std::span<const float>, const Shape&);
template Tensor from_host(Context&, std::span<const double>, const Shape&);
template Tensor from_host(Context&, std::span<const int32_t>, const Shape&);
template Tensor from_host(Context&, std::span<const uint8_t>, const Shape&);

Tensor full(Context& context, const Shape& shape, double value, DType type) {
  if (Status status = check_shape(shape); !status.ok()) return error_tensor(&context, status);
  NodeRef node = make_node(Op::constant, context, type, shape, {});
  node->number = static_cast<uint64_t>(ir::constant_bits(type, value));
  return Tensor(std::move(node));
}

Tensor full_like(const Tensor& x, double value) {
  if (!x.ok()) return x;
  return full(x.context(), x.shape(), value, x.dtype());
}

Tensor index(Context& context, const Shape& shape, int axis) {
  if (Status status = check_shape(shape); !status.ok()) return error_tensor(&context, status);
  if (axis < 0) axis += shape.rank();
  if (axis < 0 || axis >= shape.rank())
    return error_tensor(&context,
                        invalid_argument("index: shape " + to_string(shape) + " has no axis " + std::to_string(axis)));
  NodeRef node = make_node(Op::index, context, DType::i32, shape, {});
  node->number = static_cast<uint64_t>(axis);
  return Tensor(std::move(node));
}

// ---- Reductions ----

namespace {

Tensor reduce(std::string_view name, ir::Combine combine, const Tensor& x, const Dims& axes, bool keep_axes) {
  Tensor failed;
  if (!check_operands(name, {&x, 1}, &failed).ok()) return failed;
  if (x.dtype() == DType::boolean)
    return error_tensor(&x.context(), invalid_argument(std::string(name) + ": booleans have none; cast them first"));
  if (is_16_bit(x.dtype())) return reduce(name, combine, x.cast(DType::f32), axes, keep_axes).cast(x.dtype());
  std::array<bool, kMaxRank> reduced{};
  for (int64_t axis : axes) {
    int a = static_cast<int>(axis);
    if (!has_axis(x, &a)) return no_axis(x, name, a);
    reduced[static_cast<size_t>(a)] = true;
  }
  if (axes.rank() == 0) reduced.fill(true);

  // Runs of neighbouring axes, the last first.
  Tensor y = x;
  for (int end = x.rank(); end > 0;) {
    if (!reduced[static_cast<size_t>(end - 1)]) {
      --end;
      continue;
    }
    int begin = end - 1;
    while (begin > 0 && reduced[static_cast<size_t>(begin - 1)]) --begin;
    Shape to = y.shape();
    int64_t count = 1;
    for (int i = begin; i < end; ++i) {
      count *= to[i];
      to[i] = 1;
    }
    if (count == 0 && combine == ir::Combine::max)
      return error_tensor(&x.context(), invalid_argument(std::string(name) + ": no elements along the axes of " +
                                                         to_string(x.shape())));
    if (count != 1) {
      NodeRef node = make_node(Op::reduce, x.context(), x.dtype(), to, {y.node()});
      node->dims = {begin, end};
      node->number = static_cast<uint64_t>(combine);
      y = Tensor(std::move(node));
    }
    end = begin;
  }
  if (keep_axes) return y;
  Shape to;
  for (int i = 0; i < x.rank(); ++i)
    if (!reduced[static_cast<size_t>(i)]) to.push_back(x.shape()[i]);
  return y.reshape(to);
}

}  // namespace

Tensor sum(const Operand& x, const Dims& axes, bool keep_axes) {
  const SourceScope scope(x.source());
  return reduce("sum", ir::Combine::add, x, axes, keep_axes);
}
Tensor max(const Operand& x, const Dims& axes, bool keep_axes) {
  const SourceScope scope(x.source());
  return reduce("max", ir::Combine::max, x, axes, keep_axes);
}
Tensor mean(const Operand& operand, const Dims& axes, bool keep_axes) {
  const SourceScope scope(operand.source());
  const Tensor& x = operand;
  if (is_16_bit(x.dtype())) return mean(x.cast(DType::f32), axes, keep_axes).cast(x.dtype());
  const Tensor total = sum(x, axes, keep_axes);
  if (!total.ok()) return total;
  if (!ir::is_float(x.dtype()))
    return error_tensor(&x.context(), invalid_argument("mean: needs f32 or f64, not " + describe(x)));
  const double count = static_cast<double>(x.size()) / static_cast<double>(std::max<int64_t>(total.size(), 1));
  return total * (1.0 / count);
}

// ---- Products ----

namespace {

// From this many columns on, a transposed left operand is copied once into rows: the product reads it column by column,
// a cache line for every element, once for each of its panels.
constexpr int64_t kColumnsThatPayForACopy = 128;

Tensor with_rows_in_memory(const Tensor& a, int64_t columns) {
  View view;
  resolve(a.node().get(), &view);
  const int rank = a.rank();
  const bool transposed = view.strides[rank - 1] != 1 && view.strides[rank - 2] == 1;
  const bool large = columns >= kColumnsThatPayForACopy && a.extent(-1) > 1 && a.extent(-2) > 1;
  return transposed && large ? a.contiguous() : a;
}

}  // namespace

Tensor matmul(const Operand& a, const Tensor& b) {
  const SourceScope scope(a.source());
  const Tensor product = matmul_to_f32(a, b);
  return product.ok() && is_16_bit(a.tensor().dtype()) ? product.cast(a.tensor().dtype()) : product;
}

Tensor matmul_to_f32(const Operand& left_operand, const Tensor& b) {
  const SourceScope scope(left_operand.source());
  const Tensor& a = left_operand;
  Tensor failed;
  if (!check_operands("matmul", std::array{a, b}, &failed).ok()) return failed;
  const auto mismatch = [&](std::string_view why) {
    return error_tensor(&a.context(),
                        invalid_argument("matmul: " + describe(a) + " x " + describe(b) + ": " + std::string(why)));
  };
  if (a.rank() < 2 || b.rank() < 2) return mismatch("both operands need two axes or more");
  if (a.dtype() != b.dtype() || !ir::is_float(a.dtype()))
    return mismatch("both operands must be f32, or both f64, or both 16-bit floats of one type");
  if (a.extent(-1) != b.extent(-2))
    return mismatch("the last axis of the first and the last but one of the second differ");
  const int64_t m = a.extent(-2), n = b.extent(-1), k = a.extent(-1);
  Context& context = a.context();
  const bool low_precision = a.dtype() == DType::bf16 && multiplies_bf16(context);
  if (is_16_bit(a.dtype()) && !low_precision) return matmul_to_f32(a.cast(DType::f32), b.cast(DType::f32));

  // One matrix for all batches: the batches are rows of one product, if the view allows.
  if (b.rank() == 2 && a.rank() > 2) {
    View view;
    Strides strides;
    resolve(a.node().get(), &view);
    const int64_t rows = a.size() / std::max<int64_t>(k, 1);
    if (k > 0 && (a.rank() > 4 || reshape_strides(a.shape(), view.strides, {rows, k}, &strides))) {
      Shape to = a.shape();
      to[to.rank() - 1] = n;
      return matmul_to_f32(a.reshape({rows, k}), b).reshape(to);
    }
  }

  const auto batch_of = [](const Tensor& t) { return Shape(std::span(t.shape().begin(), t.shape().end() - 2)); };
  const Result<Shape> batch = broadcast_shapes(batch_of(a), batch_of(b));
  if (!batch.ok()) return mismatch("the axes in front do not broadcast");
  const auto with = [](Shape shape, int64_t rows, int64_t columns) {
    shape.push_back(rows);
    shape.push_back(columns);
    return shape;
  };
  const Tensor left = a.expand(with(*batch, m, k)), right = b.expand(with(*batch, k, n));
  if (batch->rank() > 2) {
    const int64_t count = element_count(*batch);
    return matmul_to_f32(left.reshape({count, m, k}), right.reshape({count, k, n})).reshape(with(*batch, m, n));
  }
  // Matrix units read either order, and a copy in f32 would be one more operand to round.
  const bool rounded = a.dtype() == DType::f32 && context.options().product_type == DType::bf16 &&
                       multiplies_bf16(context) && context.is_gpu();
  const Tensor rows = low_precision || rounded ? left : with_rows_in_memory(left, n);
  const DType type = low_precision ? DType::f32 : a.dtype();
  return Tensor(make_node(Op::matmul, context, type, with(*batch, m, n), {rows.node(), right.node()}));
}

// ---- Joining ----

Tensor concatenate(const Operand& first, const Tensor& b, int axis) {
  const SourceScope scope(first.source());
  const Tensor& a = first;
  Tensor failed;
  if (!check_operands("concatenate", std::array{a, b}, &failed).ok()) return failed;
  if (!has_axis(a, &axis)) return no_axis(a, "concatenate", axis);
  Shape expected = a.shape();
  if (a.rank() == b.rank()) expected[axis] = b.shape()[axis];
  if (a.dtype() != b.dtype() || !(expected == b.shape()))
    return error_tensor(&a.context(), invalid_argument("concatenate: " + describe(a) + " and " + describe(b) +
                                                       " differ in more than axis " + std::to_string(axis)));
  const Tensor left = a.pad(axis, 0, b.extent(axis)), right = b.pad(axis, a.extent(axis), 0);
  const Tensor position = index(a.context(), left.shape(), axis);
  return where(less(position, full_like(position, static_cast<double>(a.extent(axis)))), left, right);
}

std::vector<int64_t> pack_offsets(std::span<const Shape> shapes) {
  std::vector<int64_t> offsets{0};
  for (const Shape& shape : shapes)
    offsets.push_back((offsets.back() + element_count(shape) + kPackAlignment - 1) / kPackAlignment * kPackAlignment);
  return offsets;
}

Tensor pack(std::span<const Tensor> parts) {
  Tensor failed;
  if (parts.empty()) return error_tensor(nullptr, invalid_argument("pack: there is nothing to put together"));
  if (!check_operands("pack", parts, &failed).ok()) return failed;
  std::vector<NodeRef> inputs;
  std::vector<Shape> shapes;
  for (const Tensor& part : parts) {
    if (part.dtype() != parts[0].dtype() || ir::dtype_size(part.dtype()) < 4)
      return error_tensor(&part.context(), invalid_argument("pack: " + describe(parts[0]) + " and " + describe(part) +
                                                            ": the parts need one type of 4 bytes or more"));
    inputs.push_back(part.contiguous().node());
    shapes.push_back(part.shape());
  }
  const Shape shape{pack_offsets(shapes).back()};
  if (Status status = check_shape(shape); !status.ok()) return error_tensor(&parts[0].context(), status);
  return Tensor(make_node(Op::pack, parts[0].context(), parts[0].dtype(), shape, std::move(inputs)));
}

// ---- Reading ----

namespace {

// The elements in row-major order, `size` bytes each.
Status read_elements(const Tensor& tensor, size_t element_size, std::byte* destination) {
  SPORKLE_RETURN_IF_ERROR(realize({tensor}));
  Context& context = tensor.context();
  SPORKLE_RETURN_IF_ERROR(context.wait());
  View view;
  const Node* base = resolve(tensor.node().get(), &view);
  const Shape& shape = tensor.shape();
  if (tensor.size() == 0) return {};

  int64_t first = view.offset, last = view.offset;  // of the elements of base that the view shows
  bool packed = true;
  const Strides row_major = contiguous_strides(shape);
  for (int i = 0; i < shape.rank(); ++i) {
    last += view.strides[i] * (shape[i] - 1);
    packed &= shape[i] == 1 || view.strides[i] == row_major[i];
  }
  const hal::Binding source{base->storage->buffer(), static_cast<uint64_t>(first) * element_size};
  const size_t bytes = static_cast<size_t>(last - first + 1) * element_size;
  if (packed) return context.device().read(source, {destination, bytes});

  std::vector<std::byte> staged(bytes);
  SPORKLE_RETURN_IF_ERROR(context.device().read(source, staged));
  Dims position = Dims::filled(shape.rank(), 0);
  for (int64_t i = 0, count = tensor.size(); i < count; ++i) {
    int64_t at = 0;
    for (int d = 0; d < shape.rank(); ++d) at += position[d] * view.strides[d];
    std::memcpy(destination + static_cast<size_t>(i) * element_size,
                staged.data() + static_cast<size_t>(at) * element_size, element_size);
    for (int d = shape.rank() - 1; d >= 0 && ++position[d] == shape[d]; --d) position[d] = 0;
  }
  return {};
}

}  // namespace

template <typename T>
Status Tensor::read(std::span<T> values) const {
  SPORKLE_RETURN_IF_ERROR(status());
  if (dtype() != host_type<T>())
    return invalid_argument("to_host: the tensor is " + describe(*this) + ", asked for " +
                            std::string(ir::dtype_name(host_type<T>())));
  if (values.size() != static_cast<size_t>(size()))
    return invalid_argument("read: the tensor is " + describe(*this) + ", and there is room for " +
                            std::to_string(values.size()) + " elements");
  return read_elements(*this, sizeof(T), reinterpret_cast<std::byte*>(values.data()));
}
template Status Tensor::read(std::span<float>) const;

template <typename T>
Result<std::vector<T>> Tensor::to_host() const {
  SPORKLE_RETURN_IF_ERROR(status());
  std::vector<T> values(static_cast<size_t>(size()));
  SPORKLE_RETURN_IF_ERROR(read(std::span(values)));
  return values;
}
template Result<std::vector<float>> Tensor::to_host() const;
template Result<std::vector<double>> Tensor::to_host() const;
template Result<std::vector<int32_t>> Tensor::to_host() const;
template Result<std::vector<uint8_t>> Tensor::to_host() const;

Result<double> Tensor::item() const {
  SPORKLE_RETURN_IF_ERROR(status());
  if (size() != 1) return invalid_argument("item: " + describe(*this) + " has not exactly one element");
  std::array<std::byte, 8> bytes{};
  SPORKLE_RETURN_IF_ERROR(read_elements(*this, static_cast<size_t>(ir::dtype_size(dtype())), bytes.data()));
  const auto as = [&]<typename T>(T value) {
    std::memcpy(&value, bytes.data(), sizeof(T));
    return static_cast<double>(value);
  };
  switch (dtype()) {
    case DType::f32:
      return as(0.0f);
    case DType::f64:
      return as(0.0);
    case DType::i32:
      return as(int32_t{0});
    case DType::f16:
    case DType::bf16: {
      uint16_t bits;
      std::memcpy(&bits, bytes.data(), sizeof bits);
      return dtype() == DType::f16 ? ir::half_to_float(bits) : ir::bfloat16_to_float(bits);
    }
    default:
      return as(uint8_t{0});
  }
}

}  // namespace sporkle::tensor
