#include "tensor/layers.h"

#include "tensor/context.h"
#include "tensor/graph.h"
#include "tensor/kernel_call.h"

namespace sporkle::tensor {
namespace {

using dsl::Buffer;
using dsl::Expr;
using dsl::KernelBuilder;

// Column sums add this many rows in one chain, then the chains' results: a fixed order with work for several threads.
constexpr int64_t kColumnChunk = 64;

Status check_float(std::string_view what, const Tensor& x) {
  if (ir::is_float(x.dtype()) && !is_16_bit(x.dtype())) return {};
  return invalid_argument(std::string(what) + " needs f32 or f64, not " + std::string(ir::dtype_name(x.dtype())));
}

Shape without_last(const Shape& shape) {
  Shape result;
  for (int i = 0; i + 1 < shape.rank(); ++i) result.push_back(shape[i]);
  return result;
}

// ---------------------------------------------------------------------------------------------- layer_norm

// Of a row's sums: those of KernelBuilder::sum, or as many as invocations share the row where the order is free.
int row_lanes(Context& context) { return context.is_fast_gpu() ? 64 : 16; }

std::string lanes_key(int lanes) { return lanes == 16 ? "" : " lanes" + std::to_string(lanes); }

// x, weight, bias -> y, mean of each row, 1 / deviation of each row.
KernelCall layer_norm_call(Context& context, DType type, const Shape& shape, double epsilon) {
  const int lanes = row_lanes(context);
  KernelCall call;
  call.key = typed_key("layer_norm", type) + lanes_key(lanes);
  call.define = [type, lanes](KernelBuilder& k) {
    const Buffer x = k.input(type, "x"), weight = k.input(type, "weight"), bias = k.input(type, "bias");
    const Buffer y = k.output(type, "y"), means = k.output(type, "means"), scales = k.output(type, "scales");
    const Expr rows = k.size("rows"), n = k.size("n"), eps = k.scalar(type, "epsilon");
    const Expr one_over_n = k.scalar(type, "one_over_n");
    k.range("r", rows, [&](Expr r) {
      const Expr start = r * n;
      const auto sum = [&](const char* name, const std::function<Expr(Expr)>& value) {
        return k.reduce(name, ir::Combine::add, lanes, n, dsl::constant(type, 0), value);
      };
      const Expr mean = sum("a", [&](Expr c) { return x[start + c]; }) * one_over_n;
      const Expr variance = sum("b", [&](Expr c) {
        const Expr d = x[start + c] - mean;
        return d * d;
      });
      const Expr scale = dsl::constant(type, 1) / sqrt(fma(variance, one_over_n, eps));
      means.store(r, mean);
      scales.store(r, scale);
      k.range("c", n, [&](Expr c) { y.store(start + c, fma((x[start + c] - mean) * scale, weight[c], bias[c])); });
    });
  };
  call.schedule = "r:thread r:group64 c:vec";
  const int64_t n = shape[shape.rank() - 1];
  const Shape rows = without_last(shape);
  call.results = {{type, shape}, {type, rows}, {type, rows}};
  call.scalars = {scalar_bits(element_count(rows)), scalar_bits(n), scalar_bits(type, epsilon),
                  scalar_bits(type, 1.0 / static_cast<double>(n))};
  return call;
}

// x, weight, means, scales, dy -> dx.
KernelCall layer_norm_input_gradient(Context& context, DType type, const Shape& shape) {
  const int lanes = row_lanes(context);
  KernelCall call;
  call.key = typed_key("layer_norm_dx", type) + lanes_key(lanes);
  call.define = [type, lanes](KernelBuilder& k) {
    const Buffer x = k.input(type, "x"), weight = k.input(type, "weight"), means = k.input(type, "means");
    const Buffer scales = k.input(type, "scales"), dy = k.input(type, "dy"), dx = k.output(type, "dx");
    const Expr rows = k.size("rows"), n = k.size("n"), one_over_n = k.scalar(type, "one_over_n");
    k.range("r", rows, [&](Expr r) {
      const Expr start = r * n, mean = means[r], scale = scales[r];
      const auto normal = [&](Expr c) { return (x[start + c] - mean) * scale; };
      const auto d = [&](Expr c) { return dy[start + c] * weight[c]; };
      const auto mean_of = [&](const char* name, const std::function<Expr(Expr)>& value) {
        return k.reduce(name, ir::Combine::add, lanes, n, dsl::constant(type, 0), value) * one_over_n;
      };
      const Expr average = mean_of("a", d), slope = mean_of("b", [&](Expr c) { return d(c) * normal(c); });
      k.range("c", n, [&](Expr c) { dx.store(start + c, (d(c) - average - normal(c) * slope) * scale); });
    });
  };
  call.schedule = "r:thread r:group64 c:vec";
  const int64_t n = shape[shape.rank() - 1];
  call.results = {{type, shape}};
  call.scalars = {scalar_bits(element_count(without_last(shape))), scalar_bits(n),
                  scalar_bits(type, 1.0 / static_cast<double>(n))};
  return call;
}

// x, means, scales, dy -> partial sums of dy * normalised x and of dy, [chunks, n] each.
KernelCall layer_norm_weight_gradient(DType type, const Shape& shape) {
  KernelCall call;
  call.key = typed_key("layer_norm_dw", type);
  call.define = [type](KernelBuilder& k) {
    const Buffer x = k.input(type, "x"), means = k.input(type, "means"), scales = k.input(type, "scales");
    const Buffer dy = k.input(type, "dy"), dweight = k.output(type, "dweight"), dbias = k.output(type, "dbias");
    const Expr rows = k.size("rows"), n = k.size("n"), chunks = k.size("chunks");
    k.range("t", chunks, [&](Expr t) {
      const Expr first = t * kColumnChunk, count = min(Expr(kColumnChunk), rows - first);
      k.range("c", n, [&](Expr c) {
        const ir::Node* range = k.ir().range(count.node(), "r");
        const Expr row = first + Expr(range);
        const Expr g = dy[row * n + c];
        const auto total = [&](Expr value) {
          return Expr(k.ir().reduce(ir::Combine::add, 1, dsl::constant(type, 0).node(), range, value.node()));
        };
        dweight.store(t * n + c, total(g * ((x[row * n + c] - means[row]) * scales[row])));
        dbias.store(t * n + c, total(g));
      });
    });
  };
  call.schedule = "t:thread c:vec";
  const int64_t n = shape[shape.rank() - 1], rows = element_count(without_last(shape));
  const int64_t chunks = (rows + kColumnChunk - 1) / kColumnChunk;
  call.results = {{type, {chunks, n}}, {type, {chunks, n}}};
  call.scalars = {scalar_bits(rows), scalar_bits(n), scalar_bits(chunks)};
  return call;
}

// ---------------------------------------------------------------------------------------------- causal softmax

KernelCall causal_softmax_call(DType type, const Shape& shape, double scale) {
  KernelCall call;
  call.key = typed_key("causal_softmax", type);
  call.define = [type](KernelBuilder& k) {
    const Buffer x = k.input(type, "x"), y = k.output(type, "y");
    const Expr rows = k.size("rows"), queries = k.size("queries"), keys = k.size("keys");
    const Expr factor = k.scalar(type, "scale");
    k.range("r", rows, [&](Expr r) {
      const Expr start = r * keys, visible = r % queries + (keys - queries) + 1;
      const auto at = [&](Expr c) { return x[start + c] * factor; };
      const Expr top = k.maximum("a", visible, type, at);
      const Expr total = k.sum("b", visible, type, [&](Expr c) { return exp(at(c) - top); });
      const Expr share = dsl::constant(type, 1) / total;
      k.range("c", visible, [&](Expr c) { y.store(start + c, exp(at(c) - top) * share); });
      k.range("z", keys - visible, [&](Expr c) { y.store(start + visible + c, dsl::constant(type, 0)); });
    });
  };
  call.schedule = "r:thread r:group64 c:vec z:vec";
  call.results = {{type, shape}};
  const int64_t keys = shape[shape.rank() - 1], queries = shape[shape.rank() - 2];
  call.scalars = {scalar_bits(element_count(shape) / std::max<int64_t>(keys, 1)), scalar_bits(queries),
                  scalar_bits(keys), scalar_bits(type, scale)};
  return call;
}

// y, dy -> dx = scale * y * (dy - sum(dy * y)).
KernelCall causal_softmax_gradient(DType type, const Shape& shape, double scale) {
  KernelCall call = causal_softmax_call(type, shape, scale);
  call.key = typed_key("causal_softmax_dx", type);
  call.define = [type](KernelBuilder& k) {
    const Buffer y = k.input(type, "y"), dy = k.input(type, "dy"), dx = k.output(type, "dx");
    const Expr rows = k.size("rows"), queries = k.size("queries"), keys = k.size("keys");
    const Expr factor = k.scalar(type, "scale");
    k.range("r", rows, [&](Expr r) {
      const Expr start = r * keys, visible = r % queries + (keys - queries) + 1;
      const Expr mean = k.sum("a", visible, type, [&](Expr c) { return dy[start + c] * y[start + c]; });
      k.range("c", visible, [&](Expr c) { dx.store(start + c, y[start + c] * (dy[start + c] - mean) * factor); });
      k.range("z", keys - visible, [&](Expr c) { dx.store(start + visible + c, dsl::constant(type, 0)); });
    });
  };
  return call;
}

// ---------------------------------------------------------------------------------------------- embedding

KernelCall embedding_call(DType type, const Shape& result) {
  KernelCall call;
  call.key = typed_key("embedding", type);
  call.define = [type](KernelBuilder& k) {
    const Buffer weight = k.input(type, "weight"), tokens = k.input(DType::i32, "tokens"), y = k.output(type, "y");
    const Expr count = k.size("count"), width = k.size("width");
    k.range("r", count, [&](Expr r) {
      const Expr row = cast(DType::i64, tokens[r]) * width;
      k.range("c", width, [&](Expr c) { y.store(r * width + c, weight[row + c]); });
    });
  };
  call.schedule = "r:thread c:vec";
  const int64_t width = result[result.rank() - 1];
  call.results = {{type, result}};
  call.scalars = {scalar_bits(element_count(without_last(result))), scalar_bits(width)};
  return call;
}

// tokens, dy -> dweight, [parts, rows, width]: from each of so many parts of the tokens. Threads take columns, so that
// each element is one sum in the order of the tokens.
KernelCall embedding_gradient(DType type, const Shape& weight, int64_t count, int64_t parts) {
  constexpr int64_t kColumns = 64;
  KernelCall call;
  const bool several = parts > 1;
  call.key = typed_key("embedding_dw", type) + (several ? " parts" : "");
  call.define = [type, several](KernelBuilder& k) {
    const Buffer tokens = k.input(DType::i32, "tokens"), dy = k.input(type, "dy"), dw = k.in_out(type, "dw");
    const Expr rows = k.size("rows"), width = k.size("width"), n = k.size("count");
    const Expr part_size = several ? k.size("part_size") : n, part_count = several ? k.size("parts") : Expr(1);
    k.range("t", (width + (kColumns - 1)) / kColumns * part_count, [&](Expr t) {
      const Expr part = several ? t % part_count : Expr(0), column = several ? t / part_count : t;
      const Expr first = column * kColumns, columns = min(Expr(kColumns), width - first);
      const Expr table = part * rows * width + first, start = part * part_size;
      k.range("v", rows, [&](Expr v) {
        k.range("z", columns, [&](Expr c) { dw.store(table + v * width + c, dsl::constant(type, 0)); });
      });
      k.serial("i", several ? max(min(part_size, n - start), Expr(0)) : n, [&](Expr i) {
        const Expr token = start + i, row = table + cast(DType::i64, tokens[token]) * width;
        k.range("c", columns, [&](Expr c) { dw.store(row + c, dw[row + c] + dy[token * width + first + c]); });
      });
    });
  };
  call.schedule = "t:thread t:group64 z:vec c:vec";
  call.results = {{type, {parts, weight[0], weight[1]}}};
  call.scalars = {scalar_bits(weight[0]), scalar_bits(weight[1]), scalar_bits(count)};
  if (several) call.scalars.insert(call.scalars.end(), {scalar_bits((count + parts - 1) / parts), scalar_bits(parts)});
  return call;
}

// A GPU that is free in the order has as many sums under way at a time, and a table for each.
int64_t embedding_parts(Context& context, DType type, const Shape& weight, int64_t count) {
  constexpr int64_t kParts = 8, kTokens = 1024, kShareOfMemory = 32;
  const int64_t bytes = kParts * element_count(weight) * ir::dtype_size(type);
  return context.is_fast_gpu() && count >= kTokens &&
                 bytes <= static_cast<int64_t>(context.device().info().memory_bytes) / kShareOfMemory
             ? kParts
             : 1;
}

// On a GPU, which waits long for each of so many sums in order, a product with a matrix that has a one where a token
// is: the same bits, as long as dy is finite.
constexpr int64_t kMostOnes = int64_t{1} << 24;  // elements of that matrix

Tensor embedding_gradient_by_product(const Tensor& tokens, const Tensor& dy, const Shape& weight) {
  const Tensor numbers = index(dy.context(), {weight[0], tokens.size()}, 0);
  const Tensor ones = equal(numbers, tokens.reshape({1, tokens.size()})).cast(dy.dtype());
  return matmul(ones, dy.reshape({tokens.size(), weight[1]}));
}

}  // namespace

Tensor layer_norm(const Operand& operand, const Tensor& weight, const Tensor& bias, double epsilon) {
  const SourceScope scope(operand.source());
  const Tensor& x = operand;
  Tensor failed;
  const Tensor operands[] = {x, weight, bias};
  if (!check_operands("layer_norm", operands, &failed).ok()) return failed;
  if (Status s = check_float("layer_norm", x); !s.ok()) return error_tensor(&x.context(), s);
  const Shape row{x.rank() > 0 ? x.extent(-1) : 0};
  if (x.rank() == 0 || weight.shape() != row || bias.shape() != row || weight.dtype() != x.dtype())
    return error_tensor(&x.context(),
                        invalid_argument("layer_norm of shape " + to_string(x.shape()) +
                                         " needs weight and bias of shape " + to_string(row) + " and x's type, not " +
                                         to_string(weight.shape()) + " and " + to_string(bias.shape())));
  KernelCall call = layer_norm_call(x.context(), x.dtype(), x.shape(), epsilon);
  call.gradient = [](std::span<const Tensor> in, std::span<const Tensor> out, std::span<const Tensor> d) {
    const DType type = in[0].dtype();
    const Tensor for_input[] = {in[0], in[1], out[1], out[2], d[0]};
    const Tensor dx = call_kernel(layer_norm_input_gradient(in[0].context(), type, in[0].shape()), for_input)[0];
    const Tensor for_weight[] = {in[0], out[1], out[2], d[0]};
    const std::vector<Tensor> partial = call_kernel(layer_norm_weight_gradient(type, in[0].shape()), for_weight);
    return std::vector<Tensor>{dx, sum(partial[0], {0}), sum(partial[1], {0})};
  };
  return call_kernel(std::move(call), operands)[0];
}

Tensor causal_softmax(const Operand& operand, double scale) {
  const SourceScope scope(operand.source());
  const Tensor& x = operand;
  Tensor failed;
  const Tensor operands[] = {x};
  if (!check_operands("causal_softmax", operands, &failed).ok()) return failed;
  if (Status s = check_float("causal_softmax", x); !s.ok()) return error_tensor(&x.context(), s);
  if (x.rank() < 2 || x.extent(-1) < x.extent(-2))
    return error_tensor(&x.context(), invalid_argument("causal_softmax needs [..., queries, keys] with as many keys as "
                                                       "queries or more, not " +
                                                       to_string(x.shape())));
  KernelCall call = causal_softmax_call(x.dtype(), x.shape(), scale);
  call.gradient = [scale](std::span<const Tensor> in, std::span<const Tensor> out, std::span<const Tensor> d) {
    const Tensor inputs[] = {out[0], d[0]};
    return call_kernel(causal_softmax_gradient(in[0].dtype(), in[0].shape(), scale), inputs);
  };
  return call_kernel(std::move(call), operands)[0];
}

Tensor embedding(const Operand& operand, const Tensor& tokens) {
  const SourceScope scope(operand.source());
  const Tensor& weight = operand;
  Tensor failed;
  const Tensor operands[] = {weight, tokens};
  if (!check_operands("embedding", operands, &failed).ok()) return failed;
  if (Status s = check_float("embedding", weight); !s.ok()) return error_tensor(&weight.context(), s);
  if (weight.rank() != 2 || tokens.dtype() != DType::i32)
    return error_tensor(
        &weight.context(),
        invalid_argument("embedding needs weight [rows, width] and i32 tokens, not " + to_string(weight.shape()) +
                         " and " + std::string(ir::dtype_name(tokens.dtype()))));
  Shape shape = tokens.shape();
  shape.push_back(weight.extent(1));
  KernelCall call = embedding_call(weight.dtype(), shape);
  call.gradient = [](std::span<const Tensor> in, std::span<const Tensor>, std::span<const Tensor> d) {
    const Tensor inputs[] = {in[1], d[0]};
    const Shape& weight_shape = in[0].shape();
    const bool by_product =
        in[0].context().is_gpu() && !is_16_bit(in[0].dtype()) && weight_shape[0] * in[1].size() <= kMostOnes;
    if (by_product) return std::vector<Tensor>{embedding_gradient_by_product(in[1], d[0], weight_shape), Tensor()};
    const int64_t count = in[1].size(), parts = embedding_parts(in[0].context(), in[0].dtype(), weight_shape, count);
    const Tensor tables = call_kernel(embedding_gradient(in[0].dtype(), weight_shape, count, parts), inputs)[0];
    return std::vector<Tensor>{parts > 1 ? sum(tables, {0}) : tables.reshape(weight_shape), Tensor()};
  };
  return call_kernel(std::move(call), operands)[0];
}

}  // namespace sporkle::tensor
