#include "train/trainer.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <string_view>
#include <system_error>
#include <thread>

#include "base/file.h"
#include "base/log.h"
#include "base/seconds.h"
#include "hal/host/system.h"
#include "hal/registry.h"

namespace sporkle::train {
namespace {

// Names the first key that must not change between a run and its continuation, or "".
std::string changed_key(const TrainConfig& was, const TrainConfig& is) {
  if (was.data != is.data) return "[data]";
  if (was.model != is.model) return "[model]";
  const auto &a = was.train, &b = is.train;
  if (a.batch_size != b.batch_size) return "train.batch_size";
  if (a.gradient_accumulation != b.gradient_accumulation) return "train.gradient_accumulation";
  if (a.seed != b.seed) return "train.seed";
  return "";
}

constexpr int kMostLosses = 3;    // of a device, without a step more than before
constexpr int kMostAttempts = 5;  // to open it again
constexpr auto kFirstWait = std::chrono::milliseconds(500);

// Makes the directory, and a file in it for a moment.
Status check_writable(const std::filesystem::path& directory) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) return errno_status(error.value(), "cannot create the output directory " + directory.string());
  const std::filesystem::path probe = directory / ".writable";
  SPORKLE_RETURN_IF_ERROR(write_file_atomically(probe, std::string_view()).with_context("the output directory"));
  std::filesystem::remove(probe, error);
  return {};
}

}  // namespace

ModelShape model_shape(const TrainConfig& config, int64_t vocab_size) {
  ModelShape shape;
  shape.layers = config.model.layers;
  shape.heads = config.model.heads;
  shape.width = config.model.width;
  shape.context = config.model.context;
  shape.vocab_size = vocab_size;
  shape.dropout = config.model.dropout;
  if (config.model.architecture != "llama") return shape;
  shape.architecture = Architecture::llama;
  shape.kv_heads = config.model.kv_heads > 0 ? config.model.kv_heads : shape.heads;
  shape.inner_width = config.model.inner_width > 0 ? config.model.inner_width : (shape.width * 8 / 3 + 63) / 64 * 64;
  shape.rotary_base = config.model.rotary_base;
  shape.tied = config.model.head == "tied";
  return shape;
}

nn::LearningRateSchedule learning_rate_schedule(const TrainConfig& config) {
  return {config.train.learning_rate, config.train.min_learning_rate, static_cast<double>(config.train.warmup_steps),
          static_cast<double>(config.total_steps())};
}

Trainer::Trainer(const TrainConfig& config, Dataset dataset)
    : config_(config), dataset_(std::move(dataset)), schedule_(learning_rate_schedule(config)) {
  const auto tokens = static_cast<size_t>(config.tokens_per_step());
  inputs_.resize(tokens);
  targets_.resize(tokens);
}

Result<std::unique_ptr<Trainer>> Trainer::create(const TrainConfig& config, const DeviceChoice& choice, bool resume,
                                                 const PrepareProgress& progress) {
  SPORKLE_RETURN_IF_ERROR(validate_config(config));
  const auto existing = find_checkpoint(config.output.directory);
  if (!resume && existing.ok())
    return Status(Code::already_exists, "the output directory " + config.output.directory +
                                            " holds a checkpoint already (" + existing->string() +
                                            "); go on from it with --resume, or choose another output.directory");
  if (resume && !existing.ok()) return existing.status().with_context("cannot resume");
  SPORKLE_ASSIGN_OR_RETURN(Dataset dataset, Dataset::open(config.data, config.model.context, progress));
  SPORKLE_RETURN_IF_ERROR(check_writable(config.output.directory));
  std::unique_ptr<Trainer> trainer(new Trainer(config, std::move(dataset)));
  SPORKLE_ASSIGN_OR_RETURN(trainer->devices_, hal::parse_device_list(choice.device));
  const ModelShape shape = model_shape(config, trainer->dataset_.tokenizer().vocab_size());
  // Each GPU's thread needs a core of its own: a processor that waits for a thread is late as a whole.
  int processor_threads = choice.threads;
  if (processor_threads == 0 && trainer->devices_.size() > 1) {
    SPORKLE_ASSIGN_OR_RETURN(const int all, hal::thread_count(0));
    processor_threads = std::max(1, all - static_cast<int>(trainer->devices_.size()) + 1);
  }
  trainer->open_ = [shape, optimization = config.train, choice, processor_threads](const std::string& device) {
    DeviceChoice one = choice;
    one.device = device;
    one.threads = processor_threads;
    return LanguageModel::create(shape, optimization, one);
  };
  SPORKLE_RETURN_IF_ERROR(trainer->open_models(resume));
  return trainer;
}

