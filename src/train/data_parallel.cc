#include "train/data_parallel.h"

#include <algorithm>
#include <array>
#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <numeric>
#include <thread>

#include "base/log.h"
#include "base/seconds.h"
#include "tensor/tensor.h"

namespace sporkle::train {
namespace {

constexpr double kKept = 0.5;           // of a device's mean when a new time comes in
constexpr int64_t kTryAgainSteps = 16;  // a device that gets no part is measured again after so many

}  // namespace

std::vector<int64_t> split_parts(int64_t parts, std::span<const double> seconds) {
  double known = 0;
  int64_t count = 0;
  for (const double s : seconds)
    if (s > 0) {
      known += s;
      ++count;
    }
  const double otherwise = count > 0 ? known / static_cast<double>(count) : 1.0;
  std::vector<int64_t> split(seconds.size(), 0);
  for (int64_t part = 0; part < parts; ++part) {
    size_t best = 0;
    double best_end = 0;
    for (size_t d = 0; d < seconds.size(); ++d) {
      const double end = static_cast<double>(split[d] + 1) * (seconds[d] > 0 ? seconds[d] : otherwise);
      if (d > 0 && end >= best_end) continue;
      best = d;
      best_end = end;
    }
    ++split[best];
  }
  return split;
}

// What the threads of one step share.
struct DataParallel::Step {
  const Batch& batch;
  const int64_t parts;
  const nn::DropoutKey dropout;
  std::vector<std::vector<int64_t>> parts_of;  // of each device
  std::vector<size_t> maker;                   // of each part

  // Belong to the thread of the first device.
  tensor::Tensor sum;
  double loss = 0, made_s = 0, waited_s = 0;

  std::mutex mutex;
  std::condition_variable changed;
  std::vector<std::vector<float>> gradients;  // of each part, until they are added; empty: not made
  std::vector<double> losses;
  std::vector<bool> has_ended;  // of each device
  std::vector<Status> failures;

