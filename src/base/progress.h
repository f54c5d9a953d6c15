// Progress of work whose size is known: a line that is redrawn in a terminal, a line now and then elsewhere.
//
//   Progress progress(&terminal, "reading", total_bytes);
//   progress.update(done_bytes, "genesis.txt");          as often as convenient; drawing is limited to what can be seen
//   progress.finish("4.04 MB of text");
//
// Not thread-safe. The Terminal must outlive it.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "base/terminal.h"

namespace sporkle {

// Estimates speed and remaining time from (done, time) pairs, weighting the last `memory_s` seconds most, so that a
// change of speed shows soon and a hiccup does not.
class SpeedEstimate {
 public:
  explicit SpeedEstimate(double memory_s = 15) : memory_s_(memory_s) {}
  void update(double done, double now_s);
  // Units a second; 0 until two updates with time between them.
  double per_second() const { return speed_; }
  // Empty while no speed is known.
  std::optional<double> remaining_s(double total) const;

 private:
  double memory_s_;
  double done_ = 0, time_s_ = 0, speed_ = 0;
  bool started_ = false;
};

// "██████▌░░░" in exactly `width` columns; the fraction is clamped to [0, 1].
std::string progress_bar(double fraction, int width);

struct ProgressOptions {
  bool quiet = false;         // print nothing, for --json
  double plain_every_s = 10;  // between lines where there is no terminal
  double redraw_every_s = 0.1;
  std::function<double()> now_s;  // a steady clock where empty
};

class Progress {
 public:
  Progress(Terminal* terminal, std::string title, double total, ProgressOptions options = {});
  void update(double done, std::string_view details = "");
  // The last line, which stays: title, details and how long it took.
  void finish(std::string_view details = "");

 private:
  std::string line(double done, std::string_view details, int width) const;

  Terminal* terminal_;
  std::string title_;
  double total_;
  ProgressOptions options_;
  SpeedEstimate speed_;
  double started_s_;
  double drawn_s_;
};

}  // namespace sporkle
