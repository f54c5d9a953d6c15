// Calls of a Session: requests and their responses, as they arrive and as they are made.
#include <sys/mman.h>

#include <algorithm>
#include <utility>

#include "mesh/mesh.pb.h"
#include "mesh/printable.h"
#include "mesh/session.h"
#include "mesh/session_bytes.h"
#include "mesh/wire_code.h"

namespace sporkle::mesh {
namespace {

// Memory reserved for an arriving payload: this much at first, later this many times what has really arrived.
// What is reserved and not yet written to is address space, not memory; every further step would copy what is here.
constexpr size_t first_reserve_bytes = size_t{4} << 20;
constexpr size_t reserve_factor = 64;

// Touching a large payload's memory for the first time costs as much as receiving it, by pages of 4 KiB.
void advise_huge_pages([[maybe_unused]] std::byte* at, [[maybe_unused]] size_t size) {
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t huge = uintptr_t{2} << 20;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(at) + huge - 1) / huge * huge;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(at) + size) / huge * huge;
  if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // a wish; may fail
#endif
}

}  // namespace

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

// --- What is asked and answered here

void Session::send_request(uint64_t call_id, std::string_view method, Message request, uint64_t timeout_ms) {
  calls_.try_emplace(call_id);
  wire::Request envelope;
  envelope.set_method(std::string(method));
  envelope.set_body(std::move(request.body));
  envelope.set_payload_bytes(request.payload.size());
  envelope.set_timeout_ms(timeout_ms);
  enqueue(FrameKind::request, call_id, envelope.SerializeAsString(), std::move(request.payload));
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
    stream->response = envelope.SerializeAsString();
    stream->has_response = true;
    return schedule(call_id, *stream);
  }
  enqueue(FrameKind::response, call_id, envelope.SerializeAsString(), std::move(payload));
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

}  // namespace sporkle::mesh
