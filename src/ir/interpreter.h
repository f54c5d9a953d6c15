// The interpreter: the definition of what a kernel means. Slow, simple, checks every access. Stateless; thread-safe.
#pragma once

#include <span>

#include "base/status.h"
#include "ir/kernel.h"

namespace sporkle::ir {

// Memory of one buffer argument; its size in bytes bounds every access.
struct InterpreterBuffer {
  std::byte* data;
  size_t size_bytes;
};

// Executes the kernel (before or after lowering) with loops in order. An access out of bounds, or a scratch that is too
// large, is invalid_argument naming the node. Mathematical functions run as their expansions (ir/math.h).
Status interpret(const Kernel& kernel, std::span<const InterpreterBuffer> buffers, std::span<const uint64_t> scalars);

// The value of an expression of scalars and constants alone.
Result<int64_t> evaluate_integer(const Node* node, std::span<const uint64_t> scalars);

}  // namespace sporkle::ir
