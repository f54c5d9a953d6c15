// resnet: training steps of a ResNet-18 on small square images: loss, gradients, clipping, AdamW and the norms' running
// statistics, on one batch.
//
// A sample starts from the same parameters and takes one step untimed. `strict` makes every sample's losses the same
// bits. prepare() judges the first step in float64, as case_train.cc does, and by the bits that this machine's plainest
// instruction set gives.
#include <algorithm>
#include <cmath>

#include "base/seconds.h"
#include "bench/case_list.h"
#include "bench/cases.h"
#include "bench/judge.h"
#include "bench/resnet_reference.h"
#include "bench/step_judge.h"
#include "bench/tensor_case.h"
#include "train/image_classifier.h"

namespace sporkle::bench {
namespace {

using tensor::Tensor;

constexpr const char* kForm = "IMAGESxSIZExWIDTH";
constexpr double kLearningRate = 1e-3;
constexpr int64_t kMostSteps = 100'000;

class ResNetCase final : public Case {
 public:
  ResNetCase(const Setting& setting, const ResNetProblem& net) : setting_(setting), net_(net) {}

  Work work() const override {
    // The way back takes twice as much as the way forward, but for the images' gradient.
    const double images = static_cast<double>(net_.images);
    const double first = 2.0 * static_cast<double>(net_.channels * 9 * net_.width * net_.size * net_.size);
    return {images * (3 * resnet_flops(net_) - first), 28.0 * static_cast<double>(parameters_.bytes.size() / 4)};
  }
  std::string unit() const override { return "images/s"; }
  double value(double seconds) const override { return static_cast<double>(net_.images) / seconds; }
  int sets() const override { return 1; }
  const Problem& problem() const override { return problem_; }

  Status prepare() override {
    images_ = make_array("images", ir::DType::f32, {net_.images, net_.channels, net_.size, net_.size});
    classes_ = make_array("classes", ir::DType::i32, {net_.images});
    fill_random<float>(images_.values<float>(), 1, -1, 1);
    for (int64_t i = 0; i < net_.images; ++i)
      classes_.values<int32_t>()[static_cast<size_t>(i)] = static_cast<int32_t>(i % net_.classes);
    config_ = {net_.channels, net_.classes, net_.width, net_.blocks};
    SPORKLE_ASSIGN_OR_RETURN(
        model_, train::ImageClassifier::create(
                    config_, optimization_,
                    {.device = setting_.device, .threads = setting_.threads, .open_context = setting_.open_context}));
    start_ = model_->net().parameters();
    statistics_ = model_->net().statistics_values();
    std::vector<Tensor> values = nn::values(start_);
    values.insert(values.end(), statistics_.begin(), statistics_.end());
    SPORKLE_RETURN_IF_ERROR(tensor::realize(values));
    parameters_ = make_array("parameters", ir::DType::f32, {model_->net().parameter_count()});
    size_t at = 0;
    for (const nn::Parameter& p : start_) {
      SPORKLE_ASSIGN_OR_RETURN(initial_.emplace_back(), p.value.to_host<float>());
      std::ranges::copy(initial_.back(), parameters_.values<float>().begin() + static_cast<ptrdiff_t>(at));
      at += initial_.back().size();
    }
    optimizer_ = make_array("optimizer", ir::DType::f64, {6});
    const double numbers[] = {kLearningRate,         optimization_.beta1,        optimization_.beta2,
                              optimization_.epsilon, optimization_.weight_decay, optimization_.gradient_clip};
    std::ranges::copy(numbers, optimizer_.values<double>().begin());
    problem_.operation = "resnet";
    problem_.parameters = {{"channels", net_.channels}, {"classes", net_.classes}, {"width", net_.width}};
    problem_.inputs = {{&images_, &classes_, &parameters_, &optimizer_}};
    problem_.outputs = {{"report", ir::DType::f64, {3}, {}}};  // steps taken, loss before the first, before the last
    return judge_first_step();
  }

