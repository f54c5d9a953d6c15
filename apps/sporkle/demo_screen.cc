#include "apps/sporkle/demo_screen.h"

#include <algorithm>

#include "apps/sporkle/screen_parts.h"
#include "base/format_units.h"
#include "base/plot.h"
#include "base/progress.h"
#include "base/terminal.h"

namespace sporkle::app {
namespace {

constexpr int kFewestPlotLines = 6;
constexpr int kMostPlotLines = 20;
constexpr int kMostEvents = 6;

struct StateLook {
  const char* mark;
  const char* name;
  Colour colour;
};

StateLook look(DemoNodeState state) {
  switch (state) {
    case DemoNodeState::starting:
      return {"○", "starting", Colour::dim};
    case DemoNodeState::training:
      return {"●", "training", Colour::green};
    case DemoNodeState::sending:
      return {"●", "sending", Colour::cyan};
    case DemoNodeState::waiting:
      return {"●", "waiting", Colour::yellow};
    case DemoNodeState::lost:
      return {"✗", "lost", Colour::red};
    case DemoNodeState::killed:
      return {"✗", "killed", Colour::red};
    case DemoNodeState::left:
      return {"○", "left", Colour::dim};
  }
  return {"?", "?", Colour::plain};
}

bool is_present(DemoNodeState state) {
  return state == DemoNodeState::training || state == DemoNodeState::sending || state == DemoNodeState::waiting;
}

// The columns of the table of nodes. `bar` and `note` shrink to nothing in a narrow terminal.
struct Columns {
  int name = 10, id = 9, state = 9, steps = 6, bar = 0, speed = 8, tokens = 8, bytes = 9, note = 0;
  explicit Columns(int width) {
    const int fixed = 2 + name + id + 1 + state + steps + speed + tokens + 2 * bytes;
    const int spare = width - fixed;
    if (spare >= 14) note = 14;
    if (spare - note >= 8) bar = std::min(16, spare - note - 1);
  }
};

std::string node_header(const Columns& columns) {
  std::string line = "  " + pad_right("node", columns.name) + pad_right("id", columns.id) + " " +
                     pad_right("state", columns.state) + pad_left("step", columns.steps);
  if (columns.bar > 0) line += std::string(columns.bar + 1, ' ');
  line += pad_left("tok/s", columns.speed) + pad_left("tokens", columns.tokens) + pad_left("sent", columns.bytes) +
          pad_left("received", columns.bytes);
  return line;
}

std::string node_line(const DemoNode& node, const Columns& columns, bool colour) {
  const StateLook state = look(node.state);
  const bool present = is_present(node.state);
  std::string steps, bar;
  if (present && node.lease_steps > 0) {
    steps = std::to_string(node.lease_step) + "/" + std::to_string(node.lease_steps);
    bar = progress_bar(fraction_done(node.lease_step, node.lease_steps), columns.bar);
  }
  std::string line = paint(state.mark, state.colour, colour) + " " + pad_right(printable(node.name), columns.name) +
                     paint(pad_right(printable(node.short_id), columns.id), Colour::dim, colour) + " " +
                     paint(pad_right(state.name, columns.state), state.colour, colour) + pad_left(steps, columns.steps);
  if (columns.bar > 0) line += " " + paint(pad_right(bar, columns.bar), state.colour, colour);
  line += pad_left(present && node.tokens_per_second > 0 ? format_count(node.tokens_per_second) : "", columns.speed) +
          pad_left(format_count(static_cast<double>(node.tokens)), columns.tokens) +
          pad_left(format_bytes(static_cast<double>(node.bytes_sent)), columns.bytes) +
          pad_left(format_bytes(static_cast<double>(node.bytes_received)), columns.bytes);
  if (columns.note > 0) {
    std::string note;
    if (node.speed_limit < 1) note = "limited " + format_fixed(100 * node.speed_limit, 0) + "%";
    if (node.joined_late) note = note.empty() ? "joined late" : note + ", late";
    line += paint(pad_right("  " + note, columns.note), Colour::dim, colour);
  }
  return line;
}

std::string last_loss(const History& history) { return history.empty() ? "-" : format_fixed(history.back().second, 3); }

}  // namespace

std::vector<std::string> render_demo_screen(const DemoScreen& screen, const ScreenSize& size) {
  const int width = std::clamp(size.width, 80, 120);
  const bool colour = size.colour;
  std::vector<std::string> lines;

  lines.push_back(both_ends(paint("Sporkle demo", Colour::bold, colour) + "  " + printable(screen.model) +
                                (screen.model.empty() || screen.corpus.empty() ? "" : ", ") + printable(screen.corpus),
                            clock_text(screen.elapsed_s, screen.remaining_s), width));
  const double fraction = fraction_done(static_cast<double>(screen.tokens), static_cast<double>(screen.total_tokens));
  const std::string counts = format_count(static_cast<double>(screen.tokens)) + " of " +
                             format_count(static_cast<double>(screen.total_tokens)) + " tokens  " +
                             pad_left(format_fixed(100 * fraction, 0), 3) + "%";
  const int bar = width - display_width(counts) - 2;
  lines.push_back(paint(progress_bar(fraction, bar), Colour::cyan, colour) + "  " + counts);
  std::string now = printable(screen.stage);
  if (screen.inner_steps > 0) {
    now += ": round " + std::to_string(screen.round) + ", H " + std::to_string(screen.inner_steps);
  }
  std::string together;
  if (screen.tokens_per_second > 0) together = "together " + format_count(screen.tokens_per_second) + " tok/s";
  lines.push_back(both_ends(now, together, width));
  lines.emplace_back();

  const Columns columns(width);
  lines.push_back(paint(node_header(columns), Colour::dim, colour));
  for (const DemoNode& node : screen.nodes) lines.push_back(node_line(node, columns, colour));
  lines.emplace_back();

  // What is left over: first the latest events, then the curve.
  const int left = size.height - 1 - static_cast<int>(lines.size());
  const int events =
      std::clamp(std::min(static_cast<int>(screen.events.size()), left - kFewestPlotLines), 0, kMostEvents);
  const int plot_lines = std::min(left - events, kMostPlotLines);
  if (plot_lines >= kFewestPlotLines) {
    std::vector<PlotSeries> series{
        {"train loss " + last_loss(screen.train_loss), Colour::green, screen.train_loss},
        {"validation " + last_loss(screen.validation_loss), Colour::yellow, screen.validation_loss}};
    if (!screen.synchronous_loss.empty()) {
      series.push_back({"synchronous " + last_loss(screen.synchronous_loss), Colour::magenta, screen.synchronous_loss});
    }
    for (std::string& line : plot(series, {width, plot_lines, "tokens (loss in nats per token)", colour})) {
      lines.push_back(std::move(line));
    }
  }
  for (size_t i = screen.events.size() - static_cast<size_t>(events); i < screen.events.size(); ++i) {
    const DemoEvent& event = screen.events[i];
    lines.push_back(cut_to_width(
        paint(pad_left(format_duration(event.at_s), 7), Colour::dim, colour) + "  " + printable(event.text), width));
  }
  return lines;
}

std::string render_demo_line(const DemoScreen& screen) {
  const auto present = std::count_if(screen.nodes.begin(), screen.nodes.end(),
                                     [](const DemoNode& node) { return is_present(node.state); });
  std::string line = printable(screen.stage) + ": round " + std::to_string(screen.round) + ", " +
                     format_count(static_cast<double>(screen.tokens)) + " of " +
                     format_count(static_cast<double>(screen.total_tokens)) + " tokens, train loss " +
                     last_loss(screen.train_loss) + ", validation " + last_loss(screen.validation_loss) + ", " +
                     std::to_string(present) + " workers, " + format_count(screen.tokens_per_second) + " tok/s, " +
                     clock_text(screen.elapsed_s, screen.remaining_s);
  return line;
}

}  // namespace sporkle::app
