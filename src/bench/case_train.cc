// train: steps of `sporkle train`: a byte-level GPT-2, its loss, gradients, clipping and AdamW, on one batch.
//
// A sample starts from the same parameters and takes one step untimed, which makes the moments. `strict` makes every
// sample's losses the same bits. prepare() judges the first step in float64: the loss before and after it, the gradient
// by the loss's slope along it, and AdamW's change of every parameter; and the bits of all of these must be those that
// this machine's plainest instruction set gives.
#include <algorithm>
#include <cmath>

#include "base/seconds.h"
#include "bench/case_list.h"
#include "bench/cases.h"
#include "bench/gpt_reference.h"
#include "bench/judge.h"
#include "bench/step_judge.h"
#include "bench/tensor_case.h"
#include "ir/node.h"
#include "train/language_model.h"

namespace sporkle::bench {
namespace {

constexpr const char* kForm = "LAYERSxWIDTHxHEADSxCONTEXTxROWS";
constexpr double kLearningRate = 1e-3;
constexpr int64_t kMostSteps = 100'000;

class TrainCase final : public Case {
 public:
  TrainCase(const Setting& setting, const GptProblem& gpt, int64_t rows) : setting_(setting), gpt_(gpt), rows_(rows) {}

  static Work work_of(const GptProblem& p, int64_t rows) {
    const double tokens = static_cast<double>(rows * p.context);
    // Attention: two products and their gradients' four, over the keys that each query sees.
    const double attention = 6.0 * static_cast<double>(p.layers * p.width * (p.context + 1)) * tokens;
    // AdamW reads value, gradient and two moments, and writes all but the gradient.
    return {6.0 * static_cast<double>(p.parameter_count()) * tokens + attention,
            28.0 * static_cast<double>(p.parameter_count())};
  }
  Work work() const override { return work_of(gpt_, rows_); }
  // The peak that is measured is that of f32.
  bool has_roofline() const override { return setting_.dtype == ir::DType::f32; }
  std::string unit() const override { return "tokens/s"; }
  double value(double seconds) const override { return static_cast<double>(rows_ * gpt_.context) / seconds; }
  int sets() const override { return 1; }
  const Problem& problem() const override { return problem_; }

  Status prepare() override {
    make_batch();
    optimization_.learning_rate = kLearningRate;
    optimization_.numerics = ir::numerics_name(setting_.numerics);
    optimization_.precision = ir::dtype_name(setting_.dtype);
    const train::ModelShape shape{
        gpt_.layers, gpt_.heads, gpt_.width, gpt_.context, gpt_.vocab_size, gpt_.layer_norm_epsilon, 0.0};
    SPORKLE_ASSIGN_OR_RETURN(
        model_, train::LanguageModel::create(
                    shape, optimization_,
                    {.device = setting_.device, .threads = setting_.threads, .open_context = setting_.open_context}));
    parameters_ = make_array("parameters", ir::DType::f32, {gpt_.parameter_count()});
    if (static_cast<int64_t>(model_->parameter_count()) != gpt_.parameter_count())
      return internal_error("the model has " + std::to_string(model_->parameter_count()) + " parameters and not " +
                            std::to_string(gpt_.parameter_count()));
    SPORKLE_RETURN_IF_ERROR(model_->get_parameters(parameters_.values<float>()));
    optimizer_ = make_array("optimizer", ir::DType::f64, {6});
    const double numbers[] = {kLearningRate,         optimization_.beta1,        optimization_.beta2,
                              optimization_.epsilon, optimization_.weight_decay, optimization_.gradient_clip};
    std::ranges::copy(numbers, optimizer_.values<double>().begin());
    if (setting_.dtype == ir::DType::f32) problem_.operation = "train";
    problem_.parameters = {{"layers", gpt_.layers},
                           {"heads", gpt_.heads},
                           {"width", gpt_.width},
                           {"context", gpt_.context},
                           {"vocab_size", gpt_.vocab_size}};
    problem_.inputs = {{&tokens_, &targets_, &parameters_, &optimizer_}};
    problem_.outputs = {{"report", ir::DType::f64, {3}, {}}};  // steps taken, loss before the first, before the last
    SPORKLE_ASSIGN_OR_RETURN(const train::LanguageModel::Snapshot after, judge_first_step());
    return judge_bits(shape, after);
  }

  Result<Sample> run(int repetitions) override {
    SPORKLE_RETURN_IF_ERROR(restart());
    SPORKLE_RETURN_IF_ERROR(step());
    Sample sample{.waits = repetitions};
    const double planned_s = model_->context().counters().host_seconds;
    const Result<double> busy_s = model_->context().device().busy_seconds();
    const double start_s = now_s();
    // A step reads its loss, so that it has waited for the device when it returns.
    for (int i = 0; i < repetitions; ++i) {
      SPORKLE_RETURN_IF_ERROR(step());
      sample.host_seconds += last_.building_s;
    }
    sample.wall_seconds = now_s() - start_s;
    sample.host_seconds += model_->context().counters().host_seconds - planned_s;
    if (const Result<double> busy_after_s = model_->context().device().busy_seconds(); busy_s.ok() && busy_after_s.ok())
      sample.device_seconds = *busy_after_s - *busy_s;
    return sample;
  }