  Result<Sample> run(int repetitions) override {
    SPORKLE_RETURN_IF_ERROR(restart());
    SPORKLE_RETURN_IF_ERROR(step());
    Sample sample{.waits = repetitions};
    const double planned_s = model_->context().counters().host_seconds;
    const Result<double> busy_s = model_->context().device().busy_seconds();
    const double start_s = now_s();
    for (int i = 0; i < repetitions; ++i) {
      SPORKLE_RETURN_IF_ERROR(step());
      sample.host_seconds += last_.building_s;
    }
    sample.wall_seconds = now_s() - start_s;
    sample.host_seconds += model_->context().counters().host_seconds - planned_s;
    if (const Result<double> after_s = model_->context().device().busy_seconds(); busy_s.ok() && after_s.ok())
      sample.device_seconds = *after_s - *busy_s;
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
    // Roundings grow fast in a network that learns one batch by heart: the first two losses are compared, of which the
    // second shows the gradient and the update, and the last must be as far along.
    const double first = std::abs(report[1] / expected_[0] - 1);
    const double last = std::abs(report[2] - expected_[steps - 1]);
    if (!(first <= 1e-4)) return beyond("the loss before the rival's first step", report[1], expected_[0]);
    if (!(last <= 0.02 * static_cast<double>(steps) * std::max(expected_[steps - 1], 0.05)))
      return internal_error("the loss before the rival's step " + std::to_string(steps) + " is " +
                            std::to_string(report[2]) + ", and ours " + std::to_string(expected_[steps - 1]) +
                            ": it does not train the same model");
    return first;
  }

 private:
  train::ImageBatch batch() const {
    return {images_.values<float>(), classes_.values<int32_t>(), net_.images, net_.size, net_.size};
  }

  Status restart() { return restart(*model_); }
  Status restart(train::ImageClassifier& model) {
    losses_.clear();
    std::vector<Tensor> values;
    for (size_t i = 0; i < initial_.size(); ++i)
      values.push_back(tensor::from_host<float>(model.context(), initial_[i], start_[i].value.shape()));
    return model.restart(values);
  }

  Status step() {
    SPORKLE_ASSIGN_OR_RETURN(last_, model_->step(batch(), kLearningRate));
    losses_.push_back(last_.loss);
    return {};
  }

  struct Stepped {
    std::vector<std::vector<float>> values, first, second;
  };
  static Result<Stepped> state_of(train::ImageClassifier& model) {
    Stepped state;
    const std::vector<Tensor> first = model.optimizer().first_moments(), second = model.optimizer().second_moments();
    for (size_t i = 0; i < first.size(); ++i) {
      SPORKLE_ASSIGN_OR_RETURN(state.values.emplace_back(), model.net().parameters()[i].value.to_host<float>());
      SPORKLE_ASSIGN_OR_RETURN(state.first.emplace_back(), first[i].to_host<float>());
      SPORKLE_ASSIGN_OR_RETURN(state.second.emplace_back(), second[i].to_host<float>());
    }
    return state;
  }

  Status judge_first_step() {
    SPORKLE_RETURN_IF_ERROR(restart());
    SPORKLE_RETURN_IF_ERROR(step());
    const double norm = last_.gradient_norm;
    SPORKLE_ASSIGN_OR_RETURN(const Stepped after, state_of(*model_));
    SPORKLE_RETURN_IF_ERROR(judge_bits(after));
    SPORKLE_RETURN_IF_ERROR(step());
    expected_ = losses_;

    const double clip = optimization_.gradient_clip > 0 ? std::min(1.0, optimization_.gradient_clip / norm) : 1.0;
    const std::span<const float> start = parameters_.values<float>();
    const std::vector<double> before(start.begin(), start.end());
    const std::span<const float> pixels = images_.values<float>();
    const std::vector<double> images(pixels.begin(), pixels.end());
    std::vector<double> then, gradient;
    std::vector<SteppedParameter> stepped;
    for (size_t i = 0; i < after.values.size(); ++i)
      stepped.push_back({start_[i].name, start_[i].decay, after.values[i], after.first[i], after.second[i]});
    SPORKLE_RETURN_IF_ERROR(judge_adamw(stepped, optimization_, kLearningRate, before, clip, &then, &gradient));

    ThreadPool pool(std::max(setting_.threads, 1));
    const auto loss_at = [&](const std::vector<double>& values) {
      return resnet_loss(pool, net_, values, images, classes_.values<int32_t>());
    };
    const double losses[] = {loss_at(before), loss_at(then)};
    for (size_t i = 0; i < 2; ++i) {
      const double error = std::abs(losses_[i] / losses[i] - 1);
      if (!(error <= 1e-4)) return beyond("the loss of step " + std::to_string(i + 1), losses_[i], losses[i]);
      worst_error_ = std::max(worst_error_, error);
    }
    // Between two points on either side some units start and others cease to pass values on: the slope is near.
    return judge_gradient(loss_at, before, gradient, norm, 1e-4, 5e-3);
  }

