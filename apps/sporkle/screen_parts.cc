#include "apps/sporkle/screen_parts.h"

#include <algorithm>

#include "base/format_units.h"
#include "base/terminal.h"

namespace sporkle::app {

std::string both_ends(std::string_view left, std::string_view right, int width) {
  const int right_width = std::min(display_width(right), width);
  return pad_right(cut_to_width(left, width - right_width - 1), width - right_width) + cut_to_width(right, right_width);
}

std::string clock_text(double elapsed_s, std::optional<double> remaining_s) {
  std::string text = "elapsed " + format_duration(elapsed_s);
  if (remaining_s) text += ", " + format_duration(*remaining_s) + " left";
  return text;
}

double fraction_done(double done, double total) { return total > 0 ? std::min(done / total, 1.0) : 0; }

}  // namespace sporkle::app
