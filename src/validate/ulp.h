// Distances between an f32 result and the exact value, in units in the last place. Thread-safe.
#pragma once

namespace sporkle::validate {

// The distance between neighbouring f32 numbers at |x|; of the smallest normal numbers from there down.
double ulp_at(double x);

// How far `computed`, an f32 number, is from `exact`, in ulp_at(magnitude): the magnitude is |exact|, or larger where
// terms cancelled. 0 where it is one of the f32 numbers that the exact value may round to. What overflows counts as
// 2^128. Infinite where one of the two is NaN and the other is not.
double ulp_error(double computed, double exact, double magnitude);
inline double ulp_error(double computed, double exact) { return ulp_error(computed, exact, exact); }

}  // namespace sporkle::validate
