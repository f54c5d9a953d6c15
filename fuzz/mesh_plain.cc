// The handshake without encryption, as server and as client, against whatever a peer sends.
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>

#include "mesh/plain_stream.h"

namespace {

using namespace sporkle::mesh;

void shake(WireStream::Side side, const uint8_t* data, size_t size) {
  static const Identity identity = *Identity::generate();
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) != 0) return;
  {
    PlainStream stream(identity, ends[0], side);
    // In two parts, so that every step is met half done.
    const size_t half = size / 2;
    for (const auto& [at, count] : {std::pair(data, half), std::pair(data + half, size - half)}) {
      [[maybe_unused]] const ssize_t put = ::send(ends[1], at, count, MSG_NOSIGNAL);
      // Nobody who only sends bytes can have signed our random number.
      if (stream.handshake() == WireStream::Progress::done || stream.peer_id().ok()) std::abort();
    }
  }
  ::close(ends[0]);
  ::close(ends[1]);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  shake(WireStream::Side::server, data, size);
  shake(WireStream::Side::client, data, size);
  return 0;
}
