#include "base/plot.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "base/format_units.h"

namespace sporkle {
namespace {

constexpr int kLabelWidth = 8;  // "   2.50 " left of the curves
constexpr int kDotsAcross = 2, kDotsDown = 4;

struct Span {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();
  void include(double value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
  bool empty() const { return low > high; }
  // 0 at the low end, 1 at the high end; the middle where there is only one value.
  double fraction(double value) const { return high > low ? (value - low) / (high - low) : 0.5; }
};

// A grid of character cells, each with the dots that are set and the colour that was drawn last.
class Canvas {
 public:
  Canvas(int columns, int rows) : columns_(columns), rows_(rows), cells_(static_cast<size_t>(columns) * rows) {}
  int dots_wide() const { return columns_ * kDotsAcross; }
  int dots_high() const { return rows_ * kDotsDown; }

  void dot(int x, int y, Colour colour) {
    // The bits of U+2800 for the dots of one cell, row by row.
    static constexpr uint8_t kBits[kDotsDown][kDotsAcross] = {{0x01, 0x08}, {0x02, 0x10}, {0x04, 0x20}, {0x40, 0x80}};
    if (x < 0 || y < 0 || x >= dots_wide() || y >= dots_high()) return;
    Cell& cell = cells_[static_cast<size_t>(y / kDotsDown) * columns_ + x / kDotsAcross];
    cell.bits |= kBits[y % kDotsDown][x % kDotsAcross];
    cell.colour = colour;
  }

  void line(int x0, int y0, int x1, int y1, Colour colour) {
    const int steps = std::max({std::abs(x1 - x0), std::abs(y1 - y0), 1});
    for (int i = 0; i <= steps; ++i) {
      const double t = static_cast<double>(i) / steps;
      dot(static_cast<int>(std::lround(x0 + t * (x1 - x0))), static_cast<int>(std::lround(y0 + t * (y1 - y0))), colour);
    }
  }

  std::string row(int index, bool colour) const {
    std::string out;
    for (int column = 0; column < columns_; ++column) {
      const Cell& cell = cells_[static_cast<size_t>(index) * columns_ + column];
      if (cell.bits == 0) {
        out += ' ';
      } else {  // U+2800 + bits, as UTF-8
        const char text[] = {'\xE2', static_cast<char>(0xA0 | cell.bits >> 6),
                             static_cast<char>(0x80 | (cell.bits & 63))};
        out += paint({text, sizeof text}, cell.colour, colour);
      }
    }
    return out;
  }

 private:
  struct Cell {
    uint8_t bits = 0;
    Colour colour = Colour::plain;
  };
  int columns_, rows_;
  std::vector<Cell> cells_;
};

void draw(Canvas& canvas, const PlotSeries& series, const Span& x_span, const Span& y_span) {
  bool started = false;
  int last_x = 0, last_y = 0;
  size_t i = 0;
  while (i < series.points.size()) {
    // The mean of the points that share a column of dots.
    double sum = 0;
    int count = 0, column = -1;
    for (; i < series.points.size(); ++i) {
      const auto [x, y] = series.points[i];
      if (!std::isfinite(x) || !std::isfinite(y)) continue;
      const int here = static_cast<int>(std::lround(x_span.fraction(x) * (canvas.dots_wide() - 1)));
      if (count > 0 && here != column) break;
      column = here;
      sum += y;
      ++count;
    }
    if (count == 0) return;
    const int y = static_cast<int>(std::lround((1 - y_span.fraction(sum / count)) * (canvas.dots_high() - 1)));
    canvas.line(started ? last_x : column, started ? last_y : y, column, y, series.colour);
    started = true;
    last_x = column;
    last_y = y;
  }
}

}  // namespace

std::vector<std::string> plot(std::span<const PlotSeries> series, const PlotOptions& options) {
  const int width = std::max(options.width, 24), rows = std::max(options.height, 6) - 3;
  Span x_span, y_span;
  for (const PlotSeries& each : series) {
    for (const auto& [x, y] : each.points) {
      if (!std::isfinite(x) || !std::isfinite(y)) continue;
      x_span.include(x);
      y_span.include(y);
    }
  }

  std::string legend(kLabelWidth, ' ');
  for (const PlotSeries& each : series) legend += paint("━━ ", each.colour, options.colour) + each.name + "  ";
  std::vector<std::string> lines{pad_right(legend, width)};

  Canvas canvas(width - kLabelWidth, rows);
  if (!x_span.empty()) {
    for (const PlotSeries& each : series) draw(canvas, each, x_span, y_span);
  }
  for (int row = 0; row < rows; ++row) {
    std::string label;
    if (!y_span.empty() && (row == 0 || row == rows - 1 || row == (rows - 1) / 2)) {
      const double fraction = 1 - static_cast<double>(row) / (rows - 1);
      const double value = y_span.low + fraction * (y_span.high - y_span.low);
      label = std::abs(value) < 1000 ? format_fixed(value, 2) : format_count(value);
    }
    lines.push_back(
        paint(pad_left(label, kLabelWidth - 2) + (label.empty() ? " │" : " ┤"), Colour::dim, options.colour) +
        canvas.row(row, options.colour));
  }

  std::string axis = std::string(kLabelWidth - 1, ' ') + "└";
  for (int i = kLabelWidth; i < width; ++i) axis += "─";
  lines.push_back(paint(axis, Colour::dim, options.colour));

  const std::string first = x_span.empty() ? "" : format_count(x_span.low);
  const std::string last = x_span.empty() ? "" : format_count(x_span.high);
  const int between = width - kLabelWidth - display_width(first) - display_width(last);
  const int label = std::min(display_width(options.x_label), std::max(between - 2, 0));
  const int before = (between - label) / 2;
  lines.push_back(paint(std::string(kLabelWidth, ' ') + first + std::string(before, ' ') +
                            cut_to_width(options.x_label, label) + std::string(between - label - before, ' ') + last,
                        Colour::dim, options.colour));
  return lines;
}

}  // namespace sporkle
