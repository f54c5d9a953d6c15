// Curves drawn with braille characters, eight dots each, for loss curves in the terminal. Thread-safe.
#pragma once

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/terminal.h"

namespace sporkle {

struct PlotSeries {
  std::string name;
  Colour colour = Colour::plain;
  std::vector<std::pair<double, double>> points;  // (x, y), x ascending; points that are not finite are left out
};

struct PlotOptions {
  int width = 72;   // columns in all, labels included; at least 24
  int height = 12;  // lines in all: a legend, the curves, the x axis and its labels; at least 6
  std::string x_label;
  bool colour = false;
};

// Exactly `height` lines of exactly `width` columns. Both axes span the data. Where a series has several points in one
// column of dots, their mean is drawn. Without any point the plot is empty.
std::vector<std::string> plot(std::span<const PlotSeries> series, const PlotOptions& options);

}  // namespace sporkle
