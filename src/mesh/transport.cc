#include "mesh/transport.h"

#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ip/v6_only.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <thread>
#include <unordered_map>
#include <utility>  // Boost 1.74's coroutine headers use std::exchange without including it
#include <vector>

#include "base/log.h"
#include "mesh/plain_stream.h"
#include "mesh/stream_state.h"

namespace sporkle::mesh {
namespace {

namespace asio = boost::asio;
using asio::awaitable;
using asio::ip::tcp;
using boost::system::error_code;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

// What the kernel may hold unsent: a small call queued behind a large payload waits for this much at most.
constexpr int unsent_low_water_bytes = 256 << 10;
// Frames are gathered up to this much before they are encrypted.
constexpr size_t gather_bytes = size_t{64} << 10;
// What is decrypted before it is looked at: a whole chunk and more, so that most frames are read where they lie.
constexpr size_t read_bytes = size_t{512} << 10;
// A busy connection lets the others have the thread after so many bytes read or written.
constexpr size_t bytes_per_turn = size_t{512} << 10;
constexpr size_t record_bytes = size_t{16} << 10;  // of TLS, at most
// How long a goodbye may take to leave and to be acknowledged by the peer's own end.
constexpr milliseconds goodbye_timeout{300};
constexpr milliseconds full_poll{20};
constexpr size_t spare_deadlines = 16;
constexpr milliseconds first_accept_backoff{10};
constexpr milliseconds longest_accept_backoff{1000};

auto with_error(error_code& error) { return asio::redirect_error(asio::use_awaitable, error); }

std::string endpoint_text(const tcp::endpoint& endpoint) {
  asio::ip::address address = endpoint.address();
  // An IPv4 peer of a socket that serves both.
  if (address.is_v6() && address.to_v6().is_v4_mapped())
    address = asio::ip::make_address_v4(asio::ip::v4_mapped, address.to_v6());
  return Address{address.to_string(), endpoint.port()}.to_string();
}

bool out_of_descriptors(const error_code& error) {
  return error == asio::error::no_descriptors || error == error_code(ENFILE, boost::system::system_category()) ||
         error == asio::error::no_buffer_space || error == asio::error::no_memory;
}

// One for each thread, not for each connection: nothing stays in it while a connection waits.
std::span<std::byte> read_buffer() {
  thread_local const std::unique_ptr<std::byte[]> buffer(new std::byte[read_bytes]);
  return {buffer.get(), read_bytes};
}

}  // namespace

struct Reactor::Io {
  explicit Io(unsigned thread_count) : context(static_cast<int>(thread_count)), work(context.get_executor()) {}

  asio::io_context context;
  asio::executor_work_guard<asio::io_context::executor_type> work;
  std::vector<std::thread> threads;
  std::mutex mutex;  // of `acceptor`
  std::optional<tcp::acceptor> acceptor;
  std::optional<asio::steady_timer> accept_timer;
  bool listening = false;
  std::atomic<size_t> accepted_connections{0};
};

namespace {

class AsioConnection : public Connection, public std::enable_shared_from_this<AsioConnection> {
 public:
  AsioConnection(std::shared_ptr<Reactor::Io> io, tcp::socket socket, std::shared_ptr<const TlsContext> tls,
                 WireStream::Side side, const ConnectionOptions& options, ConnectionEvents events)
      : io_(std::move(io)),
        socket_(std::move(socket)),
        tls_context_(std::move(tls)),
        side_(side),
        options_(options),
        events_(std::move(events)),
        session_(side == WireStream::Side::client ? Session::Side::client : Session::Side::server, options.session),
        output_signal_(socket_.get_executor(), steady_clock::time_point::max()),
        watchdog_(socket_.get_executor()) {}

