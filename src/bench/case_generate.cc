// generate: tokens of a byte-level GPT-2 one after the other, batch 1, with a cache of keys and values.
//
// A run is one token: its logits, read by the host. Tokens come from a fixed text at positions from half of the context
// to its end, over and over. prepare() judges a whole sequence in float64 by its loss, and every sample's last logits
// are those of the whole sequence computed at once, bit for bit. The rival `read` only reads as many bytes: the ratio
// to it is the share of the memory's bandwidth, in the same minute.
#include <algorithm>
#include <cmath>

#include "base/seconds.h"
#include "base/thread_pool.h"
#include "bench/case_list.h"
#include "bench/cases.h"
#include "bench/gpt_reference.h"
#include "bench/judge.h"
#include "train/language_model.h"

namespace sporkle::bench {
namespace {

using tensor::Tensor;

constexpr const char* kForm = "LAYERSxWIDTHxHEADSxCONTEXT";

class GenerateCase final : public Case {
 public:
  GenerateCase(const Setting& setting, const GptProblem& gpt) : setting_(setting), gpt_(gpt) {}

  // A token needs every weight once (of the embeddings by position one row), and the keys and values before it.
  static Work work_of(const GptProblem& p) {
    const double weights = static_cast<double>(p.parameter_count() - p.context * p.width);
    const double cached = static_cast<double>(2 * p.layers * p.width) * 0.75 * static_cast<double>(p.context);
    return {2 * (weights + cached), 4 * (weights + cached)};
  }
  Work work() const override { return work_of(gpt_); }
  std::string unit() const override { return "tokens/s"; }
  double value(double seconds) const override { return 1 / seconds; }
  int sets() const override { return 1; }
  const Problem& problem() const override { return problem_; }

  Status prepare() override {
    const train::ModelShape shape{
        gpt_.layers, gpt_.heads, gpt_.width, gpt_.context, gpt_.vocab_size, gpt_.layer_norm_epsilon, 0.0};
    SPORKLE_ASSIGN_OR_RETURN(model_, train::LanguageModel::create(shape, {}, {setting_.device, setting_.threads}));
    parameters_ = make_array("parameters", ir::DType::f32, {gpt_.parameter_count()});
    SPORKLE_RETURN_IF_ERROR(model_->get_parameters(parameters_.values<float>()));
    make_text();
    SPORKLE_RETURN_IF_ERROR(model_->decoder().lay_out_for_generation());
    SPORKLE_RETURN_IF_ERROR(judge_sequence());
    problem_.operation = "generate";
    problem_.parameters = {{"layers", gpt_.layers},   {"heads", gpt_.heads},           {"width", gpt_.width},
                           {"context", gpt_.context}, {"vocab_size", gpt_.vocab_size}, {"first", first_position()}};
    problem_.inputs = {{&text_, &parameters_}};
    problem_.outputs = {{"logits", ir::DType::f32, {gpt_.vocab_size}, {}}, {"position", ir::DType::f64, {1}, {}}};
    return {};
  }

  Result<Sample> run(int repetitions) override {
    Sample sample;
    const double start_s = now_s();
    for (int i = 0; i < repetitions; ++i) {
      position_ = first_position() + i % (gpt_.context - first_position());
      cache_.length = position_;
      SPORKLE_ASSIGN_OR_RETURN(logits_, next(position_));
    }
    sample.wall_seconds = now_s() - start_s;
    return sample;
  }

  Status poison_outputs() override {
    logits_.clear();
    return model_->context().fill_unused(kPoison);
  }

  Result<double> check() override {
    if (logits_.empty()) return internal_error("logits are checked before a run made them");
    const std::span<const float> expected = expected_at(position_);
    for (size_t i = 0; i < logits_.size(); ++i)
      if (logits_[i] != expected[i])
        return internal_error("logit " + std::to_string(i) + " at position " + std::to_string(position_) + " is " +
                              std::to_string(logits_[i]) + ", and " + std::to_string(expected[i]) +
                              " when the whole sequence is computed at once; `strict` means the same bits");
    return worst_error_;
  }

  Result<double> check_rival(int, std::span<const HostArray> outputs) override {
    const double position = outputs[1].values<double>()[0];
    if (!(position >= 0 && position < static_cast<double>(gpt_.context)))
      return internal_error("the rival says that it is at position " + std::to_string(position));
    const std::span<const float> expected = expected_at(static_cast<int64_t>(position));
    return compare_values(outputs[0], std::vector<double>(expected.begin(), expected.end()), 1e-4);
  }

