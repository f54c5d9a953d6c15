#include "mesh/plain_stream.h"

#include <openssl/rand.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <string_view>
#include <system_error>
#include <utility>

namespace sporkle::mesh {
namespace {

constexpr std::string_view signed_text = "sporkle plaintext 1";  // and a zero byte
constexpr size_t signature_bytes = std::tuple_size_v<Signature>;

bool should_retry(int error) { return error == EAGAIN || error == EWOULDBLOCK || error == EINTR; }

template <typename Text>
bool begins_with(const std::vector<std::byte>& bytes, const Text& text) {
  return bytes.size() >= text.size() && std::equal(text.begin(), text.end(), bytes.begin(),
                                                   [](char c, std::byte b) { return static_cast<std::byte>(c) == b; });
}

}  // namespace

PlainStream::PlainStream(const Identity& identity, int descriptor, Side side)
    : identity_(identity), descriptor_(descriptor), side_(side) {
  for (const char c : plain_greeting) hello_.push_back(static_cast<std::byte>(c));
  const PublicKey& key = identity_.public_key();
  hello_.insert(hello_.end(), key.begin(), key.end());
  std::array<unsigned char, 32> random;
  if (RAND_bytes(random.data(), static_cast<int>(random.size())) != 1) error_ = "no random numbers";
  for (const unsigned char c : random) hello_.push_back(static_cast<std::byte>(c));
  unsent_ = hello_;
}

WireStream::Progress PlainStream::fail(std::string why) {
  error_ = std::move(why);
  return Progress::failed;
}

WireStream::Progress PlainStream::fill(size_t size) {
  while (incoming_.size() < size) {
    const size_t have = incoming_.size();
    incoming_.resize(size);
    size_t count = 0;
    const Progress progress = read(std::span(incoming_).subspan(have), count);
    incoming_.resize(have + count);
    // What an answer of the wrong kind is, is clear from its start.
    if (step_ == Step::hello && begins_with(incoming_, plain_refusal)) {
      refused_ = true;
      return fail("the peer takes no connections without encryption");
    }
    if (progress != Progress::done) return progress;
  }
  return Progress::done;
}

std::vector<std::byte> PlainStream::signed_bytes(Side signer) const {
  std::vector<std::byte> bytes;
  for (const char c : signed_text) bytes.push_back(static_cast<std::byte>(c));
  bytes.push_back(std::byte{0});
  bytes.push_back(signer == Side::client ? std::byte{0} : std::byte{1});
  const auto& client = side_ == Side::client ? hello_ : peer_hello_;
  const auto& server = side_ == Side::client ? peer_hello_ : hello_;
  for (const std::vector<std::byte>* hello : {&client, &server})
    bytes.insert(bytes.end(), hello->begin() + plain_greeting.size(), hello->end());
  return bytes;
}

WireStream::Progress PlainStream::handshake() {
  if (!error_.empty()) return Progress::failed;
  const Side other = side_ == Side::client ? Side::server : Side::client;
  if (const Progress progress = flush(); progress != Progress::done) return progress;
  if (step_ == Step::hello) {
    if (const Progress progress = fill(hello_bytes); progress != Progress::done) return progress;
    if (!begins_with(incoming_, plain_greeting))
      return fail("the peer did not greet as for a connection without encryption");
    peer_hello_ = std::exchange(incoming_, {});
    // A mirror would sign our own words back to us.
    if (std::equal(peer_hello_.begin(), peer_hello_.end(), hello_.begin(), hello_.end()))
      return fail("the peer sent our own greeting back");
    const Signature signature = identity_.sign(signed_bytes(side_));
    unsent_.assign(signature.begin(), signature.end());
    step_ = Step::proof;
    if (const Progress progress = flush(); progress != Progress::done) return progress;
  }
  if (step_ == Step::proof) {
    if (const Progress progress = fill(signature_bytes); progress != Progress::done) return progress;
    Signature signature;
    std::copy(incoming_.begin(), incoming_.end(), signature.begin());
    PublicKey key;
    std::copy_n(peer_hello_.begin() + plain_greeting.size(), key.size(), key.begin());
    if (!verify_signature(key, signed_bytes(other), signature))
      return fail("the peer does not hold the key that it claims");
    incoming_ = {};
    step_ = Step::done;
  }
  return Progress::done;
}

WireStream::Progress PlainStream::read(std::span<std::byte> into, size_t& count) {
  count = 0;
  const ssize_t got = ::recv(descriptor_, into.data(), into.size(), 0);
  if (got > 0) {
    count = static_cast<size_t>(got);
    received_ += count;
    return Progress::done;
  }
  if (got == 0 || errno == ECONNRESET || errno == EPIPE) return Progress::closed;
  return should_retry(errno) ? Progress::want_read : fail(std::generic_category().message(errno));
}

WireStream::Progress PlainStream::write(std::span<const std::byte> from, size_t& count) {
  count = 0;
  if (const Progress progress = flush(); progress != Progress::done || from.empty()) return progress;
  const ssize_t put = ::send(descriptor_, from.data(), from.size(), MSG_NOSIGNAL);
  if (put >= 0) {
    count = static_cast<size_t>(put);
    sent_ += count;
    return Progress::done;
  }
  if (errno == ECONNRESET || errno == EPIPE) return Progress::closed;
  return should_retry(errno) ? Progress::want_write : fail(std::generic_category().message(errno));
}

WireStream::Progress PlainStream::flush() {
  while (!unsent_.empty()) {
    const std::vector<std::byte> bytes = std::exchange(unsent_, {});
    size_t count = 0;
    const Progress progress = write(std::span(bytes).subspan(unsent_begin_), count);
    unsent_begin_ += count;
    if (unsent_begin_ < bytes.size()) {
      unsent_ = bytes;
    } else {
      unsent_begin_ = 0;
    }
    if (progress != Progress::done) return progress;
  }
  return Progress::done;
}

Result<NodeId> PlainStream::peer_id() const {
  if (step_ != Step::done) return Status(Code::permission_denied, "the peer has not proved its key");
  PublicKey key;
  std::copy_n(peer_hello_.begin() + plain_greeting.size(), key.size(), key.begin());
  return NodeId::of(key);
}

}  // namespace sporkle::mesh
