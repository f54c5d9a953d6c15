// Where values of known size and lifetime lie in one piece of memory. Plain functions; thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace sporkle::tensor {

// A value that lives from the command that first touches it to the one that does so last, both included.
struct Lifetime {
  size_t size_bytes = 0;
  int first = 0, last = 0;
};

struct Placement {
  std::vector<size_t> offsets;  // of each value, multiples of kPlacementAlignment
  size_t size_bytes = 0;        // of the whole
};

inline constexpr size_t kPlacementAlignment = 256;

// Values whose lifetimes meet do not overlap. Places the largest first, each in the smallest gap that is free for its
// whole life ("greedy by size"; Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020).
// No value crosses a multiple of `segment_bytes` (rounded down to the alignment, at least that), since each segment is
// a buffer of its own; one that is larger than a segment cannot help it.
Placement place(std::span<const Lifetime> values, size_t segment_bytes = SIZE_MAX);

// The most bytes that live at once: no placement is smaller.
size_t peak_bytes(std::span<const Lifetime> values);

}  // namespace sporkle::tensor
