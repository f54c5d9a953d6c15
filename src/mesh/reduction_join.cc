#include "mesh/reduction_join.h"

#include <poll.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <list>
#include <optional>

#include "mesh/little_endian.h"

namespace sporkle::mesh {
namespace {

using Steady = std::chrono::steady_clock;
using Hello = std::array<std::byte, reduction_header_bytes + 64>;

constexpr std::chrono::milliseconds kRetryInterval(50);

Hello make_hello(const NodeId& id, const Digest& group) {
  Hello hello;
  ReductionMessage message;
  message.kind = ReductionKind::hello;
  message.payload_bytes = 64;
  encode_reduction(message, std::span(hello).first<reduction_header_bytes>());
  std::memcpy(&hello[reduction_header_bytes], id.bytes.data(), 32);
  std::memcpy(&hello[reduction_header_bytes + 32], group.data(), 32);
  return hello;
}

// A connection on its way to being a link: established, then a hello each way.
class Candidate {
 public:
  Candidate(std::unique_ptr<ReductionStream> stream, std::optional<size_t> peer, const Hello& hello)
      : stream_(std::move(stream)), peer_(peer), hello_(hello) {}

  // True when the peer's hello is here and ours is away.
  Result<bool> advance() {
    if (!established_) {
      SPORKLE_ASSIGN_OR_RETURN(established_, stream_->establish());
      if (!established_) return false;
    }
    while (sent_ < hello_.size()) {
      SPORKLE_ASSIGN_OR_RETURN(const size_t count, stream_->write(std::span(hello_).subspan(sent_), {}));
      if (count == 0) return false;
      sent_ += count;
    }
    while (received_ < answer_.size()) {
      SPORKLE_ASSIGN_OR_RETURN(const size_t count, stream_->read(std::span(answer_).subspan(received_), {}));
      if (count == 0) return false;
      received_ += count;
    }
    return true;
  }
  // Which member it is: one that it is to be, of this group, and that has proved it.
  std::optional<size_t> identify(const std::vector<ReductionMember>& members, const Digest& group, bool proved) const {
    const auto message = decode_reduction(std::span(answer_).first<reduction_header_bytes>());
    if (!message.ok() || message->kind != ReductionKind::hello) return std::nullopt;
    NodeId id;
    std::memcpy(id.bytes.data(), &answer_[reduction_header_bytes], 32);
    if (std::memcmp(group.data(), &answer_[reduction_header_bytes + 32], 32) != 0) return std::nullopt;
    if (proved && stream_->peer_id() != id) return std::nullopt;
    for (size_t member = 0; member < members.size(); ++member)
      if (members[member].id == id && member == peer_.value_or(member)) return member;
    return std::nullopt;
  }
  pollfd waits_for() const {
    const bool writes = !established_ || sent_ < hello_.size();
    return {stream_->descriptor(), static_cast<short>(writes ? POLLIN | POLLOUT : POLLIN), 0};
  }
  const std::optional<size_t>& peer() const { return peer_; }
  std::unique_ptr<ReductionStream> take() { return std::move(stream_); }

 private:
  std::unique_ptr<ReductionStream> stream_;
  std::optional<size_t> peer_;  // whom I have called; nothing when somebody called me
  Hello hello_;
  Hello answer_{};
  bool established_ = false;
  size_t sent_ = 0, received_ = 0;
};

}  // namespace

Digest reduction_group_digest(const std::vector<ReductionMember>& members, const ReductionOptions& options) {
  std::vector<std::byte> bytes;
  const auto add_number = [&bytes](uint64_t value) { append_integer(bytes, value, 8); };
  add_number(options.chunk_bytes);
  add_number(options.window_chunks);
  for (const ReductionMember& member : members) {
    bytes.insert(bytes.end(), member.id.bytes.begin(), member.id.bytes.end());
    bytes.push_back(std::byte{member.address.has_value()});
  }
  return sha256(bytes);
}

std::vector<std::unique_ptr<ReductionStream>> join_reduction(const std::vector<ReductionMember>& members, size_t self,
                                                             const ReductionListener* listener,
                                                             std::shared_ptr<const TlsContext> tls, const Digest& group,
                                                             std::chrono::milliseconds timeout) {
  const Steady::time_point end = Steady::now() + timeout;
  const Hello hello = make_hello(members[self].id, group);
  std::vector<std::unique_ptr<ReductionStream>> streams(members.size());
  std::vector<Steady::time_point> next_call(members.size());
  std::list<Candidate> candidates;
  const auto linked = [&](size_t m) { return m != self && (members[m].address || members[self].address); };
  // The lower of two with addresses waits to be called; one without never can be.
  const auto calls = [&](size_t m) { return linked(m) && members[m].address && (!members[self].address || m < self); };
  const auto called = [&](size_t m) {
    return std::any_of(candidates.begin(), candidates.end(), [m](const Candidate& c) { return c.peer() == m; });
  };
  for (;;) {
    const Steady::time_point now = Steady::now();
    bool complete = true;
    for (size_t member = 0; member < members.size(); ++member) {
      if (!linked(member) || streams[member]) continue;
      complete = false;
      if (!calls(member) || called(member) || now < next_call[member]) continue;
      next_call[member] = now + kRetryInterval;
      if (Result<Descriptor> socket = ReductionStream::connect(*members[member].address); socket.ok())
        candidates.emplace_back(ReductionStream::create(std::move(*socket), tls, ReductionStream::Side::connects),
                                member, hello);
    }
    if (complete || now >= end) return streams;

    // Strangers that call and say nothing cannot take more room than this; the system's queue holds the others.
    const bool room = candidates.size() < 4 * members.size() + 8;
    std::vector<pollfd> waits;
    for (const Candidate& candidate : candidates) waits.push_back(candidate.waits_for());
    if (listener && room) waits.push_back({listener->descriptor(), POLLIN, 0});
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - now) + std::chrono::milliseconds(1);
    (void)::poll(waits.data(), waits.size(), static_cast<int>(std::min(left, kRetryInterval).count()));

    for (auto candidate = candidates.begin(); candidate != candidates.end();) {
      const Result<bool> ready = candidate->advance();
      if (ready.ok() && !*ready) {
        ++candidate;
        continue;
      }
      if (ready.ok())
        if (const auto member = candidate->identify(members, group, tls != nullptr);
            member && linked(*member) && !streams[*member] && calls(*member) == candidate->peer().has_value())
          streams[*member] = candidate->take();
      candidate = candidates.erase(candidate);
    }
    if (listener && room)
      if (std::optional<Descriptor> socket = listener->accept())
        candidates.emplace_back(ReductionStream::create(std::move(*socket), tls, ReductionStream::Side::accepts),
                                std::nullopt, hello);
  }
}

}  // namespace sporkle::mesh
