// Status codes as the wire has them. Internal to mesh/.
#pragma once

#include "base/status.h"
#include "mesh/mesh.pb.h"

namespace sporkle::mesh {

wire::StatusCode to_wire(Code code);
// A code from a later version of the protocol counts as internal.
Code from_wire(wire::StatusCode code);

}  // namespace sporkle::mesh
