#include "mesh/connection_load.h"

#include <arpa/inet.h>
#include <malloc.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <fstream>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "mesh/frame.h"
#include "mesh/mesh.pb.h"
#include "mesh/server.h"
#include "mesh/tls.h"

namespace sporkle::mesh {
namespace {

using std::chrono::steady_clock;

constexpr size_t batch = 250;
constexpr size_t spare_descriptors = 64;

double seconds_since(steady_clock::time_point start) {
  return std::chrono::duration<double>(steady_clock::now() - start).count();
}

// A pipe's end.
struct Descriptor {
  int value = -1;
  ~Descriptor() { close(); }
  void close() {
    if (value >= 0) ::close(std::exchange(value, -1));
  }
  template <typename T>
  bool put(const T& what) const {
    return ::write(value, &what, sizeof what) == sizeof what;
  }
  template <typename T>
  bool get(T& what) const {
    return ::read(value, &what, sizeof what) == sizeof what;
  }
};

struct Answer {
  bool good = false;
  double p50_ms = 0, p99_ms = 0;
};

// One connection of the other process, blocking.
class LoadClient {
 public:
  ~LoadClient() {
    tls_.reset();
    if (socket_ >= 0) ::close(socket_);
  }

  bool open(uint16_t port, const std::shared_ptr<const TlsContext>& context) {
    socket_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (socket_ < 0 || ::connect(socket_, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
      return false;
    tls_ = std::make_unique<TlsStream>(context, socket_, WireStream::Side::client);
    if (tls_->handshake() != WireStream::Progress::done) return false;
    wire::Hello hello;
    hello.set_protocol_major(protocol_major);
    hello.set_protocol_minor(protocol_minor);
    return send(FrameKind::hello, 0, hello.SerializeAsString()) && await(FrameKind::hello);
  }
  bool call() {
    wire::Request request;
    request.set_method("heartbeat");
    request.set_body(std::string(64, 'x'));
    return send(FrameKind::request, ++last_call_, request.SerializeAsString());
  }
  bool answered() { return await(FrameKind::response); }

 private:
  bool send(FrameKind kind, uint64_t call_id, const std::string& data) {
    std::vector<std::byte> bytes;
    encode_frame({kind, protocol_major, call_id, std::as_bytes(std::span(data))}, false, bytes);
    size_t count = 0;
    return tls_->write(bytes, count) == WireStream::Progress::done && count == bytes.size();
  }
  // The server sends nothing unasked, so no frame of another kind that is waited for later is lost here.
  bool await(FrameKind kind) {
    std::array<std::byte, 4096> buffer;
    for (;;) {
      size_t count = 0;
      if (tls_->read(buffer, count) != WireStream::Progress::done) return false;
      decoder_.push(std::span(buffer).first(count));
      bool found = false;
      Frame frame;
      for (Result<bool> whole = decoder_.next(frame); whole.ok() && *whole; whole = decoder_.next(frame))
        found = found || frame.kind == kind;
      if (found) return true;
    }
  }

  int socket_ = -1;
  std::unique_ptr<TlsStream> tls_;
  FrameDecoder decoder_;
  uint64_t last_call_ = 0;
};

// The other process: connects, says so, makes its calls when told to, answers, and stays until told to go.
Answer run_clients(size_t count, const Descriptor& in, const Descriptor& out) {
  Answer answer;
  uint16_t port = 0;
  if (!in.get(port)) return answer;
  const Result<Identity> identity = Identity::generate();
  if (!identity.ok()) return answer;
  const auto context = TlsContext::create(*identity);
  if (!context.ok()) return answer;
  std::vector<LoadClient> clients(count);
  bool good = true;
  for (LoadClient& client : clients) good = good && client.open(port, *context);
  char go = 0;
  if (!out.put(good) || !good || !in.get(go)) return answer;
  std::vector<double> ms;
  for (size_t begin = 0; begin < count && good; begin += batch) {
    const auto some = std::span(clients).subspan(begin, std::min(batch, count - begin));
    const auto start = steady_clock::now();
    for (LoadClient& client : some) good = good && client.call();
    for (LoadClient& client : some) {
      good = good && client.answered();
      ms.push_back(1e3 * seconds_since(start));
    }
  }
  std::ranges::sort(ms);
  answer = {good, ms.empty() ? 0 : ms[ms.size() / 2], ms.empty() ? 0 : ms[ms.size() * 99 / 100]};
  if (out.put(answer)) in.get(go);
  return answer;
}

double resident_bytes() {
  ::malloc_trim(0);
  std::ifstream file("/proc/self/statm");
  double total = 0, resident = 0;
  file >> total >> resident;
  return resident * static_cast<double>(::sysconf(_SC_PAGESIZE));
}

Result<ConnectionLoad> serve(size_t count, const Descriptor& in, const Descriptor& out) {
  SPORKLE_ASSIGN_OR_RETURN(const Identity identity, Identity::generate());
  ServerOptions options;
  options.host = "127.0.0.1";
  options.max_connections = count + 1;
  options.keep_alive_interval = options.keep_alive_timeout = std::chrono::hours(1);  // the clients only speak when told
  const auto handler = [](const Peer&, std::string_view, Message request, Responder respond) {
    respond(std::move(request));
  };
  SPORKLE_ASSIGN_OR_RETURN(const std::unique_ptr<Server> server,
                           Server::start(identity, options, {handler, nullptr, nullptr, nullptr}));
  const double before = resident_bytes();
  const auto start = steady_clock::now();
  bool good = false;
  if (!out.put(server->port()) || !in.get(good) || !good)
    return unavailable("only " + std::to_string(server->connection_count()) + " of " + std::to_string(count) +
                       " connections could be made");
  ConnectionLoad load;
  load.connections = count;
  load.handshakes_per_s = static_cast<double>(count) / seconds_since(start);
  Answer answer;
  if (!out.put('g') || !in.get(answer) || !answer.good) return unavailable("not every connection got its answer");
  if (server->connection_count() != count) return internal_error("connections were lost");
  load.bytes_each = (resident_bytes() - before) / static_cast<double>(count);
  load.heartbeat_p50_ms = answer.p50_ms;
  load.heartbeat_p99_ms = answer.p99_ms;
  if (!out.put('e')) return unavailable("the other process ended early");
  return load;
}

}  // namespace

Result<ConnectionLoad> measure_connections(size_t count) {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
  if (limit.rlim_cur < count + spare_descriptors)
    return unavailable("this process may open " + std::to_string(limit.rlim_cur) + " descriptors, and " +
                       std::to_string(count) + " connections need " + std::to_string(count + spare_descriptors) +
                       " (ulimit -Hn)");
  int down[2], up[2];
  if (::pipe(down) != 0) return unavailable("no pipe");
  Descriptor to_child_read{down[0]}, to_child_write{down[1]};
  if (::pipe(up) != 0) return unavailable("no pipe");
  Descriptor from_child_read{up[0]}, from_child_write{up[1]};
  const pid_t child = ::fork();
  if (child < 0) return unavailable("cannot start a process for the clients");
  if (child == 0) {
    to_child_write.close();
    from_child_read.close();
    ::_exit(run_clients(count, to_child_read, from_child_write).good ? 0 : 1);
  }
  from_child_write.close();
  Result<ConnectionLoad> load = serve(count, from_child_read, to_child_write);
  to_child_write.close();
  int status = 0;
  ::waitpid(child, &status, 0);
  return load;
}

}  // namespace sporkle::mesh
