// Drawing in SVG: text that is safe in markup, axes, and a picture put together from lines, circles and words. Colours
// and line widths are classes that the page's style sheet defines, so that one drawing serves light and dark pages.
//
// An Svg belongs to one thread at a time; the free functions are thread-safe.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace sporkle::bench {

// `text` as content or attribute of HTML and SVG: &, <, > and quotes are named, control characters and malformed UTF-8
// become U+FFFD.
std::string markup(std::string_view text);

// A number in at most four significant digits, without needless zeros: "0.25", "83.66", "1200".
std::string short_number(double value);

// Maps values onto pixels. Both ends of a logarithmic axis are greater than 0; first < last.
struct Axis {
  double first = 0, last = 1;
  double first_pixel = 0, last_pixel = 1;  // may run downwards, as y does
  bool logarithmic = false;

  double pixel(double value) const;
  // Round values inside, about `count` of them.
  std::vector<double> ticks(int count) const;
};

// An axis that holds all `values` with some room on both sides; of none, from 1 to 10.
Axis axis_over(const std::vector<double>& values, double first_pixel, double last_pixel, bool logarithmic);

class Svg {
 public:
  // `title` names the picture and `description` says in words what it shows, for those who cannot see it. `kind`
  // becomes the class "plot KIND".
  Svg(std::string_view kind, double width, double height, std::string_view title, std::string_view description);

  Svg& line(double x1, double y1, double x2, double y2, std::string_view classes);
  Svg& polyline(const std::vector<std::pair<double, double>>& points, std::string_view classes);
  // `hint` shows when the pointer rests on it; empty for none.
  Svg& circle(double x, double y, double radius, std::string_view classes, std::string_view hint);
  // `anchor`: "start", "middle" or "end".
  Svg& text(double x, double y, std::string_view words, std::string_view anchor, std::string_view classes);
  // Everything until close() belongs together and has one hint.
  Svg& open(std::string_view classes, std::string_view hint);
  Svg& close();
  // The whole picture.
  std::string finish() const { return body_ + "</svg>\n"; }

 private:
  std::string body_;
};

}  // namespace sporkle::bench
