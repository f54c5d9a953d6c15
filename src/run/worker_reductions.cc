// A worker's side of rounds in which workers add up their updates among themselves.
#include <algorithm>
#include <cstring>

#include "base/sha256.h"
#include "run/commitment.h"
#include "run/round_reduction.h"
#include "run/run.pb.h"
#include "run/worker_core.h"

namespace sporkle::run {
namespace {

std::string bytes_string(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

Status WorkerCore::read_reduction(const proto::PeerReduction& from) {
  const auto malformed = [] { return corrupt_data("the coordinator asks for a reduction that makes no sense"); };
  PeerReduction reduction;
  reduction.attempt = from.attempt();
  reduction.outer_step = {from.outer_learning_rate(), from.outer_momentum()};
  if (from.members_size() < 2 || static_cast<size_t>(from.members_size()) > mesh::max_reduction_members)
    return malformed();
  for (const proto::PeerReduction::Member& one : from.members()) {
    mesh::ReductionMember member;
    if (one.node().size() != member.id.bytes.size() || one.port() > 0xffff || one.tokens() == 0 ||
        one.tokens() > (uint64_t{1} << 48))
      return malformed();
    std::memcpy(member.id.bytes.data(), one.node().data(), one.node().size());
    if (!one.host().empty() && one.port() != 0)
      member.address = mesh::Address{one.host(), static_cast<uint16_t>(one.port())};
    if (!reduction.members.empty() && !(reduction.members.back().id < member.id)) return malformed();
    reduction.members.push_back(std::move(member));
    reduction.tokens.push_back(one.tokens());
  }
  reduction_ = std::move(reduction);
  return {};
}

void WorkerCore::combine(std::span<const size_t> members, std::span<const std::byte* const> inputs,
                         std::span<std::byte> mean) const {
  uint64_t total = 0;
  for (const size_t member : members) total += reduction_.tokens[member];
  const size_t count = mean.size() / sizeof(float);
  train::WeightedMean sum(count, total);
  for (size_t i = 0; i < members.size(); ++i)
    sum.add({reinterpret_cast<const float*>(inputs[i]), count}, reduction_.tokens[members[i]]);
  std::memcpy(mean.data(), sum.mean().data(), mean.size());
}

mesh::Message WorkerCore::could_not_reduce() const {
  proto::ReducedRequest request;
  request.set_attempt(reduction_.attempt);
  request.set_failed(true);
  return {request.SerializeAsString(), {}};
}

mesh::Message WorkerCore::reduced(std::span<const mesh::NodeId> contributors, std::vector<float> mean,
                                  const mesh::NodeId& self) {
  proto::ReducedRequest request;
  request.set_attempt(reduction_.attempt);
  request.set_sha256(bytes_string(sha256(std::as_bytes(std::span(mean)))));
  for (const mesh::NodeId& id : contributors) request.add_contributors(bytes_string(id.bytes));
  const auto rank = static_cast<size_t>(std::ranges::find(contributors, self) - contributors.begin());
  const size_t begin = slice_begin(mean.size(), rank, contributors.size());
  const size_t end = slice_begin(mean.size(), rank + 1, contributors.size());
  const auto slice = std::as_bytes(std::span(mean).subspan(begin, end - begin));
  mesh::Message message{request.SerializeAsString(), {slice.begin(), slice.end()}};
  peers_mean_ = PeersMean{reduction_.attempt, std::move(mean), reduction_.outer_step};
  return message;
}

Result<std::vector<uint32_t>> WorkerCore::on_reduced(const mesh::Message& reply) const {
  proto::ReducedReply answer;
  if (!answer.ParseFromString(reply.body)) return corrupt_data("the coordinator's answer cannot be read");
  std::vector<uint32_t> chunks(answer.audited().begin(), answer.audited().end());
  for (size_t i = 0; i < chunks.size(); ++i)
    if (chunks[i] >= commitment_chunks(pending_->values.size()) || (i > 0 && chunks[i] <= chunks[i - 1]))
      return corrupt_data("the coordinator asks for chunks of the update that there are not");
  return chunks;
}

mesh::Message WorkerCore::audit(std::span<const uint32_t> chunks) const {
  proto::AuditRequest request;
  request.set_attempt(reduction_.attempt);
  mesh::Message message{request.SerializeAsString(), {}};
  for (const uint32_t chunk : chunks) {
    const auto values = std::as_bytes(commitment_chunk(pending_->values, chunk));
    message.payload.insert(message.payload.end(), values.begin(), values.end());
  }
  return message;
}

mesh::Message WorkerCore::upload() const { return {pending_->report, pending_->update}; }

Result<Verdict> WorkerCore::on_upload(const mesh::Message& reply) {
  proto::SubmitReply answer;
  if (!answer.ParseFromString(reply.body)) return corrupt_data("the coordinator's answer cannot be read");
  verdict_reason_ = answer.reason();
  pending_.reset();
  return settle(answer.verdict(), answer.fold());
}

// A run begins with zeros.
void WorkerCore::prepare_outer_step() {
  outer_ = std::make_unique<train::OuterOptimizer>(manifest_.parameter_count);
  outer_feedback_ = std::make_unique<train::ErrorFeedback>(manifest_.parameter_count);
  outer_version_ = 0;
}

// The same arithmetic as the coordinator's, on the same numbers; the lease's SHA-256 tells whether it was.
Status WorkerCore::take_outer_step() {
  if (outer_version_ != version_) return {};
  std::vector<float> change(parameters_->size());
  outer_->step(peers_mean_->mean, peers_mean_->outer_step, change);
  SPORKLE_ASSIGN_OR_RETURN(const std::vector<std::byte> delta, outer_feedback_->encode(change));
  SPORKLE_RETURN_IF_ERROR(train::decompress_add(delta, own_parameters()));
  outer_feedback_->commit();
  parameters_sha256_ = sha256(std::as_bytes(std::span(*parameters_)));
  outer_version_ = ++version_;
  return {};
}

}  // namespace sporkle::run
