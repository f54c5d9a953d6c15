#include "tests/forwarder.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <condition_variable>
#include <list>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace sporkle::testing {
namespace {

sockaddr_in loopback(uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

// Both sides of one connection; index 0 is the worker's. pending[i] waits to be sent to side i.
struct Connection {
  std::array<int, 2> sockets;
  std::array<std::string, 2> pending;
  std::array<bool, 2> held{};  // nothing more goes to side i
  bool over = false;
};

}  // namespace

struct Forwarder::State {
  std::mutex mutex;
  std::condition_variable happened;
  bool armed = false, cut_all = false, stop = false;
  Direction direction = Direction::to_coordinator;
  Fault fault = Fault::flip;
  uint64_t left = 0;

  uint16_t target = 0, port = 0;
  int listener = -1;
  std::array<int, 2> wake{-1, -1};
  std::list<Connection> connections;  // the thread's
  std::thread thread;

  void rouse() const { [[maybe_unused]] const ssize_t count = ::write(wake[1], "", 1); }

  void accept() {
    const int worker = ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (worker < 0) return;
    const int coordinator = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const sockaddr_in address = loopback(target);
    if (::connect(coordinator, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
      ::close(worker);
      ::close(coordinator);
      return;
    }
    ::fcntl(coordinator, F_SETFL, O_NONBLOCK);
    connections.push_back({{worker, coordinator}, {}, {}, false});
  }

  // Applies the fault that is due to a chunk on its way to side `to`.
  void spoil(Connection& connection, size_t to, std::string& chunk) {
    const std::lock_guard lock(mutex);
    if (!armed || direction != (to == 1 ? Direction::to_coordinator : Direction::to_worker)) return;
    if (left > chunk.size()) {
      left -= chunk.size();
      return;
    }
    armed = false;
    if (fault == Fault::flip) {
      chunk.back() ^= 4;  // the end of an encrypted record, not a length that would make its reader wait
    } else {
      chunk.resize(chunk.size() / 2);
      connection.held[to] = true;
      connection.over = fault == Fault::cut;
    }
    happened.notify_all();
  }

  void move(Connection& connection, size_t to) {
    std::string& pending = connection.pending[to];
    if (pending.empty() && !connection.held[to]) {
      std::array<char, 16384> buffer;
      const ssize_t count = ::recv(connection.sockets[1 - to], buffer.data(), buffer.size(), 0);
      if (count == 0 || (count < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)) {
        connection.over = true;
        return;
      }
      if (count > 0) {
        pending.assign(buffer.data(), static_cast<size_t>(count));
        spoil(connection, to, pending);
      }
    }
    if (pending.empty()) return;
    const ssize_t sent = ::send(connection.sockets[to], pending.data(), pending.size(), MSG_NOSIGNAL);
    if (sent > 0) pending.erase(0, static_cast<size_t>(sent));
    if (sent < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) connection.over = true;
  }

  void run() {
    for (;;) {
      std::vector<pollfd> waits{{listener, POLLIN, 0}, {wake[0], POLLIN, 0}};
      for (const Connection& connection : connections)
        for (const size_t side : {0, 1}) {
          int events = 0;
          if (connection.pending[1 - side].empty() && !connection.held[1 - side]) events |= POLLIN;
          if (!connection.pending[side].empty()) events |= POLLOUT;
          // A side that nothing is wanted of is left out: its end would wake poll() again and again.
          waits.push_back({events ? connection.sockets[side] : -1, static_cast<short>(events), 0});
        }
      ::poll(waits.data(), waits.size(), -1);
      {
        const std::lock_guard lock(mutex);
        std::array<char, 64> drained;
        if (waits[1].revents) [[maybe_unused]]
          const ssize_t count = ::read(wake[0], drained.data(), drained.size());
        for (Connection& connection : connections) connection.over |= cut_all || stop;
        cut_all = false;
      }
      for (Connection& connection : connections)
        for (const size_t to : {0, 1})
          if (!connection.over) move(connection, to);
      std::erase_if(connections, [](const Connection& connection) {
        if (connection.over)
          for (const int socket : connection.sockets) ::close(socket);
        return connection.over;
      });
      const std::lock_guard lock(mutex);
      if (stop) return;
      if (waits[0].revents) accept();
    }
  }
};

Forwarder::Forwarder(uint16_t port) : state_(std::make_unique<State>()) {
  State& s = *state_;
  s.target = port;
  s.listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  sockaddr_in address = loopback(0);
  socklen_t size = sizeof address;
  ::bind(s.listener, reinterpret_cast<const sockaddr*>(&address), size);
  ::listen(s.listener, 16);
  ::getsockname(s.listener, reinterpret_cast<sockaddr*>(&address), &size);
  s.port = ntohs(address.sin_port);
  [[maybe_unused]] const int made = ::pipe2(s.wake.data(), O_CLOEXEC | O_NONBLOCK);
  s.thread = std::thread([&s] { s.run(); });
}

Forwarder::~Forwarder() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->stop = true;
  }
  state_->rouse();
  state_->thread.join();
  for (const int descriptor : {state_->listener, state_->wake[0], state_->wake[1]}) ::close(descriptor);
}

uint16_t Forwarder::port() const { return state_->port; }

void Forwarder::inject(Direction direction, uint64_t more_bytes, Fault fault) {
  const std::lock_guard lock(state_->mutex);
  state_->armed = true;
  state_->direction = direction;
  state_->fault = fault;
  state_->left = more_bytes;
}

bool Forwarder::wait_for_fault() {
  std::unique_lock lock(state_->mutex);
  return state_->happened.wait_for(lock, std::chrono::minutes(1), [&] { return !state_->armed; });
}

void Forwarder::cut() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->cut_all = true;
  }
  state_->rouse();
}

}  // namespace sporkle::testing
