#include "mesh/session.h"

#include <sys/mman.h>

#include <algorithm>
#include <utility>

#include "mesh/mesh.pb.h"
#include "mesh/printable.h"

namespace sporkle::mesh {
namespace {

constexpr size_t max_name_bytes = 64;
// A message with at most this much payload goes ahead of the large ones.
constexpr size_t small_payload_bytes = size_t{64} << 10;
// After a chunk that zstd could not shrink, so many go out untried: trained weights rarely shrink, and trying costs.
// Twice as many after each further failure, up to a bound.
constexpr unsigned chunks_between_trials = 15;
constexpr unsigned most_chunks_between_trials = 255;
// So many frames of small messages go ahead of large ones before one of those has a turn: none starves.
constexpr unsigned small_frames_in_a_row = 16;
// Memory reserved for an arriving payload: this much at first, later this many times what has really arrived.
// What is reserved and not yet written to is address space, not memory; every further step would copy what is here.
constexpr size_t first_reserve_bytes = size_t{4} << 20;
constexpr size_t reserve_factor = 64;

template <typename T>
std::string serialize(const T& message) {
  return message.SerializeAsString();
}

template <typename T>
bool parse(std::span<const std::byte> data, T& message) {
  return message.ParseFromArray(data.data(), static_cast<int>(data.size()));
}

// Touching a large payload's memory for the first time costs as much as receiving it, by pages of 4 KiB.
void advise_huge_pages([[maybe_unused]] std::byte* at, [[maybe_unused]] size_t size) {
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t huge = uintptr_t{2} << 20;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(at) + huge - 1) / huge * huge;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(at) + size) / huge * huge;
  if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // a wish; may fail
#endif
}

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

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

// A code from a later version of the protocol counts as internal.
Code from_wire(wire::StatusCode code) {
  for (int i = 0; i <= static_cast<int>(Code::internal); ++i)
    if (to_wire(static_cast<Code>(i)) == code) return static_cast<Code>(i);
  return Code::internal;
}

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
  encode_frame({FrameKind::hello, protocol_major, 0, bytes_of(serialize(hello))}, false, control_);
}

Session::~Session() { abandon_all(); }

Status Session::check_request(std::string_view method, const Message& request, const Limits& limits) {
  const auto too_large = [&](const char* part, size_t size, size_t limit) {
    return invalid_argument("the request '" + printable(method, max_method_bytes) + "' has a " + part + " of " +
                            std::to_string(size) + " bytes; at most " + std::to_string(limit) + " are allowed");
  };
  if (method.empty() || method.size() > max_method_bytes)
    return invalid_argument("a method's name has 1 to " + std::to_string(max_method_bytes) + " bytes, not " +
                            std::to_string(method.size()));
  if (request.body.size() > limits.max_body_bytes) return too_large("body", request.body.size(), limits.max_body_bytes);
  if (request.payload.size() > limits.max_payload_bytes)
    return too_large("payload", request.payload.size(), limits.max_payload_bytes);
  return {};
}

// --- What arrives

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

Status Session::announce_payload(Call& call, uint64_t payload_bytes, std::string_view what) {
  const Limits& limits = options_.limits;
  if (payload_bytes > limits.max_payload_bytes)
    return invalid_argument("a " + std::string(what) + " announced a payload of " + std::to_string(payload_bytes) +
                            " bytes; at most " + std::to_string(limits.max_payload_bytes) + " are allowed");
  if (payload_bytes > limits.max_arriving_bytes - arriving_bytes_)
    return Status(Code::out_of_memory, "a " + std::string(what) + " announced a payload of " +
                                           std::to_string(payload_bytes) + " bytes while " +
                                           std::to_string(arriving_bytes_) + " are arriving; at most " +
                                           std::to_string(limits.max_arriving_bytes) + " may arrive at once");
  call.payload_bytes = static_cast<size_t>(payload_bytes);
  call.arriving = payload_bytes > 0;
  arriving_bytes_ += call.payload_bytes;
  return {};
}

