#include "validate/check.h"

#include <bit>
#include <cmath>
#include <cstdio>
#include <limits>

#include "tensor/autograd.h"
#include "validate/ulp.h"

namespace sporkle::validate {

using tensor::DType;
using tensor::Tensor;

namespace {

Result<std::vector<double>> read_numbers(const Tensor& tensor) {
  const auto widen = []<typename T>(const Result<std::vector<T>>& values) -> Result<std::vector<double>> {
    if (!values.ok()) return values.status();
    return std::vector<double>(values->begin(), values->end());
  };
  switch (tensor.dtype()) {
    case DType::f32:
      return widen(tensor.to_host<float>());
    case DType::f64:
      return widen(tensor.to_host<double>());
    case DType::i32:
      return widen(tensor.to_host<int32_t>());
    default:
      return widen(tensor.to_host<uint8_t>());
  }
}

std::string ulp_text(double ulp) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g", ulp);
  return text;
}

// What is right for a call.
struct Definition {
  Values bits;                     // the interpreter's results in the call's type
  std::vector<double> exact;       // of f32 calls; empty: only the bits count
  std::vector<double> magnitudes;  // as many, or none: those of the exact results
};

Result<Definition> define(Bench& bench, const DrawnCall& drawn, DType type) {
  const tensor::OpCall& call = drawn.call;
  Definition definition;
  SPORKLE_ASSIGN_OR_RETURN(definition.bits, compute(bench.reference(), drawn, call.apply, DType::f32));
  if (type != DType::f32) return definition;
  if (call.expected) {
    std::vector<std::vector<double>> operands;
    for (const Operand& operand : drawn.operands) operands.push_back(operand.values());
    tensor::Expected expected = call.expected(operands);
    definition.exact = std::move(expected.values);
    definition.magnitudes = std::move(expected.magnitudes);
    return definition;
  }
  SPORKLE_ASSIGN_OR_RETURN(Values exact, compute(bench.reference(), drawn, call.apply, DType::f64));
  definition.exact = std::move(exact.numbers);
  if (call.magnitude) {
    SPORKLE_ASSIGN_OR_RETURN(Values magnitudes, compute(bench.reference(), drawn, call.magnitude, DType::f64));
    definition.magnitudes = std::move(magnitudes.numbers);
  }
  return definition;
}

void fail(Outcome* outcome, size_t subject, std::string what) {
  if (!outcome->failure) outcome->failure = Failure{subject, std::move(what)};
}

void compare(const Definition& definition, const Values& values, double limit, size_t subject, Outcome* outcome) {
  if (values.shapes != definition.bits.shapes) {
    fail(outcome, subject, "the results' shapes are not the interpreter's");
    return;
  }
  outcome->elements += static_cast<int64_t>(values.numbers.size());
  for (size_t i = 0; i < values.numbers.size(); ++i) {
    const double value = values.numbers[i];
    if (!definition.exact.empty()) {
      const double exact = definition.exact[i];
      double error = ulp_error(value, exact, definition.magnitudes.empty() ? exact : definition.magnitudes[i]);
      if (limit == 0 && value == 0 && error == 0 && std::signbit(value) != std::signbit(exact)) error = 1;
      outcome->worst_ulp = std::max(outcome->worst_ulp, error);
      if (error > 0) outcome->worst_share = std::max(outcome->worst_share, error / limit);
      if (error > limit)
        fail(outcome, subject,
             values.place(i) + ": " + exact_text(value) + ", exactly " + exact_text(exact) + ", " + ulp_text(error) +
                 " ULP off; the limit is " + ulp_text(limit));
    }
    if (!same_bits(value, definition.bits.numbers[i]))
      fail(outcome, subject,
           values.place(i) + ": " + exact_text(value) + ", where the interpreter has " +
               exact_text(definition.bits.numbers[i]) + ": strict results must have the same bits");
  }
}

// ---- Gradients ----

constexpr double kStep = 0x1p-17;        // of central differences
constexpr double kRuleTolerance = 1e-6;  // of the rule against differences in f64
// Of f32 gradients against f64, as a share of the largest: wide, since the bits are compared as well.
constexpr double kGradientTolerance = 0x1p-8;
constexpr int64_t kMostDifferences = 10;  // of an operand

class GradientCheck {
 public:
  GradientCheck(const DrawnCall& drawn, std::vector<double> weights) : drawn_(drawn), weights_(std::move(weights)) {}

  bool differentiable(size_t operand) const {
    const tensor::OperandSpec& spec = drawn_.operands[operand].spec();
    return spec.differentiable && spec.type == DType::f32 && !drawn_.operands[operand].values().empty();
  }

