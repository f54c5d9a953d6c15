// Comparing outputs, element by element, with what they should be. Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "bench/case.h"

namespace sporkle::bench {

// Every element (f32 or f64) against float64: the largest |actual - expected| over the largest |expected|. `expected`
// repeats where the array is longer, its last repetition cut short. internal names the first element that is not a
// number or lies beyond `limit`.
Result<double> compare_values(const HostArray& actual, std::span<const double> expected, double limit);

// Every element's bits; `expected` repeats likewise. internal names the first element that differs, both values, and
// how many units in the last place lie between them.
template <typename T>
Status compare_bits(const HostArray& actual, std::span<const T> expected);

// Whether it is what poison() writes.
bool is_poison(float value);

// The rounding unit of a type: half the distance from 1 to the next number.
double rounding_unit(ir::DType type);

// Uniform in [low, high): the same for the same seed on every machine.
template <typename T>
void fill_random(std::span<T> values, uint64_t seed, double low, double high);

}  // namespace sporkle::bench
