// Softmax cross-entropy, and the same of a projection whose logits are never whole in memory.
#include <algorithm>
#include <limits>

#include "tensor/context.h"
#include "tensor/graph.h"
#include "tensor/kernel_call.h"
#include "tensor/layers.h"

namespace sporkle::tensor {
namespace {

using dsl::Buffer;
using dsl::Expr;
using dsl::KernelBuilder;

// logits, targets -> loss of each row, log of the sum of exponentials of each row.
KernelCall cross_entropy_call(Context& context, DType type, const Shape& logits) {
  const int lanes = context.is_fast_gpu() ? 128 : 16;
  KernelCall call;
  call.key = typed_key("cross_entropy", type) + (lanes == 16 ? "" : " lanes" + std::to_string(lanes));
  call.define = [type, lanes](KernelBuilder& k) {
    const Buffer logits_ = k.input(type, "logits"), targets = k.input(DType::i32, "targets");
    const Buffer losses = k.output(type, "losses"), logs = k.output(type, "logs");
    const Expr rows = k.size("rows"), classes = k.size("classes");
    k.range("r", rows, [&](Expr r) {
      const Expr start = r * classes;
      const Expr lowest = dsl::constant(type, -std::numeric_limits<double>::infinity());
      const Expr top =
          k.reduce("a", ir::Combine::max, lanes, classes, lowest, [&](Expr c) { return logits_[start + c]; });
      const Expr total = k.reduce("b", ir::Combine::add, lanes, classes, dsl::constant(type, 0),
                                  [&](Expr c) { return exp(logits_[start + c] - top); });
      const Expr log_total = log(total) + top;
      logs.store(r, log_total);
      losses.store(r, log_total - logits_[start + cast(DType::i64, targets[r])]);
    });
  };
  call.schedule = "r:thread r:group256";
  const Shape rows{logits[0]};
  call.results = {{type, rows}, {type, rows}};
  call.scalars = {scalar_bits(logits[0]), scalar_bits(logits[1])};
  return call;
}

// logits, targets, logs, gradient of each row's loss -> gradient of the logits.
KernelCall cross_entropy_gradient(DType type, const Shape& logits) {
  KernelCall call;
  call.key = typed_key("cross_entropy_dx", type);
  call.define = [type](KernelBuilder& k) {
    const Buffer logits_ = k.input(type, "logits"), targets = k.input(DType::i32, "targets");
    const Buffer logs = k.input(type, "logs"), g = k.input(type, "g"), dx = k.output(type, "dx");
    const Expr rows = k.size("rows"), classes = k.size("classes");
    k.range("r", rows, [&](Expr r) {
      const Expr start = r * classes, target = cast(DType::i64, targets[r]);
      k.range("c", classes, [&](Expr c) {
        const Expr hit = select(c == target, dsl::constant(type, 1), dsl::constant(type, 0));
        dx.store(start + c, (exp(logits_[start + c] - logs[r]) - hit) * g[r]);
      });
    });
  };
  call.schedule = "r:thread c:vec";
  call.results = {{type, logits}};
  call.scalars = {scalar_bits(logits[0]), scalar_bits(logits[1])};
  return call;
}

// ---- The projection and its loss, some rows at a time ----

// Logits of so many elements are in memory at a time; of a single run of rows, if there are fewer. The parts' gradients
// of the weight are added up, so that their number shows in the bits: `strict` has one number for all devices.
constexpr int64_t kMostLogits = int64_t{1} << 23, kMostLogitsOfGpu = int64_t{1} << 27;
constexpr int64_t kShareOfMemory = 64;  // of a GPU's, that logits may take
constexpr int64_t kFewestRows = 64;     // that pay for reading the weight

int64_t rows_at_a_time(Context& context, int64_t classes) {
  int64_t most = kMostLogits;
  if (context.is_fast_gpu()) {
    const auto memory = static_cast<int64_t>(context.device().info().memory_bytes);
    most = std::clamp(memory / kShareOfMemory / 4, kMostLogits, kMostLogitsOfGpu);
  }
  return std::max(most / std::max<int64_t>(classes, 1), kFewestRows);
}

Tensor logits_of(const Tensor& x, const Tensor& weight) { return matmul(x, weight.transpose(0, 1)); }

// body(first row, rows) for each part.
void each_part(Context& context, int64_t rows, int64_t classes, const std::function<void(int64_t, int64_t)>& body) {
  const int64_t most = rows_at_a_time(context, classes);
  for (int64_t first = 0; first < rows; first += most) body(first, std::min(most, rows - first));
}

// x, weight, targets, losses, logs -> losses: stands for the parts before it, so that their gradient is made in parts
// as well.
KernelCall joined_losses_call(DType type, int64_t rows) {
  KernelCall call;
  call.key = typed_key("linear_cross_entropy", type);
  call.define = [type](KernelBuilder& k) {
    k.input(type, "x");
    k.input(type, "weight");
    k.input(DType::i32, "targets");
    const Buffer computed = k.input(type, "computed");
    k.input(type, "logs");
    const Buffer losses = k.output(type, "losses");
    k.range("i", k.size("count"), [&](Expr i) { losses.store(i, computed[i]); });
  };
  call.schedule = "i:thread4096 i:vec";
  call.results = {{type, {rows}}};
  call.scalars = {scalar_bits(rows)};
  return call;
}

// The gradients of x and of the weight, from x, weight, targets, logs and each row's gradient. The logits are computed
// again.
std::vector<Tensor> linear_gradients(const Tensor& x, const Tensor& weight, const Tensor& targets, const Tensor& logs,
                                     const Tensor& g) {
  Tensor dx, dweight;
  each_part(x.context(), x.extent(0), weight.extent(0), [&](int64_t first, int64_t count) {
    const auto part = [&](const Tensor& t) { return t.slice(0, first, count); };
    const Tensor logits = logits_of(part(x), weight);
    const Tensor inputs[] = {logits, part(targets), part(logs), part(g)};
    const Tensor dlogits = call_kernel(cross_entropy_gradient(x.dtype(), logits.shape()), inputs)[0];
    const Tensor dx_part = matmul(dlogits, weight), dweight_part = matmul(dlogits.transpose(0, 1), part(x));
    dx = dx.defined() ? concatenate(dx, dx_part, 0) : dx_part;
    dweight = dweight.defined() ? dweight + dweight_part : dweight_part;
  });
  return {dx, dweight};
}

}  // namespace

Tensor cross_entropy(const Operand& operand, const Tensor& targets) {
  const SourceScope scope(operand.source());
  const Tensor& logits = operand;
  Tensor failed;
  const Tensor operands[] = {logits, targets};
  if (!check_operands("cross_entropy", operands, &failed).ok()) return failed;
  if (!ir::is_float(logits.dtype()) || logits.rank() != 2 || targets.rank() != 1 ||
      targets.extent(0) != logits.extent(0) || targets.dtype() != DType::i32)
    return error_tensor(
        &logits.context(),
        invalid_argument("cross_entropy needs floats logits [rows, classes] and i32 targets [rows], not " +
                         to_string(logits.shape()) + " and " + to_string(targets.shape())));
  KernelCall call = cross_entropy_call(logits.context(), logits.dtype(), logits.shape());
  call.gradient = [](std::span<const Tensor> in, std::span<const Tensor> out, std::span<const Tensor> d) {
    const Tensor inputs[] = {in[0], in[1], out[1], d[0]};
    const Tensor dx = call_kernel(cross_entropy_gradient(in[0].dtype(), in[0].shape()), inputs)[0];
    return std::vector<Tensor>{dx, Tensor()};
  };
  return mean(call_kernel(std::move(call), operands)[0]);
}

Tensor linear_cross_entropy(const Operand& operand, const Tensor& weight, const Tensor& targets) {
  const SourceScope scope(operand.source());
  const Tensor& x = operand;
  Tensor failed;
  const Tensor operands[] = {x, weight, targets};
  if (!check_operands("linear_cross_entropy", operands, &failed).ok()) return failed;
  if (!ir::is_float(x.dtype()) || weight.dtype() != x.dtype() || x.rank() != 2 || weight.rank() != 2 ||
      weight.extent(1) != x.extent(1) || targets.shape() != Shape{x.extent(0)} || targets.dtype() != DType::i32)
    return error_tensor(&x.context(),
                        invalid_argument("linear_cross_entropy needs floats x [rows, width] and weight [classes, "
                                         "width], and i32 targets [rows], not " +
                                         to_string(x.shape()) + ", " + to_string(weight.shape()) + " and " +
                                         to_string(targets.shape())));
  const int64_t rows = x.extent(0), classes = weight.extent(0);
  if (rows <= rows_at_a_time(x.context(), classes)) return cross_entropy(logits_of(x, weight), targets);
  Tensor losses, logs;
  each_part(x.context(), rows, classes, [&](int64_t first, int64_t count) {
    const Tensor inputs[] = {logits_of(x.slice(0, first, count), weight), targets.slice(0, first, count)};
    const std::vector<Tensor> part = call_kernel(cross_entropy_call(x.context(), x.dtype(), inputs[0].shape()), inputs);
    losses = losses.defined() ? concatenate(losses, part[0], 0) : part[0];
    logs = logs.defined() ? concatenate(logs, part[1], 0) : part[1];
  });
  KernelCall call = joined_losses_call(x.dtype(), rows);
  call.gradient = [](std::span<const Tensor> in, std::span<const Tensor>, std::span<const Tensor> d) {
    std::vector<Tensor> gradients = linear_gradients(in[0], in[1], in[2], in[4], d[0]);
    gradients.resize(in.size());
    return gradients;
  };
  const Tensor all[] = {x, weight, targets, losses.detach(), logs.detach()};
  return mean(call_kernel(std::move(call), all)[0]);
}

}  // namespace sporkle::tensor
