// What a Session sends, and in which order.
#include <algorithm>
#include <utility>

#include "mesh/session.h"
#include "mesh/session_bytes.h"

namespace sporkle::mesh {
namespace {

// A message with at most this much payload goes ahead of the large ones.
constexpr size_t small_payload_bytes = size_t{64} << 10;
// After a chunk that zstd could not shrink, so many go out untried: trained weights rarely shrink, and trying costs.
// Twice as many after each further failure, up to a bound.
constexpr unsigned chunks_between_trials = 15;
constexpr unsigned most_chunks_between_trials = 255;
// So many frames of small messages go ahead of large ones before one of those has a turn: none starves.
constexpr unsigned small_frames_in_a_row = 16;

}  // namespace

void Session::send_control(FrameKind kind, uint64_t call_id, std::span<const std::byte> data) {
  if (!goodbye_sent_) encode_frame({kind, protocol_major, call_id, data}, false, control_);
}

void Session::enqueue(FrameKind kind, uint64_t call_id, std::string envelope, std::vector<std::byte> payload) {
  if (goodbye_sent_) return;
  std::deque<Outgoing>& queue = payload.empty() ? first_ : payload.size() <= small_payload_bytes ? small_ : large_;
  if (kind == FrameKind::response) leaving_bytes_ += payload.size();
  queue.push_back({kind, call_id, std::move(envelope), SharedBytes(std::move(payload)), false, 0, false});
}

void Session::drop_outgoing(uint64_t call_id) {
  for (std::deque<Outgoing>* queue : {&first_, &small_, &large_})
    std::erase_if(*queue, [&](const Outgoing& message) {
      if (message.call_id != call_id) return false;
      if (message.kind == FrameKind::response) leaving_bytes_ -= message.payload.bytes.size();
      return true;
    });
}

bool Session::has_output() const {
  return !control_.empty() || ping_pending_ || pong_pending_ || !first_.empty() || !small_.empty() || !large_.empty();
}

bool Session::next_output(std::vector<std::byte>& out) {
  SharedBytes tail;
  const bool more = next_output(out, tail);
  out.insert(out.end(), tail.bytes.begin(), tail.bytes.end());
  return more;
}

bool Session::next_output(std::vector<std::byte>& out, SharedBytes& tail) {
  if (!control_.empty()) {
    out.insert(out.end(), control_.begin(), control_.end());
    control_ = {};
    return true;
  }
  if (std::exchange(pong_pending_, false)) {
    encode_frame({FrameKind::pong}, false, out);
    return true;
  }
  if (std::exchange(ping_pending_, false)) {
    encode_frame({FrameKind::ping}, false, out);
    return true;
  }
  if (!first_.empty()) {
    emit(first_.front(), out, tail);
    first_.pop_front();
    return true;
  }
  if (!small_.empty() && (large_.empty() || ahead_ < small_frames_in_a_row)) {
    ++ahead_;
    if (emit(small_.front(), out, tail)) small_.pop_front();
    return true;
  }
  ahead_ = 0;
  if (large_.empty()) return false;
  Outgoing message = std::move(large_.front());
  large_.pop_front();
  const bool last = message.stream ? emit_stream(message, out, tail) : emit(message, out, tail);
  if (!last) large_.push_back(std::move(message));  // the others have their turn first
  return true;
}

void Session::emit_chunk(uint64_t call_id, const SharedBytes& chunk, std::vector<std::byte>& out, SharedBytes& tail) {
  const Frame frame{FrameKind::chunk, protocol_major, call_id, chunk.bytes};
  if (uncompressed_ == 0) {
    if (encode_frame(frame, true, out)) {
      uncompressed_after_next_ = 0;
      return;
    }
    uncompressed_ = uncompressed_after_next_ =
        std::clamp(2 * uncompressed_after_next_ + 1, chunks_between_trials, most_chunks_between_trials);
    return;
  }
  --uncompressed_;
  encode_frame_header(frame, options_.checksum_data || minor_version_ < first_minor_with_streams, out);
  tail = chunk;
}

bool Session::emit(Outgoing& message, std::vector<std::byte>& out, SharedBytes& tail) {
  const std::span<const std::byte> payload = message.payload.bytes;
  if (!message.envelope_sent) {
    message.envelope_sent = true;
    encode_frame({message.kind, protocol_major, message.call_id, bytes_of(message.envelope)}, false, out);
    message.envelope = {};
  } else {
    const auto rest = payload.subspan(message.sent);
    const auto chunk = rest.first(std::min(rest.size(), chunk_bytes_));
    emit_chunk(message.call_id, {message.payload.owner, chunk}, out, tail);
    message.sent += chunk.size();
  }
  if (message.sent < payload.size()) return false;
  // The server's part of the call ends with the last byte of its response.
  if (message.kind == FrameKind::response) {
    leaving_bytes_ -= payload.size();
    const auto it = calls_.find(message.call_id);
    if (it != calls_.end()) forget(it);
  }
  return true;
}

}  // namespace sporkle::mesh
