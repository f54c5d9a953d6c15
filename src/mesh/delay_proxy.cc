#include "mesh/delay_proxy.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <deque>
#include <list>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace sporkle::mesh {
namespace {

using std::chrono::nanoseconds;
using std::chrono::steady_clock;

constexpr size_t read_bytes = size_t{64} << 10;
// Under way in one direction: more than a fast link holds in a long round trip.
constexpr size_t most_under_way_bytes = size_t{64} << 20;

class Descriptor {
 public:
  explicit Descriptor(int number = -1) : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  int get() const { return number_; }

 private:
  int number_;
};

Result<sockaddr_in> socket_address(const Address& address) {
  sockaddr_in result{};
  result.sin_family = AF_INET;
  result.sin_port = htons(address.port);
  if (::inet_pton(AF_INET, address.host.c_str(), &result.sin_addr) != 1)
    return invalid_argument("'" + address.host + "' is no literal IPv4 address, which a delaying proxy needs");
  return result;
}

Status last_error(const std::string& what) { return unavailable(what + ": " + std::generic_category().message(errno)); }

bool may_retry(int error) { return error == EAGAIN || error == EWOULDBLOCK || error == EINTR; }

struct Parcel {
  steady_clock::time_point due;
  std::string bytes;  // empty: the end
};

// What is on its way to one side of a connection.
struct Lane {
  std::deque<Parcel> parcels;
  size_t under_way_bytes = 0;
  bool ended = false;    // nothing more is read for it
  bool blocked = false;  // the receiving side takes nothing now
};

struct Connection {
  std::array<Descriptor, 2> sockets;                // the client's, the server's
  std::array<Lane, 2> lanes;                        // to the client, to the server
  std::array<steady_clock::time_point, 2> open_at;  // when what that side sends first may leave it
  bool broken = false;

  bool over() const {
    return broken || (lanes[0].ended && lanes[1].ended && lanes[0].parcels.empty() && lanes[1].parcels.empty());
  }
};

}  // namespace

struct DelayProxy::State {
  sockaddr_in target{};
  nanoseconds one_way{};
  uint16_t port = 0;
  Descriptor listener;
  Descriptor wake;
  std::atomic<bool> stop = false;
  std::list<Connection> connections;  // the thread's
  std::thread thread;