  Status poison_outputs() override {
    losses_.clear();
    return model_->context().fill_unused(kPoison);
  }

  Result<double> check() override {
    if (losses_.empty()) return internal_error("losses are checked before a run made them");
    for (size_t i = 0; i < losses_.size(); ++i) {
      if (i < expected_.size() && losses_[i] != expected_[i])
        return internal_error("the loss of step " + std::to_string(i + 1) + " is " + std::to_string(losses_[i]) +
                              " and was " + std::to_string(expected_[i]) + " before; `strict` means the same bits");
      if (i >= expected_.size()) expected_.push_back(losses_[i]);
    }
    return worst_error_;
  }

  Result<double> check_rival(int, std::span<const HostArray> outputs) override {
    const std::span<const double> report = outputs[0].values<double>();
    if (!(report[0] >= 2 && report[0] <= static_cast<double>(kMostSteps)))
      return internal_error("the rival says that it took " + std::to_string(report[0]) + " steps");
    const auto steps = static_cast<size_t>(report[0]);
    if (steps > expected_.size()) {
      SPORKLE_RETURN_IF_ERROR(restart());
      while (losses_.size() < steps) SPORKLE_RETURN_IF_ERROR(step());
      expected_ = losses_;
    }
    // Roundings grow from step to step, as two runs of one program with different threads would show.
    const double first = std::abs(report[1] / expected_[0] - 1), last = std::abs(report[2] / expected_[steps - 1] - 1);
    const double limit = std::min(1e-3 * static_cast<double>(steps), 0.05);
    if (!(first <= 1e-4)) return beyond("the loss before the rival's first step", report[1], expected_[0]);
    if (!(last <= limit))
      return internal_error("the loss before the rival's step " + std::to_string(steps) + " is " +
                            std::to_string(report[2]) + ", and ours " + std::to_string(expected_[steps - 1]) +
                            ": it does not train the same model");
    return std::max(first, last);
  }

 private:
  // Text of a kind: a byte depends on the one before it.
  void make_batch() {
    const std::vector<int64_t> shape{rows_, gpt_.context};
    tokens_ = make_array("tokens", ir::DType::i32, shape);
    targets_ = make_array("targets", ir::DType::i32, shape);
    std::vector<double> chance(tokens_.values<int32_t>().size());
    fill_random<double>(chance, 1, 0, 4);
    int64_t token = 1;
    for (size_t i = 0; i < chance.size(); ++i) {
      tokens_.values<int32_t>()[i] = static_cast<int32_t>(token);
      token = (5 * token + 17 + static_cast<int64_t>(chance[i])) % gpt_.vocab_size;
      targets_.values<int32_t>()[i] = static_cast<int32_t>(token);
    }
  }

  Status restart() {
    losses_.clear();
    model_->reset_optimizer();
    return model_->set_parameters(parameters_.values<float>());
  }

  Status step() {
    const train::Batch batch{tokens_.values<int32_t>(), targets_.values<int32_t>(), rows_};
    SPORKLE_ASSIGN_OR_RETURN(last_, model_->step(batch, 1, kLearningRate, {1, losses_.size()}));
    losses_.push_back(last_.loss);
    return {};
  }

  // Returns what the first step made.
  Result<train::LanguageModel::Snapshot> judge_first_step() {
    SPORKLE_RETURN_IF_ERROR(restart());
    SPORKLE_RETURN_IF_ERROR(step());
    const double norm = last_.gradient_norm;
    SPORKLE_ASSIGN_OR_RETURN(train::LanguageModel::Snapshot after, model_->snapshot());
    SPORKLE_RETURN_IF_ERROR(step());
    expected_ = losses_;

    const double clip = optimization_.gradient_clip > 0 ? std::min(1.0, optimization_.gradient_clip / norm) : 1.0;
    const std::span<const float> start = parameters_.values<float>();
    std::vector<double> before(start.begin(), start.end()), then, gradient;
    std::vector<SteppedParameter> stepped;
    for (size_t p = 0; p < after.parameters.size(); ++p)
      stepped.push_back({after.parameters[p].name, model_->decoder().parameters()[p].decay, after.parameters[p].values,
                         after.optimizer[2 * p].values, after.optimizer[2 * p + 1].values});
    SPORKLE_RETURN_IF_ERROR(judge_adamw(stepped, optimization_, kLearningRate, before, clip, &then, &gradient));

    ThreadPool pool(std::max(setting_.threads, 1));
    const auto loss_at = [&](const std::vector<double>& values) {
      return gpt_loss(pool, gpt_, values, tokens_.values<int32_t>(), targets_.values<int32_t>());
    };
    const double losses[] = {loss_at(before), loss_at(then)};
    for (size_t i = 0; i < 2; ++i) {
      const double error = std::abs(losses_[i] / losses[i] - 1);
      if (!(error <= loss_limit())) return beyond("the loss of step " + std::to_string(i + 1), losses_[i], losses[i]);
      worst_error_ = std::max(worst_error_, error);
    }
    SPORKLE_RETURN_IF_ERROR(judge_gradient(loss_at, before, gradient, norm, 1e-3, 100 * loss_limit()));
    return after;
  }

