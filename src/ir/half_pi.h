// Reduction of large arguments of sin and cos by pi/2, in integer arithmetic, after Payne and Hanek, "Radian Reduction
// for Trigonometric Functions", ACM SIGNUM Newsletter 18(1), 1983: of 2/pi only those bits count that give the quadrant
// and the fraction, and where these begin follows from the argument's exponent.
//
// Thread-safe as far as the Builder's Context is.
#pragma once

#include "ir/builder.h"

namespace sporkle::ir {

// x = (4 k + quadrant) pi/2 + remainder, k whole, |remainder| <= pi/4.
struct ReducedAngle {
  const Node* quadrant;   // u32 or u64, as wide as x: 0 to 3
  const Node* remainder;  // of x's type, rounded about once
};

// From which x on reduce_by_half_pi works: 2^13 for f32, 2^20 for f64.
double smallest_for_half_pi(DType type);

// x: f32 or f64, at least smallest_for_half_pi and finite. For others the result is some finite number.
ReducedAngle reduce_by_half_pi(Builder& b, const Node* x);

}  // namespace sporkle::ir