Status Session::handle_request(const Frame& frame) {
  wire::Request request;
  if (!parse(frame.data, request)) return corrupt_data("a request cannot be read");
  if (request.method().empty() || request.method().size() > max_method_bytes)
    return corrupt_data("a request names a method of " + std::to_string(request.method().size()) + " bytes; 1 to " +
                        std::to_string(max_method_bytes) + " are allowed");
  if (calls_.size() >= options_.limits.max_calls_in_flight)
    return invalid_argument("more than " + std::to_string(options_.limits.max_calls_in_flight) +
                            " calls in flight on one connection");
  const auto [it, is_new] = calls_.try_emplace(frame.call_id);
  if (!is_new) return corrupt_data("a request reuses the ID of a call in flight");
  Call& call = it->second;
  call.cancellation = std::make_shared<Cancellation>();
  const bool stream = request.stream() && minor_version_ >= first_minor_with_streams;
  if (stream && request.payload_bytes() > 0) return corrupt_data("a stream announced a payload");
  Status status = announce_payload(call, stream ? options_.limits.stream_window_bytes : request.payload_bytes(),
                                   stream ? "stream" : "request");
  if (status.ok() && request.body().size() > options_.limits.max_body_bytes)
    status = invalid_argument("a request has a body of " + std::to_string(request.body().size()) + " bytes; at most " +
                              std::to_string(options_.limits.max_body_bytes) + " are allowed");
  if (!status.ok()) {
    arriving_bytes_ -= std::exchange(call.payload_bytes, 0);
    call.arriving = false;
    send_response(frame.call_id, std::move(status));
    return {};
  }
  call.method = std::move(*request.mutable_method());
  call.message.body = std::move(*request.mutable_body());
  call.timeout_ms = std::min(request.timeout_ms(), longest_timeout_ms);
  if (stream) {
    call.arriving = false;
    accept_stream(frame.call_id, call);
  } else if (!call.arriving) {
    complete(it);
  }
  return {};
}

Status Session::handle_response(const Frame& frame) {
  const auto it = calls_.find(frame.call_id);
  if (it == calls_.end()) return {};  // cancelled meanwhile
  Call& call = it->second;
  if (call.arriving) return corrupt_data("a second response to one call");
  wire::Response response;
  if (!parse(frame.data, response)) return corrupt_data("a response cannot be read");
  if (call.stream) {
    if (response.payload_bytes() > 0) return corrupt_data("a payload announced by the response of a stream");
    Result<Message> result = Message{std::move(*response.mutable_body()), {}};
    if (const Code code = from_wire(response.code()); code != Code::ok)
      result = Status(code, printable(response.message(), max_status_message_bytes));
    end_stream(it, std::move(result));
    return {};
  }
  Event event;
  event.kind = Event::Kind::response;
  event.call_id = frame.call_id;
  if (const Code code = from_wire(response.code()); code != Code::ok) {
    event.result = Status(code, printable(response.message(), max_status_message_bytes));
  } else if (Status status = announce_payload(call, response.payload_bytes(), "response"); !status.ok()) {
    event.result = std::move(status);
    cancel(frame.call_id);
    events_.push_back(std::move(event));
    return {};
  } else {
    call.message.body = std::move(*response.mutable_body());
    if (!call.arriving) complete(it);
    return {};
  }
  drop_outgoing(frame.call_id);
  forget(it);
  events_.push_back(std::move(event));
  return {};
}

Status Session::handle_chunk(const Frame& frame) {
  const auto it = calls_.find(frame.call_id);
  // Chunks may still come for a call that was refused or cancelled.
  if (it == calls_.end()) return {};
  Call& call = it->second;
  if (call.stream) return handle_stream_chunk(frame.call_id, call, frame.data);
  if (!call.arriving) return {};
  std::vector<std::byte>& payload = call.message.payload;
  const size_t size = payload.size() + frame.data.size();
  if (frame.data.empty() || size > call.payload_bytes)
    return corrupt_data("a chunk of " + std::to_string(frame.data.size()) + " bytes where " +
                        std::to_string(call.payload_bytes - payload.size()) + " are missing");
  if (size > payload.capacity()) {
    payload.reserve(std::min(call.payload_bytes, std::max(first_reserve_bytes, size * reserve_factor)));
    advise_huge_pages(payload.data(), payload.capacity());
  }
  payload.insert(payload.end(), frame.data.begin(), frame.data.end());
  if (size == call.payload_bytes) complete(it);
  return {};
}

void Session::handle_cancel(uint64_t call_id) {
  const auto it = calls_.find(call_id);
  if (it == calls_.end()) return;  // answered meanwhile
  if (it->second.stream) return end_stream(it, Status(Code::cancelled, "the caller gave the stream up"));
  drop_outgoing(call_id);
  forget(it);
}

