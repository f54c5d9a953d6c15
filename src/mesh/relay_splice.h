// Two sockets tied together: what arrives at one leaves by the other. Internal to mesh/; it includes Boost.Asio.
//
// A Splice belongs to one single-threaded io_context and keeps itself alive until both directions have ended.
#pragma once

#include <algorithm>
#include <array>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

namespace sporkle::mesh {

// The completion token of a coroutine that looks at the error itself.
inline auto with_error(boost::system::error_code& error) {
  return boost::asio::redirect_error(boost::asio::use_awaitable, error);
}

// Holds a sum of bytes to a rate: everyone waits for the bytes that went before. Not thread-safe.
class Pacer {
 public:
  // 0: no limit.
  explicit Pacer(uint64_t bytes_per_second) : bytes_per_second_(bytes_per_second) {}
  // When `bytes` may go; they count from then on. After a pause up to `burst` of time is caught up.
  std::chrono::steady_clock::time_point reserve(size_t bytes, std::chrono::steady_clock::time_point now) {
    if (bytes_per_second_ == 0) return now;
    constexpr std::chrono::milliseconds burst{100};
    const auto when = std::max(next_, now - burst);
    next_ = when + std::chrono::nanoseconds(
                       static_cast<int64_t>(1e9 * static_cast<double>(bytes) / static_cast<double>(bytes_per_second_)));
    return when;
  }

 private:
  const uint64_t bytes_per_second_;
  std::chrono::steady_clock::time_point next_{};
};

class Splice : public std::enable_shared_from_this<Splice> {
 public:
  using Socket = boost::asio::ip::tcp::socket;

  // `pacer`, which may be null, outlives the splice.
  Splice(Socket one, Socket other, Pacer* pacer) : one_(std::move(one)), other_(std::move(other)), pacer_(pacer) {}
  // Called once, when both directions have ended. Set before start().
  void on_end(std::function<void()> action) { on_end_ = std::move(action); }

  void start() {
    last_activity_ = std::chrono::steady_clock::now();
    for (Socket* const socket : {&one_, &other_}) {
      boost::system::error_code ignored;
      socket->set_option(boost::asio::ip::tcp::no_delay(true), ignored);
    }
    boost::asio::co_spawn(one_.get_executor(), copy(shared_from_this(), one_, other_), boost::asio::detached);
    boost::asio::co_spawn(one_.get_executor(), copy(shared_from_this(), other_, one_), boost::asio::detached);
  }
  void close() {
    boost::system::error_code ignored;
    one_.close(ignored);
    other_.close(ignored);
  }
  uint64_t bytes() const { return bytes_; }
  std::chrono::steady_clock::time_point last_activity() const { return last_activity_; }

 private:
  static boost::asio::awaitable<void> copy(std::shared_ptr<Splice> self, Socket& from, Socket& to) {
    boost::system::error_code error;
    std::array<std::byte, 16384> buffer;
    boost::asio::steady_timer pause(from.get_executor());
    while (!error) {
      const size_t count = co_await from.async_read_some(boost::asio::buffer(buffer), with_error(error));
      if (error) break;
      const auto now = std::chrono::steady_clock::now();
      self->last_activity_ = now;
      if (self->pacer_)
        if (const auto when = self->pacer_->reserve(count, now); when > now) {
          pause.expires_at(when);
          co_await pause.async_wait(with_error(error));
        }
      co_await boost::asio::async_write(to, boost::asio::buffer(buffer, count), with_error(error));
      self->bytes_ += count;
    }
    boost::system::error_code ignored;
    if (error == boost::asio::error::eof) {
      to.shutdown(Socket::shutdown_send, ignored);
    } else {
      self->close();
    }
    if (--self->directions_ == 0) {
      self->close();
      if (self->on_end_) std::exchange(self->on_end_, nullptr)();
    }
  }

  Socket one_, other_;
  Pacer* const pacer_;
  std::function<void()> on_end_;
  int directions_ = 2;
  uint64_t bytes_ = 0;
  std::chrono::steady_clock::time_point last_activity_{};
};

}  // namespace sporkle::mesh
