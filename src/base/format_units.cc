#include "base/format_units.h"

#include <cmath>
#include <cstdio>

namespace sporkle {
namespace {

struct Scaled {
  double value;
  int decimals;
  int unit;  // powers of 1000
};

// Three significant digits: 9.994 is "9.99", 9.995 "10.0", 999.6 "1.00k".
Scaled scale(double value) {
  int unit = 0;
  while (std::abs(value) >= 999.5 && unit < 6) {
    value /= 1000;
    ++unit;
  }
  const double size = std::abs(value);
  const int decimals = size < 9.995 ? 2 : size < 99.95 ? 1 : 0;
  return {value, unit == 0 && value == std::floor(value) ? 0 : decimals, unit};
}

std::string text(const char* format, auto... values) {
  char buffer[64];
  std::snprintf(buffer, sizeof buffer, format, values...);
  return buffer;
}

}  // namespace

std::string format_bytes(double bytes) {
  static constexpr const char* kUnits[] = {"B", "kB", "MB", "GB", "TB", "PB", "EB"};
  const Scaled scaled = scale(bytes);
  return text("%.*f %s", scaled.decimals, scaled.value, kUnits[scaled.unit]);
}

namespace {
constexpr const char* kPrefixes[] = {"", "k", "M", "G", "T", "P", "E"};
}

std::string format_count(double count) {
  const Scaled scaled = scale(count);
  return text("%.*f%s", scaled.decimals, scaled.value, kPrefixes[scaled.unit]);
}

std::string format_rate(double count, const char* unit) {
  const Scaled scaled = scale(count);
  return text("%.*f %s%s", scaled.decimals, scaled.value, kPrefixes[scaled.unit], unit);
}

std::string format_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0 || seconds > 1e12) return "?";
  if (seconds < 9.95) return text("%.1fs", seconds);
  const long long whole = std::llround(seconds);
  if (whole < 60) return text("%llds", whole);
  if (whole < 3600) return text("%lldm %02llds", whole / 60, whole % 60);
  if (whole < 86400) return text("%lldh %02lldm", whole / 3600, whole / 60 % 60);
  return text("%lldd %02lldh", whole / 86400, whole / 3600 % 24);
}

std::string format_fixed(double value, int decimals) { return text("%.*f", decimals, value); }

}  // namespace sporkle
