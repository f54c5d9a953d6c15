// Coordinator: the state machine of a run. No sockets, no threads, no clock: whoever owns it passes messages and time
// in, under a lock of its own (coordinator_server.h does so for real, tests do it by hand).
//
// The life of a round. At its opening every present worker gets a lease: shards, and inner steps in proportion to its
// measured speed. Workers fetch shards, train, submit. The round closes when every lease is reported, lost or refused,
// or at a deadline derived from the measured speeds, if a quorum of updates is in; otherwise the missing steps are
// leased again. Closing adds the updates in canonical order (node ID, then lease), weighted by tokens, takes the outer
// step, quantises the change of the parameters (error feedback keeps the rest) and advances the coordinator's own
// parameters by just that: workers that apply the same delta have the same bits. Then the next round opens.
//
// With config.reduction = "peers" (coordinator_reductions.cc) workers submit a commitment instead of their update. When
// all leases of the round are settled they add up the updates among themselves, in the same order and to the same bits,
// and the coordinator gets the mean, checks it (round_reduction.h) and closes the round with it. Where that fails the
// workers are asked for the updates whole, and the round closes as above.
//
// Everything that is answered is on disk first (store.h). A crash loses nothing that a worker was told, and a reopened
// coordinator goes on to the same bits.
//
// Nothing received is trusted: only a lease's holder may report on it; an update must decode, be finite and of usual
// length, and may claim no more tokens than its steps can hold.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/sha256.h"
#include "base/status.h"
#include "mesh/clock.h"
#include "mesh/message.h"
#include "mesh/node_id.h"
#include "mesh/server.h"
#include "run/config.h"
#include "run/event.h"
#include "run/replica.h"
#include "run/round_reduction.h"
#include "run/shard_pool.h"
#include "run/state.h"
#include "run/status.h"
#include "run/store.h"
#include "train/diloco.h"
#include "train/error_feedback.h"

namespace sporkle::run {

namespace proto {
class SubmitRequest;
}

class Coordinator {
 public:
  using TimePoint = mesh::Clock::TimePoint;
  using InitialParameters = std::function<Result<std::vector<float>>()>;

  // Begins a run in the store, or goes on with the one that is there. `tokens` (the training tokens, token_bytes each)
  // outlives the coordinator. Errors: invalid_argument for a bad configuration, or when the store holds a run with
  // another manifest.
  static Result<std::unique_ptr<Coordinator>> open(const RunConfig& config, std::unique_ptr<Store> store,
                                                   std::span<const std::byte> tokens,
                                                   const InitialParameters& initial_parameters, TimePoint now,
                                                   int64_t unix_ms);

  // Answers at once or, for next_work, later from handle() or tick().
  void handle(const mesh::NodeId& node, std::string_view method, mesh::Message request, mesh::Responder respond,
              TimePoint now);
  // A connection of this node from this host is there.
  void connected(const mesh::NodeId& node, std::string host);
  // Where workers say that others can reach them, not yet tried; tell what came of it with dialled().
  std::vector<std::pair<mesh::NodeId, mesh::Address>> take_dials();
  void dialled(const mesh::NodeId& node, const mesh::Address& address, bool answered);
  // The last connection of this node is gone.
  void disconnected(const mesh::NodeId& node, TimePoint now);
  // Deadlines, lost workers, ends of long polls. To be called several times a second. `unix_ms` is for the records.
  void tick(TimePoint now, int64_t unix_ms);

  // What happened since the last call, oldest first.
  std::vector<Event> take_events();
  // Notes the validation loss of version `round + 1`, what round `round` led to.
  void record_evaluation(uint64_t round, double validation_loss);

  bool finished() const;
  // A failure to write the store. The coordinator then answers nothing but this; reopened, it continues from the last
  // state that reached the disk.
  const Status& failure() const { return failure_; }
  RunStatus status(TimePoint now) const;
  const std::string& run_id() const { return run_id_; }    // hexadecimal
  Digest run_digest() const { return sha256(manifest_); }  // what run_id() says

  // The parameters now, and what they are. The vector never changes; a closing round makes a new one.
  std::shared_ptr<const std::vector<float>> parameters() const { return parameters_; }
  const Digest& parameters_sha256() const { return parameters_sha256_; }
  uint64_t version() const { return round_.number; }  // of the parameters
  bool is_member(const mesh::NodeId& node) const { return members_.contains(node); }
  // Present workers that say that they give parameters to others.
  struct Donor {
    mesh::NodeId node;
    uint16_t port = 0;
    bool current = false;  // has the parameters of now
  };
  std::vector<Donor> donors() const;
  CheckpointInfo checkpoint_info() const;
  // Units of training data leased so far, and those of them that are back in the pool.
  uint64_t units_handed_out() const { return pool_.next(); }
  uint64_t units_unfinished() const { return pool_.returned().size(); }

 private:
  struct Wanted {  // what a worker that asks for work has
    bool has_version = false;
    uint64_t version = 0;
    uint64_t attempt = 0;
    std::string pending_lease;
  };
  struct Poll {
    mesh::Responder respond;
    TimePoint until;
    Wanted wanted;
  };
  struct Reply {  // what a method's handler gives back
    std::string body;
    std::vector<std::byte> payload;
  };

  Coordinator(const RunConfig& config, InnerStepSchedule schedule, std::unique_ptr<Store> store, ShardPool pool,
              std::string manifest);
  Status restore(TimePoint now);
  Status begin_run(const InitialParameters& initial_parameters);

