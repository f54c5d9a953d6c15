#include "mesh/reduction_group.h"

#include <poll.h>

#include <algorithm>
#include <string>
#include <utility>

#include "mesh/reduction_join.h"
#include "mesh/tls.h"

namespace sporkle::mesh {
namespace {

constexpr std::chrono::milliseconds kTick(10);
constexpr std::chrono::milliseconds kFlushTimeout(500);
constexpr size_t kDiscardBytes = size_t{64} << 10;

// Two chunks, so that one is under way while the other is added, and what a link of 10 Gbit/s holds in a round trip.
size_t window_for(std::chrono::microseconds round_trip_time, const ReductionOptions& options) {
  constexpr size_t kBytesPerMicrosecond = 1250;
  const size_t bytes = static_cast<size_t>(round_trip_time.count()) * kBytesPerMicrosecond;
  return std::min(2 + bytes / options.chunk_bytes, options.window_chunks);
}

uint64_t reachable_members(const std::vector<ReductionMember>& members) {
  uint64_t set = 0;
  for (size_t member = 0; member < std::min(members.size(), max_reduction_members); ++member)
    if (members[member].address) set |= uint64_t{1} << member;
  return set;
}

}  // namespace

struct ReductionGroup::Link {
  size_t peer = 0;
  std::unique_ptr<ReductionStream> stream;
  bool blocked = false;  // the last write took nothing
  bool waiting = false;  // the header that is here belongs to the next operation

  // The message that comes in: its header, then its payload.
  std::array<std::byte, reduction_header_bytes> header_in;
  size_t header_in_bytes = 0;
  ReductionMessage message_in;
  bool in_payload = false;
  std::span<std::byte> place;  // empty: the payload is discarded
  size_t payload_in_bytes = 0;
  uint64_t epoch = 0;
  std::vector<std::byte> discarded;