  // The first step once more, by other code.
  Status judge_bits(const train::ModelShape& shape, const train::LanguageModel::Snapshot& after) {
    if (setting_.numerics != ir::Numerics::strict) return {};
    const int threads = std::max(setting_.threads, 1);
    SPORKLE_ASSIGN_OR_RETURN(const std::unique_ptr<train::LanguageModel> other,
                             train::LanguageModel::create(
                                 shape, optimization_, {.open_context = [threads] { return open_baseline(threads); }}));
    SPORKLE_RETURN_IF_ERROR(other->set_parameters(parameters_.values<float>()));
    const train::Batch batch{tokens_.values<int32_t>(), targets_.values<int32_t>(), rows_};
    SPORKLE_ASSIGN_OR_RETURN(const train::StepResult result, other->step(batch, 1, kLearningRate, {1, 0}));
    if (result.loss != expected_[0])
      return internal_error("the loss of step 1 is " + std::to_string(expected_[0]) + " and " +
                            std::to_string(result.loss) + " by other instructions; `strict` means the same bits");
    SPORKLE_ASSIGN_OR_RETURN(const train::LanguageModel::Snapshot expected, other->snapshot());
    for (const auto part : {&train::LanguageModel::Snapshot::parameters, &train::LanguageModel::Snapshot::optimizer})
      for (size_t i = 0; i < (after.*part).size(); ++i) {
        const auto& found = (after.*part)[i];
        HostArray array = make_array(found.name + " after a step", ir::DType::f32, found.shape);
        std::ranges::copy(found.values, array.values<float>().begin());
        SPORKLE_RETURN_IF_ERROR(compare_bits<float>(array, (expected.*part)[i].values));
      }
    return {};
  }

  // Of a loss's relative error; a hundred times as much of the gradient's norm. A bf16 has 8 bits where an f32 has 24.
  double loss_limit() const { return setting_.dtype == ir::DType::f32 ? 1e-5 : 5e-4; }

  Setting setting_;
  GptProblem gpt_;
  int64_t rows_;
  train::OptimizationConfig optimization_;
  std::unique_ptr<train::LanguageModel> model_;
  HostArray tokens_, targets_, parameters_, optimizer_;
  Problem problem_;
  train::StepResult last_;
  std::vector<double> losses_, expected_;  // of the last sample, and of the longest one so far, by step
  double worst_error_ = 0;
};

}  // namespace

CaseKind train_case() {
  CaseKind kind;
  kind.name = "train";
  kind.summary = "A training step of a byte-level GPT-2";
  kind.shape_form = kForm;
  kind.default_shapes = {"6x384x6x256x8"};
  kind.dtypes = {ir::DType::f32, ir::DType::bf16, ir::DType::f16};
  kind.numerics = {ir::Numerics::strict, ir::Numerics::fast};
  kind.rivals = {"PyTorch"};
  kind.default_rivals = {"PyTorch"};
  kind.make = [](const Setting& setting) -> Result<std::unique_ptr<Case>> {
    if (setting.dtype != ir::DType::f32 && setting.numerics != ir::Numerics::fast)
      return invalid_argument("training with products of " + std::string(ir::dtype_name(setting.dtype)) +
                              " is measured with --numerics fast alone");
    SPORKLE_ASSIGN_OR_RETURN(const std::vector<int64_t> n, parse_extents(setting.shape, 5, kForm));
    GptProblem gpt{n[0], n[2], n[1], n[3], 256};
    if (gpt.width % gpt.heads != 0)
      return invalid_argument("shape \"" + setting.shape + "\": " + std::to_string(gpt.heads) +
                              " heads do not divide a width of " + std::to_string(gpt.width));
    // Before anything is multiplied in whole numbers.
    if (std::max({n[0], n[1], n[3], n[4]}) > 1 << 16)
      return invalid_argument("shape \"" + setting.shape + "\" has an extent above 65536");
    const double d = static_cast<double>(gpt.width), positions = static_cast<double>(n[3]) * static_cast<double>(n[4]);
    const double parameters = static_cast<double>(gpt.layers) * 12 * d * d + 600 * d;
    const double activations = positions * static_cast<double>(gpt.layers) *
                               (80 * d + 12 * static_cast<double>(gpt.heads) * static_cast<double>(gpt.context));
    // Values, gradient and moments, ours and the rival's, and the reference in float64.
    return within_memory(setting.shape, 80 * parameters + 2 * activations,
                         std::make_unique<TrainCase>(setting, gpt, n[4]));
  };
  return kind;
}

}  // namespace sporkle::bench
