// Reduction: one member's side of a fault-tolerant all-reduce, without sockets, threads or a clock.
//
// The members of a group are numbered by rising node ID. Each has an input of the same size; at the end of an operation
// every survivor holds the sum of the inputs of one and the same set of members. The input is cut into chunks, and the
// chunks into one shard for each aggregator (a member that others can reach). Members send their chunks to the
// aggregators (reduce-scatter) and get the sums back (all-gather), many chunks under way at once. A sum is made once,
// of all inputs of a chunk in the order of the members, so its bits depend on who takes part and on nothing else.
//
// Who takes part is a view: a number and a set of members. When a member is lost, the lowest aggregator that is left
// leads the others into a view without it, in which all starts again from the inputs, the shards of a lost aggregator
// being the others'. An operation ends when every member of a view has said to the view's leader that it holds every
// sum. Before a new view starts, each of its members promises to say no such thing in an older one; when all of them
// had said so already, the old view's sums hold instead. That is single-decree Paxos ("Paxos Made Simple", Lamport,
// 2001) whose acceptors are the members of the view, so survivors never end with different sets. Views only shrink: a
// lost member stays out. Where a network falls into two parts, only one with `least_members` goes on.
//
// Bytes only: the caller brings the addition. Memory: `window_chunks` chunks for each member, whatever arrives. Members
// trust each other: one that lies spoils the sum. One that sends what the protocol does not allow is given up.
//
// Owned and called by one thread at a time; whoever owns it carries messages (reduction_group.h does for real, tests do
// by hand) and must deliver those of one member to another in order. The order of sends on different links is free.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "mesh/clock.h"
#include "mesh/reduction_message.h"

namespace sporkle::mesh {

struct ReductionOptions {
  size_t chunk_bytes = size_t{128} << 10;  // a multiple of 64, max_reduction_chunk_bytes at most
  size_t window_chunks = 16;               // that a member may send to an aggregator ahead of the sums that came back
  // How many members a view needs. 0: more than half of the group, so that of two parts of a network one goes on. 1 is
  // for members that do not part, such as processes of one machine.
  size_t least_members = 0;
  // A member of which nothing has come for so long during an operation is lost. Who is in an operation speaks four
  // times as often; who is between two is silent, so this must be longer than members' arrivals at an operation lie
  // apart.
  std::chrono::milliseconds silence_timeout{30'000};
  // One member has lost another, which the leader still has: how long the leader waits before it decides which goes.
  std::chrono::milliseconds accusation_grace{200};
};

class Reduction {
 public:
  using TimePoint = Clock::TimePoint;
  // Writes the sum of the inputs, all of sum.size() bytes, to `sum`, adding them in the order given, which is that of
  // `members`. Must not fail, and give the same bits on every member. `sum` overlaps no input.
  using Combine = std::function<void(std::span<const size_t> members, std::span<const std::byte* const> inputs,
                                     std::span<std::byte> sum)>;

  // What is to become of a message's payload.
  enum class Arrival {
    store,    // goes to `into`, then received()
    discard,  // must be read past, then received()
    wait,     // is of the next operation: ask again when that has begun, reading nothing of this member until then
    refuse,   // breaks the protocol: lost()
  };
  struct Place {
    Arrival arrival{};
    std::span<std::byte> into;
  };

  // Checks what create() takes. invalid_argument names what is wrong.
  static Status check(size_t members, uint64_t reachable, const ReductionOptions& options);
  // `reachable`: bit i says whether others can connect to member i, and so whether it aggregates. Arguments that
  // check() refuses are a bug.
  Reduction(size_t members, uint64_t reachable, size_t self, const ReductionOptions& options);

  // Sends no more than so many chunks (1 to window_chunks) to `peer` ahead of the sums that came back from it. Where
  // little suffices to keep a link busy, more only falls out of the caches before it is read.
  void set_window(size_t peer, size_t chunks) { peers_[peer].window_out = chunks; }

  // Begins the next operation; the one before must have ended with success. `input` and `output` have the same size,
  // at least one byte, the same with all members (members that differ in it are given up), do not overlap and live
  // until finished() or failure(), and until no payload that next_output() gave is under way.
  void begin(std::span<const std::byte> input, std::span<std::byte> output, Combine combine, TimePoint now);

  // A header came from `peer`. May be called again for the same one after `wait`.
  Place accept(size_t peer, const ReductionMessage& message, TimePoint now);
  // The message that was accepted last from `peer` is here whole.
  void received(size_t peer, const ReductionMessage& message, TimePoint now);
  // Some bytes came from `peer`.
  void heard(size_t peer, TimePoint now) { peers_[peer].heard = now; }
  // The connection to `peer` is gone for good.
  void lost(size_t peer, TimePoint now);
  // To be called several times a second.
  void tick(TimePoint now);

