#include "bench/svg.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include "base/utf8.h"

namespace sporkle::bench {
namespace {

std::string coordinate(double value) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.1f", std::clamp(value, -1e6, 1e6));
  return text.data();
}

std::string attribute(std::string_view name, double value) {
  return " " + std::string(name) + "=\"" + coordinate(value) + "\"";
}

std::string class_attribute(std::string_view classes) { return " class=\"" + markup(classes) + "\""; }

std::string title_element(std::string_view hint) {
  return hint.empty() ? std::string() : "<title>" + markup(hint) + "</title>";
}

}  // namespace

std::string markup(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const size_t length = utf8_character_length(text);
    const std::string_view character = text.substr(0, std::max<size_t>(length, 1));
    text.remove_prefix(character.size());
    const auto byte = static_cast<unsigned char>(character[0]);
    // U+FFFE and U+FFFF are characters to UTF-8 and none to XML.
    const bool allowed = length > 1 ? character != "\xEF\xBF\xBE" && character != "\xEF\xBF\xBF"
                                    : length == 1 && (byte >= 0x20 || byte == '\t' || byte == '\n') && byte != 0x7F;
    if (!allowed)
      out += "\xEF\xBF\xBD";
    else if (character == "&")
      out += "&amp;";
    else if (character == "<")
      out += "&lt;";
    else if (character == ">")
      out += "&gt;";
    else if (character == "\"")
      out += "&quot;";
    else if (character == "'")
      out += "&#39;";
    else
      out += character;
  }
  return out;
}

std::string short_number(double value) {
  std::array<char, 32> text{};
  const bool plain = value == 0 || (std::fabs(value) >= 1e-3 && std::fabs(value) < 1e6);
  if (plain && std::fabs(value) >= 1000)
    std::snprintf(text.data(), text.size(), "%.0f", value);
  else
    std::snprintf(text.data(), text.size(), plain ? "%.4g" : "%.3g", value);
  return text.data();
}

double Axis::pixel(double value) const {
  const double at = logarithmic ? (std::log(value) - std::log(first)) / (std::log(last) - std::log(first))
                                : (value - first) / (last - first);
  return first_pixel + at * (last_pixel - first_pixel);
}

std::vector<double> Axis::ticks(int count) const {
  std::vector<double> ticks;
  if (logarithmic) {
    const auto decades = [&](const std::vector<double>& steps) {
      ticks.clear();
      for (double power = std::floor(std::log10(first)); power <= std::log10(last); ++power)
        for (const double step : steps)
          if (const double tick = step * std::pow(10, power); tick >= first && tick <= last) ticks.push_back(tick);
    };
    // The densest set that is not too many.
    decades({1});
    for (const std::vector<double>& steps :
         {std::vector<double>{1, 3}, {1, 2, 5}, {1, 1.5, 2, 3, 5, 7}, {1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 4, 5, 6, 8}}) {
      const std::vector<double> before = ticks;
      decades(steps);
      if (ticks.size() > static_cast<size_t>(count) + 1 && before.size() >= 2) {
        ticks = before;
        break;
      }
    }
    while (ticks.size() > 2 * static_cast<size_t>(count)) {
      std::vector<double> fewer;
      for (size_t i = 0; i < ticks.size(); i += 2) fewer.push_back(ticks[i]);
      ticks = fewer;
    }
    return ticks;
  }
  const double rough = (last - first) / std::max(count, 1);
  const double power = std::pow(10, std::floor(std::log10(rough)));
  const double step = power * (rough / power <= 1 ? 1 : rough / power <= 2 ? 2 : rough / power <= 5 ? 5 : 10);
  // Counted, because adding a step to a large number may not change it.
  const double start = std::ceil(first / step) * step;
  for (int i = 0; i <= 2 * count && start + i * step <= last; ++i) ticks.push_back(start + i * step);
  return ticks;
}

Axis axis_over(const std::vector<double>& values, double first_pixel, double last_pixel, bool logarithmic) {
  Axis axis{1, 10, first_pixel, last_pixel, logarithmic};
  if (values.empty()) return axis;
  const auto [low, high] = std::ranges::minmax(values);
  if (logarithmic) {
    const double room = std::pow(std::max(high / low, 1.05), 0.12);
    axis.first = low / room;
    axis.last = high * room;
  } else {
    const double room = high > low ? 0.12 * (high - low) : 0.1 * std::max(std::fabs(high), 1e-12);
    axis.first = low - room;
    axis.last = high + room;
  }
  return axis;
}

Svg::Svg(std::string_view kind, double width, double height, std::string_view title, std::string_view description) {
  const std::string box = "0 0 " + coordinate(width) + " " + coordinate(height);
  body_ = "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" class=\"plot " + markup(kind) + "\" viewBox=\"" +
          box + "\" aria-label=\"" + markup(std::string(title) + ". " + std::string(description)) + "\">\n";
}

Svg& Svg::line(double x1, double y1, double x2, double y2, std::string_view classes) {
  body_ += "<line" + attribute("x1", x1) + attribute("y1", y1) + attribute("x2", x2) + attribute("y2", y2) +
           class_attribute(classes) + "/>\n";
  return *this;
}

Svg& Svg::polyline(const std::vector<std::pair<double, double>>& points, std::string_view classes) {
  body_ += "<polyline points=\"";
  for (const auto& [x, y] : points) body_ += coordinate(x) + "," + coordinate(y) + " ";
  body_ += "\"" + class_attribute(classes) + "/>\n";
  return *this;
}

Svg& Svg::circle(double x, double y, double radius, std::string_view classes, std::string_view hint) {
  body_ += "<circle" + attribute("cx", x) + attribute("cy", y) + attribute("r", radius) + class_attribute(classes) +
           ">" + title_element(hint) + "</circle>\n";
  return *this;
}

Svg& Svg::text(double x, double y, std::string_view words, std::string_view anchor, std::string_view classes) {
  body_ += "<text" + attribute("x", x) + attribute("y", y) + " text-anchor=\"" + markup(anchor) + "\"" +
           class_attribute(classes) + ">" + markup(words) + "</text>\n";
  return *this;
}

Svg& Svg::open(std::string_view classes, std::string_view hint) {
  body_ += "<g" + class_attribute(classes) + ">" + title_element(hint) + "\n";
  return *this;
}

Svg& Svg::close() {
  body_ += "</g>\n";
  return *this;
}

}  // namespace sporkle::bench
