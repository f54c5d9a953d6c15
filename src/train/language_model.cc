#include "train/language_model.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/seconds.h"
#include "nn/gpt.h"
#include "nn/llama.h"
#include "tensor/autograd.h"

namespace sporkle::train {

using tensor::Tensor;

namespace {

constexpr std::string_view kFirstMoment = "first_moment/", kSecondMoment = "second_moment/";
const std::string kLossScale = "loss_scale", kGoodSteps = "good_steps";  // of TrainingState::values

nn::AdamWConfig adamw_config(const OptimizationConfig& o) {
  return {o.beta1, o.beta2, o.epsilon, o.weight_decay, o.gradient_clip};
}

Tensor tokens(tensor::Context& context, std::span<const int32_t> values, int64_t rows) {
  return tensor::from_host<int32_t>(context, values, {rows, static_cast<int64_t>(values.size()) / rows});
}

Status not_finite(double loss, double norm) {
  return unavailable("the loss or its gradient is not finite (loss " + std::to_string(loss) + ", gradient norm " +
                     std::to_string(norm) + "); a lower learning rate or a longer warm-up helps");
}

std::vector<int64_t> dims(const tensor::Shape& shape) { return {shape.begin(), shape.end()}; }

Result<std::unique_ptr<nn::Decoder>> make_decoder(tensor::Context& context, const ModelShape& s, uint64_t seed) {
  if (s.architecture == Architecture::llama) {
    const nn::LlamaConfig config{s.layers,      s.heads,   s.kv_heads,   s.width,
                                 s.inner_width, s.context, s.vocab_size, s.layer_norm_epsilon,
                                 s.rotary_base, s.tied,    s.dropout};
    SPORKLE_ASSIGN_OR_RETURN(nn::Llama llama, nn::Llama::create(context, config, seed));
    return std::unique_ptr<nn::Decoder>(std::make_unique<nn::Llama>(std::move(llama)));
  }
  const nn::GptConfig config{s.layers, s.heads, s.width, s.context, s.vocab_size, s.layer_norm_epsilon, s.dropout};
  SPORKLE_ASSIGN_OR_RETURN(nn::Gpt gpt, nn::Gpt::create(context, config, seed));
  return std::unique_ptr<nn::Decoder>(std::make_unique<nn::Gpt>(std::move(gpt)));
}

}  // namespace

Result<std::unique_ptr<LanguageModel>> LanguageModel::create(const ModelShape& shape,
                                                             const OptimizationConfig& optimization,
                                                             const DeviceChoice& choice) {
  std::unique_ptr<LanguageModel> model(new LanguageModel);
  model->shape_ = shape;
  model->adamw_config_ = adamw_config(optimization);
  tensor::ContextOptions options;
  if (optimization.numerics == "fast") options.numerics = ir::Numerics::fast;
  if (optimization.precision == "bf16") options.product_type = ir::DType::bf16;
  if (optimization.precision == "f16") {
    options.product_type = ir::DType::f16;
    model->loss_scale_ = kFirstScale;
  }
  if (choice.open_context) {
    SPORKLE_ASSIGN_OR_RETURN(model->context_, choice.open_context());
  } else {
    hal::DeviceOptions device;
    device.threads = choice.threads;
    SPORKLE_ASSIGN_OR_RETURN(model->context_, tensor::Context::open(choice.device, device, options));
  }
  model->context_->set_memory_cap(choice.memory_cap_bytes);
  SPORKLE_ASSIGN_OR_RETURN(model->decoder_,
                           make_decoder(*model->context_, shape, static_cast<uint64_t>(optimization.seed)));
  model->reset_optimizer();
  return model;
}

Result<std::unique_ptr<LanguageModel>> LanguageModel::from_checkpoint(const Checkpoint& checkpoint,
                                                                      const OptimizationConfig& optimization,
                                                                      const DeviceChoice& choice) {
  SPORKLE_ASSIGN_OR_RETURN(std::unique_ptr<LanguageModel> model, create(checkpoint.shape, optimization, choice));
  std::vector<float> values;
  values.reserve(model->parameter_count());
  for (const OwnedTensor& t : checkpoint.parameters) values.insert(values.end(), t.values.begin(), t.values.end());
  SPORKLE_RETURN_IF_ERROR(model->set_parameters(values).with_context(checkpoint.folder.string()));
  return model;
}

void LanguageModel::reset_optimizer() { adamw_.emplace(*context_, adamw_config_, decoder_->parameters()); }

Result<StepResult> LanguageModel::step(const Batch& batch, int64_t accumulation, double learning_rate,
                                       nn::DropoutKey dropout) {
  const bool scales = scales_loss();
  while (true) {
    bool overflow = false;
    Result<StepResult> result = step_once(batch, accumulation, learning_rate, dropout, &overflow);
    if (overflow && scales && loss_scale_ > kLeastScale) {
      loss_scale_ /= 2;
      good_steps_ = 0;
      continue;
    }
    if (result.ok() && scales && ++good_steps_ >= kStepsToGrow && loss_scale_ < kMostScale) {
      loss_scale_ *= 2;
      good_steps_ = 0;
    }
    return result;
  }
}

// `overflow`: the gradients are not finite although the loss is.
Result<StepResult> LanguageModel::step_once(const Batch& batch, int64_t accumulation, double learning_rate,
                                            nn::DropoutKey dropout, bool* overflow) {
  if (batch.rows <= 0 || accumulation <= 0 || batch.rows % accumulation != 0)
    return invalid_argument("a batch of " + std::to_string(batch.rows) + " sequences cannot be cut into " +
                            std::to_string(accumulation) + " equal parts");
  const double start_s = now_s();
  SPORKLE_RETURN_IF_ERROR(adamw_->adopt(decoder_->parameters()));
  const double share = 1.0 / static_cast<double>(accumulation);

  // A step without random numbers and a changing scale is captured, and replayed as long as batches have its shape.
  const bool captures = accumulation == 1 && shape_.dropout == 0 && !scales_loss();
  if (captures && capture_ && capture_rows_ == batch.rows && capture_tokens_ == batch.inputs.size())
    return replay(batch, learning_rate, overflow);

  Part made;
  if (accumulation == 1) {
    SPORKLE_ASSIGN_OR_RETURN(const std::vector<Tensor> gradients, gradients_of(batch, 0, 1, dropout, &made));
    capture_rows_ = batch.rows;
    capture_tokens_ = batch.inputs.size();
    return update(adamw_->pack(gradients), &made, captures, 0, learning_rate, start_s, overflow);
  }
  Tensor sum;
  std::vector<Tensor> losses;  // read at the end, so that a part is built while the one before it is computed
  for (int64_t part = 0; part < accumulation; ++part) {
    SPORKLE_ASSIGN_OR_RETURN(const Tensor loss, add_part(batch, part, accumulation, dropout, &sum));
    losses.push_back(loss);
  }
  double mean_loss = 0;
  for (const Tensor& of_part : losses) {
    SPORKLE_ASSIGN_OR_RETURN(const double loss, of_part.item());
    mean_loss += loss * share;
  }
  return update(sum, nullptr, false, mean_loss, learning_rate, start_s, overflow);
}

Result<std::vector<Tensor>> LanguageModel::gradients_of(const Batch& batch, int64_t part, int64_t parts,
                                                        nn::DropoutKey dropout, Part* made) {
  const auto part_tokens = static_cast<size_t>(static_cast<int64_t>(batch.inputs.size()) / parts);
  const int64_t part_rows = batch.rows / parts;
  const size_t first = static_cast<size_t>(part) * part_tokens;
  made->inputs = tokens(*context_, batch.inputs.subspan(first, part_tokens), part_rows);
  made->targets = tokens(*context_, batch.targets.subspan(first, part_tokens), part_rows);
  // Parts of one step drop different elements.
  const nn::DropoutKey key{dropout.seed + static_cast<uint64_t>(part), dropout.step};
  made->loss = decoder_->loss(made->inputs, made->targets, &key);
  const Tensor differentiated = loss_scale_ == 1 ? made->loss : made->loss * loss_scale_;
  SPORKLE_ASSIGN_OR_RETURN(std::vector<Tensor> gradients,
                           tensor::grad(differentiated, nn::values(decoder_->parameters())));
  if (loss_scale_ != 1)
    for (Tensor& gradient : gradients) gradient = gradient * (1 / loss_scale_);
  return gradients;
}

Result<Tensor> LanguageModel::add_part(const Batch& batch, int64_t part, int64_t parts, nn::DropoutKey dropout,
                                       Tensor* sum) {
  if (batch.rows <= 0 || parts <= 0 || part < 0 || part >= parts || batch.rows % parts != 0)
    return invalid_argument("a batch of " + std::to_string(batch.rows) + " sequences has no part " +
                            std::to_string(part) + " of " + std::to_string(parts) + " equal ones");
  Part made;
  SPORKLE_ASSIGN_OR_RETURN(const std::vector<Tensor> gradients, gradients_of(batch, part, parts, dropout, &made));
  const Tensor scaled = adamw_->pack(gradients) * (1.0 / static_cast<double>(parts));
  const Tensor added = (sum->defined() ? *sum + scaled : scaled).detach();
  SPORKLE_RETURN_IF_ERROR(tensor::realize({added, made.loss}));
  note_memory();
  *sum = added;
  return made.loss;
}

Status LanguageModel::add_gradients(std::span<const float> part, Tensor* sum) {
  const size_t count = adamw_->size_bytes() / sizeof(float);
  if (part.size() != count)
    return invalid_argument("there are " + std::to_string(count) + " gradients, not " + std::to_string(part.size()));
  const Tensor given = tensor::from_host<float>(*context_, part, {static_cast<int64_t>(count)});
  const Tensor added = sum->defined() ? (*sum + given).detach() : given;
  SPORKLE_RETURN_IF_ERROR(tensor::realize({added}));
  *sum = added;
  return {};
}

Status LanguageModel::read_packed_parameters(std::vector<float>* values) {
  SPORKLE_RETURN_IF_ERROR(adamw_->adopt(decoder_->parameters()));
  values->resize(adamw_->size_bytes() / sizeof(float));
  return adamw_->state()[0].read<float>(*values);
}

Status LanguageModel::set_packed_parameters(std::span<const float> values) {
  const size_t count = adamw_->size_bytes() / sizeof(float);
  if (values.size() != count)
    return invalid_argument("there are " + std::to_string(count) + " parameters, not " + std::to_string(values.size()));
  SPORKLE_RETURN_IF_ERROR(adamw_->adopt(decoder_->parameters()));
  std::vector<Tensor> state = adamw_->state();
  state[0] = tensor::from_host<float>(*context_, values, {static_cast<int64_t>(count)});
  SPORKLE_RETURN_IF_ERROR(state[0].status());
  adamw_->set_state(decoder_->parameters(), state);
  return {};
}

Result<StepResult> LanguageModel::apply_gradients(const Tensor& sum, double loss, double learning_rate) {
  const double start_s = now_s();
  SPORKLE_RETURN_IF_ERROR(adamw_->adopt(decoder_->parameters()));
  bool overflow = false;
  return update(sum, nullptr, false, loss, learning_rate, start_s, &overflow);
}

Result<StepResult> LanguageModel::update(const Tensor& gradients, const Part* whole, bool capture, double mean_loss,
                                         double learning_rate, double start_s, bool* overflow) {
  if (!std::isfinite(mean_loss)) return not_finite(mean_loss, std::nan(""));
  // Kept so that a step that cannot be run is taken back. One whose loss or gradient is not finite changes nothing.
  const std::vector<nn::Parameter> before = decoder_->parameters();
  const nn::AdamW optimizer_before = *adamw_;
  const Tensor rates = adamw_->next_rates(learning_rate);
  std::vector<Tensor> data;
  if (capture) {
    data = {whole->inputs, whole->targets, rates};
    for (const Tensor& tensor : adamw_->state()) data.push_back(tensor);
  }
  const Tensor norm = adamw_->update(decoder_->parameters(), gradients, rates, whole ? whole->loss : Tensor());
  std::vector<Tensor> results{norm};
  if (whole) results.push_back(whole->loss);
  adamw_->append_state(&results);
  const double building_s = now_s() - start_s;
  Status status;
  if (capture) {
    capture_.reset();
    // What a model reads beside parameters and batch, such as a Llama's angles, never changes.
    Result<tensor::Capture> captured = tensor::Capture::record(data, results, tensor::Capture::Others::keep);
    status = captured.status();
    if (captured.ok()) capture_ = std::move(*captured);
  } else {
    status = tensor::realize(results);
  }
  if (!status.ok()) {
    decoder_->parameters() = before;
    *adamw_ = optimizer_before;
    return status;
  }
  if (whole) note_memory();
  return finish_step(norm, whole ? whole->loss : Tensor(), mean_loss, building_s, overflow);
}

Result<StepResult> LanguageModel::replay(const Batch& batch, double learning_rate, bool* overflow) {
  const double start_s = now_s();
  std::vector<Tensor> data{tokens(*context_, batch.inputs, batch.rows), tokens(*context_, batch.targets, batch.rows),
                           adamw_->next_rates(learning_rate)};
  for (const Tensor& tensor : adamw_->state()) data.push_back(tensor);
  const double building_s = now_s() - start_s;
  const Result<std::vector<Tensor>> results = capture_->replay(data);
  if (!results.ok()) {
    adamw_->set_step(adamw_->step() - 1);
    return results.status();
  }
  adamw_->set_state(decoder_->parameters(), std::span(*results).subspan(2));
  return finish_step((*results)[0], (*results)[1], 0, building_s, overflow);
}

Result<StepResult> LanguageModel::finish_step(const Tensor& norm, const Tensor& loss, double mean_loss,
                                              double building_s, bool* overflow) {
  StepResult result{mean_loss, 0, building_s, loss_scale_};
  SPORKLE_ASSIGN_OR_RETURN(result.gradient_norm, norm.item());
  if (loss.defined()) {
    SPORKLE_ASSIGN_OR_RETURN(result.loss, loss.item());
  }
  if (std::isfinite(result.loss) && std::isfinite(result.gradient_norm)) return result;
  *overflow = std::isfinite(result.loss);
  adamw_->set_step(adamw_->step() - 1);
  return not_finite(result.loss, result.gradient_norm);
}

void LanguageModel::note_memory() {
  const tensor::PlanMemory& plan = context_->last_plan();
  const size_t packed = adamw_->size_bytes();
  step_memory_ = {packed, 2 * packed, packed, plan.live_bytes.size() > 1 ? plan.live_bytes[1] : 0, 0, plan.keep_every};
  step_memory_.peak = 3 * packed + plan.arena_bytes + plan.result_bytes;
}

Status LanguageModel::prepare() {
  SPORKLE_RETURN_IF_ERROR(adamw_->adopt(decoder_->parameters()));
  return context_->wait();
}

Result<double> LanguageModel::loss(const Batch& batch) {
  return decoder_->loss(tokens(*context_, batch.inputs, batch.rows), tokens(*context_, batch.targets, batch.rows))
      .item();
}

Result<LanguageModel::Snapshot> LanguageModel::snapshot() {
  Snapshot snapshot;
  snapshot.optimizer_steps = adamw_->step();
  if (scales_loss()) snapshot.values = {{kLossScale, loss_scale_}, {kGoodSteps, good_steps_}};
  const auto& parameters = decoder_->parameters();
  const std::vector<Tensor> first = adamw_->first_moments(), second = adamw_->second_moments();
  for (size_t i = 0; i < parameters.size(); ++i) {
    const auto add = [&](std::vector<OwnedTensor>& to, std::string name, const Tensor& value) -> Status {
      SPORKLE_ASSIGN_OR_RETURN(std::vector<float> host, value.to_host<float>());
      to.push_back({std::move(name), dims(value.shape()), std::move(host)});
      return {};
    };
    const std::string& name = parameters[i].name;
    SPORKLE_RETURN_IF_ERROR(add(snapshot.parameters, name, parameters[i].value));
    SPORKLE_RETURN_IF_ERROR(add(snapshot.optimizer, std::string(kFirstMoment) + name, first[i]));
    SPORKLE_RETURN_IF_ERROR(add(snapshot.optimizer, std::string(kSecondMoment) + name, second[i]));
  }
  return snapshot;
}

Status LanguageModel::restore(const LoadedTrainingState& state) {
  const auto take = [&](const std::string& name, const tensor::Shape& shape, Tensor* to) -> Status {
    const auto found = std::ranges::find(state.tensors, name, &OwnedTensor::name);
    if (found == state.tensors.end()) return corrupt_data("the training state lacks \"" + name + "\"");
    if (found->shape != dims(shape))
      return corrupt_data("the training state's \"" + name + "\" has another shape than the model's parameter");
    *to = tensor::from_host<float>(*context_, found->values, shape);
    return to->status();
  };
  const auto& parameters = decoder_->parameters();
  std::vector<Tensor> first(parameters.size()), second(parameters.size());
  for (size_t i = 0; i < parameters.size(); ++i) {
    const tensor::Shape& shape = parameters[i].value.shape();
    SPORKLE_RETURN_IF_ERROR(take(std::string(kFirstMoment) + parameters[i].name, shape, &first[i]));
    SPORKLE_RETURN_IF_ERROR(take(std::string(kSecondMoment) + parameters[i].name, shape, &second[i]));
  }
  // Checkpoints of before the scale was kept lack it: it then finds its place again.
  if (scales_loss() && state.values.contains(kLossScale) && state.values.contains(kGoodSteps)) {
    const double scale = state.values.at(kLossScale), good = state.values.at(kGoodSteps);
    if (!(scale >= kLeastScale && scale <= kMostScale) || std::exp2(std::rint(std::log2(scale))) != scale)
      return corrupt_data("the training state's loss_scale is " + std::to_string(scale) + ", not a power of 2 from " +
                          std::to_string(kLeastScale) + " to " + std::to_string(kMostScale));
    if (!(good >= 0 && good <= std::numeric_limits<int>::max()))
      return corrupt_data("the training state's good_steps is " + std::to_string(good));
    loss_scale_ = scale;
    good_steps_ = static_cast<int>(good);
  }
  SPORKLE_RETURN_IF_ERROR(adamw_->set_moments(first, second));
  adamw_->set_step(state.step);
  return {};
}

Result<std::string> parameters_sha256_hex(LanguageModel& model) {
  SPORKLE_ASSIGN_OR_RETURN(const LanguageModel::Snapshot snapshot, model.snapshot());
  return to_hex(parameters_sha256(views(snapshot.parameters)));
}

}  // namespace sporkle::train
