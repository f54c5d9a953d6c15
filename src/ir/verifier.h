// Checks that IR is well formed; everything received from outside passes it, and in debug builds every pass's output.
#pragma once

#include "base/status.h"
#include "ir/kernel.h"

namespace sporkle::ir {

// invalid_argument with a message for each class of mistake: wrong number or types of sources, a range used outside its
// loop or opened twice on one path, a statement as a value, a buffer that is written but declared read-only, an
// argument out of range, a thread loop that is not outermost, a vector range without a constant power-of-two extent.
Status verify(const Kernel& kernel);

}  // namespace sporkle::ir
