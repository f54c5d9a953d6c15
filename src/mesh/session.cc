#include "mesh/session.h"

#include <algorithm>
#include <utility>

#include "mesh/mesh.pb.h"
#include "mesh/printable.h"
#include "mesh/session_bytes.h"
#include "mesh/wire_code.h"

namespace sporkle::mesh {
namespace {

constexpr size_t max_name_bytes = 64;

std::string version_text(uint64_t major, uint64_t minor) { return std::to_string(major) + "." + std::to_string(minor); }

}  // namespace

Session::Session(Side side, Options options)
    : side_(side),
      options_(std::move(options)),
      decoder_(FrameLimits{options_.limits.max_body_bytes + max_control_bytes}) {
  wire::Hello hello;
  hello.set_protocol_major(protocol_major);
  hello.set_protocol_minor(protocol_minor);
  hello.set_software(printable(options_.software, max_name_bytes));
  hello.set_role(printable(options_.role, max_name_bytes));
  hello.set_stream_window_bytes(options_.limits.stream_window_bytes);
  encode_frame({FrameKind::hello, protocol_major, 0, bytes_of(hello.SerializeAsString())}, false, control_);
}

Session::~Session() { abandon_all(); }

Status Session::receive(std::span<const std::byte> bytes) {
  decoder_.push(bytes);
  for (;;) {
    Frame frame;
    SPORKLE_ASSIGN_OR_RETURN(const bool whole, decoder_.next(frame));
    if (!whole) return {};
    SPORKLE_RETURN_IF_ERROR(handle(frame));
  }
}

bool Session::next_event(Event& event) {
  if (events_.empty()) return false;
  event = std::move(events_.front());
  events_.pop_front();
  return true;
}

Status Session::handle(const Frame& frame) {
  if (frame.kind == FrameKind::goodbye) return handle_goodbye(frame);
  if (frame.kind == FrameKind::hello) return handle_hello(frame);
  if (!opened_) return corrupt_data("the peer's first frame is no hello");
  const FrameKind not_for_us = side_ == Side::server ? FrameKind::response : FrameKind::request;
  if (frame.kind == not_for_us || (frame.kind == FrameKind::cancel && side_ == Side::client))
    return corrupt_data(side_ == Side::server ? "a client sent a response" : "a server sent a request");
  switch (frame.kind) {
    case FrameKind::request:
      return handle_request(frame);
    case FrameKind::response:
      return handle_response(frame);
    case FrameKind::chunk:
      return handle_chunk(frame);
    case FrameKind::cancel:
      handle_cancel(frame.call_id);
      return {};
    case FrameKind::window:
      return handle_window(frame);
    case FrameKind::end:
      return handle_end(frame.call_id);
    case FrameKind::ping:
      pong_pending_ = true;  // one pong answers any number of pings, so pings cannot pile up output
      return {};
    default:
      return {};  // a pong: its arrival is all it says
  }
}

Status Session::handle_hello(const Frame& frame) {
  if (opened_) return corrupt_data("the peer sent a second hello");
  wire::Hello hello;
  if (!parse(frame.data, hello)) return corrupt_data("the peer's hello cannot be read");
  Event event;
  event.kind = Event::Kind::opened;
  event.software = printable(hello.software(), max_name_bytes);
  event.role = printable(hello.role(), max_name_bytes);
  if (hello.protocol_major() != protocol_major || frame.version != protocol_major)
    return unsupported("the peer (" + event.software + ") speaks protocol version " +
                       version_text(hello.protocol_major(), hello.protocol_minor()) + ", this program (" +
                       options_.software + ") speaks " + version_text(protocol_major, protocol_minor) +
                       "; update the older of the two");
  opened_ = true;
  minor_version_ = std::min(hello.protocol_minor(), uint32_t{protocol_minor});
  event.minor_version = minor_version_;
  peer_window_bytes_ = hello.stream_window_bytes();
  events_.push_back(std::move(event));
  return {};
}

Status Session::handle_goodbye(const Frame& frame) {
  wire::Goodbye goodbye;
  if (!parse(frame.data, goodbye)) return corrupt_data("the peer's goodbye cannot be read");
  peer_said_goodbye_ = true;
  const Code code = from_wire(goodbye.code());
  if (code == Code::ok) return unavailable("the peer closed the connection");
  return Status(code, "the peer closed the connection: " + printable(goodbye.message(), max_status_message_bytes));
}

void Session::send_goodbye(const Status& why) {
  if (goodbye_sent_) return;
  goodbye_sent_ = true;
  ping_pending_ = pong_pending_ = false;
  first_.clear();
  small_.clear();
  large_.clear();
  leaving_bytes_ = 0;
  wire::Goodbye goodbye;
  goodbye.set_code(to_wire(why.code()));
  goodbye.set_message(printable(why.message(), max_status_message_bytes));
  encode_frame({FrameKind::goodbye, protocol_major, 0, bytes_of(goodbye.SerializeAsString())}, false, control_);
}

}  // namespace sporkle::mesh