  void send_request(uint64_t call_id, std::string method, Message request, uint64_t timeout_ms) override {
    post([call_id, method = std::move(method), request = std::move(request), timeout_ms](AsioConnection& self) mutable {
      self.session_.send_request(call_id, method, std::move(request), timeout_ms);
    });
  }
  void open_stream(uint64_t call_id, std::string method, std::string body, uint64_t timeout_ms,
                   std::shared_ptr<StreamState> stream) override {
    const bool posted = post([=, body = std::move(body)](AsioConnection& self) mutable {
      const Status status = self.session_.open_stream(call_id, method, std::move(body), timeout_ms);
      if (!status.ok()) return stream->on_over(status);
      self.streams_[call_id] = stream;
    });
    if (!posted) stream->on_over(unavailable("the connection is closed"));
  }
  void stream_write(uint64_t call_id, SharedBytes bytes) override {
    post([call_id, bytes = std::move(bytes)](AsioConnection& self) mutable {
      self.session_.stream_write(call_id, std::move(bytes));
    });
  }
  void stream_finish(uint64_t call_id) override {
    post([call_id](AsioConnection& self) { self.session_.stream_finish(call_id); });
  }
  void stream_consumed(uint64_t call_id, size_t size_bytes) override {
    post([call_id, size_bytes](AsioConnection& self) { self.session_.stream_consumed(call_id, size_bytes); });
  }
  void cancel(uint64_t call_id) override {
    post([call_id](AsioConnection& self) {
      self.session_.cancel(call_id);
      self.streams_.erase(call_id);
    });
  }
  void send_response(uint64_t call_id, Result<Message> response) override {
    post([call_id, response = std::move(response)](AsioConnection& self) mutable {
      self.session_.send_response(call_id, std::move(response));
    });
  }
  void close(Status why) override {
    post([why = std::move(why)](AsioConnection& self) { self.begin_close(why, true); });
  }

  Traffic traffic() const override {
    const std::lock_guard lock(mutex_);
    return wire_ ? wire_->traffic() : Traffic{};
  }
  const NodeId& peer_id() const override { return peer_id_; }
  const std::string& peer_address() const override { return peer_address_; }
  bool encrypted() const override { return encrypted_; }
  bool resumed() const override { return resumed_; }

  void start_server() { asio::co_spawn(socket_.get_executor(), run(shared_from_this(), std::nullopt), asio::detached); }
  void start_client(Address address, const NodeId& expected) {
    expected_ = expected;
    asio::co_spawn(socket_.get_executor(), run(shared_from_this(), std::move(address)), asio::detached);
  }

 private:
  using Self = std::shared_ptr<AsioConnection>;

  // Runs `action` on the connection's strand, unless it has closed. Nothing is posted after on_closed, so the reactor
  // runs out of work once all connections are gone; then, and only then, the answer is false.
  template <typename Action>
  bool post(Action action) {
    const std::lock_guard lock(mutex_);
    if (closed_) return false;
    asio::post(socket_.get_executor(), [self = shared_from_this(), action = std::move(action)]() mutable {
      if (self->ending()) return;
      action(*self);
      self->wake_writer();
    });
    return true;
  }

  void wake_writer() {
    if (std::exchange(writer_waits_, false)) output_signal_.cancel();
  }

