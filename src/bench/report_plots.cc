#include "bench/report_plots.h"

#include <algorithm>
#include <cmath>

#include "base/format_units.h"
#include "bench/svg.h"

namespace sporkle::bench {
namespace {

// Lines and labels of an axis along the bottom and one along the left side.
void draw_axes(Svg& svg, const Axis& x, const Axis& y, int x_ticks, int y_ticks) {
  for (const double tick : x.ticks(x_ticks)) {
    svg.line(x.pixel(tick), y.last_pixel, x.pixel(tick), y.first_pixel, "grid");
    svg.text(x.pixel(tick), y.first_pixel + 15, short_number(tick), "middle", "tick");
  }
  for (const double tick : y.ticks(y_ticks)) {
    svg.line(x.first_pixel, y.pixel(tick), x.last_pixel, y.pixel(tick), "grid");
    svg.text(x.first_pixel - 5, y.pixel(tick) + 4, short_number(tick), "end", "tick");
  }
  svg.line(x.first_pixel, y.first_pixel, x.last_pixel, y.first_pixel, "axis");
}

std::string percent_text(const Record& record) {
  return record.percent_of_peak ? format_fixed(*record.percent_of_peak, 0) + " % of what the ceilings allow" : "";
}

std::string value_text(const Record& record) { return short_number(record.value) + " " + record.unit; }

std::string case_text(const Record& record) { return record.name + " " + record.shape; }

struct Ceilings {
  double gflops = 0, gigabytes = 0;  // a second; 0 where no record says
};

Ceilings ceilings_of(const std::vector<Record>& records, Ceilings ceilings) {
  for (const Record& r : records) {
    if (!r.percent_of_peak || !(*r.percent_of_peak > 0) || !(r.seconds > 0)) continue;
    const double fraction = *r.percent_of_peak / 100;
    ceilings.gflops = std::max(ceilings.gflops, r.flops / r.seconds / 1e9 / fraction);
    ceilings.gigabytes = std::max(ceilings.gigabytes, r.bytes / r.seconds / 1e9 / fraction);
  }
  return ceilings;
}

}  // namespace

bool has_intensity(const Record& r) { return r.flops > 0 && r.bytes > 0 && r.seconds > 0; }

std::string roofline_plot(const std::string& title, const std::vector<Record>& records,
                          const std::vector<Record>& others) {
  constexpr double kWidth = 520, kHeight = 330, kLeft = 52, kRight = 508, kTop = 14, kBottom = 282;
  const Ceilings ceilings = ceilings_of(others, ceilings_of(records, {}));
  std::vector<double> intensities, rates;
  for (const Record& r : records) {
    intensities.push_back(r.flops / r.bytes);
    rates.push_back(r.flops / r.seconds / 1e9);
  }
  const bool both = ceilings.gflops > 0 && ceilings.gigabytes > 0;
  // The ridge, where the ceilings meet, is always in sight.
  if (both) intensities.push_back(ceilings.gflops / ceilings.gigabytes);
  if (ceilings.gflops > 0) rates.push_back(ceilings.gflops);
  // A lone point needs a decade around it to be read.
  for (std::vector<double>* values : {&intensities, &rates}) {
    const auto [low, high] = std::ranges::minmax(*values);
    values->push_back(low / 2);
    values->push_back(high * 2);
  }
  const Axis x = axis_over(intensities, kLeft, kRight, true), y = axis_over(rates, kBottom, kTop, true);

  std::string below = "; no result says where the ceilings are";
  if (both)
    below = ", below ceilings of " + short_number(ceilings.gflops) + " GFLOP/s and " +
            short_number(ceilings.gigabytes) + " GB/s";
  Svg svg("roofline", kWidth, kHeight, title,
          std::to_string(records.size()) + (records.size() == 1 ? " case" : " cases") +
              " by arithmetic intensity and speed" + below);
  draw_axes(svg, x, y, 6, 6);
  svg.text((kLeft + kRight) / 2, kBottom + 34, "arithmetic intensity, flops a byte", "middle", "label");
  svg.text(kLeft - 44, kTop - 2, "GFLOP/s", "start", "label");
  if (both) {
    const double ridge = ceilings.gflops / ceilings.gigabytes;
    const double from = std::max(x.first, y.first / ceilings.gigabytes);
    svg.polyline({{x.pixel(from), y.pixel(from * ceilings.gigabytes)},
                  {x.pixel(ridge), y.pixel(ceilings.gflops)},
                  {kRight, y.pixel(ceilings.gflops)}},
                 "ceiling");
    svg.text(kRight - 2, y.pixel(ceilings.gflops) - 5, short_number(ceilings.gflops) + " GFLOP/s", "end",
             "ceiling-label");
    svg.text(kRight - 2, kBottom - 8, "memory: " + short_number(ceilings.gigabytes) + " GB/s", "end", "ceiling-label");
  }
  for (size_t i = 0; i < records.size(); ++i) {
    const Record& r = records[i];
    const double px = x.pixel(r.flops / r.bytes), py = y.pixel(r.flops / r.seconds / 1e9);
    svg.open("mark point", std::to_string(i + 1) + ": " + case_text(r) + ", " + value_text(r) + "; " + percent_text(r));
    svg.circle(px, py, 9, "dot", "");
    svg.text(px, py + 4, std::to_string(i + 1), "middle", "number");
    svg.close();
  }
  return svg.finish();
}

std::string ratio_plot(const std::string& title, const std::vector<Record>& records) {
  constexpr double kWidth = 520, kLeft = 14, kRight = 506, kTop = 24, kRow = 34;
  const double bottom = kTop + kRow * static_cast<double>(records.size());
  std::vector<double> values = {1};
  for (const Record& r : records)
    for (const std::optional<double>& value : {r.ratio, r.ratio_min, r.ratio_max})
      if (value && *value > 0) values.push_back(*value);
  const Axis x = axis_over(values, kLeft, kRight, true);
  Svg svg("ratios", kWidth, bottom + 38, title,
          std::to_string(records.size()) + " cases; a dot right of 1 means that Sporkle is faster");
  for (const double tick : x.ticks(6)) {
    svg.line(x.pixel(tick), kTop, x.pixel(tick), bottom, "grid");
    svg.text(x.pixel(tick), bottom + 15, short_number(tick), "middle", "tick");
  }
  svg.line(x.pixel(1), kTop - 4, x.pixel(1), bottom, "even");
  svg.text(x.pixel(1), kTop - 9, "equal", "middle", "tick");
  svg.text(kLeft, bottom + 31, "slower than the rival", "start", "label");
  svg.text(kRight, bottom + 31, "faster than the rival", "end", "label");
  double top = kTop;
  for (const Record& r : records) {
    const double ratio = *r.ratio, low = r.ratio_min.value_or(ratio), high = r.ratio_max.value_or(ratio);
    const char* side = ratio >= 1 ? "ahead" : "behind";
    const std::string what =
        case_text(r) + " " + r.dtype + ", " + std::to_string(r.threads) + (r.threads == 1 ? " thread" : " threads");
    svg.text(kLeft, top + 13, what, "start", "case");
    svg.text(kRight, top + 13, format_fixed(ratio, 2), "end", "case strong");
    svg.open(std::string("mark ") + side, what + " against " + r.rival + ": " + short_number(ratio) +
                                              " times as fast, " + short_number(low) + " to " + short_number(high) +
                                              " in single rounds");
    const double middle = top + 23;
    svg.line(x.pixel(low), middle, x.pixel(high), middle, "whisker");
    svg.line(x.pixel(low), middle - 4, x.pixel(low), middle + 4, "whisker");
    svg.line(x.pixel(high), middle - 4, x.pixel(high), middle + 4, "whisker");
    svg.circle(x.pixel(ratio), middle, 5, "dot", "");
    svg.close();
    top += kRow;
  }
  return svg.finish();
}

std::string history_plot(const std::string& title, const std::vector<HistoryPoint>& points) {
  constexpr double kWidth = 340, kHeight = 170, kLeft = 52, kRight = 326, kTop = 20, kBottom = 128;
  std::vector<double> values;
  for (const HistoryPoint& p : points) {
    const double noise = std::min(p.record.noise.value_or(0), 0.9);
    values.push_back(p.record.value * (1 - noise));
    values.push_back(p.record.value * (1 + noise));
  }
  // A change of a percent shall not look like a cliff: at least a quarter of the value is in sight.
  const double highest = *std::ranges::max_element(values);
  values.push_back(highest * 0.75);
  Axis y = axis_over(values, kBottom, kTop, false);
  y.first = std::max(y.first, 0.0);
  const Axis x{-0.5, static_cast<double>(points.size()) - 0.5, kLeft, kRight, false};
  const bool time = smaller_is_better(points.front().record.unit);
  Svg svg("history", kWidth, kHeight, title,
          std::to_string(points.size()) + " measurements from " + points.front().when + " (" +
              value_text(points.front().record) + ") to " + points.back().when + " (" +
              value_text(points.back().record) + ")");
  for (const double tick : y.ticks(4)) {
    svg.line(kLeft, y.pixel(tick), kRight, y.pixel(tick), "grid");
    svg.text(kLeft - 5, y.pixel(tick) + 4, short_number(tick), "end", "tick");
  }
  svg.line(kLeft, kBottom, kRight, kBottom, "axis");
  svg.text(2, 11, points.front().record.unit + (time ? ", lower is better" : ", higher is better"), "start", "label");
  std::vector<std::pair<double, double>> line;
  for (size_t i = 0; i < points.size(); ++i)
    line.emplace_back(x.pixel(static_cast<double>(i)), y.pixel(points[i].record.value));
  svg.polyline(line, "trend");
  for (size_t i = 0; i < points.size(); ++i) {
    const Record& r = points[i].record;
    const double noise = r.noise.value_or(0), px = line[i].first;
    svg.open("mark", points[i].when + ": " + value_text(r) +
                         (r.noise ? ", noise " + format_fixed(100 * noise, 1) + " %" : std::string()));
    if (noise > 0)
      svg.line(px, y.pixel(std::max(r.value * (1 - noise), 0.0)), px, y.pixel(r.value * (1 + noise)), "whisker");
    svg.circle(px, line[i].second, 4, "dot", "");
    svg.close();
  }
  svg.text(points.size() == 1 ? (kLeft + kRight) / 2 : kLeft, kBottom + 16, points.front().when,
           points.size() == 1 ? "middle" : "start", "tick");
  if (points.size() > 1) svg.text(kRight, kBottom + 32, points.back().when, "end", "tick");
  return svg.finish();
}

}  // namespace sporkle::bench