  // A loss in which every element of the results has a weight of its own.
  Tensor loss(tensor::Context& context, std::span<const Tensor> seen, DType real) const {
    tensor::Tensors results = drawn_.call.apply(seen);
    if (drawn_.call.differentiable_results >= 0)
      results.resize(static_cast<size_t>(drawn_.call.differentiable_results));
    Tensor total = tensor::zeros(context, {}, real);
    size_t next = 0;
    for (const Tensor& result : results) {
      if (!result.ok()) return result;
      if (result.dtype() != DType::f32 && result.dtype() != DType::f64) continue;
      const auto count = static_cast<size_t>(result.size());
      std::vector<double> weights;
      for (size_t i = 0; i < count; ++i) weights.push_back(weights_[next++ % weights_.size()]);
      const Tensor weight = tensor::from_host<double>(context, weights, result.shape()).cast(result.dtype());
      total = total + sum(result * weight).cast(real);
    }
    return total;
  }

  // The gradients of the stored operands, one after the other.
  Result<Values> gradients(tensor::Context& context, DType real) const {
    std::vector<Tensor> seen, parameters;
    for (size_t i = 0; i < drawn_.operands.size(); ++i) {
      const Operand::Made made = drawn_.operands[i].make(context, real);
      seen.push_back(made.seen);
      if (differentiable(i)) parameters.push_back(made.stored);
    }
    SPORKLE_ASSIGN_OR_RETURN(const tensor::Tensors results, grad(loss(context, seen, real), parameters));
    SPORKLE_RETURN_IF_ERROR(realize(results));
    Values values;
    for (const Tensor& result : results) {
      SPORKLE_ASSIGN_OR_RETURN(const std::vector<double> numbers, read_numbers(result));
      values.numbers.insert(values.numbers.end(), numbers.begin(), numbers.end());
      values.shapes.push_back(result.shape());
    }
    return values;
  }

  // The loss in f64 where element `element` of operand `operand` is moved by `change`.
  Result<double> moved_loss(tensor::Context& context, size_t operand, size_t element, double change) const {
    std::vector<Operand> operands = drawn_.operands;
    operands[operand].values()[element] += change;
    return loss(context, Operand::make_all(operands, context, DType::f64), DType::f64).item();
  }

 private:
  const DrawnCall& drawn_;
  std::vector<double> weights_;
};

}  // namespace

Result<std::unique_ptr<Bench>> Bench::open(std::span<const Subject> subjects) {
  auto bench = std::make_unique<Bench>();
  SPORKLE_ASSIGN_OR_RETURN(bench->reference_, tensor::Context::open("reference", {.threads = 1}));
  for (const Subject& subject : subjects) {
    Result<std::shared_ptr<hal::Device>> device = subject.open();
    if (!device.ok()) return device.status().with_context(subject.name);
    bench->kernels_.push_back(std::make_unique<cache::KernelCache>(**device));
    bench->contexts_.push_back(std::make_unique<tensor::Context>(**device, *bench->kernels_.back()));
    bench->devices_.push_back(std::move(*device));
  }
  return bench;
}

DrawnCall DrawnCall::draw(const tensor::OpRow& row, tensor::Draw& draw) {
  DrawnCall drawn;
  drawn.call = row.draw(draw);
  for (const tensor::OperandSpec& spec : drawn.call.operands) drawn.operands.push_back(Operand::draw(draw, spec));
  return drawn;
}

std::string DrawnCall::describe() const {
  std::string text;
  for (const Operand& operand : operands) text += (text.empty() ? "" : ", ") + operand.describe();
  if (!call.parameters.empty()) text += "; " + call.parameters;
  return text;
}

int64_t DrawnCall::elements() const {
  int64_t count = 0;
  for (const Operand& operand : operands) count += tensor::element_count(operand.spec().shape);
  return count;
}

std::string Values::place(size_t element) const {
  size_t result = 0, first = 0;
  while (result + 1 < shapes.size() && first + static_cast<size_t>(tensor::element_count(shapes[result])) <= element)
    first += static_cast<size_t>(tensor::element_count(shapes[result++]));
  const tensor::Shape& shape = shapes[result];
  auto rest = static_cast<int64_t>(element - first);
  tensor::Dims position = shape;
  for (int i = shape.rank() - 1; i >= 0; --i) {
    position[i] = rest % shape[i];
    rest /= shape[i];
  }
  return "result " + std::to_string(result) + ", element " + std::to_string(element - first) + " at " +
         tensor::to_string(position);
}

Result<Values> compute(tensor::Context& context, const DrawnCall& drawn, const tensor::Apply& apply, DType real) {
  const tensor::Tensors results = apply(Operand::make_all(drawn.operands, context, real));
  SPORKLE_RETURN_IF_ERROR(realize(results));
  Values values;
  for (const Tensor& result : results) {
    SPORKLE_ASSIGN_OR_RETURN(const std::vector<double> numbers, read_numbers(result));
    values.numbers.insert(values.numbers.end(), numbers.begin(), numbers.end());
    values.shapes.push_back(result.shape());
  }
  return values;
}