  // The first step once more, by other code.
  Status judge_bits(const Stepped& after) {
    const int threads = std::max(setting_.threads, 1);
    SPORKLE_ASSIGN_OR_RETURN(const std::unique_ptr<train::ImageClassifier> other,
                             train::ImageClassifier::create(config_, optimization_, {.open_context = [threads] {
                                                              return open_baseline(threads);
                                                            }}));
    const std::vector<double> losses = losses_;
    SPORKLE_RETURN_IF_ERROR(restart(*other));
    losses_ = losses;
    SPORKLE_ASSIGN_OR_RETURN(const train::StepResult result, other->step(batch(), kLearningRate));
    if (result.loss != losses_[0])
      return internal_error("the loss of step 1 is " + std::to_string(losses_[0]) + " and " +
                            std::to_string(result.loss) + " by other instructions; `strict` means the same bits");
    SPORKLE_ASSIGN_OR_RETURN(const Stepped expected, state_of(*other));
    for (const auto part : {&Stepped::values, &Stepped::first, &Stepped::second})
      for (size_t i = 0; i < (after.*part).size(); ++i) {
        const tensor::Shape shape = start_[i].value.shape();
        HostArray array = make_array(start_[i].name + " after a step", ir::DType::f32, {shape.begin(), shape.end()});
        std::ranges::copy((after.*part)[i], array.values<float>().begin());
        SPORKLE_RETURN_IF_ERROR(compare_bits<float>(array, (expected.*part)[i]));
      }
    return {};
  }

  Setting setting_;
  ResNetProblem net_;
  nn::ResNetConfig config_;
  train::OptimizationConfig optimization_;
  std::unique_ptr<train::ImageClassifier> model_;
  std::vector<nn::Parameter> start_;         // names, shapes and whether they decay
  std::vector<std::vector<float>> initial_;  // their first values
  std::vector<Tensor> statistics_;
  HostArray images_, classes_, parameters_, optimizer_;
  Problem problem_;
  train::StepResult last_;
  std::vector<double> losses_, expected_;  // of the last sample, and of the longest one so far, by step
  double worst_error_ = 0;
};

}  // namespace

CaseKind resnet_case() {
  CaseKind kind;
  kind.name = "resnet";
  kind.summary = "A training step of a ResNet-18 on small images of three colours";
  kind.shape_form = kForm;
  kind.default_shapes = {"32x32x64"};
  kind.dtypes = {ir::DType::f32};
  kind.numerics = {ir::Numerics::strict};
  kind.rivals = {"PyTorch"};
  kind.default_rivals = {"PyTorch"};
  kind.make = [](const Setting& setting) -> Result<std::unique_ptr<Case>> {
    SPORKLE_ASSIGN_OR_RETURN(const std::vector<int64_t> n, parse_extents(setting.shape, 3, kForm));
    // Before anything is multiplied in whole numbers.
    if (std::max({n[0], n[1], n[2]}) > 4096)
      return invalid_argument("shape \"" + setting.shape + "\" has an extent above 4096");
    if (n[0] < 2 || n[1] < 8)
      return invalid_argument("shape \"" + setting.shape +
                              "\": norms over a batch need 2 images or more, of 8 x 8 at least");
    const ResNetProblem net{.images = n[0], .size = n[1], .width = n[2]};
    const double width = static_cast<double>(n[2]),
                 pixels = static_cast<double>(n[0] * n[1]) * static_cast<double>(n[1]);
    // Values, gradient and moments, ours and the rival's; activations, and the reference in float64.
    return within_memory(setting.shape, 80 * 2730 * width * width + 400 * pixels * width,
                         std::make_unique<ResNetCase>(setting, net));
  };
  return kind;
}

}  // namespace sporkle::bench
