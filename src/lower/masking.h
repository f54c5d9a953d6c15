// Guards for the remainders of vector loops.
#pragma once

#include "ir/builder.h"

namespace sporkle::lower {

// `root` (an expression or a statement) with every load whose index depends on `lane`, and every store, done only where
// `condition` holds. A load that is skipped gives zero.
const ir::Node* with_mask(ir::Builder& builder, const ir::Node* root, const ir::Node* lane, const ir::Node* condition);

}  // namespace sporkle::lower
