#include "tensor/passes/passes.h"

namespace sporkle::tensor {

// Every result lies in the order that its kernel states (see convolution.h): there is nothing to choose yet.
Status choose_layouts(Planning&) { return {}; }

}  // namespace sporkle::tensor
