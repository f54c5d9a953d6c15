// Streams of a Session: bytes both ways within one call, each way held back by the reader's window.
#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

#include "mesh/mesh.pb.h"
#include "mesh/session.h"

namespace sporkle::mesh {
namespace {

constexpr size_t window_frame_bytes = 4;
// No honest peer lets more than this be under way; it keeps the sum of its grants from overflowing.
constexpr uint64_t max_credit = UINT32_MAX;

}  // namespace

// --- What arrives

void Session::accept_stream(uint64_t call_id, Call& call) {
  call.stream = std::make_unique<StreamPart>();
  call.stream->credit = peer_window_bytes_;
  call.stream->window_left = options_.limits.stream_window_bytes;
  Event event;
  event.kind = Event::Kind::stream_opened;
  event.call_id = call_id;
  event.method = std::move(call.method);
  event.message = std::exchange(call.message, {});
  event.cancellation = call.cancellation;
  event.timeout_ms = call.timeout_ms;
  events_.push_back(std::move(event));
}

Status Session::handle_stream_chunk(uint64_t call_id, Call& call, std::span<const std::byte> data) {
  StreamPart& stream = *call.stream;
  if (data.empty()) return corrupt_data("an empty chunk of a stream");
  if (stream.finished) return corrupt_data("a chunk after the end of its stream");
  if (data.size() > stream.window_left)
    return corrupt_data("a chunk of " + std::to_string(data.size()) + " bytes on a stream whose window has " +
                        std::to_string(stream.window_left) + " left");
  stream.window_left -= data.size();
  if (call.answered) return {};  // nobody reads it any more
  Event event;
  event.kind = Event::Kind::stream_data;
  event.call_id = call_id;
  event.message.payload.assign(data.begin(), data.end());
  events_.push_back(std::move(event));
  return {};
}

Status Session::handle_window(const Frame& frame) {
  if (frame.data.size() != window_frame_bytes)
    return corrupt_data("a window frame of " + std::to_string(frame.data.size()) + " bytes");
  const auto it = calls_.find(frame.call_id);
  if (it == calls_.end()) return {};  // the stream is over on this side
  if (!it->second.stream) return corrupt_data("a window for a call that is no stream");
  StreamPart& stream = *it->second.stream;
  uint64_t more = 0;
  for (size_t i = 0; i < window_frame_bytes; ++i) more |= std::to_integer<uint64_t>(frame.data[i]) << (8 * i);
  if (more == 0 || more > max_credit - stream.credit) return corrupt_data("a window of no sensible size");
  stream.credit += more;
  schedule(frame.call_id, stream);
  return {};
}

Status Session::handle_end(uint64_t call_id) {
  if (side_ == Side::client) return corrupt_data("a server sent the end of a caller's stream");
  const auto it = calls_.find(call_id);
  if (it == calls_.end()) return {};
  if (!it->second.stream) return corrupt_data("the end of a stream for a call that is none");
  if (std::exchange(it->second.stream->finished, true)) return corrupt_data("a second end of one stream");
  Event event;
  event.kind = Event::Kind::stream_end;
  event.call_id = call_id;
  events_.push_back(std::move(event));
  return {};
}

void Session::end_stream(Calls::iterator it, Result<Message> result) {
  Event event;
  event.kind = Event::Kind::stream_over;
  event.call_id = it->first;
  event.result = std::move(result);
  drop_outgoing(it->first);
  forget(it);
  events_.push_back(std::move(event));
}

// --- What goes out

Status Session::open_stream(uint64_t call_id, std::string_view method, std::string body, uint64_t timeout_ms) {
  if (!has_streams())
    return unsupported("the peer speaks protocol version " + std::to_string(protocol_major) + "." +
                       std::to_string(minor_version_) + ", which has no streams");
  Call call;
  SPORKLE_RETURN_IF_ERROR(announce_payload(call, options_.limits.stream_window_bytes, "stream"));
  call.arriving = false;
  call.stream = std::make_unique<StreamPart>();
  call.stream->credit = peer_window_bytes_;
  call.stream->window_left = options_.limits.stream_window_bytes;
  calls_.insert_or_assign(call_id, std::move(call));
  wire::Request envelope;
  envelope.set_method(std::string(method));
  envelope.set_body(std::move(body));
  envelope.set_timeout_ms(timeout_ms);
  envelope.set_stream(true);
  enqueue(FrameKind::request, call_id, envelope.SerializeAsString(), {});
  return {};
}

void Session::stream_write(uint64_t call_id, SharedBytes bytes) {
  const auto it = calls_.find(call_id);
  if (it == calls_.end() || !it->second.stream || bytes.bytes.empty()) return;
  StreamPart& stream = *it->second.stream;
  if (stream.finish || stream.has_response) return;
  stream.queue.push_back(std::move(bytes));
  schedule(call_id, stream);
}

void Session::stream_finish(uint64_t call_id) {
  const auto it = calls_.find(call_id);
  if (it == calls_.end() || !it->second.stream) return;
  it->second.stream->finish = true;
  schedule(call_id, *it->second.stream);
}

void Session::stream_consumed(uint64_t call_id, size_t size_bytes) {
  const auto it = calls_.find(call_id);
  if (it == calls_.end() || !it->second.stream) return;
  StreamPart& stream = *it->second.stream;
  stream.unannounced += size_bytes;
  // Half a window at a time: the sender is never held up by our parsimony, and the grants cost next to nothing.
  if (stream.unannounced < options_.limits.stream_window_bytes / 2 || stream.finished) return;
  std::array<std::byte, window_frame_bytes> data;
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::byte>(stream.unannounced >> (8 * i));
  send_control(FrameKind::window, call_id, data);
  stream.window_left += std::exchange(stream.unannounced, 0);
}

void Session::schedule(uint64_t call_id, StreamPart& stream) {
  const bool can_send =
      stream.queue.empty() ? (stream.finish && !stream.finish_sent) || stream.has_response : stream.credit > 0;
  if (!can_send || stream.queued || goodbye_sent_) return;
  stream.queued = true;
  Outgoing turn;
  turn.call_id = call_id;
  turn.stream = true;
  large_.push_back(std::move(turn));
}

bool Session::emit_stream(Outgoing& turn, std::vector<std::byte>& out, SharedBytes& tail) {
  const auto it = calls_.find(turn.call_id);
  if (it == calls_.end()) return true;
  StreamPart& stream = *it->second.stream;
  if (!stream.queue.empty()) {
    SharedBytes& front = stream.queue.front();
    const size_t size = static_cast<size_t>(std::min<uint64_t>({front.bytes.size(), chunk_bytes_, stream.credit}));
    emit_chunk(turn.call_id, {front.owner, front.bytes.first(size)}, out, tail);
    stream.credit -= size;
    front.bytes = front.bytes.subspan(size);
    if (front.bytes.empty()) stream.queue.pop_front();
    Event event;
    event.kind = Event::Kind::stream_sent;
    event.call_id = turn.call_id;
    event.size_bytes = size;
    events_.push_back(std::move(event));
  }
  if (stream.queue.empty() && stream.finish && !std::exchange(stream.finish_sent, true))
    send_control(FrameKind::end, turn.call_id);  // goes next
  if (stream.queue.empty() && stream.has_response) {
    send_control(FrameKind::response, turn.call_id, std::as_bytes(std::span(stream.response)));
    end_stream(it, Message{});
    return true;
  }
  stream.queued = !stream.queue.empty() && stream.credit > 0;
  return !stream.queued;
}

}  // namespace sporkle::mesh