  Step(const Batch& all, int64_t count, nn::DropoutKey key, std::span<const int64_t> split)
      : batch(all),
        parts(count),
        dropout(key),
        parts_of(split.size()),
        gradients(static_cast<size_t>(count)),
        losses(static_cast<size_t>(count)),
        has_ended(split.size(), false),
        failures(split.size()) {
    std::vector<int64_t> left(split.begin(), split.end());
    const auto give = [&](size_t device) {
      parts_of[device].push_back(static_cast<int64_t>(maker.size()));
      maker.push_back(device);
      --left[device];
    };
    // The first device's come first, since their sum stays where it is; each of the others gets early ones, so that few
    // wait to be added.
    while (left[0] > 0) give(0);
    while (static_cast<int64_t>(maker.size()) < count)
      for (size_t d = 1; d < left.size(); ++d)
        if (left[d] > 0) give(d);
  }
};

Result<std::unique_ptr<DataParallel>> DataParallel::create(LanguageModel& first,
                                                           std::vector<std::unique_ptr<LanguageModel>> others,
                                                           Reopen reopen) {
  for (const auto& other : others)
    if (!other || other->parameter_count() != first.parameter_count())
      return invalid_argument("the models of a data-parallel step must be alike");
  std::unique_ptr<DataParallel> group(new DataParallel(first, std::move(others), std::move(reopen)));
  SPORKLE_RETURN_IF_ERROR(group->synchronize());
  return group;
}

Status DataParallel::synchronize() {
  is_current_.assign(others_.size(), false);
  return first_.read_packed_parameters(&parameters_);
}

std::vector<int64_t> DataParallel::plan(int64_t parts) {
  std::vector<double> seconds;
  std::vector<size_t> devices;
  for (size_t d = 0; d < device_count(); ++d) {
    if (d > 0 && !others_[d - 1]) continue;
    devices.push_back(d);
    seconds.push_back(seconds_[d]);
  }
  std::vector<int64_t> split = split_parts(parts, seconds);
  if (steps_ % kTryAgainSteps == 0)
    for (int64_t& own : split)
      if (own == 0) {
        --*std::ranges::max_element(split);
        own = 1;
      }
  std::vector<int64_t> result(device_count(), 0);
  for (size_t i = 0; i < devices.size(); ++i) result[devices[i]] = split[i];
  return result;
}

void DataParallel::note_time(size_t device, double seconds, int64_t parts) {
  const double each = seconds / static_cast<double>(parts);
  seconds_[device] = seconds_[device] > 0 ? kKept * seconds_[device] + (1 - kKept) * each : each;
}

Status DataParallel::make_parts(Step& step, size_t device) {
  LanguageModel& model = *others_[device - 1];
  if (step.parts_of[device].empty()) return {};
  if (!is_current_[device - 1]) SPORKLE_RETURN_IF_ERROR(model.set_packed_parameters(parameters_));
  is_current_[device - 1] = true;
  const double start = now_s();
  for (const int64_t part : step.parts_of[device]) {
    tensor::Tensor sum;
    SPORKLE_ASSIGN_OR_RETURN(const tensor::Tensor of_part,
                             model.add_part(step.batch, part, step.parts, step.dropout, &sum));
    std::vector<float> made = take_buffer(static_cast<size_t>(sum.size()));
    SPORKLE_RETURN_IF_ERROR(sum.read<float>(made));
    SPORKLE_ASSIGN_OR_RETURN(const double loss, of_part.item());
    std::lock_guard lock(step.mutex);
    step.gradients[static_cast<size_t>(part)] = std::move(made);
    step.losses[static_cast<size_t>(part)] = loss;
    step.changed.notify_all();
  }
  note_time(device, now_s() - start, static_cast<int64_t>(step.parts_of[device].size()));
  return {};
}

std::vector<float> DataParallel::take_buffer(size_t count) {
  std::unique_lock lock(buffers_mutex_);
  if (buffers_.empty()) {
    lock.unlock();
    return std::vector<float>(count);
  }
  std::vector<float> buffer = std::move(buffers_.back());
  buffers_.pop_back();
  buffer.resize(count);
  return buffer;
}

void DataParallel::give_back_buffer(std::vector<float> buffer) {
  std::lock_guard lock(buffers_mutex_);
  buffers_.push_back(std::move(buffer));
}

void DataParallel::run(Step& step, size_t device) {
  const Status status = make_parts(step, device);
  std::lock_guard lock(step.mutex);
  step.failures[device] = status;
  step.has_ended[device] = true;
  step.changed.notify_all();
}

Status DataParallel::add_parts(Step& step) {
  const double share = 1.0 / static_cast<double>(step.parts), start = now_s();
  const auto own = static_cast<int64_t>(step.parts_of[0].size());
  std::vector<tensor::Tensor> losses;  // read at the end, so that a part is built while the one before it is computed
  for (int64_t part = 0; part < own; ++part) {
    SPORKLE_ASSIGN_OR_RETURN(const tensor::Tensor loss,
                             first_.add_part(step.batch, part, step.parts, step.dropout, &step.sum));
    losses.push_back(loss);
  }
  for (const tensor::Tensor& of_part : losses) {
    SPORKLE_ASSIGN_OR_RETURN(const double loss, of_part.item());
    step.loss += loss * share;
  }
  if (own > 0) note_time(0, now_s() - start, own);
  step.made_s = now_s() - start;
  for (int64_t part = own; part < step.parts; ++part) {
    const auto at = static_cast<size_t>(part);
    std::unique_lock lock(step.mutex);
    const double waits_since = now_s();
    step.changed.wait(lock, [&] { return !step.gradients[at].empty() || step.has_ended[step.maker[at]]; });
    step.waited_s += now_s() - waits_since;
    std::vector<float> made = std::move(step.gradients[at]);
    double loss = step.losses[at];
    const Status& failure = step.failures[step.maker[at]];
    if (made.empty() && failure.code() != Code::device_lost) return failure;
    lock.unlock();
    if (made.empty()) {  // its device was lost
      SPORKLE_ASSIGN_OR_RETURN(const tensor::Tensor again,
                               first_.add_part(step.batch, part, step.parts, step.dropout, &step.sum));
      SPORKLE_ASSIGN_OR_RETURN(loss, again.item());
    } else {
      SPORKLE_RETURN_IF_ERROR(first_.add_gradients(made, &step.sum));
      give_back_buffer(std::move(made));
    }
    step.loss += loss * share;
  }
  return {};
}

// Opens what was lost again, or goes on without it.
Status DataParallel::reopen_lost(const Step& step) {
  for (size_t d = 1; d < device_count(); ++d) {
    const Status& failure = step.failures[d];
    if (failure.ok()) continue;
    if (failure.code() != Code::device_lost) return failure;
    log(LogLevel::error, "train", failure.message());
    others_[d - 1].reset();
    is_current_[d - 1] = false;
    seconds_[d] = 0;
    auto again = reopen_ ? reopen_(d - 1) : Result<std::unique_ptr<LanguageModel>>(failure);
    if (again.ok()) {
      others_[d - 1] = std::move(*again);
    } else {
      log(LogLevel::error, "train", "training goes on without the device: " + again.status().message());
    }
  }
  return {};
}

// `until_s`: everything was added, applied, and read for the others.
void DataParallel::log_times(const Step& step, std::span<const int64_t> split, const std::array<double, 3>& until_s) {
  std::string text = "parts";
  for (const int64_t count : split) text += " " + std::to_string(count);
  char times[160];
  std::snprintf(times, sizeof times, "; own %.1f ms, waited %.1f, added %.1f, applied %.1f, parameters read %.1f",
                1e3 * step.made_s, 1e3 * step.waited_s, 1e3 * (until_s[0] - step.made_s - step.waited_s),
                1e3 * (until_s[1] - until_s[0]), 1e3 * (until_s[2] - until_s[1]));
  log(LogLevel::info, "train", text + times);
}

Result<StepResult> DataParallel::step(const Batch& batch, int64_t parts, double learning_rate, nn::DropoutKey dropout) {
  if (parts < static_cast<int64_t>(device_count()))
    return invalid_argument("a step of " + std::to_string(parts) + (parts == 1 ? " part" : " parts") +
                            " cannot be shared by " + std::to_string(device_count()) +
                            " devices: raise train.gradient_accumulation to that number or more");
  last_split_ = plan(parts);
  ++steps_;
  const double start = now_s();
  Step step(batch, parts, dropout, last_split_);
  std::vector<std::jthread> threads;
  for (size_t d = 1; d < device_count(); ++d)
    if (others_[d - 1]) threads.emplace_back([this, &step, d] { run(step, d); });
  const Status added = add_parts(step);
  threads.clear();
  SPORKLE_RETURN_IF_ERROR(added);
  const double added_s = now_s() - start;
  SPORKLE_RETURN_IF_ERROR(reopen_lost(step));
  SPORKLE_ASSIGN_OR_RETURN(const StepResult result, first_.apply_gradients(step.sum, step.loss, learning_rate));
  const double applied_s = now_s() - start;
  SPORKLE_RETURN_IF_ERROR(synchronize());
  if (debug_level() >= 1) log_times(step, last_split_, {added_s, applied_s, now_s() - start});
  return result;
}

}  // namespace sporkle::train
