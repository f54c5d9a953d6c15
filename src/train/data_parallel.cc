#include "train/data_parallel.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <numeric>
#include <thread>

#include "base/log.h"
#include "base/seconds.h"

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
  int64_t parts;
  nn::DropoutKey dropout;
  std::vector<std::vector<int64_t>> parts_of;  // of each device

  std::mutex mutex;
  std::condition_variable changed;
  std::vector<std::vector<float>> gradients;  // of each part, until they are added
  std::vector<double> losses;
  std::vector<bool> done;
  std::vector<Status> failures;  // of each device
  size_t running = 0;

  Status make(LanguageModel& model, int64_t part) {
    std::vector<float> made(model.parameter_count());
    SPORKLE_ASSIGN_OR_RETURN(const double loss, model.part_gradients(batch, part, parts, dropout, made));
    std::lock_guard lock(mutex);
    gradients[static_cast<size_t>(part)] = std::move(made);
    losses[static_cast<size_t>(part)] = loss;
    done[static_cast<size_t>(part)] = true;
    changed.notify_all();
    return {};
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
  parameters_.resize(first_.parameter_count());
  SPORKLE_RETURN_IF_ERROR(first_.get_parameters(parameters_));
  for (const auto& other : others_)
    if (other) SPORKLE_RETURN_IF_ERROR(other->set_parameters(parameters_));
  return {};
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

void DataParallel::run(Step& step, size_t device) {
  const double start = now_s();
  int64_t made = 0;
  Status status;
  for (const int64_t part : step.parts_of[device]) {
    status = step.make(model(device), part);
    if (!status.ok()) break;
    ++made;
  }
  std::lock_guard lock(step.mutex);
  step.failures[device] = status;
  if (status.ok() && made > 0) {
    const double each = (now_s() - start) / static_cast<double>(made);
    seconds_[device] = seconds_[device] > 0 ? kKept * seconds_[device] + (1 - kKept) * each : each;
  }
  --step.running;
  step.changed.notify_all();
}

// Opens what was lost again, or goes on without it. The parts that it leaves are made by the first device.
Status DataParallel::replace_lost(Step& step) {
  for (size_t d = 1; d < device_count(); ++d) {
    const Status& failure = step.failures[d];
    if (failure.ok()) continue;
    if (failure.code() != Code::unavailable) return failure;
    log(LogLevel::error, "train", failure.message());
    others_[d - 1].reset();
    seconds_[d] = 0;
    auto again = reopen_ ? reopen_(d - 1) : Result<std::unique_ptr<LanguageModel>>(failure);
    if (again.ok()) {
      others_[d - 1] = std::move(*again);
    } else {
      log(LogLevel::error, "train", "training goes on without the device: " + again.status().message());
    }
  }
  if (!step.failures[0].ok()) return step.failures[0];
  for (int64_t part = 0; part < step.parts; ++part)
    if (!step.done[static_cast<size_t>(part)]) SPORKLE_RETURN_IF_ERROR(step.make(first_, part));
  return {};
}

Result<StepResult> DataParallel::step(const Batch& batch, int64_t parts, double learning_rate, nn::DropoutKey dropout) {
  if (parts < static_cast<int64_t>(device_count()))
    return invalid_argument("a step of " + std::to_string(parts) + (parts == 1 ? " part" : " parts") +
                            " cannot be shared by " + std::to_string(device_count()) +
                            " devices: raise train.gradient_accumulation to that number or more");
  last_split_ = plan(parts);
  ++steps_;
  Step step{batch, parts, dropout, {}, {}, {}, {}, {}, {}, {}};
  step.gradients.resize(static_cast<size_t>(parts));
  step.losses.resize(static_cast<size_t>(parts));
  step.done.resize(static_cast<size_t>(parts));
  step.failures.resize(device_count());
  // Early parts everywhere first, so that few wait to be added.
  step.parts_of.resize(device_count());
  std::vector<int64_t> left = last_split_;
  for (int64_t part = 0; part < parts;)
    for (size_t d = 0; d < left.size() && part < parts; ++d)
      if (left[d] > 0) {
        step.parts_of[d].push_back(part++);
        --left[d];
      }

  step.running = device_count();
  std::vector<std::jthread> threads;
  for (size_t d = 0; d < device_count(); ++d) threads.emplace_back([this, &step, d] { run(step, d); });

  const size_t count = first_.parameter_count();
  std::vector<float> sum;
  double loss = 0;
  const double share = 1.0 / static_cast<double>(parts);
  int64_t added = 0;
  // In the order of the parts, each as soon as it is there, up to one that nobody makes.
  const auto add = [&] {
    for (; added < parts; ++added) {
      const auto next = static_cast<size_t>(added);
      std::unique_lock lock(step.mutex);
      step.changed.wait(lock, [&] { return step.done[next] || step.running == 0; });
      if (!step.done[next]) return;
      const std::vector<float> part = std::move(step.gradients[next]);
      loss += step.losses[next] * share;
      lock.unlock();
      if (added == 0) {
        sum = part;
      } else {
        for (size_t i = 0; i < count; ++i) sum[i] += part[i];
      }
    }
  };
  add();
  threads.clear();
  SPORKLE_RETURN_IF_ERROR(replace_lost(step));
  add();
  SPORKLE_ASSIGN_OR_RETURN(const StepResult result, first_.apply_gradients(sum, loss, learning_rate));
  SPORKLE_RETURN_IF_ERROR(synchronize());
  return result;
}

}  // namespace sporkle::train
