#include "base/progress.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>

#include "base/format_units.h"

namespace sporkle {

void SpeedEstimate::update(double done, double now_s) {
  if (!started_) {
    started_ = true;
    done_ = done;
    time_s_ = now_s;
    return;
  }
  const double elapsed = now_s - time_s_;
  if (elapsed <= 0) return;
  const double now = std::max(0.0, done - done_) / elapsed;
  const double keep = speed_ == 0 ? 0 : std::exp(-elapsed / memory_s_);
  speed_ = keep * speed_ + (1 - keep) * now;
  done_ = done;
  time_s_ = now_s;
}

std::optional<double> SpeedEstimate::remaining_s(double total) const {
  if (speed_ <= 0) return std::nullopt;
  return std::max(0.0, total - done_) / speed_;
}

std::string progress_bar(double fraction, int width) {
  static constexpr const char* kEighths[] = {"░", "▏", "▎", "▍", "▌", "▋", "▊", "▉", "█"};
  width = std::max(width, 0);
  if (!(fraction > 0)) fraction = 0;  // NaN too
  const int eighths = static_cast<int>(std::lround(std::min(fraction, 1.0) * width * 8));
  std::string out;
  for (int i = 0; i < width; ++i) out += kEighths[std::clamp(eighths - 8 * i, 0, 8)];
  return out;
}

Progress::Progress(Terminal* terminal, std::string title, double total, ProgressOptions options)
    : terminal_(terminal), title_(std::move(title)), total_(total), options_(std::move(options)) {
  if (!options_.now_s) {
    options_.now_s = [] {
      return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
    };
  }
  started_s_ = options_.now_s();
  speed_.update(0, started_s_);
  drawn_s_ = terminal_->interactive() ? -std::numeric_limits<double>::infinity() : started_s_;
}

std::string Progress::line(double done, std::string_view details, int width) const {
  const double fraction = total_ > 0 ? std::clamp(done / total_, 0.0, 1.0) : 0;
  std::string out = title_ + " ";
  if (width >= 60) out += progress_bar(fraction, 20) + " ";
  out += pad_left(format_fixed(std::floor(100 * fraction), 0), 3) + "%";
  if (const auto remaining = speed_.remaining_s(total_)) out += "  " + format_duration(*remaining) + " left";
  if (!details.empty()) out.append("  ").append(details);
  return out;
}

void Progress::update(double done, std::string_view details) {
  const double now = options_.now_s();
  speed_.update(done, now);
  if (options_.quiet) return;
  if (now - drawn_s_ < (terminal_->interactive() ? options_.redraw_every_s : options_.plain_every_s)) return;
  drawn_s_ = now;
  if (terminal_->interactive()) {
    const std::string drawn[] = {line(done, details, terminal_->width())};
    terminal_->redraw(drawn);
  } else {
    terminal_->print(line(done, details, 0));
  }
}

void Progress::finish(std::string_view details) {
  if (options_.quiet) return;
  std::string last = title_ + " took " + format_duration(options_.now_s() - started_s_);
  if (!details.empty()) last.append(": ").append(details);
  if (terminal_->interactive()) {
    const std::string drawn[] = {last};
    terminal_->redraw(drawn);
    terminal_->release();
  } else {
    terminal_->print(last);
  }
}

}  // namespace sporkle
