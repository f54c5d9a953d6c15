#include "apps/sporkle/train_screen.h"

#include <algorithm>
#include <cstdio>

#include "apps/sporkle/screen_parts.h"
#include "base/format_units.h"
#include "base/plot.h"
#include "base/progress.h"
#include "base/terminal.h"

namespace sporkle::app {
namespace {

constexpr int kFewestPlotLines = 6;
constexpr int kMostPlotLines = 20;

std::string last_loss(const History& history) { return history.empty() ? "-" : format_fixed(history.back().second, 3); }

std::string step_text(const TrainScreen& screen) {
  return "step " + std::to_string(screen.step) + " of " + std::to_string(screen.total_steps);
}

std::string learning_rate_text(double rate) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2e", rate);
  return text;
}

}  // namespace

std::vector<std::string> render_train_screen(const TrainScreen& screen, const ScreenSize& size) {
  const int width = std::clamp(size.width, 80, 120);
  const bool colour = size.colour;
  std::vector<std::string> lines;
  lines.push_back(both_ends(
      paint("Sporkle train", Colour::bold, colour) + "  " + printable(screen.model) + ", " + printable(screen.corpus),
      clock_text(screen.elapsed_s, screen.remaining_s), width));
  const double fraction = fraction_done(static_cast<double>(screen.step), static_cast<double>(screen.total_steps));
  const std::string counts = step_text(screen) + "  " + pad_left(format_fixed(100 * fraction, 0), 3) + "%";
  lines.push_back(paint(progress_bar(fraction, width - display_width(counts) - 2), Colour::cyan, colour) + "  " +
                  counts);
  std::string speed = format_count(static_cast<double>(screen.tokens)) + " tokens";
  if (screen.tokens_per_second > 0) speed += ", " + format_count(screen.tokens_per_second) + " tok/s";
  lines.push_back(both_ends(printable(screen.device),
                            speed + ", learning rate " + learning_rate_text(screen.learning_rate), width));
  lines.emplace_back();

  const int note_lines = screen.note.empty() ? 0 : 1;
  const int plot_lines = std::min(size.height - 1 - static_cast<int>(lines.size()) - note_lines, kMostPlotLines);
  if (plot_lines >= kFewestPlotLines) {
    const PlotSeries series[] = {
        {"train loss " + last_loss(screen.train_loss), Colour::green, screen.train_loss},
        {"validation " + last_loss(screen.validation_loss), Colour::yellow, screen.validation_loss}};
    for (std::string& line : plot(series, {width, plot_lines, "steps (loss in nats per token)", colour})) {
      lines.push_back(std::move(line));
    }
  } else {
    lines.push_back("train loss " + last_loss(screen.train_loss) + ", validation " + last_loss(screen.validation_loss));
  }
  if (note_lines > 0) lines.push_back(cut_to_width(paint(printable(screen.note), Colour::dim, colour), width));
  return lines;
}

std::string render_train_line(const TrainScreen& screen) {
  std::string line = step_text(screen) + ", train loss " + last_loss(screen.train_loss) + ", validation " +
                     last_loss(screen.validation_loss) + ", learning rate " + learning_rate_text(screen.learning_rate) +
                     ", " + format_count(screen.tokens_per_second) + " tok/s, " +
                     clock_text(screen.elapsed_s, screen.remaining_s);
  if (!screen.note.empty()) line += ", " + printable(screen.note);
  return line;
}

}  // namespace sporkle::app
