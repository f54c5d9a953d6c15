#include "bench/judge.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <type_traits>

#include "ir/node.h"

namespace sporkle::bench {
namespace {

std::string digits(double value) {
  char text[40];
  std::snprintf(text, sizeof text, "%.9g", value);
  return text;
}

// "element [3, 17] of output c".
std::string place(const HostArray& array, size_t flat) {
  std::string indices;
  for (size_t axis = array.shape.size(); axis-- > 0;) {
    const size_t extent = static_cast<size_t>(array.shape[axis]);
    indices = std::to_string(flat % extent) + (indices.empty() ? "" : ", ") + indices;
    flat /= extent;
  }
  return "element [" + indices + "] of output " + array.name;
}

template <typename T>
using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;

template <typename T>
bool is_poison(T value) {
  return (std::bit_cast<Bits<T>>(value) & 0xffffffffu) == kPoison;
}

// How many numbers lie between two finite ones.
template <typename T>
uint64_t ulps_between(T a, T b) {
  const auto ordered = [](T value) {
    const auto bits = std::bit_cast<Bits<T>>(value);
    const Bits<T> sign = Bits<T>(1) << (sizeof(T) * 8 - 1);
    return bits & sign ? sign - (bits & ~sign) : sign + bits;
  };
  const auto x = ordered(a), y = ordered(b);
  return x < y ? y - x : x - y;
}

template <typename T>
Result<double> compare(const HostArray& actual, std::span<const double> expected, double limit) {
  const std::span<const T> values = actual.values<T>();
  if (expected.empty() || values.size() < expected.size())
    return internal_error("output " + actual.name + " has " + std::to_string(values.size()) + " elements, and " +
                          std::to_string(expected.size()) + " were expected");
  double largest = 0;
  for (const double value : expected) largest = std::max(largest, std::abs(value));
  const double scale = largest > 0 ? largest : 1;
  double worst = 0;
  for (size_t first = 0; first < values.size(); first += expected.size()) {
    for (size_t i = 0; i < std::min(expected.size(), values.size() - first); ++i) {
      const double error = std::abs(static_cast<double>(values[first + i]) - expected[i]);
      if (error <= worst) continue;
      if (!(error <= limit * scale)) {
        const T found = values[first + i];
        return internal_error(place(actual, first + i) + " is " +
                              (is_poison(found) ? "not written" : digits(static_cast<double>(found))) +
                              " where float64 gives " + digits(expected[i]) + "; the limit is " + digits(limit) +
                              " of the largest element, " + digits(largest));
      }
      worst = error;
    }
  }
  return worst / scale;
}

}  // namespace

Result<double> compare_values(const HostArray& actual, std::span<const double> expected, double limit) {
  if (actual.dtype == ir::DType::f32) return compare<float>(actual, expected, limit);
  if (actual.dtype == ir::DType::f64) return compare<double>(actual, expected, limit);
  return internal_error("output " + actual.name + " has the type " + std::string(ir::dtype_name(actual.dtype)) +
                        ", for which there is no comparison");
}

template <typename T>
Status compare_bits(const HostArray& actual, std::span<const T> expected) {
  const std::span<const T> values = actual.values<T>();
  if (expected.empty() || values.size() < expected.size())
    return internal_error("output " + actual.name + " has " + std::to_string(values.size()) + " elements, and " +
                          std::to_string(expected.size()) + " were expected");
  for (size_t first = 0; first < values.size(); first += expected.size()) {
    const size_t count = std::min(expected.size(), values.size() - first);
    if (std::memcmp(values.data() + first, expected.data(), count * sizeof(T)) == 0) continue;
    for (size_t i = 0; i < count; ++i) {
      const T found = values[first + i], wanted = expected[i];
      if (std::bit_cast<Bits<T>>(found) == std::bit_cast<Bits<T>>(wanted)) continue;
      std::string message = place(actual, first + i);
      if (is_poison(found)) return internal_error(message + " is not written");
      message += " is " + digits(static_cast<double>(found)) + " and its definition gives " +
                 digits(static_cast<double>(wanted));
      if (std::isfinite(found) && std::isfinite(wanted))
        message += ", " + std::to_string(ulps_between(found, wanted)) + " units in the last place away";
      return internal_error(message + "; `strict` means the same bits");
    }
  }
  return {};
}
template Status compare_bits<float>(const HostArray&, std::span<const float>);
template Status compare_bits<double>(const HostArray&, std::span<const double>);

bool is_poison(float value) { return is_poison<float>(value); }

double rounding_unit(ir::DType type) { return type == ir::DType::f64 ? 0x1p-53 : 0x1p-24; }

template <typename T>
void fill_random(std::span<T> values, uint64_t seed, double low, double high) {
  uint64_t state = seed;
  for (T& value : values) {
    // SplitMix64 (Steele, Lea and Flood, 2014).
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    value = static_cast<T>(low + (high - low) * (static_cast<double>(z >> 11) * 0x1p-53));
  }
}
template void fill_random<float>(std::span<float>, uint64_t, double, double);
template void fill_random<double>(std::span<double>, uint64_t, double, double);

}  // namespace sporkle::bench
