#include "train/language_model.h"

#include <algorithm>
#include <cmath>

#include "tensor/autograd.h"

namespace sporkle::train {

using tensor::Tensor;

namespace {

constexpr std::string_view kFirstMoment = "first_moment/", kSecondMoment = "second_moment/";

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

}  // namespace

Result<std::unique_ptr<LanguageModel>> LanguageModel::create(const Gpt2Shape& shape,
                                                             const OptimizationConfig& optimization,
                                                             const DeviceChoice& choice) {
  std::unique_ptr<LanguageModel> model(new LanguageModel);
  model->shape_ = shape;
  model->adamw_config_ = adamw_config(optimization);
  hal::DeviceOptions device;
  device.threads = choice.threads;
  SPORKLE_ASSIGN_OR_RETURN(model->context_, tensor::Context::open(choice.device, device));
  model->context_->set_memory_cap(choice.memory_cap_bytes);
  const nn::GptConfig config{
      shape.layers, shape.heads, shape.width, shape.context, shape.vocab_size, shape.layer_norm_epsilon, shape.dropout};
  SPORKLE_ASSIGN_OR_RETURN(nn::Gpt gpt,
                           nn::Gpt::create(*model->context_, config, static_cast<uint64_t>(optimization.seed)));
  model->gpt_ = std::move(gpt);
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

void LanguageModel::reset_optimizer() { adamw_.emplace(*context_, adamw_config_, gpt_->parameters()); }

Result<StepResult> LanguageModel::step(const Batch& batch, int64_t accumulation, double learning_rate,
                                       nn::DropoutKey dropout) {
  if (batch.rows <= 0 || accumulation <= 0 || batch.rows % accumulation != 0)
    return invalid_argument("a batch of " + std::to_string(batch.rows) + " sequences cannot be cut into " +
                            std::to_string(accumulation) + " equal parts");
  SPORKLE_RETURN_IF_ERROR(adamw_->adopt(gpt_->parameters()));
  const std::vector<Tensor> parameters = nn::values(gpt_->parameters());
  const auto part_tokens = static_cast<size_t>(static_cast<int64_t>(batch.inputs.size()) / accumulation);
  const int64_t part_rows = batch.rows / accumulation;
  const double share = 1.0 / static_cast<double>(accumulation);

  // A step without random numbers is captured, and replayed as long as batches have its shape.
  const bool captures = accumulation == 1 && shape_.dropout == 0;
  if (captures && capture_ && capture_rows_ == batch.rows && capture_tokens_ == batch.inputs.size())
    return replay(batch, learning_rate);

  Tensor gradients, last_loss, inputs, targets;
  double mean_loss = 0;
  for (int64_t part = 0; part < accumulation; ++part) {
    const size_t first = static_cast<size_t>(part) * part_tokens;
    inputs = tokens(*context_, batch.inputs.subspan(first, part_tokens), part_rows);
    targets = tokens(*context_, batch.targets.subspan(first, part_tokens), part_rows);
    // Parts of one step drop different elements.
    const nn::DropoutKey key{dropout.seed + static_cast<uint64_t>(part), dropout.step};
    last_loss = gpt_->loss(inputs, targets, &key);
    SPORKLE_ASSIGN_OR_RETURN(const std::vector<Tensor> more, tensor::grad(last_loss, parameters));
    if (accumulation == 1) {
      gradients = adamw_->pack(more);
      break;
    }
    const Tensor scaled = adamw_->pack(more) * share;
    gradients = (part > 0 ? gradients + scaled : scaled).detach();
    SPORKLE_RETURN_IF_ERROR(tensor::realize({gradients, last_loss}));
    note_memory();
    SPORKLE_ASSIGN_OR_RETURN(const double loss, last_loss.item());
    mean_loss += loss * share;
  }

  if (!std::isfinite(mean_loss)) return not_finite(mean_loss, std::nan(""));
  // Kept so that a step that cannot be run is taken back. One whose loss or gradient is not finite changes nothing.
  const std::vector<nn::Parameter> before = gpt_->parameters();
  const nn::AdamW optimizer_before = *adamw_;
  std::vector<Tensor> data{inputs, targets, adamw_->next_rates(learning_rate)};
  for (const Tensor& tensor : adamw_->state()) data.push_back(tensor);
  const Tensor norm = adamw_->update(gpt_->parameters(), gradients, data[2], accumulation == 1 ? last_loss : Tensor());
  std::vector<Tensor> results{norm};
  if (accumulation == 1) results.push_back(last_loss);
  adamw_->append_state(&results);
  Status status;
  if (captures) {
    capture_.reset();
    Result<tensor::Capture> captured = tensor::Capture::record(data, results);
    status = captured.status();
    if (captured.ok()) capture_ = std::move(*captured);
    capture_rows_ = batch.rows;
    capture_tokens_ = batch.inputs.size();
  } else {
    status = tensor::realize(results);
  }
  if (!status.ok()) {
    gpt_->parameters() = before;
    *adamw_ = optimizer_before;
    return status;
  }
  if (accumulation == 1) note_memory();
  return finish_step(norm, accumulation == 1 ? last_loss : Tensor(), mean_loss);
}

Result<StepResult> LanguageModel::replay(const Batch& batch, double learning_rate) {
  std::vector<Tensor> data{tokens(*context_, batch.inputs, batch.rows), tokens(*context_, batch.targets, batch.rows),
                           adamw_->next_rates(learning_rate)};
  for (const Tensor& tensor : adamw_->state()) data.push_back(tensor);
  const Result<std::vector<Tensor>> results = capture_->replay(data);
  if (!results.ok()) {
    adamw_->set_step(adamw_->step() - 1);
    return results.status();
  }
  adamw_->set_state(gpt_->parameters(), std::span(*results).subspan(2));
  return finish_step((*results)[0], (*results)[1], 0);
}

Result<StepResult> LanguageModel::finish_step(const Tensor& norm, const Tensor& loss, double mean_loss) {
  StepResult result{mean_loss, 0};
  SPORKLE_ASSIGN_OR_RETURN(result.gradient_norm, norm.item());
  if (loss.defined()) {
    SPORKLE_ASSIGN_OR_RETURN(result.loss, loss.item());
  }
  if (std::isfinite(result.loss) && std::isfinite(result.gradient_norm)) return result;
  adamw_->set_step(adamw_->step() - 1);
  return not_finite(result.loss, result.gradient_norm);
}

void LanguageModel::note_memory() {
  const tensor::PlanMemory& plan = context_->last_plan();
  const size_t packed = adamw_->size_bytes();
  step_memory_ = {packed, 2 * packed, packed, plan.live_bytes.size() > 1 ? plan.live_bytes[1] : 0, 0, plan.keep_every};
  step_memory_.peak = 3 * packed + plan.arena_bytes + plan.result_bytes;
}

Result<double> LanguageModel::loss(const Batch& batch) {
  return gpt_->loss(tokens(*context_, batch.inputs, batch.rows), tokens(*context_, batch.targets, batch.rows)).item();
}

Result<LanguageModel::Snapshot> LanguageModel::snapshot() {
  Snapshot snapshot;
  snapshot.optimizer_steps = adamw_->step();
  const auto& parameters = gpt_->parameters();
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
  const auto& parameters = gpt_->parameters();
  std::vector<Tensor> first(parameters.size()), second(parameters.size());
  for (size_t i = 0; i < parameters.size(); ++i) {
    const tensor::Shape& shape = parameters[i].value.shape();
    SPORKLE_RETURN_IF_ERROR(take(std::string(kFirstMoment) + parameters[i].name, shape, &first[i]));
    SPORKLE_RETURN_IF_ERROR(take(std::string(kSecondMoment) + parameters[i].name, shape, &second[i]));
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
