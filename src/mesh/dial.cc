#include "mesh/dial.h"

#include <poll.h>

#include "mesh/reduction_stream.h"

namespace sporkle::mesh {

Status dial(const Address& address, std::chrono::milliseconds timeout) {
  SPORKLE_ASSIGN_OR_RETURN(Descriptor socket, ReductionStream::connect(address));
  const auto stream = ReductionStream::create(std::move(socket), nullptr, ReductionStream::Side::connects);
  pollfd wait{stream->descriptor(), POLLOUT, 0};
  (void)::poll(&wait, 1, static_cast<int>(timeout.count()));
  SPORKLE_ASSIGN_OR_RETURN(const bool connected, stream->establish());
  if (!connected) return {Code::deadline_exceeded, "nobody answers at " + address.to_string()};
  return {};
}

}  // namespace sporkle::mesh
