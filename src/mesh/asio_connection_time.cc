// A connection's time: deadlines of its calls, and the watchdog over the connection itself.
#include <algorithm>

#include "mesh/asio_connection.h"
#include "mesh/stream_state.h"

namespace sporkle::mesh {
namespace {

constexpr size_t spare_deadlines = 16;

}  // namespace

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

}  // namespace sporkle::mesh
