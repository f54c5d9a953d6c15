// The verifier's checks of ranges: each is used inside the loop or reduction that opens it, and opened once on any
// path. Internal to ir.
#pragma once

#include <span>

#include "base/status.h"
#include "ir/kernel.h"

namespace sporkle::ir {

// `nodes`: all of the kernel's nodes, each well formed by itself, sources before what uses them.
Status check_scopes(const Kernel& kernel, std::span<const Node* const> nodes);

}  // namespace sporkle::ir
