// Who takes part: how members agree on a view, and on the end of an operation.
#include <algorithm>
#include <bit>

#include "mesh/reduction.h"

namespace sporkle::mesh {

void Reduction::say_done() {
  if (phase_ != Phase::running || done_ || promised_ > view_ || !holds_every_sum()) return;
  done_ = true;
  const size_t leader = lowest(members_ & reachable_);
  if (leader == self_) {
    done_members_ |= bit(self_);
    return count_done();
  }
  ReductionMessage message;
  message.kind = ReductionKind::done;
  message.view = view_;
  message.members = members_;
  send(leader, message);
}

void Reduction::count_done() {
  if (lowest(members_ & reachable_) == self_ && (done_members_ & members_) == members_) commit();
}

// The view's sums hold. Everybody tells everybody: the leader may have died before it told them all, and who goes on
// may soon be gone too.
void Reduction::commit() {
  phase_ = Phase::finished;
  proposal_ = 0;
  ReductionMessage message;
  message.kind = ReductionKind::commit;
  message.view = view_;
  message.members = members_;
  for (size_t member = 0; member < peers_.size(); ++member)
    if (has(members_, member)) send(member, message);
}

void Reduction::adopt(uint64_t view, uint64_t members) {
  if (!has(members, self_)) return fail({Code::unavailable, "the other members went on without this one"});
  ReductionMessage farewell;
  farewell.kind = ReductionKind::start;
  farewell.view = view;
  farewell.members = members;
  for (size_t member = 0; member < peers_.size(); ++member)
    if (has(members_ & ~members, member)) send(member, farewell);
  view_ = view;
  promised_ = view;
  members_ = members;
  done_ = false;
  done_members_ = 0;
  proposal_ = 0;
  accusation_ = 0;
  restart_chunks();
  say_done();
}

void Reduction::lost(size_t peer, TimePoint now) {
  lost_ |= bit(peer);
  suspected_ |= bit(peer);
  peers_[peer].control.clear();
  evaluate(now);
}

// Leads, or tells who leads, when a member of the view is lost, or when I have promised a view to one that will never
// start it.
void Reduction::evaluate(TimePoint now) {
  if (phase_ != Phase::running) return;
  const uint64_t left = members_ & ~suspected_;
  const uint64_t owner = bit(promised_ % max_reduction_members);
  const bool stuck = promised_ > view_ && !proposal_ && !(owner & left);
  if (left == members_ && !stuck) return;
  const uint64_t leaders = left & reachable_;
  if (!leaders) return fail(unavailable("no member that others can connect to is left"));
  if (const size_t leader = lowest(leaders); leader != self_) {
    const uint64_t gone = (members_ & suspected_) | (stuck ? owner : 0);
    if (accusation_ == gone && accusation_to_ == leader) return;
    accusation_ = gone;
    accusation_to_ = leader;
    ReductionMessage message;
    message.kind = ReductionKind::accuse;
    message.view = view_;
    message.members = gone;
    message.accepted = gone & ~lost_;
    return send(leader, message);
  }
  if (proposal_ && proposal_members_ == left) return;
  for (Peer& peer : peers_) peer.heard = std::max(peer.heard, now);
  propose(left);
}

// A ballot holds its owner's number, so that no two are alike.
void Reduction::propose(uint64_t target) {
  const uint64_t round = std::max(promised_, view_) / max_reduction_members + 1;
  proposal_ = promised_ = round * max_reduction_members + self_;
  proposal_members_ = target;
  ReductionMessage message;
  message.kind = ReductionKind::propose;
  message.view = proposal_;
  message.members = target;
  for (size_t member = 0; member < peers_.size(); ++member) {
    peers_[member].promised = false;
    if (has(target, member)) send(member, message);
  }
  decide();
}

void Reduction::on_propose(size_t peer, const ReductionMessage& message) {
  ReductionMessage answer;
  if (phase_ == Phase::finished) {
    answer.kind = ReductionKind::commit;
    answer.view = view_;
    answer.members = members_;
    return send(peer, answer);
  }
  if (phase_ != Phase::running || has(suspected_, peer)) return;
  if (!has(message.members, self_)) return fail({Code::unavailable, "another member wants to go on without this one"});
  if (message.view >= ballot_limit) return;
  if (message.view > promised_) {
    promised_ = message.view;
    proposal_ = 0;
  }
  // To an older ballot this says which one has overtaken it.
  answer.kind = ReductionKind::promise;
  answer.view = promised_;
  answer.members = members_;
  answer.accepted = view_;
  answer.done = done_;
  send(peer, answer);
}

void Reduction::on_promise(size_t peer, const ReductionMessage& message) {
  if (phase_ != Phase::running || !proposal_ || message.view >= ballot_limit) return;
  if (message.view > proposal_) {
    // tick() tries again, so that two who both want to lead do not chase each other without a pause.
    promised_ = std::max(promised_, message.view);
    proposal_ = 0;
    return;
  }
  if (message.view < proposal_ || !has(proposal_members_, peer)) return;
  Peer& from = peers_[peer];
  from.promised = true;
  from.promised_done = message.done;
  from.promised_view = message.accepted;
  from.promised_members = message.members;
  decide();
}

// When everybody has promised: either the newest view's sums hold, or a new view starts.
void Reduction::decide() {
  uint64_t newest = view_, set = members_;
  for (size_t member = 0; member < peers_.size(); ++member) {
    if (member == self_ || !has(proposal_members_, member)) continue;
    const Peer& peer = peers_[member];
    if (!peer.promised) return;
    if (peer.promised_view > newest) {
      newest = peer.promised_view;
      set = peer.promised_members;
    }
  }
  if (!has(set, self_)) return fail({Code::unavailable, "the other members went on without this one"});
  const uint64_t target = proposal_members_ & set;
  if (!(target & reachable_)) return fail(unavailable("no member that others can connect to is left"));
  bool all_done = newest == view_ && done_;
  for (size_t member = 0; member < peers_.size(); ++member)
    if (member != self_ && has(target, member))
      all_done = all_done && peers_[member].promised_view == newest && peers_[member].promised_done;
  if (static_cast<size_t>(std::popcount(target)) < least_members_)
    return fail(unavailable("only " + std::to_string(std::popcount(target)) + " of " + std::to_string(peers_.size()) +
                            " members are left, and at least " + std::to_string(least_members_) + " were asked for"));
  if (all_done) return commit();
  ReductionMessage message;
  message.kind = ReductionKind::start;
  message.view = proposal_;
  message.members = target;
  for (size_t member = 0; member < peers_.size(); ++member)
    if (has(target, member)) send(member, message);
  adopt(proposal_, target);
}

void Reduction::on_accuse(size_t peer, const ReductionMessage& message, TimePoint now) {
  if (phase_ == Phase::finished) return on_propose(peer, message);  // the same answer
  if (phase_ != Phase::running || !has(members_, peer)) return;
  const uint64_t fresh = message.members & members_ & ~suspected_ & ~bit(self_) & ~bit(peer);
  if (!fresh) {
    evaluate(now);
    // It has promised a view to a member that I had already left out.
    const uint64_t left = members_ & ~suspected_;
    if (phase_ == Phase::running && !proposal_ && left == members_ && lowest(left & reachable_) == self_) propose(left);
    return;
  }
  // One that is only silent will soon be found silent here too, if it is so.
  peers_[peer].accused |= fresh;
  peers_[peer].accused_until =
      now + (fresh & message.accepted ? options_.silence_timeout / 2 : options_.accusation_grace);
}

// Two members cannot reach each other, and both can reach me. The one that aggregates stays, else the lower one.
void Reduction::settle_accusations(TimePoint now) {
  for (size_t accuser = 0; accuser < peers_.size(); ++accuser) {
    Peer& peer = peers_[accuser];
    peer.accused &= members_ & ~suspected_;
    if (!peer.accused || now < peer.accused_until) continue;
    const size_t accused = lowest(peer.accused);
    peer.accused = 0;
    const bool accuser_goes = aggregates(accuser) == aggregates(accused) ? accuser > accused : !aggregates(accuser);
    suspected_ |= bit(accuser_goes ? accuser : accused);
  }
}

void Reduction::watch_silence(TimePoint now) {
  for (size_t member = 0; member < peers_.size(); ++member) {
    const bool linked = has(reachable_, member) || has(reachable_, self_);
    if (member == self_ || !linked || !has(members_ & ~suspected_, member)) continue;
    if (now - peers_[member].heard >= options_.silence_timeout) suspected_ |= bit(member);
  }
}

void Reduction::tick(TimePoint now) {
  if (phase_ != Phase::running) return;
  settle_accusations(now);
  watch_silence(now);
  evaluate(now);
  if (phase_ != Phase::running || now < alive_due_) return;
  alive_due_ = now + options_.silence_timeout / 4;
  ReductionMessage message;
  message.kind = ReductionKind::alive;
  message.view = view_;
  for (size_t member = 0; member < peers_.size(); ++member)
    if (has(members_, member) && peers_[member].control.empty()) send(member, message);
}

}  // namespace sporkle::mesh
