// Sessions against a peer that sends any frames in any order, their checksums valid so that the fuzzer gets past them.
// The input is a list of: kind, call ID, length, data.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

#include "mesh/session.h"

namespace {

using namespace sporkle::mesh;

// A protobuf Hello of this version, so that most inputs get further than the first frame.
constexpr std::byte hello[] = {std::byte{8}, std::byte{protocol_major}};

void talk(Session::Side side, std::span<const std::byte> script) {
  Limits limits;
  limits.max_payload_bytes = 1 << 16;
  limits.max_arriving_bytes = 1 << 17;
  limits.max_calls_in_flight = 8;
  Session session(side, {"fuzzed", "peer", limits});
  std::vector<std::byte> wire;
  encode_frame({FrameKind::hello, protocol_major, 0, hello}, false, wire);
  if (!session.receive(wire).ok()) std::abort();
  if (side == Session::Side::client)
    for (uint64_t call = 0; call < 8; ++call)
      session.send_request(call, "method", {"body", std::vector<std::byte>(call * 20'000)});
  sporkle::Status status;
  while (script.size() >= 3 && status.ok()) {
    const auto kind = static_cast<FrameKind>(std::to_integer<uint8_t>(script[0]) % 10);
    const uint64_t call_id = std::to_integer<uint64_t>(script[1]) % 8;
    const size_t length = std::min(script.size() - 3, std::to_integer<size_t>(script[2]));
    wire.clear();
    encode_frame({kind, protocol_major, call_id, script.subspan(3, length)}, length % 2 == 1, wire);
    script = script.subspan(3 + length);
    status = session.receive(wire);
    for (Session::Event event; session.next_event(event);) {
      if (event.message.payload.size() > limits.max_payload_bytes) std::abort();
      // Some requests are answered, with what they brought; some stay open.
      if (event.kind == Session::Event::Kind::request && call_id % 2 == 0)
        session.send_response(event.call_id, std::move(event.message));
    }
    wire.clear();
    if (length % 3 == 0) session.next_output(wire);
    if (side == Session::Side::client && length % 5 == 0) session.cancel(call_id);
  }
  if (!status.ok()) session.send_goodbye(status);
  wire.clear();
  while (session.next_output(wire)) {
  }
  if (session.has_output()) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto script = std::as_bytes(std::span(data, size));
  talk(Session::Side::server, script);
  talk(Session::Side::client, script);
  return 0;
}