bool lacks_f64(const Status& status) {
  return status.code() == Code::unsupported && status.message().find("f64") != std::string::npos;
}

bool same_bits(double a, double b) {
  return (std::isnan(a) && std::isnan(b)) || std::bit_cast<uint64_t>(a) == std::bit_cast<uint64_t>(b);
}

std::string exact_text(double value) {
  char text[80];
  std::snprintf(text, sizeof text, "%.9g (%a)", value, value);
  return text;
}

Outcome check_values(Bench& bench, const DrawnCall& drawn, DType type) {
  Outcome outcome;
  const Result<Definition> definition = define(bench, drawn, type);
  if (!definition.ok()) {
    fail(&outcome, 0, "the interpreter: " + definition.status().message());
    return outcome;
  }
  for (size_t i = 0; i < bench.size(); ++i) {
    const Result<Values> values = compute(bench.context(i), drawn, drawn.call.apply, DType::f32);
    if (lacks_f64(values.status()))
      outcome.untested = Failure{i, values.status().message()};
    else if (!values.ok())
      fail(&outcome, i, values.status().to_string());
    else
      compare(*definition, *values, drawn.call.ulp_limit, i, &outcome);
  }
  return outcome;
}

Outcome check_gradients(Bench& bench, const DrawnCall& drawn, tensor::Draw& draw) {
  Outcome outcome;
  std::vector<double> weights;
  for (int i = 0; i < 64; ++i) weights.push_back(static_cast<double>(draw.integer(64, 192)) / 128);
  const GradientCheck check(drawn, std::move(weights));

  tensor::Context& reference = bench.reference();
  const Result<Values> exact = check.gradients(reference, DType::f64);
  const Result<Values> bits = check.gradients(reference, DType::f32);
  for (const Result<Values>* result : {&exact, &bits})
    if (!result->ok()) {
      fail(&outcome, 0, "the interpreter: " + result->status().message());
      return outcome;
    }

  size_t first = 0;                                    // of the operand's gradient among all
  std::vector<double> largest(exact->numbers.size());  // of the same operand's gradient
  for (size_t operand = 0; operand < drawn.operands.size(); ++operand) {
    if (!check.differentiable(operand)) continue;
    const auto count = static_cast<int64_t>(drawn.operands[operand].values().size());
    double scale = 1;
    for (int64_t i = 0; i < count; ++i)
      scale = std::max(scale, std::fabs(exact->numbers[first + static_cast<size_t>(i)]));
    std::fill_n(largest.begin() + static_cast<std::ptrdiff_t>(first), count, scale);
    for (int64_t i = 0; i < std::min(count, kMostDifferences); ++i) {
      const auto element = static_cast<size_t>(count <= kMostDifferences ? i : draw.integer(0, count - 1));
      const Result<double> above = check.moved_loss(reference, operand, element, kStep);
      const Result<double> below = check.moved_loss(reference, operand, element, -kStep);
      if (!above.ok() || !below.ok()) {
        fail(&outcome, 0, "the interpreter: " + (above.ok() ? below : above).status().message());
        return outcome;
      }
      const double expected = (*above - *below) / (2 * kStep), found = exact->numbers[first + element];
      ++outcome.elements;
      if (!(std::fabs(found - expected) <= kRuleTolerance * (scale + std::fabs(*above))))
        fail(&outcome, 0,
             "gradient of operand " + std::to_string(operand) + ", element " + std::to_string(element) + ": " +
                 exact_text(found) + " by its rule in f64, " + exact_text(expected) + " by central differences");
    }
    first += static_cast<size_t>(count);
  }

  for (size_t subject = 0; subject < bench.size(); ++subject) {
    const Result<Values> found = check.gradients(bench.context(subject), DType::f32);
    if (lacks_f64(found.status())) {
      outcome.untested = Failure{subject, found.status().message()};
      continue;
    }
    if (!found.ok()) {
      fail(&outcome, subject, "gradient: " + found.status().to_string());
      continue;
    }
    for (size_t i = 0; i < found->numbers.size(); ++i) {
      ++outcome.elements;
      const double value = found->numbers[i];
      if (!(std::fabs(value - exact->numbers[i]) <= kGradientTolerance * largest[i]))
        fail(&outcome, subject,
             "gradient, " + found->place(i) + ": " + exact_text(value) + ", in f64 " + exact_text(exact->numbers[i]));
      if (!same_bits(value, bits->numbers[i]))
        fail(&outcome, subject,
             "gradient, " + found->place(i) + ": " + exact_text(value) + ", where the interpreter has " +
                 exact_text(bits->numbers[i]) + ": strict results must have the same bits");
    }
  }
  return outcome;
}

}  // namespace sporkle::validate
