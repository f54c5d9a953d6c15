// A connection's life: connecting, handshake, what it is told, its timers and its end.
#include "mesh/asio_connection.h"

#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <exception>
#include <new>

#include "mesh/plain_stream.h"
#include "mesh/stream_state.h"

namespace sporkle::mesh {
namespace {

// What the kernel may hold unsent: a small call queued behind a large payload waits for this much at most.
constexpr int unsent_low_water_bytes = 256 << 10;
// How long a goodbye may take to leave and to be acknowledged by the peer's own end.
constexpr milliseconds goodbye_timeout{300};
constexpr size_t spare_deadlines = 16;

}  // namespace

std::string endpoint_text(const tcp::endpoint& endpoint) {
  asio::ip::address address = endpoint.address();
  if (address.is_v6() && address.to_v6().is_v4_mapped())
    address = asio::ip::make_address_v4(asio::ip::v4_mapped, address.to_v6());
  return Address{address.to_string(), endpoint.port()}.to_string();
}

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

awaitable<Status> AsioConnection::connect_socket(Self self, Address address) {
  std::vector<tcp::endpoint> endpoints;
  error_code error;
  const asio::ip::address literal = asio::ip::make_address(address.host, error);
  if (!error) {
    endpoints.emplace_back(literal, address.port);
  } else {
    tcp::resolver resolver(self->socket_.get_executor());
    const auto found = co_await resolver.async_resolve(address.host, std::to_string(address.port), with_error(error));
    if (error) co_return unavailable("cannot find the address of " + address.host + ": " + error.message());
    for (const auto& entry : found) endpoints.push_back(entry.endpoint());
  }
  Status status = unavailable("no address known for " + address.host);
  for (const tcp::endpoint& endpoint : endpoints) {
    if (self->ending()) co_return self->why_;
    error_code ignored;
    self->socket_.close(ignored);
    co_await self->socket_.async_connect(endpoint, with_error(error));
    if (self->ending()) co_return self->why_;
    if (!error) co_return Status();
    status = unavailable("cannot connect to " + endpoint_text(endpoint) + ": " + error.message());
  }
  co_return status;
}

awaitable<Status> AsioConnection::handshake(Self self) {
  error_code error;
  const tcp::endpoint remote = self->socket_.remote_endpoint(error);
  if (error) co_return unavailable("the peer left before the handshake: " + error.message());
  self->peer_address_ = endpoint_text(remote);
  self->socket_.non_blocking(true, error);
  self->socket_.set_option(tcp::no_delay(true), error);
  const int descriptor = self->socket_.native_handle();
  ::setsockopt(descriptor, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent_low_water_bytes, sizeof unsent_low_water_bytes);
  bool plain = self->options_.plaintext;
  if (self->side_ == WireStream::Side::server) {
    SPORKLE_CO_RETURN_IF_ERROR(co_await wait_for(self, WireStream::Progress::want_read));
    char first = 0;  // TLS begins with 0x16, never with this
    const bool asked = ::recv(descriptor, &first, 1, MSG_PEEK) == 1 && first == plain_greeting[0];
    if (asked && !plain) {
      [[maybe_unused]] const ssize_t put = ::send(descriptor, plain_refusal.data(), plain_refusal.size(), MSG_NOSIGNAL);
      co_await drain(self);
      co_return unsupported(self->peer_address_ +
                            " asked for a connection without encryption (--plaintext), which this node does not allow");
    }
    plain = asked;
  }
  self->make_wire(plain, descriptor);
  for (;;) {
    const WireStream::Progress progress = self->wire_->handshake();
    if (progress == WireStream::Progress::done) break;
    const std::string what = plain ? "handshake" : "TLS handshake";
    if (progress == WireStream::Progress::closed)
      co_return unavailable(self->peer_address_ + " closed the connection during the " + what +
                            (plain ? "; it may not know connections without encryption" : ""));
    if (progress == WireStream::Progress::failed && self->refused_plain())
      co_return unsupported("the node at " + self->peer_address_ +
                            " does not allow connections without encryption; it must be started with --plaintext as "
                            "well, or this one without");
    if (progress == WireStream::Progress::failed)
      co_return unavailable(what + " with " + self->peer_address_ + " failed: " + self->wire_->error());
    SPORKLE_CO_RETURN_IF_ERROR(co_await wait_for(self, progress));
  }
  SPORKLE_CO_ASSIGN_OR_RETURN(self->peer_id_, self->wire_->peer_id());
  if (self->expected_ && self->peer_id_ != *self->expected_)
    co_return Status(Code::permission_denied, "wrong key at " + self->peer_address_ + ": expected node " +
                                                  self->expected_->short_id() + ", found " + self->peer_id_.short_id() +
                                                  "; another program answers there, or the link is out of date");
  self->encrypted_ = self->wire_->encrypted();
  self->resumed_ = self->wire_->resumed();
  if (!self->encrypted_) self->session_.checksum_data();
  if (self->options_.bandwidth) self->bandwidth_ = self->options_.bandwidth(self->peer_id_);
  if (self->bandwidth_) self->session_.set_chunk_bytes(self->bandwidth_->upload.piece_bytes(sent_chunk_bytes));
  co_return Status();
}

void AsioConnection::make_wire(bool plain, int descriptor) {
  const std::lock_guard lock(mutex_);
  if (plain) {
    wire_ = std::make_unique<PlainStream>(tls_context_->identity(), descriptor, side_);
  } else {
    wire_ =
        std::make_unique<TlsStream>(tls_context_, descriptor, side_, options_.sessions, expected_.value_or(NodeId{}));
  }
}

bool AsioConnection::refused_plain() const {
  const auto* const plain = dynamic_cast<const PlainStream*>(wire_.get());
  return plain && plain->refused();
}

awaitable<void> AsioConnection::drain(Self self) {
  error_code error;
  self->socket_.shutdown(tcp::socket::shutdown_send, error);
  self->arm_watchdog(steady_clock::now() + goodbye_timeout);
  std::array<std::byte, 256> dropped;
  for (;;) {
    const ssize_t got = ::recv(self->socket_.native_handle(), dropped.data(), dropped.size(), 0);
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) co_return;
    if (got < 0 && !(co_await wait_for(self, WireStream::Progress::want_read)).ok()) co_return;
  }
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

void AsioConnection::expire_later(uint64_t call_id, uint64_t timeout_ms, std::shared_ptr<Cancellation> cancellation) {
  const auto when = steady_clock::now() + milliseconds(std::min(timeout_ms, longest_timeout_ms));
  // Calls that were answered in time leave their entries; those are dropped when they are the most.
  if (deadlines_.size() >= 2 * session_.calls_in_flight() + spare_deadlines)
    std::erase_if(deadlines_, [](const auto& entry) { return entry.second.cancellation->requested(); });
  const bool first = deadlines_.empty() || when < deadlines_.begin()->first;
  deadlines_.emplace(when, Deadline{call_id, std::move(cancellation)});
  if (first) arm_deadline();
}

void AsioConnection::expire(uint64_t call_id) {
  if (side_ == WireStream::Side::server) return session_.expire(call_id);
  session_.cancel(call_id);
  const auto it = streams_.find(call_id);
  if (it == streams_.end()) return;
  const std::shared_ptr<StreamState> stream = std::move(it->second);
  streams_.erase(it);
  stream->on_over(Status(Code::deadline_exceeded, "the stream's time ran out"));
}

void AsioConnection::arm_deadline() {
  if (deadlines_.empty()) return;
  if (!deadline_timer_) deadline_timer_.emplace(socket_.get_executor());
  deadline_timer_->expires_at(deadlines_.begin()->first);
  deadline_timer_->async_wait([weak = weak_from_this()](error_code error) {
    const auto self = weak.lock();
    if (error || !self || self->ending()) return;
    const auto now = steady_clock::now();
    while (!self->deadlines_.empty() && self->deadlines_.begin()->first <= now) {
      const Deadline due = std::move(self->deadlines_.begin()->second);
      self->deadlines_.erase(self->deadlines_.begin());
      if (!due.cancellation->requested()) self->expire(due.call_id);
    }
    self->wake_writer();
    self->arm_deadline();
  });
}

void AsioConnection::arm_watchdog(steady_clock::time_point when) {
  watchdog_deadline_ = when;
  watchdog_.expires_at(when);
  watchdog_.async_wait([self = shared_from_this()](error_code error) {
    if (!error && !self->closed_socket_) self->watch();
  });
}

void AsioConnection::watch() {
  const auto now = steady_clock::now();
  if (now < watchdog_deadline_) return;  // armed again in the last moment
  if (ending()) return fail(why_);
  if (!opened_)
    return fail(Status(Code::deadline_exceeded, "no handshake with " +
                                                    (peer_address_.empty() ? "the peer" : peer_address_) + " within " +
                                                    std::to_string(options_.handshake_timeout.count()) + " ms"));
  const auto silent = now - last_heard_;
  if (silent >= options_.keep_alive_timeout)
    return begin_close(unavailable("nothing heard from " + peer_address_ + " for " +
                                   std::to_string(std::chrono::duration_cast<milliseconds>(silent).count()) + " ms"),
                       true);
  if (silent >= options_.keep_alive_interval) {
    session_.send_ping();
    wake_writer();
    arm_watchdog(std::min(now + options_.keep_alive_interval, last_heard_ + options_.keep_alive_timeout));
  } else {
    arm_watchdog(last_heard_ + options_.keep_alive_interval);
  }
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
