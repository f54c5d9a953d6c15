#include "mesh/reduction.h"

#include <bit>
#include <cassert>
#include <utility>

namespace sporkle::mesh {
namespace {

bool carries_chunk(ReductionKind kind) { return kind == ReductionKind::contribution || kind == ReductionKind::result; }

}  // namespace

Status Reduction::check(size_t members, uint64_t reachable, const ReductionOptions& options) {
  if (members == 0 || members > max_reduction_members)
    return invalid_argument("a reduction of " + std::to_string(members) + " members; 1 to " +
                            std::to_string(max_reduction_members) + " can take part");
  if (reachable == 0 || (members < max_reduction_members && reachable >> members))
    return invalid_argument("a reduction needs a member that the others can connect to");
  if (options.chunk_bytes == 0 || options.chunk_bytes % 64 || options.chunk_bytes > max_reduction_chunk_bytes)
    return invalid_argument("chunks of " + std::to_string(options.chunk_bytes) + " bytes; multiples of 64 up to " +
                            std::to_string(max_reduction_chunk_bytes) + " are possible");
  if (options.window_chunks == 0 || options.window_chunks > 1024)
    return invalid_argument("a window of " + std::to_string(options.window_chunks) + " chunks; 1 to 1024 are possible");
  if (options.least_members > members)
    return invalid_argument("at least " + std::to_string(options.least_members) + " members of " +
                            std::to_string(members) + " cannot be asked for");
  return {};
}

Reduction::Reduction(size_t members, uint64_t reachable, size_t self, const ReductionOptions& options)
    : options_(options),
      reachable_(reachable),
      self_(self),
      least_members_(options.least_members ? options.least_members : members / 2 + 1),
      peers_(members),
      members_(members == 64 ? ~uint64_t{0} : bit(members) - 1) {
  assert(check(members, reachable, options).ok() && self < members);
  for (Peer& peer : peers_) peer.window_out = options.window_chunks;
}

size_t Reduction::lowest(uint64_t set) const { return static_cast<size_t>(std::countr_zero(set)); }

Reduction::Place Reduction::refuse(std::string why) {
  refusal_ = std::move(why);
  return {Arrival::refuse, {}};
}

void Reduction::fail(Status why) {
  phase_ = Phase::failed;
  failure_ = std::move(why);
}

void Reduction::begin(std::span<const std::byte> input, std::span<std::byte> output, Combine combine, TimePoint now) {
  assert(phase_ == Phase::idle || phase_ == Phase::finished);
  assert(input.size() == output.size() && !input.empty());
  committed_view_ = view_;
  committed_members_ = members_;
  ++operation_;
  input_ = input;
  output_ = output;
  combine_ = std::move(combine);
  phase_ = Phase::running;
  done_ = false;
  done_members_ = 0;
  promised_ = view_;  // what was promised held for the operation before
  proposal_ = 0;
  accusation_ = 0;
  alive_due_ = now;
  for (Peer& peer : peers_) {
    peer.heard = now;
    peer.accused = 0;
  }
  restart_chunks();
  say_done();
  evaluate(now);
}

// Whether `message` shows that its sender is past this operation. If so, this operation is over here too.
bool Reduction::overtaken(const ReductionMessage& message) {
  if (message.operation <= operation_) return false;
  if (phase_ == Phase::running && done_ && message.operation == operation_ + 1) commit();
  return true;
}

Reduction::Place Reduction::accept(size_t peer, const ReductionMessage& message, TimePoint now) {
  Peer& from = peers_[peer];
  from.heard = now;
  if (message.kind == ReductionKind::hello) return refuse("said hello twice");
  if (message.kind == ReductionKind::start && message.operation >= operation_ && !has(message.members, self_) &&
      phase_ == Phase::running)
    fail({Code::unavailable, "the other members went on without this one"});
  if (phase_ == Phase::failed) return {Arrival::discard, {}};
  if (overtaken(message)) {
    if (phase_ == Phase::finished && message.operation == operation_ + 1) return {Arrival::wait, {}};
    return refuse("is at operation " + std::to_string(message.operation) + ", this side still at " +
                  std::to_string(operation_));
  }
  if (!carries_chunk(message.kind) || message.operation < operation_ || phase_ != Phase::running)
    return {Arrival::discard, {}};
  if (message.view > view_) {
    // Its `start` is still under way on another link.
    if (!may_adopt(message)) return {Arrival::discard, {}};
    adopt(message.view, message.members);
  }
  if (message.view < view_ || !has(members_, peer)) return {Arrival::discard, {}};
  return message.kind == ReductionKind::contribution ? accept_contribution(peer, message)
                                                     : accept_result(peer, message);
}

void Reduction::received(size_t peer, const ReductionMessage& message, TimePoint now) {
  if (phase_ == Phase::failed || phase_ == Phase::idle) return;
  if (message.operation < operation_) return handle_stale(peer, message);
  if (!carries_chunk(message.kind)) return handle(peer, message, now);
  // The view may have changed while the payload came in.
  if (phase_ != Phase::running || message.view != view_ || !has(members_, peer)) return;
  if (message.kind == ReductionKind::contribution) {
    if (message.chunk != peers_[peer].contribution_in) return;
    ++peers_[peer].contribution_in;
    if (message.chunk == combined_) combine_ready();
  } else {
    if (message.chunk != peers_[peer].result_in) return;
    ++peers_[peer].result_in;
  }
  say_done();
}

void Reduction::handle(size_t peer, const ReductionMessage& message, TimePoint now) {
  switch (message.kind) {
    case ReductionKind::done:
      if (phase_ != Phase::running || message.view < view_) return;
      // A leader without a shard may hear this before it hears of the view.
      if (message.view > view_) {
        if (!may_adopt(message)) return;
        adopt(message.view, message.members);
      }
      if (phase_ == Phase::running) {
        done_members_ |= bit(peer);
        count_done();
      }
      return;
    case ReductionKind::commit:
      if (phase_ == Phase::running && done_ && message.view == view_) commit();
      return;
    case ReductionKind::accuse:
      return on_accuse(peer, message, now);
    case ReductionKind::propose:
      return on_propose(peer, message);
    case ReductionKind::promise:
      return on_promise(peer, message);
    case ReductionKind::start:
      if (phase_ == Phase::running && may_adopt(message)) adopt(message.view, message.members);
      return;
    default:
      return;
  }
}

// Views only shrink, and never to members without an aggregator.
bool Reduction::may_adopt(const ReductionMessage& message) const {
  return message.view > view_ && message.view >= promised_ && message.view < ballot_limit &&
         !(message.members & ~members_) && has(message.members, self_) && (message.members & reachable_);
}

// From a member that does not know yet how the operation before ended.
void Reduction::handle_stale(size_t peer, const ReductionMessage& message) {
  if (message.kind != ReductionKind::propose && message.kind != ReductionKind::accuse) return;
  ReductionMessage answer;
  answer.operation = message.operation;
  const bool knows = message.operation + 1 == operation_ && has(committed_members_, peer);
  answer.kind = knows ? ReductionKind::commit : ReductionKind::start;
  answer.view = knows ? committed_view_ : ballot_limit;
  answer.members = knows ? committed_members_ : members_ & ~bit(peer);
  peers_[peer].control.push_back(answer);
}

void Reduction::send(size_t peer, ReductionMessage message) {
  if (peer == self_ || has(lost_, peer)) return;
  message.operation = operation_;
  peers_[peer].control.push_back(message);
}

bool Reduction::next_output(size_t peer, ReductionMessage& message, std::span<const std::byte>& payload) {
  Peer& to = peers_[peer];
  payload = {};
  if (!to.control.empty()) {
    message = to.control.front();
    to.control.pop_front();
    return true;
  }
  // While a new view is being agreed on, chunks of the old one are of no use.
  if (phase_ != Phase::running || promised_ > view_ || !has(members_ & ~suspected_, peer)) return false;
  if (!next_chunk(peer, message, payload)) return false;
  message.operation = operation_;
  message.view = view_;
  message.members = members_;
  return true;
}

}  // namespace sporkle::mesh
