// One training step over several devices at once: data parallelism on one machine.
//
// A step's batch is cut into parts (train.gradient_accumulation of them), and every device has a copy of the
// parameters. The first device makes the first parts and keeps their sum; the others make the rest and send theirs,
// which it adds in order, so with `strict` devices the bits are those of one device that makes all of them. It applies
// the optimiser and hands the new parameters to the others. How many parts a device gets follows from its measured
// speed, anew in every step: what goes between devices is what the slower ones make, so the fastest is best named
// first. A device that is lost in the middle of a step is opened again, and its parts are made by the first one.
//
// Belongs to one thread at a time; runs a thread for each device during a step.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "train/language_model.h"

namespace sporkle::train {

// How many of `parts` each device should get so that the last one ends earliest. `seconds`: of one part on each device;
// 0: not known, taken as the mean of the known ones. Devices before others where it is all the same.
std::vector<int64_t> split_parts(int64_t parts, std::span<const double> seconds);

class DataParallel {
 public:
  // Makes another model on the device that `replicas[index]` was on; for a device that was lost.
  using Reopen = std::function<Result<std::unique_ptr<LanguageModel>>(size_t index)>;

  // `first` outlives this, as the model that everyone else uses; `others` get its parameters.
  static Result<std::unique_ptr<DataParallel>> create(LanguageModel& first,
                                                      std::vector<std::unique_ptr<LanguageModel>> others,
                                                      Reopen reopen = {});

  // As LanguageModel::step; invalid_argument where there are fewer parts than devices.
  Result<StepResult> step(const Batch& batch, int64_t parts, double learning_rate, nn::DropoutKey dropout);

  // After the first model's parameters were set from outside.
  Status synchronize();

  size_t device_count() const { return 1 + others_.size(); }
  // Of the last step: the parts that each device made.
  const std::vector<int64_t>& last_split() const { return last_split_; }

 private:
  struct Step;
  DataParallel(LanguageModel& first, std::vector<std::unique_ptr<LanguageModel>> others, Reopen reopen)
      : first_(first),
        others_(std::move(others)),
        reopen_(std::move(reopen)),
        is_current_(others_.size(), false),
        seconds_(1 + others_.size()) {}
  std::vector<int64_t> plan(int64_t parts);
  // Of a device but the first, on a thread of its own.
  void run(Step& step, size_t device);
  Status make_parts(Step& step, size_t device);
  // The first device's parts and then everyone's, in order.
  Status add_parts(Step& step);
  Status reopen_lost(const Step& step);
  static void log_times(const Step& step, std::span<const int64_t> split, const std::array<double, 3>& until_s);
  void note_time(size_t device, double seconds, int64_t parts);

  // Memory for a part's gradients: fresh pages of so much would cost more than the copy.
  std::vector<float> take_buffer(size_t count);
  void give_back_buffer(std::vector<float> buffer);

  LanguageModel& first_;
  std::vector<std::unique_ptr<LanguageModel>> others_;  // nullptr: lost for good
  Reopen reopen_;
  std::vector<float> parameters_;    // those of the next step
  std::vector<uint8_t> is_current_;  // of the others: whether they have them; bytes, as each has a thread
  std::vector<double> seconds_;      // of one part on each device, a moving mean; 0: not known
  std::vector<int64_t> last_split_;
  int64_t steps_ = 0;
  std::mutex buffers_mutex_;
  std::vector<std::vector<float>> buffers_;
};

}  // namespace sporkle::train
