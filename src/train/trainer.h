// Training on one machine: data, model, schedule, evaluation and checkpoints, resumable to the same bits.
//
// Belongs to one thread at a time.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>

#include "base/status.h"
#include "nn/schedule.h"
#include "train/config.h"
#include "train/data_parallel.h"
#include "train/dataset.h"
#include "train/evaluate.h"
#include "train/language_model.h"

namespace sporkle::train {

// The model that a configuration describes for a tokenizer.
ModelShape model_shape(const TrainConfig& config, int64_t vocab_size);
nn::LearningRateSchedule learning_rate_schedule(const TrainConfig& config);

struct StepReport {
  int64_t step = 0;  // done, this one included
  double loss = 0;   // nats a token, before the step
  double gradient_norm = 0;
  double learning_rate = 0;
  double seconds = 0;
  double host_seconds = 0;  // of them, before the first device had the whole step: building, planning, loading kernels
  uint64_t tokens = 0;      // seen so far
};

struct TrainCallbacks {
  std::function<void(const StepReport&)> step;
  std::function<void(int64_t step, const Evaluation&)> evaluated;
  std::function<void(int64_t step, const std::filesystem::path&)> saved;
  std::function<void(int64_t done, int64_t total)> evaluating;  // windows, in the course of an evaluation
  // The device was lost after `step` steps and is open again; training goes on after `resumes_at` of them.
  std::function<void(int64_t step, int64_t resumes_at, const Status& failure)> recovered;
  // Asked between steps; true: save and return. In the evaluation at the end, true ends it: everything is saved then.
  std::function<bool()> stop;
};

class Trainer {
 public:
  // Opens data and model. resume: goes on from the latest checkpoint in config.output.directory, which must have been
  // made with the same data, model, batch and seed (invalid_argument names what differs); not_found when there is none.
  // Without it, a directory that holds checkpoints is already_exists. The directory is made here, so that a run that
  // could not save fails before it starts.
  static Result<std::unique_ptr<Trainer>> create(const TrainConfig& config, const DeviceChoice& choice, bool resume,
                                                 const PrepareProgress& progress = {});

  // The devices of one step: 1, or as many as choice.device lists ("cpu,vulkan:0").
  size_t device_count() const { return group_ ? group_->device_count() : 1; }
  const TrainConfig& config() const { return config_; }
  const Dataset& dataset() const { return dataset_; }
  LanguageModel& model() { return *model_; }
  int64_t step() const { return step_; }
  uint64_t tokens() const { return static_cast<uint64_t>(step_ * config_.tokens_per_step()); }

  // Trains to config().total_steps(), evaluating and saving as configured, and at the end in any case. Returns early
  // (ok, step() < total_steps()) when callbacks.stop says so. When a save fails, training ends with that failure; the
  // checkpoints before it are as they were. A device that is lost is opened again, and the steps since the latest
  // checkpoint (or the first step) are made anew, to the same bits where it is `strict`; one that is lost again and
  // again before the step where it was lost ends training with device_lost.
  Status train(const TrainCallbacks& callbacks);

  Result<StepReport> train_step();
  // Over the validation part: eval_batches batches, or with `all` every window.
  Result<Evaluation> evaluate_validation(bool all, const EvaluationProgress& progress = {});
  Result<std::filesystem::path> save();

 private:
  using OpenModel = std::function<Result<std::unique_ptr<LanguageModel>>(const std::string& device)>;

  Trainer(const TrainConfig& config, Dataset dataset);
  // On all devices; with the latest checkpoint's state where `resumes`.
  Status open_models(bool resumes);
  Status resume();
  // After a failure with device_lost; the failure where nothing helps.
  Status recover(const Status& failure, const TrainCallbacks& callbacks);
  // Everything up to the end or to callbacks.stop; `ended`: nothing is left to do.
  Status advance(const TrainCallbacks& callbacks, bool* ended);

  TrainConfig config_;
  Dataset dataset_;
  nn::LearningRateSchedule schedule_;
  std::vector<std::string> devices_;
  OpenModel open_;
  std::unique_ptr<LanguageModel> model_;
  std::unique_ptr<DataParallel> group_;  // of several devices, the model's first
  int64_t step_ = 0;
  int64_t lost_at_ = -1;  // the last step at which the device was lost, and how often without getting further
  int losses_there_ = 0;
  std::vector<int32_t> inputs_, targets_;
};

}  // namespace sporkle::train
