// The value of one arithmetic node from the values of its sources. Values are 64 bits, as in Node::value. Thread-safe.
#pragma once

#include "ir/node.h"

namespace sporkle::ir {

// `type`: of the result; `from`: of the first source (of the values compared, cast or selected); `v`: the sources'
// values. For the operations from add to cos in Op, except exp, log, tanh, sin and cos: they are their expansions.
uint64_t apply(Op op, DType type, DType from, const uint64_t* v);

// The operation of a reduction's step; for Combine::fma, Op::fma, and for Combine::dot, Op::dot.
Op combine_op(Combine combine);

// What a laned reduction starts from: -0.0 or 0 for add, the lowest value for max, the highest for min.
uint64_t combine_identity(Combine combine, DType type);

// The bits as a constant of the type holds them: sign- or zero-extended from the type's width; a boolean as 0 or 1.
uint64_t canonical_bits(DType type, uint64_t bits);

// Truncated and saturated; NaN gives 0.
int64_t saturating_integer(DType type, double number);

}  // namespace sporkle::ir
