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

// A protobuf Hello of this version, with a window of 100 bytes, so that most inputs get further than the first frame.
constexpr std::byte hello[] = {
    std::byte{8}, std::byte{protocol_major}, std::byte{16}, std::byte{protocol_minor}, std::byte{40}, std::byte{100}};

void talk(Session::Side side, std::span<const std::byte> script) {
  Limits limits;
  limits.max_payload_bytes = 1 << 16;
  limits.max_arriving_bytes = 1 << 17;
  limits.max_calls_in_flight = 8;
  limits.stream_window_bytes = 1000;
  Session session(side, {"fuzzed", "peer", limits, false});
  std::vector<std::byte> wire;
  encode_frame({FrameKind::hello, protocol_major, 0, hello}, false, wire);
  if (!session.receive(wire).ok()) std::abort();
  if (side == Session::Side::client)
    for (uint64_t call = 0; call < 8; ++call)
      session.send_request(call, "method", {"body", std::vector<std::byte>(call * 20'000)});
  if (side == Session::Side::client)
    for (uint64_t call = 3; call < 6; ++call) {
      session.cancel(call);
      if (!session.open_stream(call, "stream", "body").ok()) std::abort();
      session.stream_write(call, SharedBytes(std::vector<std::byte>(300)));
    }
  sporkle::Status status;
  while (script.size() >= 3 && status.ok()) {
    const auto kind = static_cast<FrameKind>(std::to_integer<uint8_t>(script[0]) % 12);
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
      // Of streams some are read, some written to, some ended.
      if (event.kind == Session::Event::Kind::stream_data && call_id % 3 != 0)
        session.stream_consumed(event.call_id, event.message.payload.size());
      if (event.kind == Session::Event::Kind::stream_opened && call_id % 2 == 0)
        session.stream_write(event.call_id, SharedBytes(std::vector<std::byte>(length * 10)));
      if (event.kind == Session::Event::Kind::stream_end && call_id % 4 == 0)
        session.send_response(event.call_id, Message{"over", {}});
    }
    wire.clear();
    if (length % 3 == 0) session.next_output(wire);
    if (side == Session::Side::client && length % 5 == 0) session.cancel(call_id);
    if (side == Session::Side::client && length % 7 == 0) session.stream_finish(call_id);
    if (side == Session::Side::server && length % 7 == 0) session.expire(call_id);
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
