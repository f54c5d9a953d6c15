// Mathematical functions as expansions in the IR: one polynomial and one sequence of IEEE operations for every target,
// so that exp, log, tanh, sin, cos, erf and rsqrt have the same bits everywhere (strict numerics). floor, which is
// exact, has one for the targets without such an instruction. No branches; thread-safe as far as the Builder's Context
// is.
//
// Error limits, in units in the last place against the exact value, checked by ir/math_test.cc:
//   exp 1, log 1, tanh 2.6, erf 1.1, rsqrt 0.501, sin and cos 2
// for all f32 and f64 numbers. Denormal results round once more. Infinities, NaN, -0, overflow and gradual underflow
// give what the C library gives.
#pragma once

#include "ir/builder.h"

namespace sporkle::ir {

// x: f32 or f64.
const Node* expand_exp(Builder& b, const Node* x);
const Node* expand_log(Builder& b, const Node* x);
const Node* expand_tanh(Builder& b, const Node* x);
const Node* expand_sin(Builder& b, const Node* x);
const Node* expand_cos(Builder& b, const Node* x);
const Node* expand_erf(Builder& b, const Node* x);
const Node* expand_rsqrt(Builder& b, const Node* x);
const Node* expand_floor(Builder& b, const Node* x);

// The kernel with every exp, log, tanh, sin, cos, erf, rsqrt and floor replaced by its expansion.
Kernel expand_math(const Kernel& kernel);

}  // namespace sporkle::ir