  void accept() {
    Descriptor client(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (client.get() < 0) return;
    Descriptor server(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (server.get() < 0) return;
    if (::connect(server.get(), reinterpret_cast<const sockaddr*>(&target), sizeof target) != 0 && errno != EINPROGRESS)
      return;
    const int on = 1;
    for (const int socket : {client.get(), server.get()})
      ::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    const auto now = steady_clock::now();
    Connection& connection = connections.emplace_back();
    connection.sockets = {std::move(client), std::move(server)};
    // On loopback the client is connected already. From afar it would hear so a round trip after it asked, the server
    // half of one.
    connection.open_at = {now + 2 * one_way, now + one_way};
  }

  // Reads what `from` sends.
  void collect(Connection& connection, size_t from) {
    Lane& lane = connection.lanes[1 - from];
    std::string bytes(read_bytes, '\0');
    const ssize_t count = ::recv(connection.sockets[from].get(), bytes.data(), bytes.size(), 0);
    if (count < 0) {
      connection.broken = connection.broken || !may_retry(errno);
      return;
    }
    bytes.resize(static_cast<size_t>(count));
    bytes.shrink_to_fit();
    lane.ended = count == 0;
    lane.under_way_bytes += bytes.size();
    lane.parcels.push_back({std::max(steady_clock::now(), connection.open_at[from]) + one_way, std::move(bytes)});
  }

  // Gives side `to` what has been under way for long enough.
  void hand_over(Connection& connection, size_t to) {
    Lane& lane = connection.lanes[to];
    const auto now = steady_clock::now();
    while (!lane.blocked && !lane.parcels.empty() && lane.parcels.front().due <= now) {
      std::string& bytes = lane.parcels.front().bytes;
      if (!bytes.empty()) {
        const ssize_t sent = ::send(connection.sockets[to].get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
        if (sent < 0) {
          if (!may_retry(errno)) connection.broken = true;
          lane.blocked = true;
          return;
        }
        lane.under_way_bytes -= static_cast<size_t>(sent);
        bytes.erase(0, static_cast<size_t>(sent));
        if (!bytes.empty()) continue;
      } else {
        ::shutdown(connection.sockets[to].get(), SHUT_WR);
      }
      lane.parcels.pop_front();
    }
  }

  // When the next parcel is due.
  steady_clock::time_point next_due() const {
    auto due = steady_clock::time_point::max();
    for (const Connection& connection : connections)
      for (const Lane& lane : connection.lanes)
        if (!lane.blocked && !lane.parcels.empty()) due = std::min(due, lane.parcels.front().due);
    return due;
  }

  void wait(std::vector<pollfd>& waits) const {
    const auto due = next_due();
    timespec timeout{};
    const timespec* limit = nullptr;
    if (due != steady_clock::time_point::max()) {
      const auto left = std::max(nanoseconds(0), std::chrono::duration_cast<nanoseconds>(due - steady_clock::now()));
      timeout.tv_sec = static_cast<time_t>(left.count() / 1'000'000'000);
      timeout.tv_nsec = static_cast<long>(left.count() % 1'000'000'000);
      limit = &timeout;
    }
    ::ppoll(waits.data(), waits.size(), limit, nullptr);
  }

  void run() {
    while (!stop) {
      std::vector<pollfd> waits{{listener.get(), POLLIN, 0}, {wake.get(), POLLIN, 0}};
      for (const Connection& connection : connections)
        for (const size_t side : {0, 1}) {
          const Lane& from_here = connection.lanes[1 - side];
          int events = 0;
          if (!from_here.ended && from_here.under_way_bytes < most_under_way_bytes) events |= POLLIN;
          if (connection.lanes[side].blocked) events |= POLLOUT;
          // A side that nothing is wanted of is left out: its end would wake the thread again and again.
          waits.push_back({events ? connection.sockets[side].get() : -1, static_cast<short>(events), 0});
        }
      wait(waits);
      size_t at = 2;
      for (Connection& connection : connections)
        for (const size_t side : {0, 1}) {
          const short seen = waits[at++].revents;
          if (seen & (POLLIN | POLLHUP | POLLERR) && !connection.lanes[1 - side].ended) collect(connection, side);
          if (seen & (POLLOUT | POLLHUP | POLLERR)) connection.lanes[side].blocked = false;
        }
      for (Connection& connection : connections)
        for (const size_t side : {0, 1}) hand_over(connection, side);
      std::erase_if(connections, [](const Connection& connection) { return connection.over(); });
      if (waits[0].revents) accept();
    }
  }
};

DelayProxy::DelayProxy(std::unique_ptr<State> state) : state_(std::move(state)) {}

Result<std::unique_ptr<DelayProxy>> DelayProxy::start(const Address& listen, const Address& target,
                                                      std::chrono::milliseconds round_trip) {
  if (round_trip.count() < 0) return invalid_argument("a round trip of less than no time");
  SPORKLE_ASSIGN_OR_RETURN(sockaddr_in address, socket_address(listen));
  auto state = std::make_unique<State>();
  SPORKLE_ASSIGN_OR_RETURN(state->target, socket_address(target));
  state->one_way = nanoseconds(round_trip) / 2;
  state->wake = Descriptor(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  state->listener = Descriptor(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const std::string where = "a delaying proxy cannot listen on " + listen.to_string();
  if (state->wake.get() < 0 || state->listener.get() < 0) return last_error(where);
  const int on = 1;
  ::setsockopt(state->listener.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  socklen_t size = sizeof address;
  if (::bind(state->listener.get(), reinterpret_cast<const sockaddr*>(&address), size) != 0 ||
      ::listen(state->listener.get(), SOMAXCONN) != 0 ||
      ::getsockname(state->listener.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0)
    return last_error(where);
  state->port = ntohs(address.sin_port);
  State* const raw = state.get();  // outlives the thread
  state->thread = std::thread([raw] { raw->run(); });
  return std::unique_ptr<DelayProxy>(new DelayProxy(std::move(state)));
}

DelayProxy::~DelayProxy() {
  state_->stop = true;
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(state_->wake.get(), &one, sizeof one);
  state_->thread.join();
}

uint16_t DelayProxy::port() const { return state_->port; }

}  // namespace sporkle::mesh
