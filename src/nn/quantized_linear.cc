#include "nn/quantized_linear.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "tensor/context.h"
#include "tensor/kernel_call.h"

namespace sporkle::nn {

using dsl::Buffer;
using dsl::Expr;
using dsl::KernelBuilder;
using ir::DType;
using tensor::KernelCall;
using tensor::Shape;
using tensor::Tensor;

namespace {

constexpr int64_t kMostInputs = 1 << 16;
constexpr int64_t kColumns = 256;  // that one thread takes at a time
constexpr int kZeroPoint = 128;    // added to an operand's whole numbers, which the instruction wants unsigned

// x [rows, inputs] -> words [rows, ceil(inputs / 4)], scales [rows].
KernelCall quantize_call(int64_t rows, int64_t inputs) {
  KernelCall call;
  call.key = "quantize_rows";
  call.define = [](KernelBuilder& k) {
    const Buffer x = k.input(DType::f32, "x"), words = k.output(DType::i32, "words");
    const Buffer scales = k.output(DType::f32, "scales");
    const Expr row_count = k.size("rows"), n = k.size("inputs"), groups = (n + 3) / 4;
    const auto number = [](double value) { return dsl::constant(DType::f32, value); };
    k.range("r", row_count, [&](Expr r) {
      const Expr start = r * n;
      const Expr top = k.maximum("a", n, DType::f32, [&](Expr c) { return abs(x[start + c]); });
      scales.store(r, top * number(1.0 / 127));
      // A row of zeros has no scale; its numbers are zeros with any.
      const Expr factor = number(127) / select(number(0) < top, top, number(1));
      k.range("w", groups, [&](Expr w) {
        Expr word = dsl::constant(DType::u32, 0);
        for (int i = 0; i < 4; ++i) {
          const Expr at = w * 4 + i;
          const Expr value = x.load(start + at, at < n, number(0)) * factor;
          const Expr whole =
              dsl::cast(DType::i32, dsl::Expr(k.ir().unary(ir::Op::floor, (value + number(0.5)).node())));
          word = word | (dsl::cast(DType::u32, whole + kZeroPoint) << (8 * i));
        }
        words.store(r * groups + w, dsl::bitcast(DType::i32, word));
      });
    });
  };
  call.schedule = "r:thread w:vec";
  call.results = {{DType::i32, {rows, (inputs + 3) / 4}}, {DType::f32, {rows}}};
  call.scalars = {tensor::scalar_bits(rows), tensor::scalar_bits(inputs)};
  return call;
}

// words and scales of the rows, then of the columns, sums of the columns -> y [rows, outputs].
KernelCall multiply_call(int64_t rows, int64_t groups, int64_t outputs) {
  KernelCall call;
  call.key = "quantized_linear";
  call.define = [](KernelBuilder& k) {
    const Buffer x = k.input(DType::i32, "x"), x_scales = k.input(DType::f32, "x_scales");
    const Buffer w = k.input(DType::i32, "w"), w_scales = k.input(DType::f32, "w_scales");
    const Buffer sums = k.input(DType::i32, "sums"), y = k.output(DType::f32, "y");
    const Expr row_count = k.size("rows"), depth = k.size("groups"), columns = k.size("outputs");
    const auto word = [](Expr value) { return dsl::bitcast(DType::u32, value); };
    const Expr width(kColumns);
    k.range("t", (columns + width - 1) / width, [&](Expr t) {
      const Expr first = t * width;
      k.range("m", row_count, [&](Expr m) {
        k.range("n", min(width, columns - first), [&](Expr c) {
          const Expr column = first + c;
          const Expr total = k.dot_chain("k", depth, dsl::constant(DType::i32, 0), [&](Expr i) {
            return std::pair(word(x[m * depth + i]), word(w[i * columns + column]));
          });
          const Expr exact = total - sums[column] * kZeroPoint;
          y.store(m * columns + column, dsl::cast(DType::f32, exact) * (x_scales[m] * w_scales[column]));
        });
      });
    });
  };
  call.schedule = "t:thread m:tile4 n:vecx4 k:unroll4";
  call.results = {{DType::f32, {rows, outputs}}};
  call.scalars = {tensor::scalar_bits(rows), tensor::scalar_bits(groups), tensor::scalar_bits(outputs)};
  return call;
}

}  // namespace

Result<QuantizedWeight> quantize_weight(const Tensor& weight, bool transposed) {
  SPORKLE_RETURN_IF_ERROR(weight.status());
  if (weight.rank() != 2 || weight.dtype() != DType::f32)
    return invalid_argument("a weight to be quantised is an f32 matrix, not " +
                            std::string(ir::dtype_name(weight.dtype())) + tensor::to_string(weight.shape()));
  const int64_t inputs = weight.extent(transposed ? 1 : 0), outputs = weight.extent(transposed ? 0 : 1);
  if (inputs > kMostInputs)
    return invalid_argument("a weight with " + std::to_string(inputs) + " inputs cannot be quantised: at most " +
                            std::to_string(kMostInputs) + " are possible");
  SPORKLE_ASSIGN_OR_RETURN(const std::vector<float> values, weight.to_host<float>());
  const int64_t groups = (inputs + 3) / 4;
  const auto at = [&](int64_t i, int64_t o) {
    return values[static_cast<size_t>(transposed ? o * inputs + i : i * outputs + o)];
  };
  std::vector<uint32_t> words(static_cast<size_t>(groups * outputs));
  std::vector<int32_t> sums(static_cast<size_t>(outputs));
  std::vector<float> scales(static_cast<size_t>(outputs));
  for (int64_t o = 0; o < outputs; ++o) {
    const auto column = static_cast<size_t>(o);
    float top = 0;
    for (int64_t i = 0; i < inputs; ++i) {
      if (!std::isfinite(at(i, o)))
        return invalid_argument("a weight cannot be quantised: element [" + std::to_string(transposed ? o : i) + ", " +
                                std::to_string(transposed ? i : o) + "] is not finite");
      top = std::max(top, std::abs(at(i, o)));
    }
    scales[column] = top / 127.0f;
    const float factor = top > 0 ? 127.0f / top : 0.0f;
    for (int64_t i = 0; i < inputs; ++i) {
      const auto whole = static_cast<int32_t>(std::floor(at(i, o) * factor + 0.5f));
      sums[column] += whole;
      words[static_cast<size_t>(i / 4 * outputs + o)] |= (static_cast<uint32_t>(whole) & 0xff) << (8 * (i % 4));
    }
  }
  tensor::Context& context = weight.context();
  QuantizedWeight result;
  result.words = tensor::from_host<int32_t>(
      context, std::span(reinterpret_cast<const int32_t*>(words.data()), words.size()), {groups, outputs});
  result.scales = tensor::from_host<float>(context, scales, {outputs});
  result.sums = tensor::from_host<int32_t>(context, sums, {outputs});
  result.inputs = inputs;
  SPORKLE_RETURN_IF_ERROR(tensor::realize({result.words, result.scales, result.sums}));
  return result;
}

Tensor quantized_linear(const Tensor& x, const QuantizedWeight& weight) {
  if (!x.ok()) return x;
  if (x.dtype() != DType::f32 || x.rank() < 1 || x.extent(-1) != weight.inputs)
    return tensor::error_tensor(&x.context(),
                                invalid_argument("quantized_linear of " + std::string(ir::dtype_name(x.dtype())) +
                                                 tensor::to_string(x.shape()) + ": it takes f32 with " +
                                                 std::to_string(weight.inputs) + " along the last axis"));
  Shape shape = x.shape();
  const int64_t rows = x.size() / std::max<int64_t>(weight.inputs, 1), outputs = weight.scales.size();
  shape[shape.rank() - 1] = outputs;
  const Tensor operands[] = {x.reshape({rows, weight.inputs})};
  const std::vector<Tensor> quantised = tensor::call_kernel(quantize_call(rows, weight.inputs), operands);
  const Tensor factors[] = {quantised[0], quantised[1], weight.words, weight.scales, weight.sums};
  return tensor::call_kernel(multiply_call(rows, weight.words.extent(0), outputs), factors)[0].reshape(shape);
}

}  // namespace sporkle::nn
