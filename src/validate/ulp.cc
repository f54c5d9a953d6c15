#include "validate/ulp.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace sporkle::validate {

double ulp_at(double x) {
  constexpr double kSmallestNormal = 0x1p-126, kBeyond = 0x1p127;
  const double clamped = std::clamp(std::fabs(x), kSmallestNormal, kBeyond);
  return std::ldexp(1.0, std::ilogb(clamped) - 23);
}

double ulp_error(double computed, double exact, double magnitude) {
  if (std::isnan(computed) || std::isnan(exact))
    return std::isnan(computed) == std::isnan(exact) ? 0 : std::numeric_limits<double>::infinity();
  const double rounded = static_cast<double>(static_cast<float>(exact));
  if (computed == rounded) return 0;
  const auto finite = [](double x) { return std::clamp(x, -0x1p128, 0x1p128); };
  const double distance = std::fabs(finite(computed) - finite(exact));
  if (distance <= ulp_at(exact) / 2 && std::isfinite(computed)) return 0;
  if (std::isnan(magnitude)) magnitude = exact;
  return distance / ulp_at(std::max(std::fabs(magnitude), std::fabs(exact)));
}

}  // namespace sporkle::validate
