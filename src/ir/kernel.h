// A kernel: its arguments and the statement that it executes. A plain value; copies share the Context.
#pragma once

#include <memory>
#include <source_location>
#include <string>
#include <vector>

#include "ir/node.h"

namespace sporkle::ir {

// What a kernel promises about its bits; ../docs/numerics.md has the rules.
enum class Numerics : uint8_t {
  strict,  // the same bits on every device that passes the probe
  stable,  // the same bits on the same device and driver
  fast,    // may use tensor cores, bf16, contraction and atomics
};
std::string_view numerics_name(Numerics numerics);

enum class Access : uint8_t { read, write, read_write };
std::string_view access_name(Access access);

struct BufferArgument {
  std::string name;
  DType type;
  Access access;
};

struct ScalarArgument {
  std::string name;
  DType type;  // passed as the 64 bits of a constant of this type
};

struct Kernel {
  std::shared_ptr<Context> context;
  std::string name;
  Numerics numerics = Numerics::strict;
  std::vector<BufferArgument> buffers;
  std::vector<ScalarArgument> scalars;
  const Node* body = nullptr;  // a block
  // Where it was traced, if it was; for people. No part of what the kernel is: neither printed nor hashed.
  std::source_location source{};
};

}  // namespace sporkle::ir
