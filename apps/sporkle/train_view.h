// What `sporkle train` says while it works: a live screen in a terminal, plain lines elsewhere, events with --json.
//
// Writes to standard output. One thread at a time.
#pragma once

#include <cstdint>
#include <deque>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "apps/sporkle/train_screen.h"
#include "base/progress.h"
#include "base/terminal.h"
#include "train/trainer.h"

namespace sporkle::app {

class TrainView {
 public:
  explicit TrainView(bool json);

  // Data is being read, tokenized, or a tokenizer learned from it.
  void preparing(std::string_view what, uint64_t done, uint64_t total);
  // The trainer is ready. `name` is what the user calls the data.
  void start(train::Trainer& trainer, const std::string& corpus);
  // After the first step, before step(): what starting took, and where the memory goes.
  void first_step(train::Trainer& trainer, const train::StepReport& report);
  void step(const train::StepReport& report);
  void evaluating(int64_t done, int64_t total);
  void evaluated(int64_t step, const train::Evaluation& evaluation);
  void saved(int64_t step, const std::filesystem::path& checkpoint);
  // The device was lost and is there again: steps after `resumes_at` are made anew.
  void recovered(int64_t step, int64_t resumes_at, const Status& failure);
  // After a failure: what is on the terminal stays, and messages go below it.
  void release() { terminal_.release(); }
  // The last words, or the summary event. `resume` is the command that goes on where training was stopped.
  Status finish(train::Trainer& trainer, const std::string& resume);

 private:
  void end_preparation();
  void draw(bool now);
  double elapsed_s() const;
  double recent_loss() const;

  const bool json_;
  Terminal terminal_;
  std::optional<Progress> progress_;
  std::string preparing_;
  double preparing_since_s_ = 0;
  TrainScreen screen_;
  SpeedEstimate speed_{30};
  const double opened_s_;
  double started_s_, drawn_s_ = 0, ready_s_ = 0;
  int64_t first_step_ = 0, event_every_ = 1;
  uint64_t tokens_before_ = 0;
  double training_s_ = 0;
  std::deque<double> losses_;  // of the last steps
  std::optional<train::Evaluation> last_evaluation_;
  std::filesystem::path last_checkpoint_;
};

}  // namespace sporkle::app
