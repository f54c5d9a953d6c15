// Mathematical functions as expansions in the IR: one polynomial and one sequence of IEEE operations for every target,
// so that exp, log, tanh, sin and cos have the same bits everywhere (strict numerics).
//
// Error limits, in units in the last place against the exact value, checked by ir/math_test.cc:
//   f32: exp 1, log 1, tanh 2, sin and cos 2 for |x| <= 2^13 (beyond, the argument reduction loses accuracy)
//   f64: exp 2, log 2, tanh 3, sin and cos 3 for |x| <= 2^20
#pragma once

#include "ir/builder.h"

namespace sporkle::ir {

// x: f32 or f64.
const Node* expand_exp(Builder& b, const Node* x);
const Node* expand_log(Builder& b, const Node* x);
const Node* expand_tanh(Builder& b, const Node* x);
const Node* expand_sin(Builder& b, const Node* x);
const Node* expand_cos(Builder& b, const Node* x);

// The kernel with every exp, log, tanh, sin, cos and floor replaced by its expansion.
Kernel expand_math(const Kernel& kernel);

}  // namespace sporkle::ir
