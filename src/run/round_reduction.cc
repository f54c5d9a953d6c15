#include "run/round_reduction.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "run/commitment.h"
#include "train/diloco.h"

namespace sporkle::run {

size_t slice_begin(size_t count, size_t rank, size_t ranks) {
  return count / ranks * rank + count % ranks * rank / ranks;
}

RoundReduction::RoundReduction(uint64_t attempt, size_t count, std::vector<Member> members,
                               std::vector<uint32_t> audited, mesh::Clock::TimePoint deadline)
    : attempt_(attempt),
      count_(count),
      members_(std::move(members)),
      audited_(std::move(audited)),
      deadline_(deadline) {
  for (const Member& member : members_) parts_[member.node];
}

const RoundReduction::Member* RoundReduction::member(const mesh::NodeId& node) const {
  for (const Member& member : members_)
    if (member.node == node) return &member;
  return nullptr;
}

bool RoundReduction::contributes(const mesh::NodeId& node) const {
  return std::ranges::find(contributors_, node) != contributors_.end();
}

bool RoundReduction::awaits(const mesh::NodeId& node) const {
  const auto part = parts_.find(node);
  return failure_.empty() && part != parts_.end() && !part->second.reduced && !part->second.failed &&
         !part->second.gone;
}

void RoundReduction::fail(std::string why) {
  if (failure_.empty()) failure_ = std::move(why);
}

void RoundReduction::reduced(const mesh::NodeId& node, const Digest& mean_sha256,
                             std::vector<mesh::NodeId> contributors, std::span<const std::byte> slice) {
  if (!awaits(node)) return;
  if (contributors_.empty()) {
    if (contributors.size() * 2 <= members_.size()) return fail("a worker left out half of the others");
    for (size_t i = 0; i < contributors.size(); ++i)
      if (!member(contributors[i]) || (i > 0 && !(contributors[i - 1] < contributors[i])))
        return fail("a worker names contributors who were not asked");
    contributors_ = std::move(contributors);
    mean_sha256_ = mean_sha256;
    mean_.resize(count_);
  } else if (contributors != contributors_ || mean_sha256 != mean_sha256_) {
    return fail("the workers do not agree on what they added up");
  }
  const auto place = std::ranges::find(contributors_, node);
  if (place == contributors_.end()) return fail("a worker has a sum that its update is not in");
  for (const auto& [id, part] : parts_)
    if ((part.gone || part.failed) && contributes(id)) return fail("a contributor is gone");
  const auto rank = static_cast<size_t>(place - contributors_.begin());
  const size_t begin = slice_begin(count_, rank, contributors_.size());
  const size_t end = slice_begin(count_, rank + 1, contributors_.size());
  if (slice.size() != (end - begin) * sizeof(float)) return fail("a worker sent a slice of another size");
  if (!slice.empty()) std::memcpy(&mean_[begin], slice.data(), slice.size());
  parts_[node].reduced = true;
}

void RoundReduction::could_not(const mesh::NodeId& node) {
  if (!awaits(node)) return;
  parts_[node].failed = true;
  if (contributes(node)) return fail("a contributor could not reduce");
  const auto out = [](const auto& entry) { return entry.second.failed || entry.second.gone; };
  if (std::ranges::count_if(parts_, out) * 2 >= static_cast<std::ptrdiff_t>(parts_.size()))
    fail("too few workers could reach each other");
}

void RoundReduction::shown(const mesh::NodeId& node, std::span<const std::byte> chunks) {
  const auto part = parts_.find(node);
  if (part == parts_.end() || !part->second.reduced || !part->second.shown.empty()) return;
  size_t size = 0;
  for (const uint32_t chunk : audited_) size += std::min(kCommitmentChunk, count_ - chunk * kCommitmentChunk);
  if (chunks.size() != size * sizeof(float)) return fail("a worker did not show the chunks that it was asked for");
  part->second.shown.resize(size);
  std::memcpy(part->second.shown.data(), chunks.data(), chunks.size());
}

void RoundReduction::gone(const mesh::NodeId& node) {
  const auto part = parts_.find(node);
  if (part == parts_.end() || part->second.gone) return;
  part->second.gone = true;
  if (contributes(node)) return fail("a contributor is gone");
  const auto out = [](const auto& entry) { return entry.second.failed || entry.second.gone; };
  if (std::ranges::count_if(parts_, out) * 2 >= static_cast<std::ptrdiff_t>(parts_.size()))
    fail("too few workers are left");
}

bool RoundReduction::complete() const {
  return failure_.empty() && !contributors_.empty() && std::ranges::all_of(contributors_, [&](const auto& node) {
           const Part& part = parts_.at(node);
           return part.reduced && !part.shown.empty();
         });
}

Status RoundReduction::verify() const {
  if (sha256(std::as_bytes(std::span(mean_))) != mean_sha256_)
    return corrupt_data("the slices do not make up the mean that the workers speak of");
  if (!std::ranges::all_of(mean_, [](float value) { return std::isfinite(value); }))
    return corrupt_data("the mean is not finite");
  SPORKLE_RETURN_IF_ERROR(verify_audit());
  return verify_lengths();
}

Status RoundReduction::verify_audit() const {
  uint64_t total = 0;
  for (const mesh::NodeId& node : contributors_) total += member(node)->tokens;
  size_t offset = 0;
  for (const uint32_t chunk : audited_) {
    const std::span<const float> summed = commitment_chunk(mean_, chunk);
    train::WeightedMean mean(summed.size(), total);
    for (const mesh::NodeId& node : contributors_) {
      const auto values = std::span(parts_.at(node).shown).subspan(offset, summed.size());
      if (!is_committed(member(node)->commitment, chunk, values))
        return corrupt_data("the worker " + node.short_id() + " shows another update than it committed to");
      mean.add(values, member(node)->tokens);
    }
    if (std::memcmp(mean.mean().data(), summed.data(), summed.size_bytes()) != 0)
      return corrupt_data("chunk " + std::to_string(chunk) + " of the mean is not that of the updates");
    offset += summed.size();
  }
  return {};
}

Status RoundReduction::verify_lengths() const {
  double total = 0;
  for (const mesh::NodeId& node : contributors_) total += static_cast<double>(member(node)->tokens);
  for (size_t chunk = 0; chunk < commitment_chunks(count_); ++chunk) {
    double longest = 0;
    for (const mesh::NodeId& node : contributors_)
      longest +=
          static_cast<double>(member(node)->tokens) / total * committed_chunk_norm(member(node)->commitment, chunk);
    // Rounding makes it longer by far less than this.
    if (train::l2_norm(commitment_chunk(mean_, chunk)) > longest * 1.001 + 1e-30)
      return corrupt_data("chunk " + std::to_string(chunk) + " of the mean is longer than the updates committed to");
  }
  return {};
}

}  // namespace sporkle::run
