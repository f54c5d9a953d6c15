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
  const double share = 1.0 / static_cast<double>(accumulation);
  std::vector<Tensor> gradients;
  double mean_loss = 0;
  Tensor last_loss;
  for (int64_t part = 0; part < accumulation; ++part) {
    SPORKLE_ASSIGN_OR_RETURN(std::vector<Tensor> more, gradients_of(batch, part, accumulation, dropout, &last_loss));
    if (accumulation == 1) {
      gradients = std::move(more);
      break;
    }
    for (size_t i = 0; i < more.size(); ++i) {
      more[i] = more[i] * share;
      if (part > 0) more[i] = gradients[i] + more[i];
    }
    more.push_back(last_loss);
    SPORKLE_RETURN_IF_ERROR(tensor::realize(more));
    more.pop_back();
    gradients.clear();
    for (const Tensor& g : more) gradients.push_back(g.detach());
    SPORKLE_ASSIGN_OR_RETURN(const double loss, last_loss.item());
    mean_loss += loss * share;
  }
  return update(gradients, accumulation == 1 ? &last_loss : nullptr, mean_loss, learning_rate);
}

Result<std::vector<Tensor>> LanguageModel::gradients_of(const Batch& batch, int64_t part, int64_t parts,
                                                        nn::DropoutKey dropout, Tensor* loss) {
  std::vector<Tensor> parameters;
  for (const nn::Parameter& p : gpt_->parameters()) parameters.push_back(p.value);
  const auto part_tokens = static_cast<size_t>(static_cast<int64_t>(batch.inputs.size()) / parts);
  const int64_t part_rows = batch.rows / parts;
  const size_t first = static_cast<size_t>(part) * part_tokens;
  const Tensor inputs = tokens(*context_, batch.inputs.subspan(first, part_tokens), part_rows);
  const Tensor targets = tokens(*context_, batch.targets.subspan(first, part_tokens), part_rows);
  // Parts of one step drop different elements.
  const nn::DropoutKey key{dropout.seed + static_cast<uint64_t>(part), dropout.step};
  *loss = gpt_->loss(inputs, targets, &key);
  return tensor::grad(*loss, parameters);
}

Result<double> LanguageModel::part_gradients(const Batch& batch, int64_t part, int64_t parts, nn::DropoutKey dropout,
                                             std::span<float> gradients) {
  if (batch.rows <= 0 || parts <= 0 || part < 0 || part >= parts || batch.rows % parts != 0)
    return invalid_argument("a batch of " + std::to_string(batch.rows) + " sequences has no part " +
                            std::to_string(part) + " of " + std::to_string(parts) + " equal ones");
  if (gradients.size() != parameter_count())
    return invalid_argument("there are " + std::to_string(parameter_count()) + " gradients and room for " +
                            std::to_string(gradients.size()));
  Tensor loss;
  SPORKLE_ASSIGN_OR_RETURN(std::vector<Tensor> made, gradients_of(batch, part, parts, dropout, &loss));
  const double share = 1.0 / static_cast<double>(parts);
  for (Tensor& gradient : made) gradient = gradient * share;
  made.push_back(loss);
  SPORKLE_RETURN_IF_ERROR(tensor::realize(made));
  made.pop_back();
  size_t at = 0;
  for (const Tensor& gradient : made) {
    SPORKLE_ASSIGN_OR_RETURN(const std::vector<float> values, gradient.to_host<float>());
    std::ranges::copy(values, gradients.begin() + static_cast<ptrdiff_t>(at));
    at += values.size();
  }
  return loss.item();
}

Result<StepResult> LanguageModel::apply_gradients(std::span<const float> gradients, double loss, double learning_rate) {
  if (gradients.size() != parameter_count())
    return invalid_argument("there are " + std::to_string(parameter_count()) + " parameters and " +
                            std::to_string(gradients.size()) + " gradients");
  std::vector<Tensor> tensors;
  size_t at = 0;
  for (const nn::Parameter& p : gpt_->parameters()) {
    const auto count = static_cast<size_t>(tensor::element_count(p.value.shape()));
    tensors.push_back(tensor::from_host<float>(*context_, gradients.subspan(at, count), p.value.shape()));
    SPORKLE_RETURN_IF_ERROR(tensors.back().status());
    at += count;
  }
  return update(tensors, nullptr, loss, learning_rate);
}

Result<StepResult> LanguageModel::update(const std::vector<Tensor>& gradients, const Tensor* loss, double known_loss,
                                         double learning_rate) {
  // Kept so that a step that goes wrong can be taken back.
  const std::vector<nn::Parameter> before = gpt_->parameters();
  const nn::AdamW optimizer_before = *adamw_;
  const Tensor norm = adamw_->update(gpt_->parameters(), gradients, learning_rate);
  std::vector<Tensor> results{norm};
  if (loss) results.push_back(*loss);
  for (const nn::Parameter& p : gpt_->parameters()) results.push_back(p.value);
  adamw_->append_state(&results);
  Status status = tensor::realize(results);
  StepResult result;
  if (status.ok()) {
    const auto norm_value = norm.item();
    const auto loss_value = loss ? loss->item() : Result<double>(known_loss);
    status = !norm_value.ok() ? norm_value.status() : loss_value.status();
    if (status.ok()) result = {*loss_value, *norm_value};
  }
  if (status.ok() && !(std::isfinite(result.loss) && std::isfinite(result.gradient_norm)))
    status =
        unavailable("the loss or its gradient is not finite (loss " + std::to_string(result.loss) + ", gradient norm " +
                    std::to_string(result.gradient_norm) + "); a lower learning rate or a longer warm-up helps");
  if (!status.ok()) {
    gpt_->parameters() = before;
    *adamw_ = optimizer_before;
    return status;
  }
  return result;
}

Result<double> LanguageModel::loss(const Batch& batch) {
  return gpt_->loss(tokens(*context_, batch.inputs, batch.rows), tokens(*context_, batch.targets, batch.rows)).item();
}

Result<LanguageModel::Snapshot> LanguageModel::snapshot() {
  Snapshot snapshot;
  snapshot.optimizer_steps = adamw_->step();
  const auto& parameters = gpt_->parameters();
  for (size_t i = 0; i < parameters.size(); ++i) {
    const auto add = [&](std::vector<OwnedTensor>& to, std::string name, const Tensor& value) -> Status {
      SPORKLE_ASSIGN_OR_RETURN(std::vector<float> host, value.to_host<float>());
      to.push_back({std::move(name), dims(value.shape()), std::move(host)});
      return {};
    };
    const std::string& name = parameters[i].name;
    SPORKLE_RETURN_IF_ERROR(add(snapshot.parameters, name, parameters[i].value));
    SPORKLE_RETURN_IF_ERROR(add(snapshot.optimizer, std::string(kFirstMoment) + name, adamw_->first_moments()[i]));
    SPORKLE_RETURN_IF_ERROR(add(snapshot.optimizer, std::string(kSecondMoment) + name, adamw_->second_moments()[i]));
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
  adamw_->first_moments() = std::move(first);
  adamw_->second_moments() = std::move(second);
  adamw_->set_step(state.step);
  return {};
}

Result<std::string> parameters_sha256_hex(LanguageModel& model) {
  SPORKLE_ASSIGN_OR_RETURN(const LanguageModel::Snapshot snapshot, model.snapshot());
  return to_hex(parameters_sha256(views(snapshot.parameters)));
}

}  // namespace sporkle::train