  // coordinator_messages.cc: one for each method.
  Result<Reply> dispatch(const mesh::NodeId& node, std::string_view method, const mesh::Message& request,
                         mesh::Responder& respond, bool& pending, TimePoint now);
  Result<Reply> hello(const mesh::NodeId& node, const mesh::Message& request, TimePoint now);
  Result<Reply> parameters_chunk(const mesh::Message& request);
  Result<Reply> next_work(Member& member, const mesh::Message& request, mesh::Responder& respond, bool& pending,
                          TimePoint now);
  Result<Reply> shards(const mesh::Message& request);
  Result<Reply> heartbeat(Member& member, const mesh::Message& request);
  Status check_claims(const LeaseRecord& lease, const proto::SubmitRequest& report) const;
  Status check_update(const LeaseRecord& lease, const mesh::Message& request, double& norm) const;
  Status check_norm(double norm) const;
  Result<Reply> submit(Member& member, const mesh::Message& request, TimePoint now);
  Result<Reply> leave(Member& member, const mesh::Message& request);
  // The answer to a poll: the member's lease with the delta that it needs, `finished`, or `wait`.
  // What became of an update that a worker holds as committed to: proto::NextWorkReply::Pending.
  int pending_state(const Member& member, const std::string& lease, uint64_t round) const;
  Reply work_reply(const Member& member, const Wanted& wanted, TimePoint now);
  // Whether there is something to say to a poll of this member.
  bool has_news(const Member& member) const;
  void answer(const mesh::NodeId& node, mesh::Responder respond, Result<Reply> reply);
  void answer_polls(TimePoint now);

  // coordinator_reductions.cc: rounds in which the workers add up.
  Result<Reply> reduced(const Member& member, const mesh::Message& request);
  Result<Reply> audit(const Member& member, const mesh::Message& request);
  Status check_commitment(const LeaseRecord& lease, const mesh::Message& request, double& norm) const;
  Reply take_upload(LeaseRecord& lease, Member& member, const mesh::Message& request);
  const LeaseRecord* committed_lease(const mesh::NodeId& node) const;
  bool is_to_upload(const mesh::NodeId& node) const { return uploading_ && committed_lease(node); }
  // Goes on with getting the sum of what is only committed to. True when the round can be looked at anew: all of that
  // is here or lost.
  bool sum_committed(bool by_peers, TimePoint now);
  std::unique_ptr<RoundReduction> plan_reduction(TimePoint now);
  bool close_reduction(TimePoint now);
  bool demand_uploads(TimePoint now);
  void lose_committed(const mesh::NodeId& node);

  // coordinator_rounds.cc: the life of a round.
  void advance(TimePoint now);  // opens and closes whatever is due
  void lease_round(TimePoint now);
  void lease_to_joiner(Member& member, TimePoint now);
  void add_lease(const Member& member, uint64_t steps);
  // The mean of the updates of the round: read from the store, or the peers' when there is one.
  void close_round(TimePoint now, std::span<const float> peers_mean = {});
  void refuse_outliers();
  void refuse(LeaseRecord& lease, Member& member, const std::string& why);
  void lose_lease(LeaseRecord& lease, LeaseState state);
  bool revive(LeaseRecord& lease);
  void lose_member(Member& member, std::string why);
  void seen(Member& member, TimePoint now);
  LeaseRecord* active_lease(const mesh::NodeId& node);
  double steps_per_second(const Member& member) const;  // 0 when unknown
  uint64_t round_target() const;                        // inner steps of the open round, all workers together
  uint64_t steps_in(LeaseState state) const;            // of the open round
  void set_deadline(TimePoint now);
  // Whether what came of this round's parameters is still worth folding into an error feedback.
  bool recent(uint64_t round) const {
    return round <= round_.number && round_.number - round <= config_.staleness_rounds;
  }
  uint64_t seed_of(const LeaseRecord& lease) const;

  Event event(EventKind kind, const Member* member = nullptr, std::string message = {}) const;
  void emit(Event event) { events_.push_back(std::move(event)); }
  // Writes what changed; then the answers that waited for it go out.
  void flush();

  const RunConfig config_;
  const InnerStepSchedule schedule_;
  const std::unique_ptr<Store> store_;
  ShardPool pool_;
  const std::string manifest_;  // serialized
  const std::string run_id_;

  RoundState round_;
  std::map<mesh::NodeId, Member> members_;     // canonical order
  std::map<std::string, LeaseRecord> leases_;  // of the open round, by ID
  std::vector<RoundRecord> history_;
  std::shared_ptr<const std::vector<float>> parameters_;
  Digest parameters_sha256_{};
  std::vector<std::byte> delta_;  // from the version before; empty for the first
  train::OuterOptimizer outer_;
  train::ErrorFeedback feedback_;

  std::map<mesh::NodeId, Poll> polls_;
  // Of the open round; a restart begins anew with these.
  std::unique_ptr<RoundReduction> reduction_;
  uint32_t attempts_ = 0;
  bool uploading_ = false;
  TimePoint upload_deadline_{};
  uint64_t closed_attempt_ = 0;  // by which the round before closed; 0: the coordinator added up
  std::map<mesh::NodeId, std::string> hosts_;
  std::vector<std::pair<mesh::NodeId, mesh::Address>> dials_;
  std::vector<Event> events_;
  TimePoint round_opened_{};
  TimePoint deadline_{};
  double round_expected_s_ = 0;
  int64_t unix_ms_ = 0;

  // What flush() has to write.
  bool new_run_ = false;
  bool dirty_round_ = false;
  bool dirty_returned_ = false;
  bool cleared_leases_ = false;
  std::set<mesh::NodeId> dirty_members_;
  std::set<std::string> dirty_leases_;
  std::set<uint64_t> dirty_history_;
  std::vector<std::pair<std::string, std::vector<std::byte>>> new_blobs_;
  std::vector<std::string> old_blobs_;
  std::vector<std::pair<mesh::Responder, Result<mesh::Message>>> outbox_;
  Status failure_;
};

}  // namespace sporkle::run