void Session::complete(Calls::iterator it) {
  Call& call = it->second;
  call.arriving = false;
  Event event;
  event.call_id = it->first;
  if (side_ == Side::server) {
    event.kind = Event::Kind::request;
    event.method = std::move(call.method);
    event.message = std::exchange(call.message, {});
    event.cancellation = call.cancellation;
    event.timeout_ms = call.timeout_ms;
  } else {
    event.kind = Event::Kind::response;
    event.result = std::exchange(call.message, {});
    drop_outgoing(it->first);  // a server may answer before it has the whole request
    forget(it);
  }
  events_.push_back(std::move(event));
}

void Session::forget(Calls::iterator it) {
  arriving_bytes_ -= it->second.payload_bytes;
  const std::shared_ptr<Cancellation> cancellation = std::move(it->second.cancellation);
  const bool answered = it->second.answered;
  calls_.erase(it);
  if (cancellation) answered ? cancellation->finish() : cancellation->request();
}

void Session::abandon_all() {
  while (!calls_.empty()) forget(calls_.begin());
}

// --- What goes out

void Session::send_request(uint64_t call_id, std::string_view method, Message request, uint64_t timeout_ms) {
  calls_.try_emplace(call_id);
  wire::Request envelope;
  envelope.set_method(std::string(method));
  envelope.set_body(std::move(request.body));
  envelope.set_payload_bytes(request.payload.size());
  envelope.set_timeout_ms(timeout_ms);
  enqueue(FrameKind::request, call_id, serialize(envelope), std::move(request.payload));
}

void Session::cancel(uint64_t call_id) {
  const auto it = calls_.find(call_id);
  if (it == calls_.end()) return;
  forget(it);
  const auto waiting = [&](const std::deque<Outgoing>& queue) {
    return std::any_of(queue.begin(), queue.end(),
                       [&](const Outgoing& m) { return m.call_id == call_id && !m.stream && !m.envelope_sent; });
  };
  const bool peer_knows = !waiting(first_) && !waiting(small_) && !waiting(large_);
  drop_outgoing(call_id);
  if (peer_knows) send_control(FrameKind::cancel, call_id);
}

void Session::send_response(uint64_t call_id, Result<Message> response) {
  const auto it = calls_.find(call_id);
  if (it == calls_.end() || std::exchange(it->second.answered, true)) return;
  const Limits& limits = options_.limits;
  wire::Response envelope;
  std::vector<std::byte> payload;
  Status status = response.status();
  if (status.ok() &&
      (response->body.size() > limits.max_body_bytes || response->payload.size() > limits.max_payload_bytes))
    status = internal_error("the response has a body of " + std::to_string(response->body.size()) +
                            " bytes and a payload of " + std::to_string(response->payload.size()) + "; at most " +
                            std::to_string(limits.max_body_bytes) + " and " + std::to_string(limits.max_payload_bytes) +
                            " are allowed");
  if (status.ok() && it->second.stream && !response->payload.empty())
    status = internal_error("a stream's response has no payload: it is written to the stream");
  if (status.ok() && response->payload.size() > limits.max_arriving_bytes - leaving_bytes_)
    status = Status(Code::out_of_memory, "the caller does not take its answers: " + std::to_string(leaving_bytes_) +
                                             " bytes of them are waiting");
  if (status.ok()) {
    payload = std::move(response->payload);
    envelope.set_body(std::move(response->body));
    envelope.set_payload_bytes(payload.size());
  } else {
    envelope.set_code(to_wire(status.code()));
    envelope.set_message(printable(status.message(), max_status_message_bytes));
  }
  if (StreamPart* const stream = it->second.stream.get()) {
    if (!status.ok()) stream->queue.clear();
    stream->response = serialize(envelope);
    stream->has_response = true;
    return schedule(call_id, *stream);
  }
  enqueue(FrameKind::response, call_id, serialize(envelope), std::move(payload));
}

void Session::expire(uint64_t call_id) {
  const auto it = calls_.find(call_id);
  if (it == calls_.end() || it->second.answered) return;
  Call& call = it->second;
  const std::shared_ptr<Cancellation> cancellation = call.cancellation;
  call.arriving = false;
  call.message = {};
  send_response(call_id, Status(Code::deadline_exceeded,
                                "the call's time, " + std::to_string(call.timeout_ms) + " ms, ran out at the server"));
  if (cancellation) cancellation->request();
}

void Session::send_control(FrameKind kind, uint64_t call_id, std::span<const std::byte> data) {
  if (!goodbye_sent_) encode_frame({kind, protocol_major, call_id, data}, false, control_);
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
  encode_frame({FrameKind::goodbye, protocol_major, 0, bytes_of(serialize(goodbye))}, false, control_);
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
