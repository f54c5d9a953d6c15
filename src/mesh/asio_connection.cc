// A connection's life: what it is told, what it tells, and its end.
#include "mesh/asio_connection.h"

#include <exception>
#include <new>

#include "mesh/stream_state.h"

namespace sporkle::mesh {

void AsioConnection::send_request(uint64_t call_id, std::string method, Message request, uint64_t timeout_ms) {
  post([call_id, method = std::move(method), request = std::move(request), timeout_ms](AsioConnection& self) mutable {
    self.session_.send_request(call_id, method, std::move(request), timeout_ms);
  });
}

void AsioConnection::open_stream(uint64_t call_id, std::string method, std::string body, uint64_t timeout_ms,
                                 std::shared_ptr<StreamState> stream) {
  const bool posted = post([=, body = std::move(body)](AsioConnection& self) mutable {
    const Status status = self.session_.open_stream(call_id, method, std::move(body), timeout_ms);
    if (!status.ok()) return stream->on_over(status);
    self.streams_[call_id] = stream;
    if (timeout_ms > 0) self.expire_later(call_id, timeout_ms, stream->cancellation);
  });
  if (!posted) stream->on_over(unavailable("the connection is closed"));
}

void AsioConnection::stream_write(uint64_t call_id, SharedBytes bytes) {
  post([call_id, bytes = std::move(bytes)](AsioConnection& self) mutable {
    self.session_.stream_write(call_id, std::move(bytes));
  });
}

void AsioConnection::stream_finish(uint64_t call_id) {
  post([call_id](AsioConnection& self) { self.session_.stream_finish(call_id); });
}

void AsioConnection::stream_consumed(uint64_t call_id, size_t size_bytes) {
  post([call_id, size_bytes](AsioConnection& self) { self.session_.stream_consumed(call_id, size_bytes); });
}

void AsioConnection::cancel(uint64_t call_id) {
  post([call_id](AsioConnection& self) {
    self.session_.cancel(call_id);
    self.streams_.erase(call_id);
  });
}

void AsioConnection::send_response(uint64_t call_id, Result<Message> response) {
  post([call_id, response = std::move(response)](AsioConnection& self) mutable {
    self.session_.send_response(call_id, std::move(response));
  });
}

void AsioConnection::close(Status why) {
  post([why = std::move(why)](AsioConnection& self) { self.begin_close(why, true); });
}

void AsioConnection::start_client(Address address, const NodeId& expected) {
  expected_ = expected;
  asio::co_spawn(socket_.get_executor(), run(shared_from_this(), std::move(address)), asio::detached);
}

awaitable<void> AsioConnection::run(Self self, std::optional<Address> address) {
  self->arm_watchdog(steady_clock::now() + self->options_.handshake_timeout);
  Status status;
  try {
    status = co_await converse(self, std::move(address));
  } catch (const std::bad_alloc&) {
    status = Status(Code::out_of_memory, "no memory for what the peer sent");
  } catch (const std::exception& error) {
    status = internal_error(std::string("a connection's reader failed: ") + error.what());
  }
  self->fail(status);
  // The writer, if any, ends by itself: its socket is closed.
  while (self->writing_) {
    error_code ignored;
    self->watchdog_.expires_after(std::chrono::hours(1));
    co_await self->watchdog_.async_wait(with_error(ignored));
  }
  self->finish();
}

awaitable<Status> AsioConnection::converse(Self self, std::optional<Address> address) {
  if (address) SPORKLE_CO_RETURN_IF_ERROR(co_await connect_socket(self, *std::move(address)));
  SPORKLE_CO_RETURN_IF_ERROR(co_await handshake(self));
  self->writing_ = true;
  asio::co_spawn(self->socket_.get_executor(), write_loop(self), asio::detached);
  co_return co_await read_loop(self);
}

void AsioConnection::deliver_events() {
  Session::Event event;
  while (!ending() && session_.next_event(event)) {
    deliver(event);
    event = {};
  }
}

void AsioConnection::deliver(Session::Event& event) {
  using Kind = Session::Event::Kind;
  if (event.kind == Kind::opened) {
    opened_ = true;
    arm_watchdog(steady_clock::now() + options_.keep_alive_interval);
    if (events_.on_open) events_.on_open(shared_from_this(), event);
    return;
  }
  if (event.kind == Kind::request || event.kind == Kind::stream_opened) {
    if (event.timeout_ms > 0) expire_later(event.call_id, event.timeout_ms, event.cancellation);
  }
  if (event.kind == Kind::request || event.kind == Kind::response) {
    if (events_.on_message) events_.on_message(shared_from_this(), std::move(event), nullptr);
    return;
  }
  if (event.kind == Kind::stream_opened) {
    auto stream = std::make_shared<StreamState>();
    stream->connection = weak_from_this();
    stream->call_id = event.call_id;
    stream->most_queued_bytes = options_.session.limits.stream_window_bytes;
    streams_[event.call_id] = stream;
    if (events_.on_message) events_.on_message(shared_from_this(), std::move(event), std::move(stream));
    return;
  }
  const auto it = streams_.find(event.call_id);
  if (it == streams_.end()) return;
  const std::shared_ptr<StreamState> stream = it->second;
  if (event.kind == Kind::stream_data) return stream->on_arrived(std::move(event.message.payload));
  if (event.kind == Kind::stream_sent) return stream->on_sent(event.size_bytes);
  if (event.kind == Kind::stream_end) return stream->on_peer_finished();
  streams_.erase(it);
  stream->on_over(std::move(event.result));
}

void AsioConnection::begin_close(const Status& why, bool tell_peer) {
  if (ending()) return;
  if (!tell_peer || !writing_) return fail(why);
  why_ = why.ok() ? Status(Code::cancelled, "the connection was closed here") : why;
  closing_ = true;
  session_.send_goodbye(why);
  wake_writer();
  end_waits();
  arm_watchdog(steady_clock::now() + goodbye_timeout);
}

void AsioConnection::fail(const Status& why) {
  if (closed_socket_) return;
  if (!closing_) why_ = why.ok() ? unavailable("the connection was closed") : why;
  closed_socket_ = true;
  error_code ignored;
  socket_.close(ignored);
  wake_writer();
  watchdog_.cancel();
  if (deadline_timer_) deadline_timer_->cancel();
  end_waits();
}

void AsioConnection::end_waits() {
  if (upload_timer_) upload_timer_->cancel();
  if (download_timer_) download_timer_->cancel();
}

void AsioConnection::finish() {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
  }
  session_.abandon_all();
  for (const auto& [call_id, stream] : std::exchange(streams_, {})) stream->on_over(why_);
  const ConnectionEvents events = std::exchange(events_, {});
  if (events.on_closed) events.on_closed(shared_from_this(), why_, opened_);
  if (side_ == WireStream::Side::server) --io_->accepted_connections;
}

}  // namespace sporkle::mesh