Status Trainer::open_models(bool resumes) {
  SPORKLE_ASSIGN_OR_RETURN(model_, open_(devices_[0]));
  step_ = 0;
  if (resumes) SPORKLE_RETURN_IF_ERROR(resume());
  SPORKLE_RETURN_IF_ERROR(model_->prepare());
  if (devices_.size() == 1) return {};
  if (config_.train.gradient_accumulation < static_cast<int64_t>(devices_.size()))
    return invalid_argument("a step of " + std::to_string(config_.train.gradient_accumulation) +
                            " parts cannot be shared by " + std::to_string(devices_.size()) +
                            " devices: raise train.gradient_accumulation (and lower train.batch_size)");
  std::vector<std::unique_ptr<LanguageModel>> others;
  for (const std::string& device : std::span(devices_).subspan(1)) {
    SPORKLE_ASSIGN_OR_RETURN(std::unique_ptr<LanguageModel> other, open_(device));
    others.push_back(std::move(other));
  }
  const auto reopen = [this](size_t index) { return open_(devices_[index + 1]); };
  SPORKLE_ASSIGN_OR_RETURN(group_, DataParallel::create(*model_, std::move(others), reopen));
  return {};
}

Status Trainer::recover(const Status& failure, const TrainCallbacks& callbacks) {
  log(LogLevel::error, "train", failure.message());
  losses_there_ = step_ > lost_at_ ? 1 : losses_there_ + 1;
  lost_at_ = std::max(lost_at_, step_);
  if (losses_there_ > kMostLosses)
    return failure.with_context("the device was lost " + std::to_string(losses_there_) + " times before step " +
                                std::to_string(lost_at_ + 1));
  const int64_t step = step_;
  group_.reset();
  model_.reset();
  Status status;
  for (int attempt = 0; attempt < kMostAttempts; ++attempt) {
    if (attempt > 0) std::this_thread::sleep_for(kFirstWait * (1 << (attempt - 1)));  // a driver resets its GPU
    status = open_models(find_checkpoint(config_.output.directory).ok());
    if (!status.ok()) continue;
    if (callbacks.recovered) callbacks.recovered(step, step_, failure);
    return {};
  }
  return status.with_context("the device was lost and cannot be opened again");
}

Status Trainer::resume() {
  SPORKLE_ASSIGN_OR_RETURN(const Checkpoint checkpoint, load_checkpoint(config_.output.directory));
  SPORKLE_ASSIGN_OR_RETURN(const LoadedTrainingState state, load_training_state(checkpoint.folder));
  SPORKLE_ASSIGN_OR_RETURN(const TrainConfig was,
                           parse_config(state.config_toml, (checkpoint.folder / "state.json").string()));
  if (const std::string key = changed_key(was, config_); !key.empty())
    return invalid_argument("cannot resume from " + checkpoint.folder.string() + ": " + key +
                            " differs from the run that made it; restore it, or train into another output.directory");
  std::vector<float> values;
  for (const OwnedTensor& t : checkpoint.parameters) values.insert(values.end(), t.values.begin(), t.values.end());
  SPORKLE_RETURN_IF_ERROR(model_->set_parameters(values).with_context(checkpoint.folder.string()));
  SPORKLE_RETURN_IF_ERROR(model_->restore(state).with_context(checkpoint.folder.string()));
  step_ = state.step;
  return {};
}