  // The message that goes out.
  std::array<std::byte, reduction_header_bytes> header_out;
  size_t header_out_bytes = reduction_header_bytes;  // so many are away
  std::span<const std::byte> payload_out;            // what is left of it
  bool sending() const { return header_out_bytes < header_out.size() || !payload_out.empty(); }
};

ReductionGroup::ReductionGroup(std::vector<ReductionMember> members, size_t self, uint64_t reachable,
                               const ReductionGroupOptions& options)
    : members_(std::move(members)), self_(self), core_(members_.size(), reachable, self, options.reduction) {}

ReductionGroup::~ReductionGroup() = default;

Result<std::unique_ptr<ReductionGroup>> ReductionGroup::join(const Identity& identity,
                                                             std::vector<ReductionMember> members,
                                                             std::optional<ReductionListener> listener,
                                                             const ReductionGroupOptions& options) {
  std::sort(members.begin(), members.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
  for (size_t i = 1; i < members.size(); ++i)
    if (members[i].id == members[i - 1].id)
      return invalid_argument("the member " + members[i].id.short_id() + " is named twice");
  const uint64_t reachable = reachable_members(members);
  SPORKLE_RETURN_IF_ERROR(Reduction::check(members.size(), reachable, options.reduction));
  size_t self = 0;
  while (self < members.size() && members[self].id != identity.id()) ++self;
  if (self == members.size())
    return Status(Code::permission_denied, "the node " + identity.id().short_id() + " is no member of the group");
  if (members[self].address && !listener)
    return invalid_argument("a member with an address needs a socket that listens there");
  std::shared_ptr<const TlsContext> tls;
  if (!options.plaintext_for_benchmark) {
    SPORKLE_ASSIGN_OR_RETURN(tls, TlsContext::create(identity));
  }
  const Digest digest = reduction_group_digest(members, options.reduction);
  auto streams = join_reduction(members, self, listener ? &*listener : nullptr, tls, digest, options.connect_timeout);
  auto group = std::unique_ptr<ReductionGroup>(new ReductionGroup(std::move(members), self, reachable, options));
  for (size_t peer = 0; peer < streams.size(); ++peer) {
    auto& link = group->links_.emplace_back();
    const bool linked = group->members_[peer].address || group->members_[self].address;
    if (streams[peer]) {
      link = std::make_unique<Link>();
      link->peer = peer;
      link->stream = std::move(streams[peer]);
      group->core_.set_window(peer, window_for(link->stream->round_trip_time(), options.reduction));
    } else if (peer != self && linked) {
      group->core_.lost(peer, group->clock_.now());
    }
  }
  return group;
}

void ReductionGroup::drop(Link& link) {
  const size_t peer = link.peer;
  links_[peer].reset();
  core_.lost(peer, clock_.now());
}

bool ReductionGroup::read_some(Link& link) {
  if (link.waiting) return false;
  const size_t peer = link.peer;
  const auto now = clock_.now();
  // The rest of this payload and the next header come with one call.
  std::span<std::byte> rest;
  if (link.in_payload) {
    // Chunks have started again, and the place is no longer this payload's.
    if (!link.place.empty() && link.epoch != core_.epoch()) link.place = {};
    const size_t left = link.message_in.payload_bytes - link.payload_in_bytes;
    if (!link.place.empty()) {
      rest = link.place.subspan(link.payload_in_bytes);
    } else {
      link.discarded.resize(kDiscardBytes);
      rest = std::span(link.discarded).first(std::min(left, kDiscardBytes));
    }
    const Result<size_t> count =
        link.stream->read(rest, rest.size() == left ? std::span(link.header_in) : std::span<std::byte>());
    if (!count.ok()) return drop(link), true;
    if (*count == 0) return false;
    core_.heard(peer, now);
    const size_t payload = std::min(*count, rest.size());
    link.payload_in_bytes += payload;
    link.header_in_bytes = *count - payload;
    if (payload < left) return true;
    link.in_payload = false;
    core_.received(peer, link.message_in, now);
  } else if (link.header_in_bytes < link.header_in.size()) {
    const Result<size_t> count = link.stream->read(std::span(link.header_in).subspan(link.header_in_bytes), {});
    if (!count.ok()) return drop(link), true;
    if (*count == 0) return false;
    link.header_in_bytes += *count;
  }
  if (link.header_in_bytes < link.header_in.size()) return true;

  const Result<ReductionMessage> message = decode_reduction(link.header_in);
  if (!message.ok()) return drop(link), true;
  const Reduction::Place place = core_.accept(peer, *message, now);
  if (place.arrival == Reduction::Arrival::refuse) return drop(link), true;
  link.waiting = place.arrival == Reduction::Arrival::wait;
  if (link.waiting) return true;
  link.header_in_bytes = 0;
  link.message_in = *message;
  link.place = place.into;
  link.payload_in_bytes = 0;
  link.epoch = core_.epoch();
  link.in_payload = message->payload_bytes > 0;
  if (!link.in_payload) core_.received(peer, *message, now);
  return true;
}

bool ReductionGroup::fill_output(Link& link) {
  if (link.sending()) return true;
  ReductionMessage message;
  if (!core_.next_output(link.peer, message, link.payload_out)) return false;
  encode_reduction(message, link.header_out);
  link.header_out_bytes = 0;
  return true;
}

bool ReductionGroup::write_some(Link& link) {
  if (!fill_output(link)) return false;
  const Result<size_t> count =
      link.stream->write(std::span(link.header_out).subspan(link.header_out_bytes), link.payload_out);
  if (!count.ok()) return drop(link), true;
  link.blocked = *count == 0;
  const size_t header = std::min(*count, link.header_out.size() - link.header_out_bytes);
  link.header_out_bytes += header;
  link.payload_out = link.payload_out.subspan(*count - header);
  return *count > 0;
}

// Whether nothing of the caller's memory is under way any more, and what is to be said has been given to the system as
// far as it takes it. A member that does not take its rest of an older view in time is lost.
bool ReductionGroup::all_sent(bool in_time) {
  bool sent = true;
  for (auto& link : links_) {
    if (!link || !fill_output(*link)) continue;
    const bool out = !(core_.members() >> link->peer & 1);
    if (out || (!in_time && !link->payload_out.empty())) {
      drop(*link);
    } else if (!link->payload_out.empty() || !link->blocked) {
      sent = false;
    }
  }
  return sent;
}

void ReductionGroup::wait_for_sockets() {
  std::vector<pollfd> waits;
  for (const auto& link : links_) {
    if (!link) continue;
    const int events = (link->waiting ? 0 : POLLIN) | (link->blocked ? POLLOUT : 0);
    if (events) waits.push_back({link->stream->descriptor(), static_cast<short>(events), 0});
  }
  (void)::poll(waits.data(), waits.size(), static_cast<int>(kTick.count()));
}

Result<std::vector<NodeId>> ReductionGroup::all_reduce(std::span<const std::byte> input, std::span<std::byte> output,
                                                       const Reduction::Combine& combine) {
  SPORKLE_RETURN_IF_ERROR(core_.failure());
  if (input.empty() || input.size() != output.size())
    return invalid_argument("an all-reduce of " + std::to_string(input.size()) + " bytes into " +
                            std::to_string(output.size()));
  core_.begin(input, output, combine, clock_.now());
  for (auto& link : links_)
    if (link) link->waiting = false;
  auto next_tick = clock_.now();
  auto last_moment = Clock::TimePoint::max();
  while (core_.failure().ok()) {
    const auto now = clock_.now();
    if (core_.finished()) {
      last_moment = std::min(last_moment, now + kFlushTimeout);
      if (all_sent(now < last_moment)) break;
    }
    if (now >= next_tick) {
      core_.tick(now);
      next_tick = now + kTick;
    }
    bool moved = false;
    for (auto& link : links_) {
      if (link) moved |= read_some(*link);
      if (link) moved |= write_some(*link);
    }
    if (!moved) wait_for_sockets();
  }
  if (!core_.failure().ok()) {
    links_.clear();  // the others notice, and nothing of the caller's memory is in use any more
    links_.resize(members_.size());
    return core_.failure();
  }
  std::vector<NodeId> contributors;
  for (size_t member = 0; member < members_.size(); ++member)
    if (core_.members() >> member & 1) contributors.push_back(members_[member].id);
  return contributors;
}

}  // namespace sporkle::mesh
