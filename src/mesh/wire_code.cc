#include "mesh/wire_code.h"

namespace sporkle::mesh {

wire::StatusCode to_wire(Code code) {
  switch (code) {
    case Code::ok:
      return wire::OK;
    case Code::invalid_argument:
      return wire::INVALID_ARGUMENT;
    case Code::not_found:
      return wire::NOT_FOUND;
    case Code::already_exists:
      return wire::ALREADY_EXISTS;
    case Code::permission_denied:
      return wire::PERMISSION_DENIED;
    case Code::unavailable:
    case Code::device_lost:  // what a peer's devices do is its own affair
      return wire::UNAVAILABLE;
    case Code::deadline_exceeded:
      return wire::DEADLINE_EXCEEDED;
    case Code::out_of_memory:
      return wire::OUT_OF_MEMORY;
    case Code::no_space:
      return wire::NO_SPACE;
    case Code::corrupt_data:
      return wire::CORRUPT_DATA;
    case Code::unsupported:
      return wire::UNSUPPORTED;
    case Code::cancelled:
      return wire::CANCELLED;
    case Code::io_error:
      return wire::IO_ERROR;
    case Code::internal:
      return wire::INTERNAL;
  }
  return wire::INTERNAL;
}

Code from_wire(wire::StatusCode code) {
  for (int i = 0; i <= static_cast<int>(Code::internal); ++i)
    if (to_wire(static_cast<Code>(i)) == code) return static_cast<Code>(i);
  return Code::internal;
}

}  // namespace sporkle::mesh
