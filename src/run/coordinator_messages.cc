// What the coordinator answers to each method. Whatever arrives here may be wrong or hostile.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "base/sha256.h"
#include "mesh/printable.h"
#include "run/commitment.h"
#include "run/coordinator.h"
#include "run/duration.h"
#include "run/protocol.h"
#include "run/round_plan.h"
#include "run/run.pb.h"

namespace sporkle::run {
namespace {

constexpr double kFastestBelievable = 1e12;  // tokens a second

template <typename Proto>
Status parse(const mesh::Message& message, Proto& proto) {
  if (proto.ParseFromString(message.body)) return {};
  return corrupt_data("the request's body cannot be read");
}

std::string bytes_string(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// A speed or a loss from a peer: 0 when it is nonsense.
double sane(double value, double largest) { return std::isfinite(value) && value > 0 && value <= largest ? value : 0; }

}  // namespace

Result<Coordinator::Reply> Coordinator::dispatch(const mesh::NodeId& node, std::string_view method,
                                                 const mesh::Message& request, mesh::Responder& respond, bool& pending,
                                                 TimePoint now) {
  if (method == "status") return Reply{encode_status(status(now)), {}};
  if (method == "hello") return hello(node, request, now);
  const auto found = members_.find(node);
  if (found == members_.end()) return not_found("this node has not said hello to the run");
  Member& member = found->second;
  if (method == "leave") return leave(member, request);
  // A last heartbeat that overtakes the good-bye does not bring a worker back.
  if (member.left && method == "heartbeat") return Reply{};
  seen(member, now);
  if (method == "parameters") return parameters_chunk(request);
  if (method == "next_work") return next_work(member, request, respond, pending, now);
  if (method == "shards") return shards(request);
  if (method == "heartbeat") return heartbeat(member, request);
  if (method == "submit") return submit(member, request, now);
  if (method == "reduced") return reduced(member, request);
  if (method == "audit") return audit(member, request);
  return unsupported("the coordinator does not know the method \"" + mesh::printable(method, 64) + "\"");
}

Result<Coordinator::Reply> Coordinator::hello(const mesh::NodeId& node, const mesh::Message& request, TimePoint now) {
  proto::HelloRequest hello;
  SPORKLE_RETURN_IF_ERROR(parse(request, hello));
  if (hello.protocol() != kRunProtocol)
    return unsupported("this worker speaks version " + std::to_string(hello.protocol()) +
                       " of the run protocol, the coordinator version " + std::to_string(kRunProtocol) +
                       "; install the same release on both");
  auto found = members_.find(node);
  const bool fresh = found == members_.end();
  if (fresh) {
    if (members_.size() >= config_.max_workers)
      return unavailable("the run has reached its limit of " + std::to_string(config_.max_workers) + " workers");
    found = members_.try_emplace(node).first;
    found->second.id = node;
    found->second.present = true;
    ++round_.workers_joined;
  }
  Member& member = found->second;
  member.name = mesh::printable(hello.name(), 64);
  member.software = mesh::printable(hello.software(), 64);
  member.threads = hello.threads();
  if (!fresh && member.session != hello.session()) {
    // Another process: what the one before was doing is gone.
    if (member.present) lose_member(member, "another process took its place");
    member.ready = false;
  }
  member.session = hello.session();
  seen(member, now);
  if (fresh) emit(event(EventKind::worker_joined, &member));
  dirty_members_.insert(node);
  dirty_round_ = true;
  proto::HelloReply reply;
  if (!reply.mutable_manifest()->ParseFromString(manifest_)) return internal_error("the run's manifest cannot be read");
  reply.set_version(round_.number);
  reply.set_heartbeat_interval_ms(static_cast<uint32_t>(std::min(config_.heartbeat_interval_s * 1000, 1e9)));
  reply.set_finished(finished());
  reply.set_peers_reduce(config_.reduction == "peers");
  return Reply{reply.SerializeAsString(), {}};
}

Result<Coordinator::Reply> Coordinator::parameters_chunk(const mesh::Message& request) {
  proto::ParametersRequest wanted;
  SPORKLE_RETURN_IF_ERROR(parse(request, wanted));
  proto::ParametersReply reply;
  reply.set_version(round_.number);
  reply.set_total(parameters_->size());
  std::span<const float> values = *parameters_;
  if (wanted.kind() == proto::ParametersRequest::MOMENTUM) values = outer_.momentum();
  if (wanted.kind() == proto::ParametersRequest::RESIDUAL) values = feedback_.residual();
  Reply answer;
  const uint64_t offset = wanted.offset();
  if (offset >= parameters_->size())
    return invalid_argument("parameters from " + std::to_string(offset) + " on were asked for, there are " +
                            std::to_string(parameters_->size()));
  if (offset == 0 || wanted.version() == round_.number) {
    const size_t count = std::min<size_t>(kParameterChunk, values.size() - offset);
    const auto chunk = std::as_bytes(values.subspan(offset, count));
    answer.payload.assign(chunk.begin(), chunk.end());
    if (wanted.kind() != proto::ParametersRequest::PARAMETERS && offset + count == values.size())
      reply.set_sha256(bytes_string(sha256(std::as_bytes(values))));
  }
  if (wanted.kind() == proto::ParametersRequest::PARAMETERS) reply.set_sha256(bytes_string(parameters_sha256_));
  answer.body = reply.SerializeAsString();
  return answer;
}

Result<Coordinator::Reply> Coordinator::next_work(Member& member, const mesh::Message& request,
                                                  mesh::Responder& respond, bool& pending, TimePoint now) {
  proto::NextWorkRequest wanted;
  SPORKLE_RETURN_IF_ERROR(parse(request, wanted));
  if (wanted.session() != member.session)
    return Status(Code::permission_denied,
                  "another worker with the same key has joined this run; give every worker on one machine its own "
                  "SPORKLE_HOME");
  if (!member.ready) dirty_members_.insert(member.id);
  member.ready = true;
  if (const double speed = sane(wanted.tokens_per_second(), kFastestBelievable)) member.tokens_per_second = speed;
  member.reduces = wanted.reduces();
  if (const auto host = hosts_.find(member.id); host != hosts_.end() && wanted.reduction_port() <= 0xffff) {
    const mesh::Address address{host->second, static_cast<uint16_t>(wanted.reduction_port())};
    if (address != member.reduction_address) {
      member.reduction_address = address;
      member.reachable = false;
      if (address.port != 0 && config_.reduction == "peers") dials_.emplace_back(member.id, address);
    }
  }
  const Wanted has{wanted.has_parameters(), wanted.version(), wanted.attempt(), wanted.pending_lease()};
  advance(now);  // this may be the worker that a round waited for
  if (!active_lease(member.id)) lease_to_joiner(member, now);
  if (has_news(member)) return work_reply(member, has, now);
  // A worker that asks twice has lost the first answer.
  if (auto poll = polls_.extract(member.id))
    answer(member.id, std::move(poll.mapped().respond), work_reply(member, {}, now));
  pending = true;
  polls_.emplace(member.id, Poll{std::move(respond), now + to_duration(config_.long_poll_s), has});
  return Reply{};
}

bool Coordinator::has_news(const Member& member) const {
  return finished() || !member.lease.empty() || is_to_upload(member.id) ||
         (reduction_ && reduction_->awaits(member.id));
}

Coordinator::Reply Coordinator::work_reply(const Member& member, const Wanted& wanted, TimePoint now) {
  proto::NextWorkReply reply;
  Reply answer;
  const LeaseRecord* lease = active_lease(member.id);
  if (!wanted.pending_lease.empty())
    reply.set_pending(
        static_cast<proto::NextWorkReply::Pending>(pending_state(member, wanted.pending_lease, wanted.version)));
  if (finished()) {
    reply.set_kind(proto::NextWorkReply::FINISHED);
  } else if (lease) {
    reply.set_kind(proto::NextWorkReply::LEASE);
    proto::Lease& to = *reply.mutable_lease();
    to.set_id(lease->id);
    to.set_round(lease->round);
    for (const uint64_t number : lease->units) {
      proto::Unit& unit = *to.add_units();
      unit.set_number(number);
      unit.set_shard(pool_.shard_of(number));
      const std::span<const std::byte> shard = pool_.shard(unit.shard());
      unit.set_sha256(bytes_string(sha256(shard)));
      unit.set_size_bytes(static_cast<uint32_t>(shard.size()));
    }
    to.set_steps(lease->steps);
    to.set_schedule_step(lease->schedule_step);
    to.set_schedule_stride(lease->schedule_stride);
    to.set_seed(seed_of(*lease));
    to.set_deadline_ms(static_cast<uint32_t>(std::clamp(to_seconds(deadline_ - now) * 1000, 0.0, 4e9)));
    to.set_parameters_sha256(bytes_string(parameters_sha256_));
    to.set_compression(static_cast<uint32_t>(lease->compression));
    to.set_any_compression(lease->any_compression);
    to.set_by_peers(lease->by_peers);
    reply.set_closed_attempt(closed_attempt_);
    const bool has_result = closed_attempt_ != 0 && wanted.attempt == closed_attempt_;
    if (wanted.has_version && wanted.version + 1 == round_.number && !has_result) answer.payload = delta_;
    Member& holder = members_.at(member.id);
    if (holder.delivered != lease->id) {
      holder.delivered = lease->id;
      holder.delivered_at = now;
    }
  } else if (is_to_upload(member.id)) {
    reply.set_kind(proto::NextWorkReply::UPLOAD);
  } else if (reduction_ && reduction_->awaits(member.id)) {
    reply.set_kind(proto::NextWorkReply::REDUCE);
    proto::PeerReduction& to = *reply.mutable_reduction();
    to.set_attempt(reduction_->attempt());
    to.set_round(round_.number);
    for (const RoundReduction::Member& one : reduction_->members()) {
      proto::PeerReduction::Member& named = *to.add_members();
      named.set_node(bytes_string(one.node.bytes));
      if (one.address) named.set_host(one.address->host);
      if (one.address) named.set_port(one.address->port);
      named.set_tokens(one.tokens);
    }
    const train::OuterStep step = config_.outer_step(round_.number);
    to.set_outer_learning_rate(step.learning_rate);
    to.set_outer_momentum(step.momentum);
  } else {
    reply.set_kind(proto::NextWorkReply::WAIT);
  }
  answer.body = reply.SerializeAsString();
  return answer;
}

void Coordinator::answer_polls(TimePoint now) {
  for (auto poll = polls_.begin(); poll != polls_.end();) {
    const Member& member = members_.at(poll->first);
    const bool due = has_news(member) || poll->second.until <= now || poll->second.respond.abandoned();
    if (!due) {
      ++poll;
      continue;
    }
    if (!poll->second.respond.abandoned())
      answer(member.id, std::move(poll->second.respond), work_reply(member, poll->second.wanted, now));
    poll = polls_.erase(poll);
  }
}

Result<Coordinator::Reply> Coordinator::shards(const mesh::Message& request) {
  proto::ShardsRequest wanted;
  SPORKLE_RETURN_IF_ERROR(parse(request, wanted));
  if (wanted.shards_size() > kShardsPerRequest)
    return invalid_argument("more than " + std::to_string(kShardsPerRequest) + " shards in one request");
  proto::ShardsReply reply;
  Reply answer;
  for (const uint64_t index : wanted.shards()) {
    const std::span<const std::byte> shard = pool_.shard(index);
    if (shard.empty())
      return not_found("the training data has no shard " + std::to_string(index) + ", only " +
                       std::to_string(pool_.shard_count()));
    // At least one; the worker asks again for the rest.
    if (!answer.payload.empty() && answer.payload.size() + shard.size() > kShardBytesPerRequest) break;
    reply.add_size_bytes(static_cast<uint32_t>(shard.size()));
    answer.payload.insert(answer.payload.end(), shard.begin(), shard.end());
  }
  answer.body = reply.SerializeAsString();
  return answer;
}

Result<Coordinator::Reply> Coordinator::heartbeat(Member& member, const mesh::Message& request) {
  proto::HeartbeatRequest beat;
  SPORKLE_RETURN_IF_ERROR(parse(request, beat));
  proto::HeartbeatReply reply;
  member.serves_port = beat.serves_port() <= UINT16_MAX ? static_cast<uint16_t>(beat.serves_port()) : 0;
  member.serves_sha256 = beat.serves_sha256().size() == sizeof(Digest) ? beat.serves_sha256() : std::string();
  if (!beat.lease().empty()) {
    const auto lease = leases_.find(beat.lease());
    const bool held = lease != leases_.end() && lease->second.node == member.id &&
                      (lease->second.state == LeaseState::active || lease->second.state == LeaseState::reported ||
                       revive(lease->second));
    reply.set_lease_lost(!held && member.last_accepted != beat.lease());
    reply.set_fold(recent(beat.round()));
    member.step = beat.step();
    member.loss = std::isfinite(beat.loss()) ? beat.loss() : 0;
  }
  return Reply{reply.SerializeAsString(), {}};
}

Status Coordinator::check_claims(const LeaseRecord& lease, const proto::SubmitRequest& report) const {
  if (report.steps() == 0 || report.steps() > lease.steps)
    return invalid_argument("an update of " + std::to_string(report.steps()) + " steps on a lease of " +
                            std::to_string(lease.steps));
  if (report.tokens() == 0 || report.tokens() > report.steps() * config_.manifest.tokens_per_step)
    return invalid_argument("an update that claims " + std::to_string(report.tokens()) + " tokens in " +
                            std::to_string(report.steps()) + " steps");
  if (!std::isfinite(report.mean_loss())) return invalid_argument("an update whose loss is not finite");
  return {};
}

Status Coordinator::check_update(const LeaseRecord& lease, const mesh::Message& request, double& norm) const {
  proto::SubmitRequest report;
  SPORKLE_RETURN_IF_ERROR(parse(request, report));
  SPORKLE_RETURN_IF_ERROR(check_claims(lease, report));
  SPORKLE_ASSIGN_OR_RETURN(const train::Compression compression, train::compression_of(request.payload));
  if (lease.any_compression ? compression == train::Compression::none : compression != lease.compression)
    return invalid_argument(
        "an update compressed as " + std::string(train::compression_name(compression)) + " where the lease asks for " +
        (lease.any_compression ? "a lossy one" : std::string(train::compression_name(lease.compression))) +
        "; install the same release on both");
  std::vector<float> values(config_.manifest.parameter_count);
  SPORKLE_RETURN_IF_ERROR(train::decompress(request.payload, values));
  if (lease.committed) {
    SPORKLE_ASSIGN_OR_RETURN(const std::vector<std::byte> commitment, store_->read_blob(lease.blob));
    if (commitment != commit_to(values)) return invalid_argument("another update than the one committed to");
  }
  norm = comparable_norm(train::l2_norm(values), report.steps());
  return check_norm(norm);
}

Status Coordinator::check_norm(double norm) const {
  if (!std::isfinite(norm)) return invalid_argument("an update whose length is not finite");
  const double usual = round_.norms.size() >= kNormsNeeded ? median(round_.norms) : 0;
  if (usual > 0 && norm > config_.norm_bound * usual) {
    char text[96];
    std::snprintf(text, sizeof text, "an update %.3g times as long as usual, more than %.3g is refused", norm / usual,
                  config_.norm_bound);
    return invalid_argument(text);
  }
  return {};
}

Result<Coordinator::Reply> Coordinator::submit(Member& member, const mesh::Message& request, TimePoint now) {
  proto::SubmitRequest report;
  SPORKLE_RETURN_IF_ERROR(parse(request, report));
  proto::SubmitReply reply;
  const auto answered = [&reply](proto::SubmitReply::Verdict verdict, std::string reason = {}) {
    reply.set_verdict(verdict);
    reply.set_reason(std::move(reason));
    return Reply{reply.SerializeAsString(), {}};
  };
  if (report.lease().empty()) return invalid_argument("an update without a lease");
  if (const double speed = sane(report.tokens_per_second(), kFastestBelievable)) member.tokens_per_second = speed;
  if (member.delivered == report.lease() && sane(report.seconds(), 1e9) > 0) {
    const double overhead = std::max(0.0, to_seconds(now - member.delivered_at) - report.seconds());
    member.overhead_s = member.overhead_s > 0 ? 0.5 * (member.overhead_s + overhead) : overhead;
    member.delivered.clear();
  }
  dirty_members_.insert(member.id);
  if (const auto committed = leases_.find(report.lease()); !report.committed() && committed != leases_.end() &&
                                                           committed->second.node == member.id &&
                                                           committed->second.committed)
    return take_upload(committed->second, member, request);
  if (member.last_accepted == report.lease()) return answered(proto::SubmitReply::ACCEPTED);  // again
  const auto found = leases_.find(report.lease());
  LeaseRecord* lease = found != leases_.end() && found->second.node == member.id ? &found->second : nullptr;
  if (lease && lease->state == LeaseState::reported) return answered(proto::SubmitReply::ACCEPTED);  // again
  if (lease && lease->state == LeaseState::refused) return answered(proto::SubmitReply::REJECTED, "refused before");
  if (!lease || (lease->state == LeaseState::lost && !revive(*lease))) {
    ++member.late;
    reply.set_fold(recent(report.round()));
    emit(event(EventKind::update_late, &member));
    return answered(proto::SubmitReply::LATE, "round " + std::to_string(report.round()) + " went on without it");
  }
  double norm = 0;
  const Status status =
      report.committed() ? check_commitment(*lease, request, norm) : check_update(*lease, request, norm);
  if (!status.ok()) {
    refuse(*lease, member, status.message());
    return answered(proto::SubmitReply::REJECTED, status.message());
  }
  lease->state = LeaseState::reported;
  member.lease.clear();
  lease->reported_steps = report.steps();
  lease->reported_tokens = report.tokens();
  lease->reported_mean_loss = report.mean_loss();
  lease->reported_norm = norm;
  lease->update_bytes = request.payload.size();
  lease->committed = report.committed();
  if (lease->committed) {
    lease->update_bytes = config_.manifest.parameter_count * sizeof(float);  // to and among the others
    lease->compression = static_cast<train::Compression>(report.compression());
  } else if (const auto sent = train::compression_of(request.payload); sent.ok()) {
    lease->compression = *sent;
  }
  lease->blob = (lease->committed ? "commitment-" : "update-") + to_hex(std::as_bytes(std::span(lease->id)));
  new_blobs_.emplace_back(lease->blob, request.payload);
  dirty_leases_.insert(lease->id);
  member.last_accepted = lease->id;
  member.failures = 0;
  member.step = lease->steps;
  member.loss = report.mean_loss();
  flush();  // a round that closes now reads the update back from the store
  if (!failure_.ok()) return failure_;
  return answered(proto::SubmitReply::ACCEPTED);
}

Result<Coordinator::Reply> Coordinator::leave(Member& member, const mesh::Message& request) {
  proto::LeaveRequest goodbye;
  SPORKLE_RETURN_IF_ERROR(parse(request, goodbye));
  if (goodbye.session() != member.session) return Reply{};  // of a process that another one has replaced
  if (LeaseRecord* lease = active_lease(member.id)) lose_lease(*lease, LeaseState::lost);
  lose_committed(member.id);
  if (auto poll = polls_.extract(member.id))
    answer(member.id, std::move(poll.mapped().respond), work_reply(member, {}, {}));
  if (member.present) emit(event(EventKind::worker_left, &member));
  member.present = false;
  member.ready = false;
  member.left = true;
  dirty_members_.insert(member.id);
  return Reply{};
}

}  // namespace sporkle::run
