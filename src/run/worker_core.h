// WorkerCore: what a worker knows and computes, without network, threads or time. Requests are made here and answers
// read here; Worker (worker.h) carries them, tests carry them by hand. One thread at a time.
//
// The core holds the parameters of one version bit for bit as the coordinator does (it checks their SHA-256 with every
// lease), and what quantisation kept back of its own updates.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/sha256.h"
#include "base/status.h"
#include "mesh/message.h"
#include "mesh/reduction_group.h"
#include "run/link.h"
#include "run/replica.h"
#include "train/diloco.h"
#include "train/error_feedback.h"

namespace sporkle::run {

namespace proto {
class PeerReduction;
}

struct WorkerInfo {
  std::string software = "sporkle";
  std::string name;
  uint32_t threads = 1;
  uint64_t session = 0;  // random, one a process
  std::string run;       // the first hexadecimal digits of the ID of the run to join; empty: whatever is there
};

// What a heartbeat tells; an empty lease means no work under way.
struct Progress {
  std::string lease;
  uint64_t round = 0;
  uint32_t step = 0;
  double loss = 0;
  double tokens_per_second = 0;
  uint16_t serves_port = 0;  // where this worker gives parameters to others; 0: nowhere
  Digest serves_sha256{};    // which it has there
};
struct HeartbeatAnswer {
  bool lease_lost = false;
  bool fold = false;  // what the lost lease came to may still go into the error feedback
};

enum class Verdict { accepted, late, rejected };

class WorkerCore {
 public:
  // `reduce`: reduction() says with whom; reduced() or could_not_reduce() is to be sent. `upload`: upload() is.
  enum class Work { wait, lease, finished, reduce, upload };

  // What this worker and others are to add up (run.proto), by rising node ID.
  struct PeerReduction {
    uint64_t attempt = 0;
    std::vector<mesh::ReductionMember> members;
    std::vector<uint64_t> tokens;  // of each member: the weight of its update
    train::OuterStep outer_step;
  };

  WorkerCore(WorkerInfo info, ReplicaFactory factory);

  mesh::Message hello() const;
  // Builds the replica on the first call. invalid_argument when a later one is about another run.
  Status on_hello(const mesh::Message& reply);
  const RunManifest& manifest() const { return manifest_; }
  uint32_t heartbeat_interval_ms() const { return heartbeat_interval_ms_; }
  bool finished() const { return finished_; }
  Replica& replica() { return *replica_; }

  // Until this is false: send parameters_request(), read on_parameters().
  // For a lease by peers that includes what the outer step needs, so that this worker can take it itself.
  bool needs_parameters() const { return version_ < 0 || (lease_ && lease_->by_peers && outer_version_ != version_); }
  mesh::Message parameters_request() const;
  Status on_parameters(const mesh::Message& reply);
  // Or all of them at once, from wherever. corrupt_data when they are not those of the SHA-256.
  Status take_parameters(uint64_t version, const Digest& expected, std::vector<float> parameters);
  int64_t version() const { return version_; }  // -1: none
  // Bytes of the parameters that have come so far.
  uint64_t arrived_bytes() const { return arrived_ * sizeof(float); }

  // Whether the coordinator wants workers to listen for their peers.
  bool peers_reduce() const { return peers_reduce_; }
  // Takes part in reductions; port: where this worker listens, 0: nowhere.
  void set_reduces(uint16_t port) {
    reduces_ = true;
    reduction_port_ = port;
  }

  mesh::Message next_work() const;
  // `lease`: needs_parameters() may have become true; begin() comes next, then train().
  Result<Work> on_next_work(const mesh::Message& reply);

  // The lease in hand, while there is one.
  bool has_lease() const { return lease_.has_value(); }
  const std::string& lease_id() const { return lease_->id; }
  uint64_t lease_round() const { return lease_->round; }
  uint32_t lease_steps() const { return lease_->steps; }
  // Whether the parameters in hand are the ones to start from; false after the run has moved on: ask for other work.
  bool lease_is_current() const;
  // The shards of the lease that are not cached yet; nullopt when all are here.
  std::optional<mesh::Message> shards_request() const;
  Status on_shards(const mesh::Message& reply);

