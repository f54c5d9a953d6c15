// What `sporkle train` shows while it trains, as lines of text. Pure functions of a plain struct, thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "apps/sporkle/demo_screen.h"

namespace sporkle::app {

struct TrainScreen {
  std::string model;   // "GPT, 0.86M parameters"
  std::string corpus;  // "King James Bible, 4.04 MB"
  std::string device;  // "cpu, 2 threads, strict"
  int64_t step = 0;
  int64_t total_steps = 0;
  uint64_t tokens = 0;
  double tokens_per_second = 0;
  double learning_rate = 0;
  History train_loss;       // (step, loss)
  History validation_loss;  // (step, loss)
  double elapsed_s = 0;
  std::optional<double> remaining_s;
  std::string note;  // the latest thing worth saying: "saved out/step-500"
};

// At most height - 1 lines of at most `width` columns, the loss curve in most of them.
std::vector<std::string> render_train_screen(const TrainScreen& screen, const ScreenSize& size);

// One line for where there is no terminal.
std::string render_train_line(const TrainScreen& screen);

}  // namespace sporkle::app
