#include "tensor/attention.h"

#include <array>

#include "tensor/composed_attention.h"
#include "tensor/context.h"
#include "tensor/graph.h"
#include "tensor/kernels/attention.h"

namespace sporkle::tensor {
namespace {

using Tensors = std::vector<Tensor>;

// The joined projection's parts as views: q [rows, heads, length, size], k and v.
Tensors split(const AttentionShape& s, const Tensor& qkv) {
  const auto part = [&](int64_t first, int64_t heads) {
    return qkv.slice(2, first * s.size, heads * s.size)
        .reshape({s.rows, s.queries, heads, s.size})
        .permute({0, 2, 1, 3});
  };
  return {part(0, s.heads), part(s.heads, s.kv_heads), part(s.heads + s.kv_heads, s.kv_heads)};
}
Tensor join(const AttentionShape& s, std::span<const Tensor> parts) {
  Tensor all;
  for (const Tensor& part : parts) {
    const Tensor flat = part.permute({0, 2, 1, 3}).reshape({s.rows, s.queries, part.extent(1) * s.size});
    all = all.defined() ? concatenate(all, flat, 2) : flat;
  }
  return all;
}

// Sums over size of result * gradient, [rows, heads, queries].
Tensor result_means(const AttentionShape& s, const Tensor& result, const Tensor& gradient) {
  if (!s.packed) return sum(result * gradient, {-1});
  return sum((result * gradient).reshape({s.rows, s.queries, s.heads, s.size}), {-1}).permute({0, 2, 1});
}

// The composed result behind a kernel that copies it, so that its gradient is the one of the fused kernels as well.
Tensor run_composed(const AttentionShape& shape, const AttentionOptions& options, std::span<const Tensor> inputs) {
  const auto parts = [shape](std::span<const Tensor> in) {
    return shape.packed ? split(shape, in[0]) : Tensors(in.begin(), in.begin() + 3);
  };
  const Tensors operands = parts(inputs);
  Tensors made = composed_attention(shape, options, operands[0], operands[1], operands[2]);
  if (shape.packed) made[0] = join(shape, std::array{made[0]});
  Tensors all(inputs.begin(), inputs.end());
  all.insert(all.end(), {made[0].detach(), made[1].detach()});

  KernelCall call;
  call.key = typed_key(shape.packed ? "attention_result_packed" : "attention_result", shape.dtype);
  call.define = [type = shape.dtype, count = inputs.size()](dsl::KernelBuilder& k) {
    for (size_t i = 0; i < count; ++i) k.input(type, "operand" + std::to_string(i));
    const dsl::Buffer computed = k.input(type, "computed");
    k.input(type, "logs");
    const dsl::Buffer result = k.output(type, "result");
    k.range("i", k.size("count"), [&](dsl::Expr i) { result.store(i, computed[i]); });
  };
  call.schedule = "i:thread1024";
  call.results = {{shape.dtype, shape.result_shape()}};
  call.scalars = {scalar_bits(element_count(shape.result_shape()))};
  call.gradient = [shape, options, parts](std::span<const Tensor> in, std::span<const Tensor> out,
                                          std::span<const Tensor> d) {
    const Tensors x = parts(in);
    Tensor dy = d[0];
    if (shape.packed) dy = dy.reshape({shape.rows, shape.queries, shape.heads, shape.size}).permute({0, 2, 1, 3});
    const Tensors dx = composed_attention_gradients(shape, options, x[0], x[1], x[2], in.back(),
                                                    result_means(shape, out[0], d[0]), dy);
    Tensors gradients = shape.packed ? Tensors{join(shape, dx)} : dx;
    gradients.resize(in.size());
    return gradients;
  };
  return call_kernel(std::move(call), all)[0];
}

// Everything in bf16 but the sums: operands are rounded as for a product.
Tensor run_on_units(const AttentionShape& shape, const AttentionOptions& options, std::span<const Tensor> inputs) {
  Tensors narrow;
  for (const Tensor& input : inputs) narrow.push_back(input.cast(DType::bf16));
  KernelCall call = unit_attention_call(shape, options.scale);
  call.gradient = [shape, scale = options.scale](std::span<const Tensor> in, std::span<const Tensor> out,
                                                 std::span<const Tensor> d) {
    Tensors all(in.begin(), in.end());
    all.insert(all.end(), {out[1], result_means(shape, out[0].cast(DType::f32), d[0].cast(DType::f32)), d[0]});
    return unit_attention_gradients(shape, scale, all);
  };
  return call_kernel(std::move(call), narrow)[0].cast(DType::f32);
}

Tensor run(const AttentionShape& shape, const AttentionOptions& options, std::span<const Tensor> inputs) {
  Context& context = inputs[0].context();
  if (runs_on_units(context, shape, options)) return run_on_units(shape, options, inputs);
  if (context.is_gpu()) return run_composed(shape, options, inputs);
  KernelCall call = attention_call(context, shape, options);
  call.gradient = [shape, options](std::span<const Tensor> in, std::span<const Tensor> out, std::span<const Tensor> d) {
    Tensors all(in.begin(), in.end());
    all.insert(all.end(), {out[1], result_means(shape, out[0], d[0]), d[0]});
    return call_kernel(attention_gradient_call(in[0].context(), shape, options), all);
  };
  return call_kernel(std::move(call), inputs)[0];
}

Status check_options(const AttentionOptions& options) {
  if (options.dropout >= 0 && options.dropout < 1) return {};
  return invalid_argument("attention: the dropout must be at least 0 and less than 1, not " +
                          std::to_string(options.dropout));
}

}  // namespace

Tensor attention(const Operand& operand, const Tensor& k, const Tensor& v, const AttentionOptions& options) {
  const SourceScope scope(operand.source());
  const Tensor& q = operand;
  Tensor failed;
  const Tensor operands[] = {q, k, v};
  if (!check_operands("attention", operands, &failed).ok()) return failed;
  if (Status s = check_options(options); !s.ok()) return error_tensor(&q.context(), s);
  const bool fits = q.rank() == 4 && k.rank() == 4 && v.shape() == k.shape() && k.extent(0) == q.extent(0) &&
                    k.extent(3) == q.extent(3) && k.extent(2) >= q.extent(2) && k.extent(1) > 0 &&
                    q.extent(1) % k.extent(1) == 0 && q.extent(3) > 0;
  if (!fits || !ir::is_float(q.dtype()) || k.dtype() != q.dtype() || v.dtype() != q.dtype())
    return error_tensor(
        &q.context(),
        invalid_argument("attention needs floats q [rows, heads, queries, size] and k and v [rows, "
                         "kv_heads, keys, size], kv_heads a divisor of heads and keys >= queries, not " +
                         to_string(q.shape()) + ", " + to_string(k.shape()) + " and " + to_string(v.shape())));
  const AttentionShape shape{q.dtype(), q.extent(0), q.extent(1), k.extent(1), q.extent(2), k.extent(2), q.extent(3)};
  return run(shape, options, operands);
}

Tensor packed_attention(const Operand& operand, int64_t heads, int64_t kv_heads, const AttentionOptions& options) {
  const SourceScope scope(operand.source());
  const Tensor& qkv = operand;
  Tensor failed;
  const Tensor operands[] = {qkv};
  if (!check_operands("packed_attention", operands, &failed).ok()) return failed;
  if (Status s = check_options(options); !s.ok()) return error_tensor(&qkv.context(), s);
  const bool shared = heads > 0 && kv_heads > 0 && heads % kv_heads == 0;
  if (!shared || !ir::is_float(qkv.dtype()) || qkv.rank() != 3 || qkv.extent(2) == 0 ||
      qkv.extent(2) % (heads + 2 * kv_heads) != 0)
    return error_tensor(
        &qkv.context(),
        invalid_argument("packed_attention of " + std::to_string(heads) + " heads over " + std::to_string(kv_heads) +
                         " needs floats [rows, length, (heads + 2 * kv_heads) * size] and kv_heads a "
                         "divisor of heads, not " +
                         to_string(qkv.shape())));
  AttentionShape shape{qkv.dtype(),
                       qkv.extent(0),
                       heads,
                       kv_heads,
                       qkv.extent(1),
                       qkv.extent(1),
                       qkv.extent(2) / (heads + 2 * kv_heads)};
  shape.packed = true;
  return run(shape, options, operands);
}

AttentionCache attention_cache(Context& context, int64_t rows, int64_t kv_heads, int64_t capacity, int64_t size,
                               DType type) {
  AttentionCache cache{zeros(context, {rows, kv_heads, size, capacity}, type).contiguous().detach(),
                       zeros(context, {rows, kv_heads, capacity, size}, type).contiguous().detach()};
  if (const Status status = realize({cache.keys, cache.values}); !status.ok())
    cache = {error_tensor(&context, status), error_tensor(&context, status)};
  return cache;
}

Tensor cached_attention(const Operand& operand, int64_t heads, const AttentionCache& cache, const Tensor& position,
                        double scale) {
  const SourceScope scope(operand.source());
  const Tensor& qkv = operand;
  Tensor failed;
  const Tensor operands[] = {qkv, position, cache.keys, cache.values};
  if (!check_operands("cached_attention", operands, &failed).ok()) return failed;
  const Shape &keys = cache.keys.shape(), &values = cache.values.shape();
  const bool is_cache = keys.rank() == 4 && values == Shape{keys[0], keys[1], keys[3], keys[2]} && keys[1] > 0 &&
                        cache.keys.node()->storage && cache.values.node()->storage;
  const bool fits = is_cache && qkv.rank() == 3 && heads > 0 && heads % keys[1] == 0 && qkv.extent(0) == keys[0] &&
                    qkv.extent(2) == (heads + 2 * keys[1]) * keys[2] && qkv.extent(1) <= keys[3] &&
                    position.dtype() == DType::i32 && position.shape() == Shape{1};
  if (!fits || !ir::is_float(qkv.dtype()) || cache.keys.dtype() != qkv.dtype() || cache.values.dtype() != qkv.dtype())
    return error_tensor(
        &qkv.context(),
        invalid_argument("cached_attention of " + std::to_string(heads) +
                         " heads needs floats [rows, length, (heads + 2 * kv_heads) * size], a position of i32 [1] "
                         "and a cache made for them that has room, not " +
                         to_string(qkv.shape()) + ", " + std::string(ir::dtype_name(position.dtype())) +
                         to_string(position.shape()) + " and keys of " + to_string(keys)));
  AttentionShape shape{qkv.dtype(), keys[0], heads, keys[1], qkv.extent(1), keys[3], keys[2]};
  shape.packed = true;
  return call_kernel(cached_attention_call(shape, scale), operands)[0];
}

}  // namespace sporkle::tensor
