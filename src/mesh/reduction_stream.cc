#include "mesh/reduction_stream.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace sporkle::mesh {
namespace {

struct FreeAddresses {
  void operator()(addrinfo* list) const { ::freeaddrinfo(list); }
};

Result<std::unique_ptr<addrinfo, FreeAddresses>> resolve(const std::string& host, uint16_t port, int flags) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int error = ::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
  if (error) return unavailable("the address " + host + ": " + ::gai_strerror(error));
  return std::unique_ptr<addrinfo, FreeAddresses>(found);
}

void set_no_delay(int descriptor) {
  const int on = 1;
  (void)::setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

Result<size_t> transferred(ssize_t count, const char* what) {
  if (count > 0) return static_cast<size_t>(count);
  if (count == 0) return unavailable("the peer closed the connection");
  if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) return size_t{0};
  return Status(Code::unavailable, errno_status(errno, what).message());
}

Result<bool> connected(int descriptor) {
  pollfd wait{descriptor, POLLOUT, 0};
  if (::poll(&wait, 1, 0) == 0) return false;
  int error = 0;
  socklen_t size = sizeof error;
  if (::getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &error, &size) != 0) error = errno;
  if (error) return Status(Code::unavailable, errno_status(error, "connecting to a member").message());
  return true;
}

class PlainStream final : public ReductionStream {
 public:
  explicit PlainStream(Descriptor descriptor) : ReductionStream(std::move(descriptor)) {}
  Result<bool> establish() override { return connected(descriptor()); }
  std::optional<NodeId> peer_id() const override { return std::nullopt; }

  Result<size_t> read(std::span<std::byte> first, std::span<std::byte> second) override {
    const iovec parts[] = {{first.data(), first.size()}, {second.data(), second.size()}};
    return transferred(::readv(descriptor(), parts, second.empty() ? 1 : 2), "reading from a member");
  }
  Result<size_t> write(std::span<const std::byte> first, std::span<const std::byte> second) override {
    iovec parts[] = {{const_cast<std::byte*>(first.data()), first.size()},
                     {const_cast<std::byte*>(second.data()), second.size()}};
    msghdr message{};
    message.msg_iov = parts;
    message.msg_iovlen = 2;
    return transferred(::sendmsg(descriptor(), &message, MSG_NOSIGNAL), "writing to a member");
  }
};

class EncryptedStream final : public ReductionStream {
 public:
  EncryptedStream(Descriptor descriptor, std::shared_ptr<const TlsContext> tls, Side side)
      : ReductionStream(std::move(descriptor)),
        tls_(std::move(tls), descriptor_.get(),
             side == Side::connects ? TlsStream::Side::client : TlsStream::Side::server) {}

  Result<bool> establish() override {
    if (!connected_) {
      SPORKLE_ASSIGN_OR_RETURN(connected_, connected(descriptor()));
      if (!connected_) return false;
    }
    const TlsStream::Progress progress = tls_.handshake();
    if (progress == TlsStream::Progress::done) return true;
    if (pending(progress)) return false;
    return over(progress);
  }
  std::optional<NodeId> peer_id() const override {
    const Result<NodeId> id = tls_.peer_id();
    return id.ok() ? std::optional(*id) : std::nullopt;
  }
  Result<size_t> read(std::span<std::byte> first, std::span<std::byte> second) override {
    size_t count = 0;
    const TlsStream::Progress progress = tls_.read(first.empty() ? second : first, count);
    if (progress == TlsStream::Progress::done) return count;
    if (pending(progress)) return size_t{0};
    return over(progress);
  }
  Result<size_t> write(std::span<const std::byte> first, std::span<const std::byte> second) override {
    size_t count = 0;
    const TlsStream::Progress progress = tls_.write(first.empty() ? second : first, count);
    if (progress == TlsStream::Progress::done) return count;
    if (pending(progress)) return size_t{0};
    return over(progress);
  }

 private:
  static bool pending(TlsStream::Progress progress) {
    return progress == TlsStream::Progress::want_read || progress == TlsStream::Progress::want_write;
  }
  Status over(TlsStream::Progress progress) const {
    return unavailable(progress == TlsStream::Progress::closed ? "the peer closed the connection" : tls_.error());
  }

  bool connected_ = false;
  TlsStream tls_;
};

}  // namespace

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
  if (this != &other) {
    if (value_ >= 0) ::close(value_);
    value_ = other.release();
  }
  return *this;
}

Descriptor::~Descriptor() {
  if (value_ >= 0) ::close(value_);
}

int Descriptor::release() { return std::exchange(value_, -1); }

Result<ReductionListener> ReductionListener::open(const std::string& host, uint16_t port) {
  SPORKLE_ASSIGN_OR_RETURN(const auto addresses, resolve(host, port, AI_PASSIVE));
  Descriptor descriptor(::socket(addresses->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  const int on = 1;
  const std::string what = "listening on " + host + " port " + std::to_string(port);
  if (descriptor.get() < 0) return errno_status(errno, what);
  (void)::setsockopt(descriptor.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (::bind(descriptor.get(), addresses->ai_addr, addresses->ai_addrlen) != 0 ||
      ::listen(descriptor.get(), 128) != 0) {
    if (errno == EADDRINUSE) return Status(Code::already_exists, what + ": the port is taken");
    return errno_status(errno, what);
  }
  sockaddr_storage name{};
  socklen_t size = sizeof name;
  if (::getsockname(descriptor.get(), reinterpret_cast<sockaddr*>(&name), &size) != 0) return errno_status(errno, what);
  const uint16_t bound = name.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(name).sin6_port
                                                    : reinterpret_cast<sockaddr_in&>(name).sin_port;
  return ReductionListener(std::move(descriptor), ntohs(bound));
}

std::optional<Descriptor> ReductionListener::accept() const {
  Descriptor descriptor(::accept4(descriptor_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (descriptor.get() < 0) return std::nullopt;
  set_no_delay(descriptor.get());
  return descriptor;
}

Result<Descriptor> ReductionStream::connect(const Address& address) {
  SPORKLE_ASSIGN_OR_RETURN(const auto addresses, resolve(address.host, address.port, 0));
  Descriptor descriptor(::socket(addresses->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (descriptor.get() < 0) return errno_status(errno, "connecting to " + address.to_string());
  set_no_delay(descriptor.get());
  if (::connect(descriptor.get(), addresses->ai_addr, addresses->ai_addrlen) != 0 && errno != EINPROGRESS)
    return Status(Code::unavailable, errno_status(errno, "connecting to " + address.to_string()).message());
  return descriptor;
}

std::chrono::microseconds ReductionStream::round_trip_time() const {
  tcp_info info{};
  socklen_t size = sizeof info;
  if (::getsockopt(descriptor(), IPPROTO_TCP, TCP_INFO, &info, &size) != 0) return {};
  return std::chrono::microseconds(info.tcpi_rtt);
}

std::unique_ptr<ReductionStream> ReductionStream::create(Descriptor descriptor, std::shared_ptr<const TlsContext> tls,
                                                         Side side) {
  if (tls) return std::make_unique<EncryptedStream>(std::move(descriptor), std::move(tls), side);
  return std::make_unique<PlainStream>(std::move(descriptor));
}

}  // namespace sporkle::mesh
