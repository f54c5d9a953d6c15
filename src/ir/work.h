// How much work one launch of a kernel is: floating-point operations and bytes of memory, counted in its IR.
//
// FLOPs: every add, sub, mul, div, min, max, sqrt and floor of floats counts one, an fma two, a reduction one (by fma
// two) for each element that it takes in, a mathematical function the arithmetic that it expands to. A value counts
// once in the outermost loop where all that it depends on is known, and under a mask where the mask holds: invariants
// and padding are not work.
//
// Bytes: the distinct elements of each buffer argument that are read and those that are written, no more than the
// index can reach and the buffer holds. What is read twice counts once, so this is what must cross the memory bus at
// least; scratch counts nothing.
//
// Counted from the kernel as it was written, before lowering: schedules change nothing. A WorkCounter is immutable and
// may be used from any number of threads.
#pragma once

#include <memory>
#include <span>

#include "ir/kernel.h"

namespace sporkle::ir {

struct Work {
  uint64_t flops = 0;
  uint64_t read_bytes = 0;
  uint64_t written_bytes = 0;
  // False when loops depend on values in memory (their iterations count as none), or had to be sampled.
  bool exact = true;
};

class WorkCounter {
 public:
  // `kernel` has passed the verifier.
  explicit WorkCounter(const Kernel& kernel);
  ~WorkCounter();
  // `buffer_bytes`: what each buffer argument holds, in order. Takes milliseconds for kernels whose loops depend on
  // each other: remember the result.
  Work count(std::span<const uint64_t> scalars, std::span<const uint64_t> buffer_bytes) const;

 private:
  struct Plan;
  std::unique_ptr<const Plan> plan_;
};

}  // namespace sporkle::ir
