#include "mesh/stream.h"

#include <utility>

#include "mesh/stream_state.h"
#include "mesh/transport.h"

namespace sporkle::mesh {

using std::chrono::milliseconds;

namespace {

Status no_time(const char* what, milliseconds timeout) {
  return Status(Code::deadline_exceeded,
                std::string("the stream ") + what + " within " + std::to_string(timeout.count()) + " ms");
}

// Why a stream that is over takes nothing more.
Status why_over(const Result<Message>& over) {
  return over.ok() ? Status(Code::cancelled, "the stream has ended") : over.status();
}

}  // namespace

// --- StreamState

void StreamState::on_arrived(std::vector<std::byte> bytes) {
  std::unique_lock lock(mutex);
  arrived.push_back(std::move(bytes));
  if (on_data || calling) return deliver(lock);
  changed.notify_all();
}

void StreamState::on_peer_finished() {
  std::unique_lock lock(mutex);
  peer_finished = true;
  if (on_data || calling) return deliver(lock);
  changed.notify_all();
}

void StreamState::on_sent(size_t size_bytes) {
  const std::lock_guard lock(mutex);
  const bool full = queued_bytes >= most_queued_bytes;
  queued_bytes -= size_bytes;
  if (full && queued_bytes < most_queued_bytes) changed.notify_all();  // a writer may be waiting for that
}

void StreamState::on_over(Result<Message> result) {
  bool answered = false;
  {
    std::unique_lock lock(mutex);
    if (over) return;
    over = std::move(result);
    queued_bytes = 0;
    changed.notify_all();
    answered = responded && over->ok();
    if (on_data || calling) deliver(lock);
  }
  answered ? cancellation->finish() : cancellation->request();
}

void StreamState::deliver(std::unique_lock<std::mutex>& lock) {
  if (calling) return;
  calling = true;
  while (on_data && (!arrived.empty() || peer_finished || over)) {
    const bool last = arrived.empty();
    std::vector<std::byte> bytes;
    if (!last) {
      bytes = std::move(arrived.front());
      arrived.pop_front();
    }
    auto action = std::exchange(on_data, nullptr);
    lock.unlock();
    const size_t size = bytes.size();
    action(std::move(bytes));
    if (last) action = nullptr;  // without the lock: with it may go the last handle of this stream
    if (!last) consumed(size);
    lock.lock();
    if (!last && !on_data) on_data = std::move(action);
  }
  calling = false;
}

void StreamState::consumed(size_t size_bytes) {
  // Each telling costs a turn of the connection's thread. The peer is told by half windows.
  const size_t used = used_bytes += size_bytes;
  if (used < most_queued_bytes / 8) return;
  if (const auto to = connection.lock()) to->stream_consumed(call_id, used_bytes.exchange(0));
}

// --- Stream

Result<std::vector<std::byte>> Stream::read(milliseconds timeout) {
  StreamState& s = *state_;
  std::unique_lock lock(s.mutex);
  if (!s.changed.wait_for(lock, timeout, [&] { return !s.arrived.empty() || s.peer_finished || s.over; }))
    return no_time("brought nothing", timeout);
  if (s.arrived.empty()) {
    if (s.over && !s.over->ok()) return s.over->status();
    return std::vector<std::byte>();
  }
  std::vector<std::byte> bytes = std::move(s.arrived.front());
  s.arrived.pop_front();
  lock.unlock();
  s.consumed(bytes.size());
  return bytes;
}

void Stream::read_with(std::function<void(std::vector<std::byte>)> on_data) {
  std::unique_lock lock(state_->mutex);
  state_->on_data = std::move(on_data);
  state_->deliver(lock);
}

Status Stream::write(SharedBytes bytes, milliseconds timeout) {
  if (bytes.bytes.empty()) return {};
  StreamState& s = *state_;
  {
    std::unique_lock lock(s.mutex);
    const auto may_go = [&] { return s.over || s.responded || s.queued_bytes < s.most_queued_bytes; };
    if (!s.changed.wait_for(lock, timeout, may_go)) return no_time("took nothing", timeout);
    if (s.over) return why_over(*s.over);
    if (s.responded) return Status(Code::cancelled, "the stream has been answered");
    s.queued_bytes += bytes.bytes.size();
  }
  if (const auto to = s.connection.lock()) to->stream_write(s.call_id, std::move(bytes));
  return {};
}

bool Stream::ended() const {
  if (state_->cancellation->requested()) return true;
  // Whoever has seen that it is over may come before the request, which is made without the lock.
  const std::lock_guard lock(state_->mutex);
  return state_->over && !(state_->responded && state_->over->ok());
}

// --- ClientStream

ClientStream& ClientStream::operator=(ClientStream&& other) noexcept {
  std::swap(state_, other.state_);
  return *this;
}

ClientStream::~ClientStream() {
  if (state_) cancel();
}

void ClientStream::finish_writing() {
  if (const auto to = state_->connection.lock()) to->stream_finish(state_->call_id);
}

Result<std::string> ClientStream::result(milliseconds timeout) {
  StreamState& s = *state_;
  std::unique_lock lock(s.mutex);
  if (!s.changed.wait_for(lock, timeout, [&] { return s.over.has_value(); })) return no_time("had no answer", timeout);
  if (!s.over->ok()) return s.over->status();
  return (*s.over)->body;
}

void ClientStream::cancel() {
  {
    const std::lock_guard lock(state_->mutex);
    if (state_->over) return;
  }
  state_->on_over(Status(Code::cancelled, "the stream was cancelled here"));
  if (const auto to = state_->connection.lock()) to->cancel(state_->call_id);
}

// --- ServerStream

ServerStream& ServerStream::operator=(ServerStream&& other) noexcept {
  std::swap(state_, other.state_);
  return *this;
}

ServerStream::~ServerStream() {
  if (state_) respond(internal_error("the server dropped the stream without an answer"));
}

void ServerStream::respond(Result<std::string> body) {
  {
    const std::lock_guard lock(state_->mutex);
    if (std::exchange(state_->responded, true)) return;
    state_->changed.notify_all();
  }
  const auto to = state_->connection.lock();
  if (!to) return;
  if (!body.ok()) return to->send_response(state_->call_id, body.status());
  to->send_response(state_->call_id, Message{*std::move(body), {}});
}

void ServerStream::on_cancelled(std::function<void()> action) { state_->cancellation->on_request(std::move(action)); }

}  // namespace sporkle::mesh
