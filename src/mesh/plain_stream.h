// PlainStream: a connection without encryption, between nodes that were both told to do without (--plaintext).
//
// Each side signs both sides' keys and random numbers, so each knows who opened the connection. What follows is neither
// secret nor safe from changes on the way: for networks that are trusted anyhow. docs/protocol.md has the bytes.
#pragma once

#include <array>
#include <atomic>
#include <vector>

#include "mesh/identity.h"
#include "mesh/wire_stream.h"

namespace sporkle::mesh {

// What a client that wants no encryption sends first; TLS begins with 0x16.
inline constexpr std::array<char, 16> plain_greeting = {'s', 'p', 'o', 'r', 'k', 'l', 'e', ' ',
                                                        'p', 'l', 'a', 'i', 'n', ' ', '1', '\n'};
// What a server answers that does not.
inline constexpr std::array<char, 16> plain_refusal = {'s', 'p', 'o', 'r', 'k', 'l', 'e', ' ',
                                                       'r', 'e', 'f', 'u', 's', 'e', 's', '\n'};

class PlainStream : public WireStream {
 public:
  PlainStream(const Identity& identity, int descriptor, Side side);

  Progress handshake() override;
  Progress read(std::span<std::byte> into, size_t& count) override;
  Progress write(std::span<const std::byte> from, size_t& count) override;
  Progress flush() override;
  Progress close_notify() override { return Progress::done; }
  Result<NodeId> peer_id() const override;
  const std::string& error() const override { return error_; }
  Traffic traffic() const override { return {sent_.load(), received_.load()}; }
  bool encrypted() const override { return false; }
  // Whether the handshake failed because the peer wants encryption.
  bool refused() const { return refused_; }

 private:
  static constexpr size_t hello_bytes = plain_greeting.size() + 32 + 32;  // greeting, public key, random number
  enum class Step { hello, proof, done };

  // Reads until `incoming_` has so many bytes.
  Progress fill(size_t size);
  std::vector<std::byte> signed_bytes(Side signer) const;
  Progress fail(std::string why);

  const Identity identity_;
  const int descriptor_;
  const Side side_;
  Step step_ = Step::hello;
  std::vector<std::byte> hello_;       // ours
  std::vector<std::byte> peer_hello_;  // theirs
  std::vector<std::byte> incoming_;
  std::vector<std::byte> unsent_;
  size_t unsent_begin_ = 0;
  std::atomic<uint64_t> sent_{0};
  std::atomic<uint64_t> received_{0};
  std::string error_;
  bool refused_ = false;
};

}  // namespace sporkle::mesh
