// Softmax cross-entropy, and the same of a projection whose logits are never whole in memory.
#include <algorithm>
#include <limits>

#include "tensor/context.h"
#include "tensor/graph.h"
#include "tensor/kernel_call.h"
#include "tensor/layers.h"
#include "tensor/low_precision.h"

namespace sporkle::tensor {
namespace {

using dsl::Buffer;
using dsl::Expr;
using dsl::KernelBuilder;

constexpr double kNever = -std::numeric_limits<double>::infinity();  // a logit of probability 0
constexpr int64_t kPack = 4;  // logits that an invocation of a GPU reads or writes at once
constexpr int kGroupLanes = 128;

// Logits [rows, width], of which the first `classes` of a row are of classes; on GPUs there may be more.
struct Logits {
  DType type;
  int64_t rows, width, classes;

  bool in_packs(Context& context) const { return context.is_fast_gpu() && width % kPack == 0; }
  std::vector<uint64_t> scalars(bool in_packs) const {
    if (!in_packs) return {scalar_bits(rows), scalar_bits(classes)};
    return {scalar_bits(rows), scalar_bits(classes), scalar_bits(width / kPack)};
  }
};
Logits plain(const Tensor& logits) { return {logits.dtype(), logits.extent(0), logits.extent(1), logits.extent(1)}; }

void define_losses(KernelBuilder& k, DType type, int lanes, bool in_packs) {
  const Buffer logits = k.input(type, "logits"), targets = k.input(DType::i32, "targets");
  const Buffer losses = k.output(type, "losses"), logs = k.output(type, "logs");
  const Expr rows = k.size("rows"), classes = k.size("classes"), packs = in_packs ? k.size("packs") : classes;
  const int64_t unit = in_packs ? kPack : 1;
  k.range("r", rows, [&](Expr r) {
    const Expr start = r * packs * unit, never = dsl::constant(type, kNever);
    const auto logit = [&](Expr c) {
      const Expr x = logits[start + c];
      return in_packs ? select(c < classes, x, never) : x;
    };
    using Join = Expr (*)(Expr, Expr);
    const auto over_unit = [&](Expr p, Join join, const std::function<Expr(Expr)>& value) {
      if (!in_packs) return value(p);
      return join(join(value(p * unit), value(p * unit + 1)), join(value(p * unit + 2), value(p * unit + 3)));
    };
    const Expr top =
        k.reduce("a", ir::Combine::max, lanes, packs, never, [&](Expr p) { return over_unit(p, dsl::max, logit); });
    const Expr total = k.reduce("b", ir::Combine::add, lanes, packs, dsl::constant(type, 0), [&](Expr p) {
      return over_unit(p, dsl::operator+, [&](Expr c) { return exp(logit(c) - top); });
    });
    const Expr log_total = log(total) + top;
    logs.store(r, log_total);
    losses.store(r, log_total - logits[start + cast(DType::i64, targets[r])]);
  });
}

// logits, targets -> loss of each row, log of the sum of exponentials of each row.
KernelCall cross_entropy_call(Context& context, const Logits& logits) {
  const bool in_packs = logits.in_packs(context), fast = context.is_fast_gpu();
  const int lanes = fast ? kGroupLanes : 16;
  KernelCall call;
  call.key = typed_key("cross_entropy", logits.type);
  if (fast) call.key += in_packs ? " packed" : " lanes" + std::to_string(lanes);
  call.define = [type = logits.type, lanes, in_packs](KernelBuilder& k) { define_losses(k, type, lanes, in_packs); };
  call.schedule = in_packs ? "r:thread r:group128" : "r:thread r:group256";
  call.results = {{logits.type, {logits.rows}}, {logits.type, {logits.rows}}};
  call.scalars = logits.scalars(in_packs);
  return call;
}

// logits, targets, logs, gradient of each row's loss -> gradient of the logits, rounded to `result`.
KernelCall cross_entropy_gradient(Context& context, const Logits& logits, DType result) {
  const bool in_packs = logits.in_packs(context);
  KernelCall call;
  call.key = typed_key("cross_entropy_dx", logits.type);
  if (result != logits.type) call.key += " " + std::string(ir::dtype_name(result));
  if (in_packs) call.key += " packed";
  call.define = [type = logits.type, result, in_packs](KernelBuilder& k) {
    const Buffer x = k.input(type, "logits"), targets = k.input(DType::i32, "targets");
    const Buffer logs = k.input(type, "logs"), g = k.input(type, "g"), dx = k.output(result, "dx");
    const Expr rows = k.size("rows"), classes = k.size("classes"), packs = in_packs ? k.size("packs") : classes;
    const int64_t unit = in_packs ? kPack : 1;
    k.range("r", rows, [&](Expr r) {
      const Expr start = r * packs * unit, target = cast(DType::i64, targets[r]);
      const auto store = [&](Expr c) {
        const Expr hit = select(c == target, dsl::constant(type, 1), dsl::constant(type, 0));
        const Expr slope = (exp(x[start + c] - logs[r]) - hit) * g[r];
        const Expr value = in_packs ? select(c < classes, slope, dsl::constant(type, 0)) : slope;
        dx.store(start + c, result == type ? value : cast(result, value));
      };
      if (!in_packs) return k.range("c", classes, store);
      k.range("p", packs, [&](Expr p) { k.range("lane", Expr(unit), [&](Expr i) { store(p * unit + i); }); });
    });
  };
  call.schedule = in_packs ? "r:thread lane:pack4" : "r:thread c:vec";
  call.results = {{result, {logits.rows, logits.width}}};
  call.scalars = logits.scalars(in_packs);
  return call;
}

// ---- The projection and its loss, some rows at a time ----

// Logits of so many elements are in memory at a time; of a single run of rows, if there are fewer. The parts' gradients
// of the weight are added up, so that their number shows in the bits: `strict` has one number for all devices.
constexpr int64_t kMostLogits = int64_t{1} << 23, kMostLogitsOfGpu = int64_t{1} << 27;
constexpr int64_t kShareOfMemory = 64;  // of a GPU's, that logits may take
constexpr int64_t kFewestRows = 64;     // that pay for reading the weight

constexpr int64_t kUnit = 128;  // of rows and classes that matrix units like whole

// Whether products read bf16 by a GPU's matrix units: classes are padded to whole units then, once for all parts.
bool is_narrow(Context& context, DType type) {
  return type == DType::f32 && context.is_fast_gpu() && context.options().product_type == DType::bf16 &&
         multiplies_bf16(context);
}

int64_t padded_classes(Context& context, DType type, int64_t classes) {
  if (!is_narrow(context, type) || classes % 16 == 0) return classes;
  return (classes + kUnit - 1) / kUnit * kUnit;
}

int64_t rows_at_a_time(Context& context, int64_t classes) {
  const int64_t width = std::max<int64_t>(classes, 1);
  if (!context.is_fast_gpu()) return std::max(kMostLogits / width, kFewestRows);
  const auto memory = static_cast<int64_t>(context.device().info().memory_bytes);
  const int64_t most = std::clamp(memory / kShareOfMemory / 4, kMostLogits, kMostLogitsOfGpu);
  return std::max(most / width / kUnit * kUnit, kFewestRows);
}

Tensor logits_of(const Tensor& x, const Tensor& weight) { return matmul(x, weight.transpose(0, 1)); }

Tensor with_padding(const Tensor& weight) {
  const int64_t classes = weight.extent(0), width = padded_classes(weight.context(), weight.dtype(), classes);
  return width == classes ? weight : weight.pad(0, 0, width - classes);
}

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
  Context& context = x.context();
  const int64_t classes = weight.extent(0);
  const Tensor all = with_padding(weight);
  const DType narrow = is_narrow(context, x.dtype()) ? DType::bf16 : x.dtype();
  Tensor dx, dweight;
  each_part(context, x.extent(0), classes, [&](int64_t first, int64_t count) {
    const auto part = [&](const Tensor& t) { return t.slice(0, first, count); };
    const Tensor inputs[] = {logits_of(part(x), all), part(targets), part(logs), part(g)};
    const Logits logits{x.dtype(), count, all.extent(0), classes};
    Tensor dlogits = call_kernel(cross_entropy_gradient(context, logits, narrow), inputs)[0];
    if (narrow != x.dtype()) dlogits = dlogits.cast(x.dtype());  // which products read as it was
    const Tensor dx_part = matmul(dlogits, all),
                 dweight_part = matmul(dlogits.transpose(0, 1), part(x)).slice(0, 0, classes);
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
  KernelCall call = cross_entropy_call(logits.context(), plain(logits));
  call.gradient = [](std::span<const Tensor> in, std::span<const Tensor> out, std::span<const Tensor> d) {
    const Tensor inputs[] = {in[0], in[1], out[1], d[0]};
    const Tensor dx = call_kernel(cross_entropy_gradient(in[0].context(), plain(in[0]), in[0].dtype()), inputs)[0];
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
  const Tensor all_weights = with_padding(weight);
  const int64_t width = all_weights.extent(0);
  if (width == classes && rows <= rows_at_a_time(x.context(), classes))
    return cross_entropy(logits_of(x, weight), targets);
  Tensor losses, logs;
  each_part(x.context(), rows, classes, [&](int64_t first, int64_t count) {
    const Tensor inputs[] = {logits_of(x.slice(0, first, count), all_weights), targets.slice(0, first, count)};
    const Logits part_logits{x.dtype(), count, width, classes};
    const std::vector<Tensor> part = call_kernel(cross_entropy_call(x.context(), part_logits), inputs);
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
