// Counter-based random numbers (Philox2x32-10; Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC11).
//
// Element i of a random tensor is a function of (seed, stream, step, i) alone: no state, nothing depends on history, on
// the device or on what ran before. A new seed, stream or step recompiles nothing.
#pragma once

#include <cstdint>

#include "tensor/tensor.h"

namespace sporkle::dsl {
class Expr;
}

namespace sporkle::tensor {

struct RandomKey {
  uint64_t seed = 0;
  uint64_t stream = 0;  // what the numbers are for: a layer's ID, say
  uint64_t step = 0;
};

// Uniform in [0, 1): multiples of 2^-24. f32 or f64.
Tensor uniform(Context& context, const Shape& shape, RandomKey key, DType type = DType::f32);
// Mean 0, deviation 1, by the Box-Muller transform; |x| < 5.8.
Tensor normal(Context& context, const Shape& shape, RandomKey key, DType type = DType::f32);
// Zero with this probability, else x / (1 - probability). A probability of 0 gives x. It must be in [0, 1).
Tensor dropout(const Operand& x, double probability, RandomKey key);

// Philox2x32-10 itself: on the host, and in a kernel (all expressions u32).
struct Philox {
  uint32_t low, high;
};
Philox philox2x32(uint32_t counter_low, uint32_t counter_high, uint32_t key);
void philox2x32(dsl::Expr* counter_low, dsl::Expr* counter_high, dsl::Expr key);

// For kernels that make the numbers of uniform() themselves: the counter's high half above Philox's key, and element
// `number` (i64) of the tensor.
uint64_t stream_bits(RandomKey key);
dsl::Expr uniform_element(dsl::Expr number, dsl::Expr counter_high, dsl::Expr philox_key, DType type);

}  // namespace sporkle::tensor
