// The chunks of one view: who adds which, and what is sent next.
#include <algorithm>
#include <bit>

#include "mesh/reduction.h"

namespace sporkle::mesh {

// The shards are as even as whole chunks allow, in the order of the aggregators.
void Reduction::restart_chunks() {
  ++epoch_;
  chunk_count_ = (input_.size() + options_.chunk_bytes - 1) / options_.chunk_bytes;
  const auto aggregators = static_cast<size_t>(std::popcount(members_ & reachable_));
  shards_.assign(peers_.size(), {});
  size_t rank = 0;
  for (size_t member = 0; member < peers_.size(); ++member) {
    if (!aggregates(member)) continue;
    shards_[member] = {chunk_count_ * rank / aggregators, chunk_count_ * (rank + 1) / aggregators};
    ++rank;
  }
  const Shard& mine = shards_[self_];
  combined_ = mine.begin;
  for (size_t member = 0; member < peers_.size(); ++member) {
    Peer& peer = peers_[member];
    peer.contribution_out = peer.result_in = shards_[member].begin;
    peer.contribution_in = peer.result_out = mine.begin;
    // A payload may be on its way into a window: none is ever given back.
    if (member != self_ && has(members_, member) && mine.begin < mine.end)
      peer.window.resize(options_.window_chunks * options_.chunk_bytes);
  }
  combine_ready();  // a group of one has all that it needs
}

size_t Reduction::chunk_size(size_t chunk) const {
  return std::min(options_.chunk_bytes, input_.size() - chunk * options_.chunk_bytes);
}

Reduction::Place Reduction::accept_contribution(size_t peer, const ReductionMessage& message) {
  Peer& from = peers_[peer];
  if (message.chunk != from.contribution_in || from.contribution_in >= shards_[self_].end)
    return refuse("sent chunk " + std::to_string(message.chunk) + " instead of " +
                  std::to_string(from.contribution_in));
  if (message.payload_bytes != chunk_size(message.chunk)) return refuse("sent a chunk of another size");
  if (message.chunk >= combined_ + options_.window_chunks) return refuse("sent more chunks than the window holds");
  return {Arrival::store,
          std::span(from.window)
              .subspan(message.chunk % options_.window_chunks * options_.chunk_bytes, message.payload_bytes)};
}

Reduction::Place Reduction::accept_result(size_t peer, const ReductionMessage& message) {
  const Peer& from = peers_[peer];
  if (message.chunk != from.result_in || from.result_in >= shards_[peer].end)
    return refuse("sent the sum of chunk " + std::to_string(message.chunk) + " instead of that of " +
                  std::to_string(from.result_in));
  if (message.payload_bytes != chunk_size(message.chunk)) return refuse("sent a sum of another size");
  return {Arrival::store, output_.subspan(message.chunk * options_.chunk_bytes, message.payload_bytes)};
}

// Adds up every chunk of my shard of which all contributions are here.
void Reduction::combine_ready() {
  std::vector<size_t> members;
  for (size_t member = 0; member < peers_.size(); ++member)
    if (has(members_, member)) members.push_back(member);
  std::vector<const std::byte*> inputs(members.size());
  for (; combined_ < shards_[self_].end; ++combined_) {
    const size_t offset = combined_ * options_.chunk_bytes;
    for (size_t i = 0; i < members.size(); ++i) {
      const Peer& peer = peers_[members[i]];
      if (members[i] == self_) {
        inputs[i] = input_.data() + offset;
      } else if (peer.contribution_in > combined_) {
        inputs[i] = peer.window.data() + combined_ % options_.window_chunks * options_.chunk_bytes;
      } else {
        return;
      }
    }
    combine_(members, inputs, output_.subspan(offset, chunk_size(combined_)));
  }
}

bool Reduction::holds_every_sum() const {
  if (combined_ < shards_[self_].end) return false;
  for (size_t member = 0; member < peers_.size(); ++member)
    if (member != self_ && peers_[member].result_in < shards_[member].end) return false;
  return true;
}

// Sums first: they are still in the cache. A sum that came from an aggregator makes room for another contribution
// there, so nothing is ever sent that would have to wait unread, with a proposal behind it.
bool Reduction::next_chunk(size_t peer, ReductionMessage& message, std::span<const std::byte>& payload) {
  Peer& to = peers_[peer];
  message = {};
  std::span<const std::byte> source;
  if (to.result_out < combined_) {
    message.kind = ReductionKind::result;
    message.chunk = static_cast<uint32_t>(to.result_out++);
    source = output_;
  } else if (to.contribution_out < std::min(shards_[peer].end, to.result_in + to.window_out)) {
    message.kind = ReductionKind::contribution;
    message.chunk = static_cast<uint32_t>(to.contribution_out++);
    source = input_;
  } else {
    return false;
  }
  payload = source.subspan(message.chunk * options_.chunk_bytes, chunk_size(message.chunk));
  message.payload_bytes = static_cast<uint32_t>(payload.size());
  return true;
}

}  // namespace sporkle::mesh