Result<StepReport> Trainer::train_step() {
  const double start = now_s(), planned_s = model_->context().counters().host_seconds;
  const auto seed = static_cast<uint64_t>(config_.train.seed);
  const auto step = static_cast<uint64_t>(step_);
  const int64_t rows = config_.train.batch_size * config_.train.gradient_accumulation;
  dataset_.batch(dataset_.training(), seed, step, 0, inputs_, targets_);
  StepReport report;
  report.learning_rate = schedule_.at(static_cast<double>(step_));
  const Batch batch{inputs_, targets_, rows};
  const int64_t parts = config_.train.gradient_accumulation;
  SPORKLE_ASSIGN_OR_RETURN(const StepResult result,
                           group_ ? group_->step(batch, parts, report.learning_rate, {seed, step})
                                  : model_->step(batch, parts, report.learning_rate, {seed, step}));
  ++step_;
  report.step = step_;
  report.loss = result.loss;
  report.gradient_norm = result.gradient_norm;
  report.tokens = tokens();
  report.seconds = now_s() - start;
  report.host_seconds = result.building_s + model_->context().counters().host_seconds - planned_s;
  return report;
}

Result<Evaluation> Trainer::evaluate_validation(bool all, const EvaluationProgress& progress) {
  const int64_t rows = config_.train.batch_size, batches = config_.train.eval_batches;
  const bool every = all || batches > std::numeric_limits<int64_t>::max() / rows;
  return evaluate(*model_, dataset_, dataset_.validation(), every ? 0 : batches * rows, rows, progress);
}

Result<std::filesystem::path> Trainer::save() {
  SPORKLE_ASSIGN_OR_RETURN(const LanguageModel::Snapshot snapshot, model_->snapshot());
  const std::vector<NamedTensor> parameters = views(snapshot.parameters);
  CheckpointContents contents;
  contents.shape = model_->shape();
  contents.parameters = parameters;
  contents.tokenizer = dataset_.shared_tokenizer();
  TrainingState state;
  state.step = step_;
  state.tokens = static_cast<int64_t>(tokens());
  state.seed = config_.train.seed;
  state.values = snapshot.values;
  state.config_toml = config_to_toml(config_);
  state.tensors = views(snapshot.optimizer);
  contents.state = std::move(state);
  return save_checkpoint(config_.output.directory, step_, contents, config_.output.keep_checkpoints);
}

Status Trainer::train(const TrainCallbacks& callbacks) {
  for (bool ended = false; !ended;) {
    const Status status = advance(callbacks, &ended);
    if (status.code() != Code::device_lost) SPORKLE_RETURN_IF_ERROR(status);
    if (!status.ok()) SPORKLE_RETURN_IF_ERROR(recover(status, callbacks));
  }
  return {};
}

Status Trainer::advance(const TrainCallbacks& callbacks, bool* ended) {
  const int64_t total = config_.total_steps();
  const auto due = [](int64_t step, int64_t every) { return every > 0 && step % every == 0; };
  const auto save_now = [&]() -> Status {
    SPORKLE_ASSIGN_OR_RETURN(const std::filesystem::path folder, save());
    if (callbacks.saved) callbacks.saved(step_, folder);
    return {};
  };
  const auto stopped = [&] { return callbacks.stop && callbacks.stop(); };
  // In the course of training an evaluation is short, and done to its end.
  const auto evaluating = [&](int64_t done, int64_t windows) {
    if (callbacks.evaluating) callbacks.evaluating(done, windows);
    return step_ < total || !stopped();
  };
  while (step_ < total) {
    if (stopped()) {
      SPORKLE_RETURN_IF_ERROR(save_now());
      *ended = true;
      return {};
    }
    SPORKLE_ASSIGN_OR_RETURN(const StepReport report, train_step());
    if (callbacks.step) callbacks.step(report);
    if (step_ == total) break;
    if (due(step_, config_.train.eval_every)) {
      SPORKLE_ASSIGN_OR_RETURN(const Evaluation evaluation, evaluate_validation(false, evaluating));
      if (callbacks.evaluated) callbacks.evaluated(step_, evaluation);
    }
    if (due(step_, config_.train.checkpoint_every)) SPORKLE_RETURN_IF_ERROR(save_now());
  }
  SPORKLE_RETURN_IF_ERROR(save_now());
  const Result<Evaluation> evaluation = evaluate_validation(true, evaluating);
  *ended = evaluation.status().code() != Code::device_lost;
  if (evaluation.status().code() == Code::cancelled) return {};
  SPORKLE_RETURN_IF_ERROR(evaluation.status());
  if (callbacks.evaluated) callbacks.evaluated(step_, *evaluation);
  return {};
}

}  // namespace sporkle::train
