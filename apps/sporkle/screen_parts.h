// What the screens of `demo` and `train` share. Pure functions, thread-safe.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace sporkle::app {

// `left` and `right` at the two ends of a line of exactly `width` columns; `left` is cut where both do not fit.
std::string both_ends(std::string_view left, std::string_view right, int width);

// "elapsed 2m 03s, 1m 40s left".
std::string clock_text(double elapsed_s, std::optional<double> remaining_s);

// done / total, 0 where total is 0.
double fraction_done(double done, double total);

}  // namespace sporkle::app
