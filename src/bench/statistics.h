// The statistics of repeated measurements. Thread-safe.
#pragma once

#include <span>

namespace sporkle::bench {

// The value at quantile q (0 to 1) of at least one value, between neighbours in proportion.
double quantile(std::span<const double> values, double q);
// The middle value; of an even number, the mean of the two in the middle.
double median(std::span<const double> values);
// Half of the interquartile range over the median: how far a typical round lies from the middle one. Of less than two
// values, or around 0, it is 0.
double relative_noise(std::span<const double> values);

}  // namespace sporkle::bench
