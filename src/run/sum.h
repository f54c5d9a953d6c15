// The sum of f32 arrays in a stated order: what a reduction between peers (mesh/reduction.h) adds with. Thread-safe.
#pragma once

#include <cstddef>
#include <span>

namespace sporkle::run {

// sum[i] = (...((inputs[0][i] + inputs[1][i]) + inputs[2][i]) ...), each addition rounded to nearest: bits depend on
// the inputs and their order alone. One input at least; each as long as `sum`, aligned to 4 bytes, and not overlapping
// it. A mesh::Reduction::Combine; `members` is not looked at. A rest of less than 4 bytes is set to zero.
void sum_f32(std::span<const size_t> members, std::span<const std::byte* const> inputs, std::span<std::byte> sum);

}  // namespace sporkle::run