  // The life of the connection. Static members with `self` first: a coroutine must own what it uses.
  static awaitable<void> run(Self self, std::optional<Address> address) {
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

  static awaitable<Status> converse(Self self, std::optional<Address> address) {
    if (address) SPORKLE_CO_RETURN_IF_ERROR(co_await connect_socket(self, *std::move(address)));
    SPORKLE_CO_RETURN_IF_ERROR(co_await handshake(self));
    self->writing_ = true;
    asio::co_spawn(self->socket_.get_executor(), write_loop(self), asio::detached);
    co_return co_await read_loop(self);
  }

  static awaitable<Status> connect_socket(Self self, Address address) {
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

  static awaitable<Status> handshake(Self self) {
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
        [[maybe_unused]] const ssize_t put =
            ::send(descriptor, plain_refusal.data(), plain_refusal.size(), MSG_NOSIGNAL);
        co_await drain(self);
        co_return unsupported(
            self->peer_address_ +
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
                                                    self->expected_->short_id() + ", found " +
                                                    self->peer_id_.short_id() +
                                                    "; another program answers there, or the link is out of date");
    self->encrypted_ = self->wire_->encrypted();
    self->resumed_ = self->wire_->resumed();
    if (!self->encrypted_) self->session_.checksum_data();
    if (self->options_.bandwidth) self->bandwidth_ = self->options_.bandwidth(self->peer_id_);
    if (self->bandwidth_) self->session_.set_chunk_bytes(self->bandwidth_->upload.piece_bytes(sent_chunk_bytes));
    co_return Status();
  }

  void make_wire(bool plain, int descriptor) {
    const std::lock_guard lock(mutex_);
    if (plain) {
      wire_ = std::make_unique<PlainStream>(tls_context_->identity(), descriptor, side_);
    } else {
      wire_ =
          std::make_unique<TlsStream>(tls_context_, descriptor, side_, options_.sessions, expected_.value_or(NodeId{}));
    }
  }
  bool refused_plain() const {
    const auto* const plain = dynamic_cast<const PlainStream*>(wire_.get());
    return plain && plain->refused();
  }

  // Ends our direction, and waits a moment for the peer to end its own: closing a socket with unread data would reset
  // the connection, and the peer might never read what was sent last.
  static awaitable<void> drain(Self self) {
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

  // Until `limit` lets bytes go; not while the connection is ending.
  static awaitable<void> wait_for_bandwidth(Self self, Bandwidth& limit, std::optional<asio::steady_timer>& timer) {
    for (;;) {
      const auto wait = limit.wait(steady_clock::now());
      if (wait.count() <= 0 || self->ending()) co_return;
      if (!timer) timer.emplace(self->socket_.get_executor());
      error_code ignored;
      timer->expires_after(wait);
      co_await timer->async_wait(with_error(ignored));
    }
  }

  // Until the socket is ready for what TLS wants next.
  static awaitable<Status> wait_for(Self self, WireStream::Progress wanted) {
    if (self->closed_socket_) co_return self->why_;
    error_code error;
    const auto event = wanted == WireStream::Progress::want_read ? tcp::socket::wait_read : tcp::socket::wait_write;
    co_await self->socket_.async_wait(event, with_error(error));
    if (self->closed_socket_) co_return self->why_;
    if (error) co_return unavailable("the connection to " + self->peer_address_ + " broke: " + error.message());
    co_return Status();
  }

  static awaitable<Status> read_loop(Self self) {
    for (;;) {
      if (self->bandwidth_) co_await wait_for_bandwidth(self, self->bandwidth_->download, self->download_timer_);
      if (self->closed_socket_) co_return self->why_;
      std::span<std::byte> buffer = read_buffer();
      if (self->bandwidth_)
        buffer = buffer.first(record_bytes + self->bandwidth_->download.piece_bytes(buffer.size() - record_bytes));
      size_t size = 0;
      WireStream::Progress progress = WireStream::Progress::done;
      while (size + record_bytes <= buffer.size()) {
        size_t count = 0;
        progress = self->wire_->read(buffer.subspan(size), count);
        if (progress != WireStream::Progress::done) break;
        size += count;
      }
      if (size > 0 && self->bandwidth_) self->bandwidth_->download.use(size, steady_clock::now());
      if (size > 0) self->received(buffer.first(size));
      if (self->closed_socket_) co_return self->why_;
      if (progress == WireStream::Progress::closed) {
        if (self->ending()) co_return self->why_;
        co_return unavailable("the peer " + self->peer_address_ + " closed the connection" +
                              (self->session_.inside_frame() ? " inside a frame" : ""));
      }
      if (progress == WireStream::Progress::failed)
        co_return unavailable("the connection to " + self->peer_address_ + " broke: " + self->wire_->error());
      if (progress == WireStream::Progress::done) {
        co_await asio::post(self->socket_.get_executor(), asio::use_awaitable);
      } else {
        SPORKLE_CO_RETURN_IF_ERROR(co_await wait_for(self, progress));
      }
    }
  }

  void received(std::span<const std::byte> bytes) {
    last_heard_ = steady_clock::now();
    // While our goodbye is under way, what still arrives is dropped: closing a socket with unread data would reset
    // the connection, and the peer might never read why.
    if (ending()) return;
    const Status status = session_.receive(bytes);
    deliver_events();
    if (!status.ok()) begin_close(status, !session_.peer_said_goodbye());
    if (ending() || session_.has_output()) wake_writer();
  }

  static awaitable<void> write_loop(Self self) {
    Status status;
    try {
      status = co_await write_all_output(self);
    } catch (const std::bad_alloc&) {
      status = Status(Code::out_of_memory, "no memory for what is to be sent");
    } catch (const std::exception& error) {
      status = internal_error(std::string("a connection's writer failed: ") + error.what());
    }
    if (!status.ok()) self->fail(status);
    self->writing_ = false;
    if (self->closed_socket_) self->watchdog_.cancel();  // wakes run(), if that waits for us
  }

  static awaitable<Status> write_all_output(Self self) {
    std::vector<std::byte> output;
    while (!self->closed_socket_) {
      SharedBytes tail;  // of the last frame, sent from where it lies
      if (self->bandwidth_) co_await wait_for_bandwidth(self, self->bandwidth_->upload, self->upload_timer_);
      const size_t gather = self->bandwidth_ ? self->bandwidth_->upload.piece_bytes(gather_bytes) : gather_bytes;
      while (output.size() < gather && tail.bytes.empty() && self->session_.next_output(output, tail)) {
      }
      self->deliver_events();  // streams that may be written to again
      if (output.empty()) {
        SPORKLE_CO_RETURN_IF_ERROR(co_await flush(self));
        if (self->closed_socket_) break;
        if (self->session_.has_output()) continue;
        if (self->closing_) {
          self->wire_->close_notify();
          error_code ignored;
          self->socket_.shutdown(tcp::socket::shutdown_send, ignored);
          co_return Status();
        }
        output = {};  // an idle connection holds no buffer
        error_code ignored;
        self->writer_waits_ = true;
        self->output_signal_.expires_at(steady_clock::time_point::max());
        co_await self->output_signal_.async_wait(with_error(ignored));
        self->writer_waits_ = false;
        continue;
      }
      // The first record is filled up with the tail's start, so that no record is nearly empty.
      const size_t lacking = (record_bytes - output.size() % record_bytes) % record_bytes;
      const auto filling = tail.bytes.first(std::min(lacking, tail.bytes.size()));
      output.insert(output.end(), filling.begin(), filling.end());
      tail.bytes = tail.bytes.subspan(filling.size());
      if (self->bandwidth_) self->bandwidth_->upload.use(output.size() + tail.bytes.size(), steady_clock::now());
      for (std::span<const std::byte> rest : {std::span<const std::byte>(output), tail.bytes}) {
        bool peer_gone = false;
        SPORKLE_CO_RETURN_IF_ERROR(co_await write(self, rest, peer_gone));
        // It may have said why: the reader gets to the end of what arrived.
        if (peer_gone) co_return Status();
      }
      output.clear();
    }
    co_return self->why_;
  }

  static awaitable<Status> write(Self self, std::span<const std::byte> rest, bool& peer_gone) {
    while (!rest.empty()) {
      size_t count = 0;
      const WireStream::Progress progress = self->wire_->write(rest, count);
      rest = rest.subspan(count);
      self->written_in_turn_ += count;
      if (progress == WireStream::Progress::want_read || progress == WireStream::Progress::want_write) {
        SPORKLE_CO_RETURN_IF_ERROR(co_await wait_for(self, progress));
        self->written_in_turn_ = 0;
      } else if (progress == WireStream::Progress::failed) {
        co_return unavailable("the connection to " + self->peer_address_ + " broke: " + self->wire_->error());
      } else if (progress == WireStream::Progress::closed) {
        peer_gone = true;
        co_return Status();
      } else if (self->written_in_turn_ >= bytes_per_turn) {
        self->written_in_turn_ = 0;
        co_await asio::post(self->socket_.get_executor(), asio::use_awaitable);
      }
      if (self->closed_socket_) co_return self->why_;
    }
    co_return Status();
  }

  // Until the kernel has all that was written.
  static awaitable<Status> flush(Self self) {
    while (!self->closed_socket_ && self->wire_->flush() == WireStream::Progress::want_write)
      SPORKLE_CO_RETURN_IF_ERROR(co_await wait_for(self, WireStream::Progress::want_write));
    co_return Status();
  }

  void deliver_events() {
    Session::Event event;
    while (!ending() && session_.next_event(event)) {
      deliver(event);
      event = {};
    }
  }

  void deliver(Session::Event& event) {
    using Kind = Session::Event::Kind;
    if (event.kind == Kind::opened) {
      opened_ = true;
      arm_watchdog(steady_clock::now() + options_.keep_alive_interval);
      if (events_.on_open) events_.on_open(shared_from_this(), event);
      return;
    }
    if (event.kind == Kind::request || event.kind == Kind::stream_opened) {
      if (event.timeout_ms > 0) expire_later(event);
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

  // The server's side of deadlines.
  void expire_later(Session::Event& event) {
    const auto when = steady_clock::now() + milliseconds(event.timeout_ms);
    // Calls that were answered in time leave their entries; those are dropped when they are the most.
    if (deadlines_.size() >= 2 * session_.calls_in_flight() + spare_deadlines)
      std::erase_if(deadlines_, [](const auto& entry) { return entry.second.cancellation->requested(); });
    const bool first = deadlines_.empty() || when < deadlines_.begin()->first;
    deadlines_.emplace(when, Deadline{event.call_id, event.cancellation});
    if (first) arm_deadline();
  }

  void arm_deadline() {
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
        if (!due.cancellation->requested()) self->session_.expire(due.call_id);
      }
      self->wake_writer();
      self->arm_deadline();
    });
  }

  void arm_watchdog(steady_clock::time_point when) {
    watchdog_deadline_ = when;
    watchdog_.expires_at(when);
    watchdog_.async_wait([self = shared_from_this()](error_code error) {
      if (!error && !self->closed_socket_) self->watch();
    });
  }

  // The watchdog's turn: it ends an overlong handshake or goodbye, and a connection that has gone silent.
  void watch() {
    const auto now = steady_clock::now();
    if (now < watchdog_deadline_) return;  // armed again in the last moment
    if (ending()) return fail(why_);
    if (!opened_)
      return fail(
          Status(Code::deadline_exceeded, "no handshake with " + (peer_address_.empty() ? "the peer" : peer_address_) +
                                              " within " + std::to_string(options_.handshake_timeout.count()) + " ms"));
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

  bool ending() const { return closing_ || closed_socket_; }

  void begin_close(const Status& why, bool tell_peer) {
    if (ending()) return;
    if (!tell_peer || !writing_) return fail(why);
    why_ = why.ok() ? Status(Code::cancelled, "the connection was closed here") : why;
    closing_ = true;
    session_.send_goodbye(why);
    wake_writer();
    end_waits();
    arm_watchdog(steady_clock::now() + goodbye_timeout);
  }

  // Closes the socket, which ends the coroutines.
  void fail(const Status& why) {
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

  void end_waits() {
    if (upload_timer_) upload_timer_->cancel();
    if (download_timer_) download_timer_->cancel();
  }

  void finish() {
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

  const std::shared_ptr<Reactor::Io> io_;  // first: it must outlive the socket
  tcp::socket socket_;
  const std::shared_ptr<const TlsContext> tls_context_;
  const WireStream::Side side_;
  const ConnectionOptions options_;
  ConnectionEvents events_;
  std::optional<NodeId> expected_;
  Session session_;
  asio::steady_timer output_signal_;  // never expires: cancelled when the session has output
  asio::steady_timer watchdog_;
  std::unordered_map<uint64_t, std::shared_ptr<StreamState>> streams_;
  struct Deadline {
    uint64_t call_id;
    std::shared_ptr<Cancellation> cancellation;
  };
  std::multimap<steady_clock::time_point, Deadline> deadlines_;  // of calls, some of which are over
  std::optional<asio::steady_timer> deadline_timer_;             // armed for the first of them
  steady_clock::time_point watchdog_deadline_;
  steady_clock::time_point last_heard_ = steady_clock::now();
  NodeId peer_id_;
  std::string peer_address_;
  bool opened_ = false;
  bool writing_ = false;
  bool writer_waits_ = false;  // for output_signal_
  size_t written_in_turn_ = 0;
  bool closing_ = false;        // a goodbye is on its way
  bool closed_socket_ = false;  // the end, all that is left is to leave the coroutines
  Status why_;

  bool encrypted_ = true;
  bool resumed_ = false;
  std::shared_ptr<PeerBandwidth> bandwidth_;
  std::optional<asio::steady_timer> upload_timer_;
  std::optional<asio::steady_timer> download_timer_;

  mutable std::mutex mutex_;  // of wire_'s creation and closed_
  std::unique_ptr<WireStream> wire_;
  bool closed_ = false;
};

struct AcceptContext {
  std::shared_ptr<const TlsContext> tls;
  ConnectionOptions options;
  size_t max_connections;
  Reactor::OnAccept on_accept;
  ConnectionEvents events;
};

awaitable<void> accept_loop(std::shared_ptr<Reactor::Io> io, std::shared_ptr<const AcceptContext> context) {
  milliseconds backoff = first_accept_backoff;
  while (io->listening) {
    error_code error;
    if (io->accepted_connections >= context->max_connections) {
      io->accept_timer->expires_after(full_poll);
      co_await io->accept_timer->async_wait(with_error(error));
      continue;
    }
    tcp::socket socket(asio::make_strand(io->context));
    co_await io->acceptor->async_accept(socket, with_error(error));
    if (!io->listening) co_return;
    if (error) {
      // Out of descriptors, the waiting connection stays ready: accepting again at once would spin.
      if (out_of_descriptors(error) && backoff == first_accept_backoff)
        log(LogLevel::warning, "mesh",
            "cannot accept a connection: " + error.message() + "; waiting for some to close");
      io->accept_timer->expires_after(backoff);
      backoff = std::min(2 * backoff, longest_accept_backoff);
      co_await io->accept_timer->async_wait(with_error(error));
      continue;
    }
    backoff = first_accept_backoff;
    ++io->accepted_connections;
    const auto connection = std::make_shared<AsioConnection>(
        io, std::move(socket), context->tls, WireStream::Side::server, context->options, context->events);
    context->on_accept(connection);
    connection->start_server();
  }
}

Result<std::vector<tcp::endpoint>> endpoints_to_listen_on(asio::io_context& context, const std::string& host,
                                                          uint16_t port) {
  if (host.empty()) return std::vector{tcp::endpoint(tcp::v6(), port), tcp::endpoint(tcp::v4(), port)};
  error_code error;
  const asio::ip::address literal = asio::ip::make_address(host, error);
  if (!error) return std::vector{tcp::endpoint(literal, port)};
  tcp::resolver resolver(context);
  std::vector<tcp::endpoint> endpoints;
  for (const auto& entry : resolver.resolve(host, std::to_string(port), error)) endpoints.push_back(entry.endpoint());
  if (error) return invalid_argument("cannot listen on " + host + ": " + error.message());
  return endpoints;
}

Status listen_on(tcp::acceptor& acceptor, const tcp::endpoint& endpoint) {
  const std::string name = endpoint_text(endpoint);
  error_code error, ignored;
  acceptor.close(ignored);
  acceptor.open(endpoint.protocol(), error);
  // A restarted coordinator must get its port back although old connections linger.
  if (!error) acceptor.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error && endpoint.protocol() == tcp::v6() && endpoint.address().is_unspecified())
    acceptor.set_option(asio::ip::v6_only(false), error);
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (!error) return {};
  if (error == asio::error::address_in_use)
    return Status(Code::already_exists, "cannot listen on " + name + ": port " + std::to_string(endpoint.port()) +
                                            " is taken by another program; choose another, or 0 for any free one");
  if (error == asio::error::access_denied)
    return Status(Code::permission_denied,
                  "cannot listen on " + name + ": " + error.message() + "; ports below 1024 usually need privileges");
  return invalid_argument("cannot listen on " + name + ": " + error.message());
}

}  // namespace

Result<std::unique_ptr<Reactor>> Reactor::create(unsigned threads) {
  threads = std::max(threads, 1u);
  try {
    std::unique_ptr<Reactor> reactor(new Reactor(std::make_shared<Io>(threads)));  // its destructor joins what started
    for (unsigned i = 0; i < threads; ++i)
      reactor->io_->threads.emplace_back([io = reactor->io_.get()] { io->context.run(); });
    return reactor;
  } catch (const std::exception& error) {
    return unavailable(std::string("cannot start the network threads: ") + error.what());
  }
}

Reactor::~Reactor() {
  stop_listening();
  io_->work.reset();
  for (std::thread& thread : io_->threads) thread.join();
}

Result<uint16_t> Reactor::listen(const std::string& host, uint16_t port, std::shared_ptr<const TlsContext> tls,
                                 const ConnectionOptions& options, size_t max_connections, OnAccept on_accept,
                                 ConnectionEvents events) {
  SPORKLE_ASSIGN_OR_RETURN(const std::vector<tcp::endpoint> endpoints,
                           endpoints_to_listen_on(io_->context, host, port));
  const auto strand = asio::make_strand(io_->context);
  tcp::acceptor acceptor(strand);
  Status status = invalid_argument("cannot listen on " + host + ": it has no address");
  for (const tcp::endpoint& endpoint : endpoints) {
    status = listen_on(acceptor, endpoint);
    if (status.ok() || status.code() == Code::already_exists) break;
  }
  SPORKLE_RETURN_IF_ERROR(status);
  error_code error;
  const uint16_t bound = acceptor.local_endpoint(error).port();
  io_->acceptor.emplace(std::move(acceptor));
  io_->accept_timer.emplace(strand);
  io_->listening = true;
  auto context = std::make_shared<const AcceptContext>(
      AcceptContext{std::move(tls), options, max_connections, std::move(on_accept), std::move(events)});
  asio::co_spawn(strand, accept_loop(io_, std::move(context)), asio::detached);
  return bound;
}

void Reactor::stop_listening() {
  if (!io_->acceptor) return;
  asio::post(io_->acceptor->get_executor(), [io = io_] {
    error_code ignored;
    io->listening = false;
    io->acceptor->close(ignored);
    io->accept_timer->cancel();
  });
}

std::shared_ptr<Connection> Reactor::connect(const Address& address, const NodeId& expected,
                                             std::shared_ptr<const TlsContext> tls, const ConnectionOptions& options,
                                             ConnectionEvents events) {
  const auto connection =
      std::make_shared<AsioConnection>(io_, tcp::socket(asio::make_strand(io_->context)), std::move(tls),
                                       WireStream::Side::client, options, std::move(events));
  connection->start_client(address, expected);
  return connection;
}

}  // namespace sporkle::mesh
