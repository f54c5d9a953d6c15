#include "run/worker_core.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "base/sha256.h"
#include "mesh/printable.h"
#include "run/commitment.h"
#include "run/protocol.h"
#include "run/run.pb.h"
#include "train/diloco.h"

namespace sporkle::run {
namespace {

constexpr uint64_t kMostParameters = uint64_t{1} << 36;
constexpr size_t kShardCacheBytes = size_t{256} << 20;
constexpr uint32_t kMostStepsPerLease = 1u << 30;

template <typename Proto>
Status parse(const mesh::Message& message, Proto& proto) {
  if (proto.ParseFromString(message.body)) return {};
  return corrupt_data("the coordinator's answer cannot be read");
}

Result<Digest> parse_digest(const std::string& bytes) {
  Digest digest;
  if (bytes.size() != digest.size()) return corrupt_data("the coordinator sent a SHA-256 of another size");
  std::memcpy(digest.data(), bytes.data(), bytes.size());
  return digest;
}

Digest digest_of(std::span<const float> values) { return sha256(std::as_bytes(values)); }

}  // namespace

WorkerCore::WorkerCore(WorkerInfo info, ReplicaFactory factory)
    : info_(std::move(info)), factory_(std::move(factory)) {}

mesh::Message WorkerCore::hello() const {
  proto::HelloRequest hello;
  hello.set_protocol(kRunProtocol);
  hello.set_software(info_.software);
  hello.set_name(info_.name);
  hello.set_threads(info_.threads);
  hello.set_session(info_.session);
  return {hello.SerializeAsString(), {}};
}

Status WorkerCore::on_hello(const mesh::Message& reply) {
  proto::HelloReply hello;
  SPORKLE_RETURN_IF_ERROR(parse(reply, hello));
  const proto::Manifest& from = hello.manifest();
  const std::string bytes = from.SerializeAsString();
  // A coordinator's key may conduct several runs, and an old address may lead to another one.
  if (const std::string id = to_hex(sha256(bytes)); !id.starts_with(info_.run))
    return invalid_argument("the coordinator conducts run " + id.substr(0, info_.run.size()) + " there, '" +
                            mesh::printable(from.name(), 64) + "', and the link is of run " +
                            mesh::printable(info_.run, 64) + "; ask for a link that is up to date");
  finished_ = hello.finished();
  peers_reduce_ = hello.peers_reduce();
  heartbeat_interval_ms_ = std::clamp(hello.heartbeat_interval_ms(), 10u, 60'000u);
  if (replica_) {
    if (bytes == manifest_bytes_ && peers_reduce_ && !outer_) {
      prepare_outer_step();
      outer_version_ = -1;
    }
    if (bytes == manifest_bytes_) return {};
    return invalid_argument("the coordinator now conducts another run than the one this worker joined; join again");
  }
  RunManifest manifest;
  manifest.name = from.name();
  manifest.model = from.model();
  manifest.parameter_count = from.parameter_count();
  manifest.token_bytes = from.token_bytes();
  manifest.tokens_per_step = from.tokens_per_step();
  manifest.shard_tokens = from.shard_tokens();
  manifest.data_sha256 = from.data_sha256();
  manifest.total_steps = from.total_steps();
  manifest.nominal_workers = from.nominal_workers();
  manifest.seed = from.seed();
  RunConfig check;  // with defaults for what a worker does not know
  check.manifest = manifest;
  SPORKLE_RETURN_IF_ERROR(check.validate().with_context("the coordinator's manifest"));
  if (manifest.parameter_count > kMostParameters)
    return invalid_argument("the run's model has " + std::to_string(manifest.parameter_count) +
                            " parameters, too many for this program");
  SPORKLE_ASSIGN_OR_RETURN(std::unique_ptr<Replica> replica, factory_(manifest));
  if (replica->parameter_count() != manifest.parameter_count)
    return invalid_argument("the model built here has " + std::to_string(replica->parameter_count()) +
                            " parameters, the run's has " + std::to_string(manifest.parameter_count) +
                            "; install the same release as the coordinator");
  manifest_ = std::move(manifest);
  manifest_bytes_ = bytes;
  replica_ = std::move(replica);
  feedback_ = std::make_unique<train::ErrorFeedback>(manifest_.parameter_count);
  if (peers_reduce_) prepare_outer_step();
  return {};
}

mesh::Message WorkerCore::parameters_request() const {
  proto::ParametersRequest request;
  if (version_ >= 0)
    request.set_kind(momentum_here_ ? proto::ParametersRequest::RESIDUAL : proto::ParametersRequest::MOMENTUM);
  request.set_offset(arrived_);
  if (arriving_version_ >= 0) request.set_version(static_cast<uint64_t>(arriving_version_));
  return {request.SerializeAsString(), {}};
}

Status WorkerCore::on_parameters(const mesh::Message& reply) {
  const bool outer_state = version_ >= 0;
  proto::ParametersReply chunk;
  SPORKLE_RETURN_IF_ERROR(parse(reply, chunk));
  if (chunk.total() != manifest_.parameter_count)
    return corrupt_data("the coordinator sends " + std::to_string(chunk.total()) + " parameters of " +
                        std::to_string(manifest_.parameter_count));
  const auto version = static_cast<int64_t>(chunk.version() & (UINT64_MAX >> 1));
  if (arrived_ > 0 && version != arriving_version_) {
    arrived_ = 0;  // a round closed meanwhile
    arriving_version_ = -1;
    return {};
  }
  const size_t count = reply.payload.size() / sizeof(float);
  if (count == 0 || reply.payload.size() % sizeof(float) != 0 || count > manifest_.parameter_count - arrived_)
    return corrupt_data("the coordinator sent a chunk of parameters of " + std::to_string(reply.payload.size()) +
                        " bytes");
  arriving_.resize(manifest_.parameter_count);
  arriving_version_ = version;
  std::memcpy(arriving_.data() + arrived_, reply.payload.data(), reply.payload.size());
  arrived_ += count;
  if (outer_state && version != version_) {
    // A round closed meanwhile: the parameters come first again.
    arrived_ = 0;
    arriving_version_ = version_ = -1;
    momentum_here_ = false;
    return {};
  }
  if (arrived_ < arriving_.size()) return {};
  SPORKLE_ASSIGN_OR_RETURN(const Digest expected, parse_digest(chunk.sha256()));
  if (outer_state) {
    arrived_ = 0;
    arriving_version_ = -1;
    if (expected != digest_of(arriving_))
      return corrupt_data("the outer step's state that arrived is not the coordinator's: its SHA-256 differs");
    if (!momentum_here_) SPORKLE_RETURN_IF_ERROR(outer_->restore(arriving_));
    if (momentum_here_) SPORKLE_RETURN_IF_ERROR(outer_feedback_->restore(arriving_));
    if (momentum_here_) outer_version_ = version;
    momentum_here_ = !momentum_here_;
    return {};
  }
  return take_parameters(static_cast<uint64_t>(version), expected, std::exchange(arriving_, {}));
}

Status WorkerCore::take_parameters(uint64_t version, const Digest& expected, std::vector<float> parameters) {
  arriving_ = {};
  arriving_version_ = -1;
  arrived_ = 0;
  const Digest digest = digest_of(parameters);
  if (parameters.size() != manifest_.parameter_count || digest != expected)
    return corrupt_data("the parameters that arrived are not the coordinator's: their SHA-256 differs");
  parameters_ = std::make_shared<std::vector<float>>(std::move(parameters));
  lent_ = false;
  momentum_here_ = false;
  parameters_sha256_ = digest;
  version_ = static_cast<int64_t>(version & (UINT64_MAX >> 1));
  return {};
}

std::vector<float>& WorkerCore::own_parameters() {
  if (std::exchange(lent_, false)) parameters_ = std::make_shared<std::vector<float>>(*parameters_);
  return *parameters_;
}

mesh::Message WorkerCore::next_work() const {
  proto::NextWorkRequest request;
  request.set_has_parameters(version_ >= 0);
  if (version_ >= 0) request.set_version(static_cast<uint64_t>(version_));
  request.set_tokens_per_second(tokens_per_second_);
  request.set_session(info_.session);
  request.set_reduces(reduces_);
  request.set_reduction_port(reduction_port_);
  if (peers_mean_) request.set_attempt(peers_mean_->attempt);
  if (pending_) request.set_pending_lease(pending_->lease);
  return {request.SerializeAsString(), {}};
}

Result<WorkerCore::Work> WorkerCore::on_next_work(const mesh::Message& reply) {
  proto::NextWorkReply work;
  SPORKLE_RETURN_IF_ERROR(parse(reply, work));
  if (pending_ && work.pending() != proto::NextWorkReply::KEEP) {
    if (work.pending() == proto::NextWorkReply::INCLUDED) feedback_->commit();
    if (work.pending() == proto::NextWorkReply::FOLD) feedback_->fold();
    if (work.pending() == proto::NextWorkReply::DROP) feedback_->reset();
    pending_.reset();
  }
  if (work.kind() == proto::NextWorkReply::REDUCE || work.kind() == proto::NextWorkReply::UPLOAD) {
    if (!pending_) return corrupt_data("the coordinator asks for an update that this worker does not have");
    if (work.kind() == proto::NextWorkReply::UPLOAD) return Work::upload;
    SPORKLE_RETURN_IF_ERROR(read_reduction(work.reduction()));
    return Work::reduce;
  }
  if (work.kind() == proto::NextWorkReply::FINISHED) {
    finished_ = true;
    return Work::finished;
  }
  if (work.kind() != proto::NextWorkReply::LEASE) return Work::wait;
  const proto::Lease& from = work.lease();
  Lease lease;
  lease.id = from.id();
  lease.round = from.round() & (UINT64_MAX >> 1);
  lease.steps = from.steps();
  lease.schedule_step = from.schedule_step();
  lease.schedule_stride = from.schedule_stride();
  lease.seed = from.seed();
  SPORKLE_ASSIGN_OR_RETURN(lease.parameters_sha256, parse_digest(from.parameters_sha256()));
  lease.compression = static_cast<train::Compression>(from.compression());
  lease.any_compression = from.any_compression();
  lease.by_peers = from.by_peers();
  if (lease.by_peers && !reduces_)
    return corrupt_data("the coordinator leases to peers what this worker cannot add up");
  if (std::ranges::count(train::kCompressions, lease.compression) == 0)
    return unsupported("the run asks for updates in a form (number " + std::to_string(from.compression()) +
                       ") that this version does not know; update sporkle");
  if (lease.steps == 0 || lease.steps > kMostStepsPerLease || from.units().empty() ||
      !std::isfinite(lease.schedule_step) || !std::isfinite(lease.schedule_stride))
    return corrupt_data("the coordinator sent a lease that makes no sense");
  const uint64_t shard_bytes = (manifest_.shard_tokens + 1) * manifest_.token_bytes;
  for (const proto::Unit& unit : from.units()) {
    if (unit.size_bytes() != shard_bytes)
      return corrupt_data("the coordinator leases a shard of " + std::to_string(unit.size_bytes()) +
                          " bytes, the manifest says " + std::to_string(shard_bytes));
    SPORKLE_ASSIGN_OR_RETURN(const Digest digest, parse_digest(unit.sha256()));
    lease.shards.push_back({unit.shard(), digest, unit.size_bytes()});
  }
  const auto version = static_cast<int64_t>(lease.round);
  if (pending_) {  // settled nowhere: what it says goes with the next update
    feedback_->fold();
    pending_.reset();
  }
  if (peers_mean_ && peers_mean_->attempt == work.closed_attempt() && version_ + 1 == version)
    SPORKLE_RETURN_IF_ERROR(take_outer_step());
  peers_mean_.reset();
  momentum_here_ = false;
  if (version_ >= 0 && version == version_ + 1 && !reply.payload.empty()) {
    SPORKLE_RETURN_IF_ERROR(train::decompress_add(reply.payload, own_parameters()));
    parameters_sha256_ = digest_of(*parameters_);
    version_ = version;
  }
  // What was missed, or came out differently, is fetched whole.
  if (version_ != version || parameters_sha256_ != lease.parameters_sha256) {
    version_ = -1;
    if (outer_version_ == version) outer_version_ = -1;
  }
  lease_ = std::move(lease);
  return Work::lease;
}

bool WorkerCore::lease_is_current() const {
  return lease_ && version_ == static_cast<int64_t>(lease_->round) && parameters_sha256_ == lease_->parameters_sha256;
}

std::optional<mesh::Message> WorkerCore::shards_request() const {
  proto::ShardsRequest request;
  std::set<Digest> asked;
  for (const Shard& shard : lease_->shards)
    if (!shards_.contains(shard.sha256) && request.shards_size() < kShardsPerRequest &&
        asked.insert(shard.sha256).second)
      request.add_shards(shard.index);
  if (request.shards().empty()) return std::nullopt;
  return mesh::Message{request.SerializeAsString(), {}};
}

Status WorkerCore::on_shards(const mesh::Message& reply) {
  proto::ShardsReply shards;
  SPORKLE_RETURN_IF_ERROR(parse(reply, shards));
  std::set<Digest> wanted;
  for (const Shard& shard : lease_->shards) wanted.insert(shard.sha256);
  size_t offset = 0;
  size_t useful = 0;
  for (const uint32_t size : shards.size_bytes()) {
    if (size > reply.payload.size() - offset) return corrupt_data("the coordinator sent less shard data than it says");
    const auto bytes = std::span(reply.payload).subspan(offset, size);
    offset += size;
    const Digest digest = sha256(bytes);
    if (!wanted.contains(digest))
      return corrupt_data("the coordinator sent a data shard that is not the one it leased: its SHA-256 differs");
    remember(digest, std::vector<std::byte>(bytes.begin(), bytes.end()));
    ++useful;
  }
  if (useful == 0) return corrupt_data("the coordinator sent no data shards");
  return {};
}

void WorkerCore::remember(const Digest& digest, std::vector<std::byte> bytes) {
  const size_t size = bytes.size();
  if (!shards_.emplace(digest, std::move(bytes)).second) return;
  shard_bytes_ += size;
  shard_age_.push_back(digest);
}

Status WorkerCore::train(const StepCallback& callback) {
  InnerWork work;
  work.round = lease_->round;
  work.token_bytes = manifest_.token_bytes;
  work.steps = lease_->steps;
  work.schedule_step = lease_->schedule_step;
  work.schedule_stride = lease_->schedule_stride;
  work.schedule_total_steps = manifest_.total_steps;
  work.seed = lease_->seed;
  for (const Shard& shard : lease_->shards) {
    const auto found = shards_.find(shard.sha256);
    if (found == shards_.end()) return internal_error("a data shard of the lease has not been fetched");
    work.shards.emplace_back(found->second);
  }
  SPORKLE_RETURN_IF_ERROR(replica_->set_parameters(*parameters_));
  SPORKLE_ASSIGN_OR_RETURN(report_, replica_->train(work, callback));
  std::vector<float> end(parameters_->size());
  SPORKLE_RETURN_IF_ERROR(replica_->get_parameters(end));
  train::pseudo_gradient(*parameters_, end, end);
  const double seconds =
      tokens_per_second_ > 0 ? static_cast<double>(report_.tokens) / tokens_per_second_ : report_.seconds;
  compression_ = lease_->any_compression
                     ? choose_compression(end.size(), link_.bytes_per_second(), seconds, compression_)
                     : lease_->compression;
  Result<std::vector<std::byte>> update = feedback_->encode(end, compression_);
  if (!update.ok())
    return update.status().with_context("training diverged in round " + std::to_string(lease_->round) +
                                        " (a lower learning rate may help)");
  update_ = std::move(*update);
  if (lease_->by_peers) {
    values_.resize(end.size());
    SPORKLE_RETURN_IF_ERROR(train::decompress(update_, values_));
    commitment_ = commit_to(values_);
  }
  // The oldest shards make room, but never those of the lease just done: it may come again.
  std::set<Digest> in_use;
  for (const Shard& shard : lease_->shards) in_use.insert(shard.sha256);
  while (shard_bytes_ > kShardCacheBytes && !in_use.contains(shard_age_.front())) {
    const auto oldest = shards_.find(shard_age_.front());
    shard_bytes_ -= oldest->second.size();
    shards_.erase(oldest);
    shard_age_.pop_front();
  }
  return {};
}

void WorkerCore::set_seconds(double seconds) {
  report_.seconds = seconds;
  if (!(seconds > 0) || report_.tokens == 0) return;
  const double measured = static_cast<double>(report_.tokens) / seconds;
  tokens_per_second_ = tokens_per_second_ > 0 ? 0.5 * (tokens_per_second_ + measured) : measured;
}

std::string WorkerCore::whole_report() const {
  proto::SubmitRequest request;
  (void)request.ParseFromString(submit().body);
  request.clear_committed();
  request.clear_compression();
  return request.SerializeAsString();
}

mesh::Message WorkerCore::submit() const {
  proto::SubmitRequest request;
  request.set_lease(lease_->id);
  request.set_round(lease_->round);
  request.set_steps(report_.steps);
  request.set_tokens(report_.tokens);
  request.set_mean_loss(report_.mean_loss);
  request.set_seconds(report_.seconds);
  request.set_tokens_per_second(tokens_per_second_);
  if (!lease_->by_peers) return {request.SerializeAsString(), update_};
  request.set_committed(true);
  request.set_compression(static_cast<uint32_t>(compression_));
  return {request.SerializeAsString(), commitment_};
}

Result<Verdict> WorkerCore::on_submit(const mesh::Message& reply) {
  proto::SubmitReply answer;
  SPORKLE_RETURN_IF_ERROR(parse(reply, answer));
  verdict_reason_ = answer.reason();
  Verdict verdict = Verdict::accepted;
  if (lease_->by_peers && answer.verdict() == proto::SubmitReply::ACCEPTED) {
    // Its error feedback is settled with it.
    pending_ = Pending{lease_->id, whole_report(), std::move(update_), std::move(values_)};
  } else {
    verdict = settle(answer.verdict(), answer.fold());
  }
  lease_.reset();
  update_ = {};
  values_ = {};
  commitment_ = {};
  return verdict;
}

Verdict WorkerCore::settle(uint32_t verdict, bool fold) {
  switch (verdict) {
    case proto::SubmitReply::LATE:
      if (fold)
        feedback_->fold();
      else
        feedback_->discard();
      return Verdict::late;
    case proto::SubmitReply::REJECTED:
      feedback_->reset();  // it may be what spoilt the update
      return Verdict::rejected;
    default:
      feedback_->commit();
      return Verdict::accepted;
  }
}

void WorkerCore::abandon_lease(bool fold) {
  if (fold)
    feedback_->fold();
  else
    feedback_->discard();
  lease_.reset();
  update_ = {};
}

mesh::Message WorkerCore::leave() const {
  proto::LeaveRequest request;
  request.set_session(info_.session);
  return {request.SerializeAsString(), {}};
}

mesh::Message WorkerCore::heartbeat(const Progress& progress) {
  proto::HeartbeatRequest request;
  request.set_lease(progress.lease);
  request.set_round(progress.round);
  request.set_step(progress.step);
  request.set_loss(progress.loss);
  request.set_tokens_per_second(progress.tokens_per_second);
  if (progress.serves_port != 0) {
    request.set_serves_port(progress.serves_port);
    request.set_serves_sha256(std::string(reinterpret_cast<const char*>(progress.serves_sha256.data()), 32));
  }
  return {request.SerializeAsString(), {}};
}

Result<HeartbeatAnswer> WorkerCore::on_heartbeat(const mesh::Message& reply) {
  proto::HeartbeatReply answer;
  SPORKLE_RETURN_IF_ERROR(parse(reply, answer));
  return HeartbeatAnswer{answer.lease_lost(), answer.fold()};
}

}  // namespace sporkle::run
