#include "train/image_classifier.h"

#include <charconv>
#include <cmath>

#include "base/seconds.h"
#include "tensor/autograd.h"
#include "tensor/layers.h"
#include "train/safetensors.h"

namespace sporkle::train {

using tensor::Tensor;

namespace {

constexpr std::string_view kFirstMoment = "first_moment/", kSecondMoment = "second_moment/";
constexpr char kSteps[] = "steps";

std::vector<int64_t> dims(const tensor::Shape& shape) { return {shape.begin(), shape.end()}; }

}  // namespace

Result<std::unique_ptr<ImageClassifier>> ImageClassifier::create(const nn::ResNetConfig& config,
                                                                 const OptimizationConfig& optimization,
                                                                 const DeviceChoice& choice) {
  std::unique_ptr<ImageClassifier> classifier(new ImageClassifier);
  if (choice.open_context) {
    SPORKLE_ASSIGN_OR_RETURN(classifier->context_, choice.open_context());
  } else {
    hal::DeviceOptions device;
    device.threads = choice.threads;
    tensor::ContextOptions options;
    if (optimization.numerics == "fast") options.numerics = ir::Numerics::fast;
    SPORKLE_ASSIGN_OR_RETURN(classifier->context_, tensor::Context::open(choice.device, device, options));
  }
  classifier->context_->set_memory_cap(choice.memory_cap_bytes);
  SPORKLE_ASSIGN_OR_RETURN(nn::ResNet net,
                           nn::ResNet::create(*classifier->context_, config, static_cast<uint64_t>(optimization.seed)));
  classifier->net_ = std::move(net);
  classifier->adamw_config_ = {optimization.beta1, optimization.beta2, optimization.epsilon, optimization.weight_decay,
                               optimization.gradient_clip};
  classifier->adamw_.emplace(*classifier->context_, classifier->adamw_config_, classifier->net_->parameters());
  return classifier;
}

Status ImageClassifier::restart(std::span<const Tensor> values) {
  std::vector<nn::Parameter>& parameters = net_->parameters();
  if (values.size() != parameters.size())
    return invalid_argument(std::to_string(values.size()) + " values for " + std::to_string(parameters.size()) +
                            " parameters");
  for (size_t i = 0; i < values.size(); ++i)
    if (values[i].shape() != parameters[i].value.shape())
      return invalid_argument(parameters[i].name + " has the shape " + to_string(parameters[i].value.shape()) +
                              ", not " + to_string(values[i].shape()));
  for (size_t i = 0; i < values.size(); ++i) parameters[i].value = values[i];
  net_->reset_statistics();
  adamw_.emplace(*context_, adamw_config_, parameters);
  return {};
}

Status ImageClassifier::check(const ImageBatch& batch, bool with_classes) const {
  const nn::ResNetConfig& config = net_->config();
  const bool sensible = batch.count > 0 && batch.height > 0 && batch.width > 0;
  if (!sensible ||
      static_cast<int64_t>(batch.images.size()) != batch.count * config.channels * batch.height * batch.width)
    return invalid_argument(std::to_string(batch.images.size()) + " numbers are no " + std::to_string(batch.count) +
                            " images of " + std::to_string(config.channels) + " x " + std::to_string(batch.height) +
                            " x " + std::to_string(batch.width));
  if (!with_classes) return {};
  if (static_cast<int64_t>(batch.classes.size()) != batch.count)
    return invalid_argument("there are " + std::to_string(batch.count) + " images and " +
                            std::to_string(batch.classes.size()) + " classes");
  for (const int32_t name : batch.classes)
    if (name < 0 || name >= config.classes)
      return invalid_argument("class " + std::to_string(name) + " is not among the network's " +
                              std::to_string(config.classes));
  return {};
}

Result<StepResult> ImageClassifier::step(const ImageBatch& batch, double learning_rate) {
  SPORKLE_RETURN_IF_ERROR(check(batch, true));
  const double start_s = now_s();
  SPORKLE_RETURN_IF_ERROR(adamw_->adopt(net_->parameters()));
  std::vector<Tensor> statistics = net_->statistics_values();
  SPORKLE_RETURN_IF_ERROR(tensor::realize(statistics));
  const Tensor images = tensor::from_host<float>(*context_, batch.images,
                                                 {batch.count, net_->config().channels, batch.height, batch.width});
  const Tensor classes = tensor::from_host<int32_t>(*context_, batch.classes, {batch.count});
  const Tensor rates = adamw_->next_rates(learning_rate);
  std::vector<Tensor> data{images, classes, rates};
  for (const Tensor& tensor : adamw_->state()) data.push_back(tensor);
  data.insert(data.end(), statistics.begin(), statistics.end());

  const std::vector<int64_t> shape{batch.count, batch.height, batch.width};
  std::vector<Tensor> results;
  Status status;
  double building_s = 0;
  if (capture_ && captured_ == shape) {
    building_s = now_s() - start_s;
    Result<std::vector<Tensor>> replayed = capture_->replay(data);
    status = replayed.status();
    if (replayed.ok()) results = *std::move(replayed);
  } else {
    const std::vector<nn::Parameter> before = net_->parameters();
    const nn::AdamW optimizer_before = *adamw_;
    const Tensor loss = tensor::cross_entropy(net_->training_logits(images), classes);
    const Result<std::vector<Tensor>> gradients = tensor::grad(loss, nn::values(net_->parameters()));
    status = gradients.status();
    if (status.ok()) {
      const Tensor norm = adamw_->update(net_->parameters(), adamw_->pack(*gradients), rates, loss);
      results = {norm, loss};
      adamw_->append_state(&results);
      net_->append_state(&results);
      building_s = now_s() - start_s;
      capture_.reset();
      Result<tensor::Capture> captured = tensor::Capture::record(data, results);
      status = captured.status();
      if (captured.ok()) capture_ = std::move(*captured);
      captured_ = shape;
    }
    if (!status.ok()) {
      net_->parameters() = before;
      *adamw_ = optimizer_before;
      net_->set_statistics(statistics);
    }
  }
  if (!status.ok()) {
    adamw_->set_step(adamw_->step() - 1);
    return status;
  }
  const size_t state = adamw_->state().size();
  adamw_->set_state(net_->parameters(), std::span(results).subspan(2, state));
  net_->set_statistics(std::span(results).subspan(2 + state));

  StepResult result;
  result.building_s = building_s;
  SPORKLE_ASSIGN_OR_RETURN(result.gradient_norm, results[0].item());
  SPORKLE_ASSIGN_OR_RETURN(result.loss, results[1].item());
  if (std::isfinite(result.loss) && std::isfinite(result.gradient_norm)) return result;
  net_->set_statistics(statistics);
  adamw_->set_step(adamw_->step() - 1);
  return unavailable("the loss or its gradient is not finite (loss " + std::to_string(result.loss) +
                     ", gradient norm " + std::to_string(result.gradient_norm) + "); a lower learning rate helps");
}

Result<std::vector<float>> ImageClassifier::scores(const ImageBatch& batch) {
  SPORKLE_RETURN_IF_ERROR(check(batch, false));
  const Tensor images = tensor::from_host<float>(*context_, batch.images,
                                                 {batch.count, net_->config().channels, batch.height, batch.width});
  return net_->logits(images).to_host<float>();
}

Status ImageClassifier::save(const std::filesystem::path& path) const {
  std::vector<std::pair<std::string, Tensor>> named;
  const std::vector<nn::Parameter>& parameters = net_->parameters();
  const std::vector<Tensor> first = adamw_->first_moments(), second = adamw_->second_moments();
  for (size_t i = 0; i < parameters.size(); ++i) {
    named.emplace_back(parameters[i].name, parameters[i].value);
    named.emplace_back(std::string(kFirstMoment) + parameters[i].name, first[i]);
    named.emplace_back(std::string(kSecondMoment) + parameters[i].name, second[i]);
  }
  for (const nn::Parameter& p : net_->statistics()) named.emplace_back(p.name, p.value);
  std::vector<std::vector<float>> values;
  std::vector<StoredTensor> stored;
  for (const auto& [name, tensor] : named) {
    SPORKLE_ASSIGN_OR_RETURN(std::vector<float> host, tensor.to_host<float>());
    values.push_back(std::move(host));
    stored.push_back({name, StoredType::f32, dims(tensor.shape()), std::as_bytes(std::span(values.back()))});
  }
  return write_safetensors(path, std::move(stored), {{kSteps, std::to_string(adamw_->step())}});
}

Status ImageClassifier::load(const std::filesystem::path& path) {
  SPORKLE_ASSIGN_OR_RETURN(const SafetensorsFile file, SafetensorsFile::open(path));
  const auto take = [&](const std::string& name, const tensor::Shape& shape) -> Result<Tensor> {
    const StoredTensor* stored = file.find(name);
    if (!stored) return invalid_argument(path.string() + ": it has no tensor " + name);
    if (stored->shape != dims(shape))
      return invalid_argument(path.string() + ": " + name + " has the shape " + shape_text(stored->shape) + ", not " +
                              shape_text(dims(shape)));
    SPORKLE_ASSIGN_OR_RETURN(const std::vector<float> values, to_f32(*stored));
    return tensor::from_host<float>(*context_, values, shape);
  };
  const auto steps = file.metadata().find(kSteps);
  int64_t done = -1;
  if (steps != file.metadata().end()) {
    const char* end = steps->second.data() + steps->second.size();
    const auto [rest, error] = std::from_chars(steps->second.data(), end, done);
    if (error != std::errc() || rest != end) done = -1;
  }
  if (done < 0) return corrupt_data(path.string() + ": it does not say how many steps were done");
  std::vector<nn::Parameter> parameters = net_->parameters();
  std::vector<Tensor> first, second, statistics;
  for (nn::Parameter& p : parameters) {
    const tensor::Shape shape = p.value.shape();
    SPORKLE_ASSIGN_OR_RETURN(p.value, take(p.name, shape));
    SPORKLE_ASSIGN_OR_RETURN(first.emplace_back(), take(std::string(kFirstMoment) + p.name, shape));
    SPORKLE_ASSIGN_OR_RETURN(second.emplace_back(), take(std::string(kSecondMoment) + p.name, shape));
  }
  for (const nn::Parameter& p : net_->statistics()) {
    SPORKLE_ASSIGN_OR_RETURN(statistics.emplace_back(), take(p.name, p.value.shape()));
  }
  SPORKLE_RETURN_IF_ERROR(adamw_->set_moments(first, second));
  net_->parameters() = std::move(parameters);
  net_->set_statistics(statistics);
  adamw_->set_step(done);
  return {};
}

}  // namespace sporkle::train