 private:
  int64_t first_position() const { return gpt_.context / 2; }
  std::span<const float> expected_at(int64_t position) const {
    const auto size = static_cast<size_t>(gpt_.vocab_size);
    return std::span(whole_).subspan(static_cast<size_t>(position) * size, size);
  }

  void make_text() {
    text_ = make_array("text", ir::DType::i32, {gpt_.context + 1});
    int64_t token = 1;
    for (int32_t& t : text_.values<int32_t>()) {
      t = static_cast<int32_t>(token);
      token = (5 * token + 17) % gpt_.vocab_size;
    }
  }

  // The logits after the text's token at this position, which is the cache's next.
  Result<std::vector<float>> next(int64_t position) {
    const std::span<const int32_t> token = text_.values<int32_t>().subspan(static_cast<size_t>(position), 1);
    return model_->decoder()
        .extend(tensor::from_host<int32_t>(model_->context(), token, {1, 1}), cache_)
        .to_host<float>();
  }

  // Fills the cache from the start, and compares the mean loss of the text with float64.
  Status judge_sequence() {
    const std::span<const int32_t> text = text_.values<int32_t>();
    const auto context = static_cast<size_t>(gpt_.context);
    const Tensor tokens = tensor::from_host<int32_t>(model_->context(), text.first(context), {1, gpt_.context});
    SPORKLE_ASSIGN_OR_RETURN(whole_, model_->decoder().logits(tokens).to_host<float>());
    cache_ = {};
    double total = 0;
    for (size_t t = 0; t < context; ++t) {
      SPORKLE_ASSIGN_OR_RETURN(const std::vector<float> logits, next(static_cast<int64_t>(t)));
      double sum = 0;
      for (const float x : logits) sum += std::exp(static_cast<double>(x));
      total += std::log(sum) - static_cast<double>(logits[static_cast<size_t>(text[t + 1])]);
    }
    total /= static_cast<double>(context);
    ThreadPool pool(std::max(setting_.threads, 1));
    const std::span<const float> parameters = parameters_.values<float>();
    const double expected = gpt_loss(pool, gpt_, std::vector<double>(parameters.begin(), parameters.end()),
                                     text.first(context), text.subspan(1));
    worst_error_ = std::abs(total / expected - 1);
    if (worst_error_ <= 1e-5) return {};
    return internal_error("the mean loss of the text is " + std::to_string(total) + " where float64 gives " +
                          std::to_string(expected));
  }

  Setting setting_;
  GptProblem gpt_;
  std::unique_ptr<train::LanguageModel> model_;
  HostArray text_, parameters_;
  Problem problem_;
  nn::Decoder::Cache cache_;
  int64_t position_ = 0;
  std::vector<float> logits_, whole_;  // of the last run; of every position, [context, vocab_size]
  double worst_error_ = 0;
};

}  // namespace

CaseKind generate_case() {
  CaseKind kind;
  kind.name = "generate";
  kind.summary = "A token of a byte-level GPT-2 with a cache of keys and values";
  kind.shape_form = kForm;
  kind.default_shapes = {"6x384x6x256"};
  kind.dtypes = {ir::DType::f32};
  kind.numerics = {ir::Numerics::strict};
  kind.rivals = {"PyTorch", "read"};
  kind.default_rivals = {"PyTorch", "read"};
  kind.make = [](const Setting& setting) -> Result<std::unique_ptr<Case>> {
    SPORKLE_ASSIGN_OR_RETURN(const std::vector<int64_t> n, parse_extents(setting.shape, 4, kForm));
    const GptProblem gpt{n[0], n[2], n[1], n[3], 256};
    if (gpt.width % gpt.heads != 0)
      return invalid_argument("shape \"" + setting.shape + "\": " + std::to_string(gpt.heads) +
                              " heads do not divide a width of " + std::to_string(gpt.width));
    // Before anything is multiplied in whole numbers.
    if (std::max({n[0], n[1], n[3]}) > 1 << 16 || gpt.context < 2)
      return invalid_argument("shape \"" + setting.shape + "\" has an extent above 65536, or a context of 1");
    const double d = static_cast<double>(gpt.width), positions = static_cast<double>(n[3]);
    const double parameters = static_cast<double>(gpt.layers) * 12 * d * d + 600 * d + positions * d;
    // Ours, the rival's, and the reference in float64 with its activations.
    return within_memory(setting.shape, 40 * parameters + 160 * positions * static_cast<double>(gpt.layers) * d,
                         std::make_unique<GenerateCase>(setting, gpt));
  };
  return kind;
}

}  // namespace sporkle::bench
