// For tests: a blocking peer that speaks TLS and frames by hand, so that it can misbehave; and small servers.
#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "mesh/client.h"
#include "mesh/frame.h"
#include "mesh/mesh.pb.h"
#include "mesh/server.h"
#include "mesh/tls.h"

namespace sporkle::mesh {

using Bytes = std::vector<std::byte>;

inline sockaddr_in loopback(uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

// A blocking TCP socket; reads give up after 10 s.
class RawSocket {
 public:
  explicit RawSocket(int descriptor) : descriptor_(descriptor) {
    const timeval timeout{10, 0};
    ::setsockopt(descriptor_, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
  }
  static RawSocket connect(uint16_t port) {
    RawSocket socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const sockaddr_in address = loopback(port);
    EXPECT_EQ(::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    return socket;
  }
  RawSocket(RawSocket&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  RawSocket& operator=(RawSocket&&) = delete;
  ~RawSocket() { close(); }

  int get() const { return descriptor_; }
  void close() {
    if (descriptor_ >= 0) ::close(std::exchange(descriptor_, -1));
  }
  // What a killed process's socket with unread data looks like to its peer.
  void reset() {
    const linger now{1, 0};
    ::setsockopt(descriptor_, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    close();
  }
  void send(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ssize_t count = ::send(descriptor_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (count <= 0) return;
      bytes = bytes.subspan(static_cast<size_t>(count));
    }
  }
  // Whether the other side ends the connection, whatever it sends before.
  bool ends() {
    std::array<char, 4096> buffer;
    for (;;) {
      const ssize_t count = ::recv(descriptor_, buffer.data(), buffer.size(), 0);
      if (count > 0) continue;
      return count == 0 || errno == ECONNRESET;
    }
  }

 private:
  int descriptor_;
};

// A port of loopback that accepts one connection at a time, by hand.
class RawListener {
 public:
  RawListener() : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address = loopback(0);
    EXPECT_EQ(::bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(::listen(socket_.get(), 16), 0);
    socklen_t size = sizeof address;
    ::getsockname(socket_.get(), reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
  }
  uint16_t port() const { return port_; }
  RawSocket accept() { return RawSocket(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC)); }

 private:
  RawSocket socket_;
  uint16_t port_ = 0;
};

// One end of a TLS connection on which frames are made by hand.
class RawPeer {
 public:
  RawPeer(RawSocket socket, const Identity& identity, TlsStream::Side side)
      : socket_(std::move(socket)), tls_(*TlsContext::create(identity), socket_.get(), side) {
    EXPECT_EQ(tls_.handshake(), TlsStream::Progress::done) << tls_.error();
  }

  RawSocket& socket() { return socket_; }

  void send(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      size_t count = 0;
      if (tls_.write(bytes, count) != TlsStream::Progress::done) return;
      bytes = bytes.subspan(count);
    }
  }
  void send(FrameKind kind, uint64_t call_id, const std::string& data, uint8_t version = protocol_major) {
    Bytes bytes;
    encode_frame({kind, version, call_id, std::as_bytes(std::span(data))}, false, bytes);
    send(bytes);
  }
  void send_hello(uint32_t major = protocol_major) {
    wire::Hello hello;
    hello.set_protocol_major(major);
    hello.set_protocol_minor(3);
    hello.set_software("raw peer");
    send(FrameKind::hello, 0, hello.SerializeAsString(), static_cast<uint8_t>(major));
  }
  void send_request(uint64_t call_id, const std::string& method, uint64_t payload_bytes) {
    wire::Request request;
    request.set_method(method);
    request.set_payload_bytes(payload_bytes);
    send(FrameKind::request, call_id, request.SerializeAsString());
  }
  // The kind and data of the next frame; nothing when the connection ended.
  std::optional<std::pair<FrameKind, std::string>> receive() {
    std::array<std::byte, 16384> buffer;
    for (;;) {
      Frame frame;
      const auto whole = decoder_.next(frame);
      EXPECT_TRUE(whole.ok()) << whole.status().to_string();
      if (!whole.ok()) return std::nullopt;
      if (*whole)
        return std::pair(frame.kind, std::string(reinterpret_cast<const char*>(frame.data.data()), frame.data.size()));
      size_t count = 0;
      if (tls_.read(buffer, count) != TlsStream::Progress::done) return std::nullopt;
      decoder_.push(std::span(buffer).first(count));
    }
  }
  // Skips to the goodbye and gives its message; empty when the connection ends without one.
  std::string receive_goodbye() {
    while (auto frame = receive()) {
      wire::Goodbye goodbye;
      if (frame->first == FrameKind::goodbye && goodbye.ParseFromString(frame->second)) return goodbye.message();
    }
    return "";
  }

 private:
  RawSocket socket_;
  TlsStream tls_;
  FrameDecoder decoder_;
};

// Answers "echo" with the request itself, everything else with not_found.
inline void echo_handler(const Peer&, std::string_view method, Message request, Responder respond) {
  if (method == "echo") {
    respond(std::move(request));
  } else {
    respond(not_found("no method '" + std::string(method) + "'"));
  }
}

inline ServerOptions loopback_options() {
  ServerOptions options;
  options.host = "127.0.0.1";
  options.software = "test server 1.2";
  return options;
}

// A server on loopback with a key of its own, and clients for it.
struct TestServer {
  Identity identity = *Identity::generate();
  std::unique_ptr<Server> server;

  explicit TestServer(ServerCallbacks callbacks = {echo_handler, nullptr, nullptr},
                      const ServerOptions& options = loopback_options()) {
    auto started = Server::start(identity, options, std::move(callbacks));
    EXPECT_TRUE(started.ok()) << started.status().to_string();
    server = *std::move(started);
  }
  RunLink link() const { return {identity.id(), {{"127.0.0.1", server->port()}}, {}}; }
  std::unique_ptr<Client> connect(const ClientOptions& options = {}) const {
    auto client = Client::connect(link(), *Identity::generate(), options);
    EXPECT_TRUE(client.ok()) << client.status().to_string();
    return client.ok() ? *std::move(client) : nullptr;
  }
  RawPeer raw_client() const {
    return RawPeer(RawSocket::connect(server->port()), *Identity::generate(), TlsStream::Side::client);
  }
};

}  // namespace sporkle::mesh