  // Takes the next message for `peer`; false when there is none now. `payload` is valid until it has been sent, and
  // lies in the operation's input or output.
  bool next_output(size_t peer, ReductionMessage& message, std::span<const std::byte>& payload);

  // Every member of members() holds the sum of their inputs.
  bool finished() const { return phase_ == Phase::finished; }
  // Why accept() refused the message before.
  const std::string& refusal() const { return refusal_; }
  // Why this member cannot go on, for good. unavailable: it was left out, or too few are left.
  const Status& failure() const { return failure_; }
  uint64_t members() const { return members_; }
  uint64_t operation() const { return operation_; }
  // Grows when chunks start again. Then the rest of a payload that was to be stored must be discarded instead: its
  // place is another message's now.
  uint64_t epoch() const { return epoch_; }

 private:
  enum class Phase { idle, running, finished, failed };
  struct Peer {
    TimePoint heard{};
    std::deque<ReductionMessage> control;  // goes before chunks
    // The next chunk of each stream, in this view.
    size_t contribution_out = 0, contribution_in = 0, result_out = 0, result_in = 0;
    size_t window_out = 0;
    std::vector<std::byte> window;  // its contributions, chunk c at c % window_chunks
    // Its promise for my ballot.
    bool promised = false, promised_done = false;
    uint64_t promised_view = 0, promised_members = 0;
    // Whom it says that it has lost though I have not, and when I shall decide.
    uint64_t accused = 0;
    TimePoint accused_until{};
  };
  struct Shard {
    size_t begin = 0, end = 0;  // chunks
  };

  // reduction.cc: messages and their order.
  Place refuse(std::string why);
  bool overtaken(const ReductionMessage& message);
  void handle(size_t peer, const ReductionMessage& message, TimePoint now);
  bool may_adopt(const ReductionMessage& message) const;
  void handle_stale(size_t peer, const ReductionMessage& message);
  void send(size_t peer, ReductionMessage message);
  void fail(Status why);

  // reduction_chunks.cc: the chunks of one view.
  void restart_chunks();
  Place accept_contribution(size_t peer, const ReductionMessage& message);
  Place accept_result(size_t peer, const ReductionMessage& message);
  void combine_ready();
  bool holds_every_sum() const;
  bool next_chunk(size_t peer, ReductionMessage& message, std::span<const std::byte>& payload);
  size_t chunk_size(size_t chunk) const;

  // reduction_views.cc: who takes part.
  void say_done();
  void count_done();
  void commit();
  void adopt(uint64_t view, uint64_t members);
  void evaluate(TimePoint now);
  void propose(uint64_t target);
  void decide();
  void on_propose(size_t peer, const ReductionMessage& message);
  void on_promise(size_t peer, const ReductionMessage& message);
  void on_accuse(size_t peer, const ReductionMessage& message, TimePoint now);
  void settle_accusations(TimePoint now);
  void watch_silence(TimePoint now);

  // No honest group gets so far; counting on from a smaller one cannot overflow.
  static constexpr uint64_t ballot_limit = uint64_t{1} << 62;
  static uint64_t bit(size_t member) { return uint64_t{1} << member; }
  bool has(uint64_t set, size_t member) const { return set >> member & 1; }
  bool aggregates(size_t member) const { return has(members_ & reachable_, member); }
  size_t lowest(uint64_t set) const;

  const ReductionOptions options_;
  const uint64_t reachable_;
  const size_t self_;
  const size_t least_members_;
  std::vector<Peer> peers_;  // by member; that of self_ is unused
  Phase phase_ = Phase::idle;
  Status failure_;
  std::string refusal_;

  uint64_t operation_ = 0;
  uint64_t epoch_ = 0;
  std::span<const std::byte> input_;
  std::span<std::byte> output_;
  Combine combine_;

  uint64_t view_ = 0;
  uint64_t members_;
  uint64_t lost_ = 0;          // their connections are gone
  uint64_t suspected_ = 0;     // these, and those given up for another reason; for good
  uint64_t promised_ = 0;      // the highest ballot or view that I know of in this operation
  bool done_ = false;          // I said so, in this view
  uint64_t done_members_ = 0;  // leader: who said so, in this view
  uint64_t proposal_ = 0;      // my ballot that waits for promises; 0: none
  uint64_t proposal_members_ = 0;
  uint64_t accusation_ = 0;      // what I told
  size_t accusation_to_ = 0;     // whom
  uint64_t committed_view_ = 0;  // of the operation before this
  uint64_t committed_members_ = 0;
  TimePoint alive_due_{};

  size_t chunk_count_ = 0;
  std::vector<Shard> shards_;  // by member; empty for those that do not aggregate
  size_t combined_ = 0;        // the next chunk of my shard to add up
};

}  // namespace sporkle::mesh