  // Trains, measures, and prepares the update. `wall_seconds` of the work are told to the coordinator with submit().
  Status train(const StepCallback& callback);
  const InnerReport& report() const { return report_; }
  // After train(), once the wall time is known: a throttled worker is slower than its replica thinks.
  void set_seconds(double seconds);
  mesh::Message submit() const;
  // How long submit() took, its round trip apart: measures the link, for leases that leave the compression to us.
  void note_upload(double seconds) { link_.sent(update_.size(), seconds); }
  train::Compression compression() const { return compression_; }  // of the last update
  // Settles the error feedback and gives up the lease.
  Result<Verdict> on_submit(const mesh::Message& reply);
  const std::string& verdict_reason() const { return verdict_reason_; }
  // --- an update that is committed to, until it is settled ---
  bool has_pending() const { return pending_.has_value(); }
  mesh::Message upload() const;
  Result<Verdict> on_upload(const mesh::Message& reply);
  const PeerReduction& reduction() const { return reduction_; }
  std::span<const float> contribution() const { return pending_->values; }
  // mesh::Reduction::Combine, of this reduction's members: the mean as the coordinator makes it.
  void combine(std::span<const size_t> members, std::span<const std::byte* const> inputs,
               std::span<std::byte> mean) const;
  mesh::Message could_not_reduce() const;
  mesh::Message reduced(std::span<const mesh::NodeId> contributors, std::vector<float> mean, const mesh::NodeId& self);
  // The chunks to show; empty: none, audit() is not to be sent.
  Result<std::vector<uint32_t>> on_reduced(const mesh::Message& reply) const;
  mesh::Message audit(std::span<const uint32_t> chunks) const;

  // The lease was lost while training. With `fold` the part that was done goes into the error feedback.
  void abandon_lease(bool fold);

  // These may run beside everything else.
  mesh::Message leave() const;
  static mesh::Message heartbeat(const Progress& progress);
  static Result<HeartbeatAnswer> on_heartbeat(const mesh::Message& reply);

  double tokens_per_second() const { return tokens_per_second_; }
  void set_tokens_per_second(double speed) { tokens_per_second_ = speed; }
  std::span<const float> parameters() const { return *parameters_; }
  const Digest& parameters_sha256() const { return parameters_sha256_; }
  // The same to be given to others meanwhile: these never change, the core goes on with a copy.
  std::shared_ptr<const std::vector<float>> lend_parameters() {
    lent_ = true;
    return parameters_;
  }
  const train::ErrorFeedback& feedback() const { return *feedback_; }

 private:
  struct Shard {
    uint64_t index;
    Digest sha256;
    uint32_t size_bytes;
  };
  struct Lease {
    std::string id;
    uint64_t round;
    std::vector<Shard> shards;
    uint32_t steps;
    double schedule_step;
    double schedule_stride;
    uint64_t seed;
    Digest parameters_sha256;
    train::Compression compression;
    bool any_compression;
    bool by_peers;
  };
  struct Pending {
    std::string lease;
    std::string report;  // SubmitRequest
    std::vector<std::byte> update;
    std::vector<float> values;  // what `update` says
  };
  struct PeersMean {
    uint64_t attempt;
    std::vector<float> mean;
    train::OuterStep outer_step;
  };
  std::string whole_report() const;      // SubmitRequest with the whole update
  std::vector<float>& own_parameters();  // to be changed: a copy where others read them
  void prepare_outer_step();
  Status take_outer_step();
  Status read_reduction(const proto::PeerReduction& from);
  Verdict settle(uint32_t verdict, bool fold);
  void remember(const Digest& digest, std::vector<std::byte> bytes);

  const WorkerInfo info_;
  const ReplicaFactory factory_;
  RunManifest manifest_;
  std::string manifest_bytes_;
  uint32_t heartbeat_interval_ms_ = 1000;
  bool finished_ = false;
  std::unique_ptr<Replica> replica_;

  int64_t version_ = -1;
  Digest parameters_sha256_{};
  std::shared_ptr<std::vector<float>> parameters_ = std::make_shared<std::vector<float>>();
  bool lent_ = false;            // others read the parameters
  std::vector<float> arriving_;  // chunks of a newer version so far
  int64_t arriving_version_ = -1;
  size_t arrived_ = 0;

  std::optional<Lease> lease_;
  std::map<Digest, std::vector<std::byte>> shards_;
  std::deque<Digest> shard_age_;
  size_t shard_bytes_ = 0;

  // What the coordinator keeps beside the parameters, of version outer_version_; -1: not here.
  int64_t outer_version_ = -1;
  std::unique_ptr<train::OuterOptimizer> outer_;
  std::unique_ptr<train::ErrorFeedback> outer_feedback_;
  bool momentum_here_ = false;  // for the version in hand; the residual comes next

  bool peers_reduce_ = false;
  bool reduces_ = false;
  uint16_t reduction_port_ = 0;
  std::optional<Pending> pending_;
  PeerReduction reduction_;
  std::optional<PeersMean> peers_mean_;

  std::unique_ptr<train::ErrorFeedback> feedback_;
  UploadMeter link_;
  train::Compression compression_ = train::Compression::int8;
  InnerReport report_;
  std::vector<std::byte> update_;
  std::vector<float> values_;          // of an update for peers: what update_ says
  std::vector<std::byte> commitment_;  // to these
  double tokens_per_second_ = 0;
  std::string verdict_reason_;
};

}  // namespace sporkle::run
