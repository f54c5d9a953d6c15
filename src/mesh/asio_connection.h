// AsioConnection: a Connection on Boost.Asio. Internal to transport.cc and asio_connection*.cc.
#pragma once

// clang-format off
#include <utility>  // first: Boost 1.74's coroutine headers use std::exchange without including it
// clang-format on

#include <atomic>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "mesh/transport.h"

namespace sporkle::mesh {

namespace asio = boost::asio;
using asio::awaitable;
using asio::ip::tcp;
using boost::system::error_code;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

inline constexpr size_t record_bytes = size_t{16} << 10;  // of TLS, at most
// How long a goodbye may take to leave and to be acknowledged by the peer's own end.
inline constexpr milliseconds goodbye_timeout{300};

inline auto with_error(error_code& error) { return asio::redirect_error(asio::use_awaitable, error); }

// "host:port"; an IPv4 peer of a socket that serves both is shown as one.
std::string endpoint_text(const tcp::endpoint& endpoint);

struct Reactor::Io {
  explicit Io(unsigned thread_count) : context(static_cast<int>(thread_count)), work(context.get_executor()) {}

  asio::io_context context;
  asio::executor_work_guard<asio::io_context::executor_type> work;
  std::vector<std::thread> threads;
  std::optional<tcp::acceptor> acceptor;
  std::optional<asio::steady_timer> accept_timer;
  bool listening = false;
  std::atomic<size_t> accepted_connections{0};
};

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

  void send_request(uint64_t call_id, std::string method, Message request, uint64_t timeout_ms) override;
  void open_stream(uint64_t call_id, std::string method, std::string body, uint64_t timeout_ms,
                   std::shared_ptr<StreamState> stream) override;
  void stream_write(uint64_t call_id, SharedBytes bytes) override;
  void stream_finish(uint64_t call_id) override;
  void stream_consumed(uint64_t call_id, size_t size_bytes) override;
  void cancel(uint64_t call_id) override;
  void send_response(uint64_t call_id, Result<Message> response) override;
  void close(Status why) override;

  Traffic traffic() const override {
    const std::lock_guard lock(mutex_);
    return wire_ ? wire_->traffic() : Traffic{};
  }
  const NodeId& peer_id() const override { return peer_id_; }
  const std::string& peer_address() const override { return peer_address_; }
  bool encrypted() const override { return encrypted_; }
  bool resumed() const override { return resumed_; }

  void start_server() { asio::co_spawn(socket_.get_executor(), run(shared_from_this(), std::nullopt), asio::detached); }
  void start_client(Address address, const NodeId& expected);

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
  static awaitable<void> run(Self self, std::optional<Address> address);
  static awaitable<Status> converse(Self self, std::optional<Address> address);
  static awaitable<Status> connect_socket(Self self, Address address);
  static awaitable<Status> handshake(Self self);
  void make_wire(bool plain, int descriptor);
  bool refused_plain() const;

  // Ends our direction, and waits a moment for the peer to end its own: closing a socket with unread data would reset
  // the connection, and the peer might never read what was sent last.
  static awaitable<void> drain(Self self);

  // Until `limit` lets bytes go; not while the connection is ending.
  static awaitable<void> wait_for_bandwidth(Self self, Bandwidth& limit, std::optional<asio::steady_timer>& timer);

  // Until the socket is ready for what TLS wants next.
  static awaitable<Status> wait_for(Self self, WireStream::Progress wanted);

  static awaitable<Status> read_loop(Self self);
  void received(std::span<const std::byte> bytes);
  static awaitable<void> write_loop(Self self);
  static awaitable<Status> write_all_output(Self self);
  static awaitable<Status> write(Self self, std::span<const std::byte> rest, bool& peer_gone);
  // Until the kernel has all that was written.
  static awaitable<Status> flush(Self self);

  void deliver_events();
  void deliver(Session::Event& event);

  // Deadlines: of all calls at the server, of streams at the client (call() keeps its own).
  void expire_later(uint64_t call_id, uint64_t timeout_ms, std::shared_ptr<Cancellation> cancellation);
  void expire(uint64_t call_id);
  void arm_deadline();

  void arm_watchdog(steady_clock::time_point when);

  // The watchdog's turn: it ends an overlong handshake or goodbye, and a connection that has gone silent.
  void watch();

  bool ending() const { return closing_ || closed_socket_; }

  void begin_close(const Status& why, bool tell_peer);

  // Closes the socket, which ends the coroutines.
  void fail(const Status& why);

  void end_waits();
  void finish();

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

}  // namespace sporkle::mesh
