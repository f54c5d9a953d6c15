// Rounds in which the workers add up their updates among themselves. The coordinator decides who is asked, checks what
// comes of it, and otherwise gets the updates whole.
#include <algorithm>
#include <cstring>
#include <random>
#include <set>

#include "mesh/address_order.h"
#include "mesh/reduction_message.h"
#include "run/commitment.h"
#include "run/coordinator.h"
#include "run/duration.h"
#include "run/round_plan.h"
#include "run/run.pb.h"

namespace sporkle::run {
namespace {

constexpr uint32_t kMostAttempts = 2;
// An attempt and an upload get this long, and so much longer by their size.
constexpr double kPatienceS = 20;
constexpr double kSlowestBytesPerSecond = 2e6;

// So many of all chunks of a commitment are shown, one at least.
constexpr size_t kChunksForEachShown = 64;
constexpr size_t kMostShown = 64;

uint64_t random_number() {
  std::random_device random;
  return uint64_t{random()} << 32 | random();
}

// Which chunks to show: nobody can know before.
std::vector<uint32_t> choose_chunks(size_t chunks) {
  const size_t wanted = std::clamp<size_t>(chunks / kChunksForEachShown, 1, kMostShown);
  std::set<uint32_t> chosen;
  while (chosen.size() < wanted) chosen.insert(static_cast<uint32_t>(random_number() % chunks));
  return {chosen.begin(), chosen.end()};
}

}  // namespace

void Coordinator::connected(const mesh::NodeId& node, std::string host) { hosts_[node] = std::move(host); }

std::vector<std::pair<mesh::NodeId, mesh::Address>> Coordinator::take_dials() { return std::exchange(dials_, {}); }

void Coordinator::dialled(const mesh::NodeId& node, const mesh::Address& address, bool answered) {
  const auto member = members_.find(node);
  if (member != members_.end() && member->second.reduction_address == address) member->second.reachable = answered;
}

const LeaseRecord* Coordinator::committed_lease(const mesh::NodeId& node) const {
  for (const auto& [id, lease] : leases_)
    if (lease.node == node && lease.committed) return &lease;
  return nullptr;
}

int Coordinator::pending_state(const Member& member, const std::string& lease, uint64_t round) const {
  if (const auto found = leases_.find(lease); found != leases_.end() && found->second.node == member.id) {
    if (found->second.state == LeaseState::reported) return proto::NextWorkReply::KEEP;
    if (found->second.state == LeaseState::refused) return proto::NextWorkReply::DROP;
    return proto::NextWorkReply::FOLD;
  }
  if (member.last_accepted == lease) return proto::NextWorkReply::INCLUDED;
  return recent(round) ? proto::NextWorkReply::FOLD : proto::NextWorkReply::DROP;
}

Status Coordinator::check_commitment(const LeaseRecord& lease, const mesh::Message& request, double& norm) const {
  proto::SubmitRequest report;
  if (!report.ParseFromString(request.body)) return corrupt_data("the request's body cannot be read");
  SPORKLE_RETURN_IF_ERROR(check_claims(lease, report));
  if (!lease.by_peers) return invalid_argument("a commitment where the lease asks for the update");
  const auto compression = static_cast<train::Compression>(report.compression());
  const bool known = std::ranges::count(train::kCompressions, compression) != 0;
  if (!known || (lease.any_compression ? compression == train::Compression::none : compression != lease.compression))
    return invalid_argument("an update in another form than the lease asks for; install the same release on both");
  SPORKLE_ASSIGN_OR_RETURN(const double length, committed_norm(request.payload, config_.manifest.parameter_count));
  norm = comparable_norm(length, report.steps());
  return check_norm(norm);
}

Coordinator::Reply Coordinator::take_upload(LeaseRecord& lease, Member& member, const mesh::Message& request) {
  proto::SubmitReply reply;
  double norm = 0;
  if (const Status status = check_update(lease, request, norm); !status.ok()) {
    if (reduction_) reduction_->gone(member.id);
    refuse(lease, member, status.message());
    reply.set_verdict(proto::SubmitReply::REJECTED);
    reply.set_reason(status.message());
    return {reply.SerializeAsString(), {}};
  }
  old_blobs_.push_back(lease.blob);
  lease.blob = "update-" + to_hex(std::as_bytes(std::span(lease.id)));
  lease.committed = false;
  lease.reported_norm = norm;
  lease.update_bytes = request.payload.size();
  new_blobs_.emplace_back(lease.blob, request.payload);
  dirty_leases_.insert(lease.id);
  flush();  // as for any update
  reply.set_verdict(proto::SubmitReply::ACCEPTED);
  return {reply.SerializeAsString(), {}};
}

Result<Coordinator::Reply> Coordinator::reduced(const Member& member, const mesh::Message& request) {
  proto::ReducedRequest report;
  if (!report.ParseFromString(request.body)) return corrupt_data("the request's body cannot be read");
  proto::ReducedReply reply;
  if (!reduction_ || reduction_->attempt() != report.attempt()) return Reply{reply.SerializeAsString(), {}};
  if (report.failed()) {
    reduction_->could_not(member.id);
    return Reply{reply.SerializeAsString(), {}};
  }
  Digest digest;
  if (report.sha256().size() != digest.size()) return invalid_argument("a SHA-256 of another size");
  std::memcpy(digest.data(), report.sha256().data(), digest.size());
  std::vector<mesh::NodeId> contributors;
  for (const std::string& bytes : report.contributors()) {
    mesh::NodeId id;
    if (bytes.size() != id.bytes.size()) return invalid_argument("a node ID of another size");
    std::memcpy(id.bytes.data(), bytes.data(), bytes.size());
    contributors.push_back(id);
  }
  reduction_->reduced(member.id, digest, std::move(contributors), request.payload);
  if (reduction_->failure().empty())
    for (const uint32_t chunk : reduction_->audited()) reply.add_audited(chunk);
  return Reply{reply.SerializeAsString(), {}};
}

Result<Coordinator::Reply> Coordinator::audit(const Member& member, const mesh::Message& request) {
  proto::AuditRequest shown;
  if (!shown.ParseFromString(request.body)) return corrupt_data("the request's body cannot be read");
  if (reduction_ && reduction_->attempt() == shown.attempt()) reduction_->shown(member.id, request.payload);
  return Reply{proto::AuditReply().SerializeAsString(), {}};
}

void Coordinator::lose_committed(const mesh::NodeId& node) {
  if (reduction_) reduction_->gone(node);
  for (auto& [id, lease] : leases_) {
    if (lease.node != node || !lease.committed) continue;
    lose_lease(lease, LeaseState::lost);
  }
}

std::unique_ptr<RoundReduction> Coordinator::plan_reduction(TimePoint now) {
  std::vector<RoundReduction::Member> members;
  bool on_this_machine = true;
  for (const auto& [id, lease] : leases_) {
    if (lease.state != LeaseState::reported) continue;
    if (!lease.committed) return nullptr;  // there is one that does not take part
    const Member& member = members_.at(lease.node);
    RoundReduction::Member& one = members.emplace_back();
    one.node = lease.node;
    one.lease = id;
    one.tokens = lease.reported_tokens;
    if (member.reachable) one.address = member.reduction_address;
    Result<std::vector<std::byte>> commitment = store_->read_blob(lease.blob);
    if (!commitment.ok()) {
      failure_ = commitment.status().with_context("the run cannot read a commitment that it had accepted");
      return nullptr;
    }
    one.commitment = std::move(*commitment);
    const auto host = hosts_.find(lease.node);
    on_this_machine &= host != hosts_.end() && mesh::is_loopback(host->second);
  }
  // What is this machine to the coordinator is another one to workers elsewhere.
  for (RoundReduction::Member& one : members)
    if (!on_this_machine && one.address && mesh::is_loopback(one.address->host)) one.address.reset();
  if (members.size() < 2 || members.size() > mesh::max_reduction_members) return nullptr;
  if (std::ranges::none_of(members, [](const auto& one) { return one.address.has_value(); })) return nullptr;
  std::ranges::sort(members, {}, &RoundReduction::Member::node);
  for (size_t i = 1; i < members.size(); ++i)
    if (members[i].node == members[i - 1].node) return nullptr;
  const size_t count = config_.manifest.parameter_count;
  const double patience = kPatienceS + static_cast<double>(count) * sizeof(float) * 2 / kSlowestBytesPerSecond;
  return std::make_unique<RoundReduction>(random_number() | 1, count, std::move(members),
                                          choose_chunks(commitment_chunks(count)), now + to_duration(patience));
}

bool Coordinator::sum_committed(bool by_peers, TimePoint now) {
  if (std::ranges::none_of(leases_, [](const auto& entry) { return entry.second.committed; })) return false;
  if (uploading_ || !by_peers) return demand_uploads(now);
  if (!reduction_) {
    const size_t before = steps_in(LeaseState::reported);
    refuse_outliers();
    if (steps_in(LeaseState::reported) != before) return true;
    if (attempts_ < kMostAttempts) reduction_ = plan_reduction(now);
    ++attempts_;
    if (!failure_.ok()) return false;
    if (!reduction_) return demand_uploads(now);
    return false;
  }
  std::string failure = reduction_->failure();
  if (failure.empty() && now >= reduction_->deadline()) failure = "it took too long";
  if (failure.empty()) return reduction_->complete() && close_reduction(now);
  // Who did not answer in time has not failed others for the last time: it is asked for its update, and then lost.
  if (now >= reduction_->deadline()) attempts_ = kMostAttempts;
  emit(event(EventKind::reduction_failed, nullptr, failure));
  reduction_.reset();
  return true;
}

bool Coordinator::close_reduction(TimePoint now) {
  Status status = reduction_->verify();
  if (reduction_->contributors().size() < config_.quorum) status = unavailable("too few workers were in it");
  if (!status.ok()) {
    emit(event(EventKind::reduction_failed, nullptr, status.message()));
    reduction_.reset();
    attempts_ = kMostAttempts;  // somebody lies: every update is looked at
    return true;
  }
  // Others lost touch with their peers. What they did goes into their next updates.
  for (const RoundReduction::Member& one : reduction_->members()) {
    const auto& in = reduction_->contributors();
    if (std::ranges::find(in, one.node) != in.end() || !committed_lease(one.node)) continue;
    Member& member = members_.at(one.node);
    member.reachable = false;
    for (auto& [id, lease] : leases_)
      if (lease.node == one.node && lease.committed) lose_lease(lease, LeaseState::lost);
    emit(event(EventKind::lease_lost, &member, "its peers could not reach it"));
  }
  const std::vector<float> mean(reduction_->mean().begin(), reduction_->mean().end());
  close_round(now, mean);
  return true;
}

bool Coordinator::demand_uploads(TimePoint now) {
  if (!uploading_) {
    uploading_ = true;
    reduction_.reset();
    const double bytes = static_cast<double>(config_.manifest.parameter_count) * sizeof(float);
    upload_deadline_ = now + to_duration(kPatienceS + bytes / kSlowestBytesPerSecond);
    return false;
  }
  if (now < upload_deadline_) return false;
  for (auto& [id, lease] : leases_) {
    if (!lease.committed) continue;
    Member& member = members_.at(lease.node);
    ++member.failures;
    lose_committed(member.id);
    emit(event(EventKind::lease_lost, &member, "it did not send the update that it had committed to"));
  }
  return true;
}

}  // namespace sporkle::run
