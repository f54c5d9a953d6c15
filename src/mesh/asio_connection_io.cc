// A connection's bytes: what is read and written, and when.
#include <algorithm>
#include <exception>
#include <new>

#include "mesh/asio_connection.h"
#include "mesh/stream_state.h"

namespace sporkle::mesh {
namespace {

// Frames are gathered up to this much before they are encrypted.
constexpr size_t gather_bytes = size_t{64} << 10;
// What is decrypted before it is looked at: little enough to stay in a core's own cache until it is where it belongs.
constexpr size_t read_bytes = size_t{128} << 10;
// A busy connection lets the others have the thread after so many bytes read or written.
constexpr size_t bytes_per_turn = size_t{512} << 10;

// One for each thread, not for each connection: nothing stays in it while a connection waits.
std::span<std::byte> read_buffer() {
  thread_local const std::unique_ptr<std::byte[]> buffer(new std::byte[read_bytes]);
  return {buffer.get(), read_bytes};
}

}  // namespace

awaitable<void> AsioConnection::wait_for_bandwidth(Self self, Bandwidth& limit,
                                                   std::optional<asio::steady_timer>& timer) {
  for (;;) {
    const auto wait = limit.wait(steady_clock::now());
    if (wait.count() <= 0 || self->ending()) co_return;
    if (!timer) timer.emplace(self->socket_.get_executor());
    error_code ignored;
    timer->expires_after(wait);
    co_await timer->async_wait(with_error(ignored));
  }
}

awaitable<Status> AsioConnection::wait_for(Self self, WireStream::Progress wanted) {
  if (self->closed_socket_) co_return self->why_;
  error_code error;
  const auto event = wanted == WireStream::Progress::want_read ? tcp::socket::wait_read : tcp::socket::wait_write;
  co_await self->socket_.async_wait(event, with_error(error));
  if (self->closed_socket_) co_return self->why_;
  if (error) co_return unavailable("the connection to " + self->peer_address_ + " broke: " + error.message());
  co_return Status();
}

awaitable<Status> AsioConnection::read_loop(Self self) {
  for (;;) {
    if (self->bandwidth_) co_await wait_for_bandwidth(self, self->bandwidth_->download, self->download_timer_);
    if (self->closed_socket_) co_return self->why_;
    std::span<std::byte> buffer = read_buffer();
    if (self->bandwidth_)
      buffer = buffer.first(record_bytes + self->bandwidth_->download.piece_bytes(buffer.size() - record_bytes));
    WireStream::Progress progress = WireStream::Progress::done;
    for (size_t turn = 0; progress == WireStream::Progress::done && turn < bytes_per_turn;) {
      size_t size = 0;
      while (size + record_bytes <= buffer.size()) {
        size_t count = 0;
        progress = self->wire_->read(buffer.subspan(size), count);
        if (progress != WireStream::Progress::done) break;
        size += count;
      }
      if (size > 0 && self->bandwidth_) self->bandwidth_->download.use(size, steady_clock::now());
      if (size > 0) self->received(buffer.first(size));
      if (self->closed_socket_) co_return self->why_;
      if (self->bandwidth_) break;
      turn += size;
    }
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

void AsioConnection::received(std::span<const std::byte> bytes) {
  last_heard_ = steady_clock::now();
  // While our goodbye is under way, what still arrives is dropped: closing a socket with unread data would reset
  // the connection, and the peer might never read why.
  if (ending()) return;
  const Status status = session_.receive(bytes);
  deliver_events();
  if (!status.ok()) begin_close(status, !session_.peer_said_goodbye());
  if (ending() || session_.has_output()) wake_writer();
}

awaitable<void> AsioConnection::write_loop(Self self) {
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

awaitable<Status> AsioConnection::write_all_output(Self self) {
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

awaitable<Status> AsioConnection::write(Self self, std::span<const std::byte> rest, bool& peer_gone) {
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

awaitable<Status> AsioConnection::flush(Self self) {
  while (!self->closed_socket_ && self->wire_->flush() == WireStream::Progress::want_write)
    SPORKLE_CO_RETURN_IF_ERROR(co_await wait_for(self, WireStream::Progress::want_write));
  co_return Status();
}

}  // namespace sporkle::mesh
