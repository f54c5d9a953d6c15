// The life of a round: leasing, losing, closing.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <tuple>

#include "base/sha256.h"
#include "run/coordinator.h"
#include "run/duration.h"
#include "run/round_plan.h"

namespace sporkle::run {
namespace {

constexpr size_t kNormsKept = 16;

void hash_number(Sha256& hash, uint64_t value) { hash.update(std::as_bytes(std::span(&value, 1))); }

// The content of a piece of work. With a node and a sequence number it names a lease, without it seeds the work: what
// is computed depends on the work, not on who does it.
Digest lease_digest(std::string_view domain, std::string_view run_id, const LeaseRecord& lease, bool with_holder) {
  Sha256 hash;
  hash.update(domain);
  hash.update(run_id);
  hash_number(hash, lease.round);
  hash_number(hash, lease.steps);
  for (const uint64_t unit : lease.units) hash_number(hash, unit);
  if (with_holder) {
    hash.update(lease.node.bytes);
    hash_number(hash, lease.sequence);
  }
  return hash.finish();
}

// A worker that failed several times in a row sits out ever more rounds, so that it cannot hold them all up.
bool sits_out(const Member& member, uint64_t round) {
  if (member.failures < 3) return false;
  return (round + 1) % (uint64_t{1} << std::min(member.failures - 2, 6u)) != 0;
}

// Who would take several times as long for a single step as a usual worker does, and as all together for the round, has
// to wait for a longer one.
void leave_out_slow(uint64_t steps, double typical, std::vector<double>& speeds, std::vector<const Member*>& workers) {
  constexpr double kPatience = 4;
  const double together = std::accumulate(speeds.begin(), speeds.end(), 0.0);
  const double slowest = std::min({together / static_cast<double>(steps) / kPatience, typical / kPatience,
                                   *std::max_element(speeds.begin(), speeds.end())});
  size_t kept = 0;
  for (size_t i = 0; i < workers.size(); ++i) {
    if (speeds[i] < slowest) continue;
    speeds[kept] = speeds[i];
    workers[kept++] = workers[i];
  }
  speeds.resize(kept);
  workers.resize(kept);
}

// "int8", or "2 int8, 1 topk" where they differ.
std::string describe_compressions(std::span<const LeaseRecord* const> updates) {
  std::string list;
  for (const train::Compression compression : train::kCompressions) {
    const std::string name(train::compression_name(compression));
    const auto count = std::ranges::count(updates, compression, [](const LeaseRecord* u) { return u->compression; });
    if (count == static_cast<std::ptrdiff_t>(updates.size())) return name;
    if (count > 0) list += (list.empty() ? "" : ", ") + std::to_string(count) + " " + name;
  }
  return list;
}

}  // namespace

uint64_t Coordinator::seed_of(const LeaseRecord& lease) const {
  const Digest digest = lease_digest("sporkle work 1", run_id_, lease, false);
  uint64_t seed;
  std::memcpy(&seed, digest.data(), sizeof seed);
  return seed;
}

LeaseRecord* Coordinator::active_lease(const mesh::NodeId& node) {
  const std::string& id = members_.at(node).lease;
  return id.empty() ? nullptr : &leases_.at(id);
}

double Coordinator::steps_per_second(const Member& member) const {
  return member.tokens_per_second / static_cast<double>(config_.manifest.tokens_per_step);
}

uint64_t Coordinator::round_target() const {
  const uint64_t left = config_.manifest.total_inner_steps() - round_.steps_done;
  const uint64_t target =
      std::min<uint64_t>(left, uint64_t{schedule_.steps(round_.number)} * config_.manifest.nominal_workers);
  // A rest too small for a round of its own goes along.
  return left - target < target / 4 ? left : target;
}

uint64_t Coordinator::steps_in(LeaseState state) const {
  uint64_t steps = 0;
  for (const auto& [id, lease] : leases_)
    if (lease.state == state) steps += state == LeaseState::reported ? lease.reported_steps : lease.steps;
  return steps;
}

void Coordinator::advance(TimePoint now) {
  while (failure_.ok() && !finished()) {
    bool active = false;
    uint32_t reports = 0;
    for (const auto& [id, lease] : leases_) {
      active |= lease.state == LeaseState::active;
      reports += lease.state == LeaseState::reported;
    }
    if (active && now < deadline_) return;
    if (active) {
      for (auto& [id, lease] : leases_) {
        if (lease.state != LeaseState::active) continue;
        Member& member = members_.at(lease.node);
        ++member.failures;
        lose_lease(lease, LeaseState::lost);
        emit(event(EventKind::lease_lost, &member, "the round's deadline passed"));
      }
      continue;
    }
    if (reports >= config_.quorum) {
      if (sum_committed(true, now)) continue;
      if (std::ranges::any_of(leases_, [](const auto& entry) { return entry.second.committed; })) return;
      close_round(now);
      continue;
    }
    // Whoever waits to add up is to compute again: what it has goes by the coordinator.
    if (std::ranges::any_of(leases_, [](const auto& entry) { return entry.second.committed; })) {
      if (!sum_committed(false, now)) return;
      continue;
    }
    lease_round(now);  // a new round, or the steps that are missing for a quorum
    return;
  }
}

void Coordinator::lease_round(TimePoint now) {
  std::vector<const Member*> candidates;
  for (const auto& [id, member] : members_)
    if (member.present && member.ready) candidates.push_back(&member);
  if (candidates.empty()) return;
  const bool opening = leases_.empty();
  if (opening && round_.number == 0 && candidates.size() < config_.start_workers) return;
  std::set<mesh::NodeId> refused;
  for (const auto& [id, lease] : leases_)
    if (lease.state == LeaseState::refused) refused.insert(lease.node);
  // Who was refused in this round is out of it, unless that is everybody: then what counts as usual is at fault.
  std::vector<const Member*> workers = candidates;
  std::erase_if(workers, [&](const Member* member) { return refused.contains(member->id); });
  if (workers.empty()) {
    workers = candidates;
    round_.norms.clear();
    std::erase_if(leases_, [](const auto& entry) { return entry.second.state == LeaseState::refused; });
    cleared_leases_ = true;
    for (const auto& [id, lease] : leases_) dirty_leases_.insert(id);
  }
  const auto waits = [&](const Member* member) { return sits_out(*member, round_.number); };
  if (!std::all_of(workers.begin(), workers.end(), waits)) std::erase_if(workers, waits);
  std::vector<double> measured;
  for (const Member* member : workers)
    if (member->tokens_per_second > 0) measured.push_back(steps_per_second(*member));
  const double typical = median(measured);
  const uint64_t reported = steps_in(LeaseState::reported);
  const uint64_t target = round_target();
  const uint64_t wanted = target > reported ? target - reported : 1;
  std::vector<double> speeds;
  for (const Member* member : workers) {
    const double speed = member->tokens_per_second > 0 ? steps_per_second(*member) : typical;
    // Who failed is believed less: half as much as usual, a quarter ...
    const int halvings = static_cast<int>(std::min(member->failures, 6u));
    speeds.push_back(halvings == 0 ? speed : std::ldexp(std::min(speed, typical), -halvings));
  }
  leave_out_slow(wanted, typical, speeds, workers);
  const std::vector<uint32_t> steps = divide_steps(wanted, speeds);
  uint32_t leased = 0;
  for (size_t i = 0; i < workers.size(); ++i) {
    if (steps[i] == 0) continue;
    add_lease(*workers[i], steps[i]);
    ++leased;
  }
  if (opening) {
    round_opened_ = now;
    round_.round_bytes_in = round_.bytes_in;
    round_.round_bytes_out = round_.bytes_out;
    Event opened = event(EventKind::round_opened);
    opened.workers = leased;
    opened.inner_steps = schedule_.steps(round_.number);
    emit(std::move(opened));
  }
  set_deadline(now);
}

void Coordinator::lease_to_joiner(Member& member, TimePoint now) {
  if (finished() || steps_in(LeaseState::active) == 0) return;
  std::vector<double> speeds;
  double together = 0;
  for (const auto& [id, lease] : leases_) {
    if (lease.node == member.id) return;  // had its share of this round
    if (lease.state != LeaseState::active) continue;
    speeds.push_back(steps_per_second(members_.at(lease.node)));
    together += speeds.back();
  }
  const double speed = member.tokens_per_second > 0 ? steps_per_second(member) : median(speeds);
  if (!(speed > 0)) return;
  // Only when it can do a fair part of what it would have got at the round's opening, in the time that is left.
  const uint64_t target = round_target();
  const double share = static_cast<double>(target) * speed / (together + speed);
  const double left_s = round_expected_s_ - to_seconds(now - round_opened_);
  const double possible = std::floor(std::min(share, 0.8 * left_s * speed));
  const uint64_t budget = config_.manifest.total_inner_steps() - round_.steps_done;
  const uint64_t taken = steps_in(LeaseState::active) + steps_in(LeaseState::reported);
  if (possible < 1 || possible < share / 4 || taken >= budget) return;
  add_lease(member, std::min(static_cast<uint64_t>(possible), budget - taken));
}

void Coordinator::add_lease(const Member& member, uint64_t steps) {
  const RunManifest& m = config_.manifest;
  steps = std::min(steps, kMaxUnitsPerLease * m.shard_tokens / m.tokens_per_step);
  LeaseRecord lease;
  lease.node = member.id;
  lease.round = round_.number;
  lease.sequence = round_.sequence++;
  lease.steps = static_cast<uint32_t>(steps);
  lease.units = pool_.take((steps * m.tokens_per_step + m.shard_tokens - 1) / m.shard_tokens);
  lease.schedule_step = static_cast<double>(round_.steps_done) / m.nominal_workers;
  lease.schedule_stride = static_cast<double>(round_target()) / m.nominal_workers / static_cast<double>(steps);
  lease.any_compression = config_.compression == "auto";
  lease.by_peers = config_.reduction == "peers" && member.reduces && !uploading_;
  if (const auto asked = train::parse_compression(config_.compression); asked.ok()) lease.compression = *asked;
  const Digest id = lease_digest("sporkle lease 1", run_id_, lease, true);
  lease.id.assign(reinterpret_cast<const char*>(id.data()), id.size());
  Member& holder = members_.at(member.id);
  holder.lease = lease.id;
  holder.step = 0;
  dirty_leases_.insert(lease.id);
  dirty_round_ = dirty_returned_ = true;
  leases_.emplace(lease.id, std::move(lease));
}

void Coordinator::set_deadline(TimePoint now) {
  double expected = 0;
  bool measured = true;
  for (const auto& [id, lease] : leases_) {
    if (lease.state != LeaseState::active) continue;
    const Member& member = members_.at(lease.node);
    const double speed = steps_per_second(member);
    measured &= speed > 0;
    if (speed > 0) expected = std::max(expected, lease.steps / speed + member.overhead_s);
  }
  if (!measured) expected = std::max(expected, config_.unmeasured_deadline_s / config_.deadline_factor);
  round_expected_s_ = expected;
  deadline_ = now + to_duration(config_.deadline_factor * expected + config_.minimum_deadline_s);
}

void Coordinator::lose_lease(LeaseRecord& lease, LeaseState state) {
  lease.state = state;
  if (lease.committed) old_blobs_.push_back(lease.blob);
  lease.committed = false;
  pool_.give_back(lease.units);
  Member& member = members_.at(lease.node);
  if (member.last_accepted == lease.id) member.last_accepted.clear();
  if (member.lease == lease.id) member.lease.clear();
  if (state == LeaseState::lost) {
    ++member.leases_lost;
    ++round_.leases_lost;
  }
  dirty_leases_.insert(lease.id);
  dirty_members_.insert(lease.node);
  dirty_round_ = dirty_returned_ = true;
}

bool Coordinator::revive(LeaseRecord& lease) {
  Member& member = members_.at(lease.node);
  if (lease.state != LeaseState::lost || !member.lease.empty() || !pool_.take_back(lease.units)) return false;
  lease.state = LeaseState::active;
  member.lease = lease.id;
  --member.leases_lost;
  --round_.leases_lost;
  dirty_leases_.insert(lease.id);
  dirty_members_.insert(lease.node);
  dirty_round_ = dirty_returned_ = true;
  return true;
}

void Coordinator::lose_member(Member& member, std::string why) {
  if (LeaseRecord* lease = active_lease(member.id)) lose_lease(*lease, LeaseState::lost);
  lose_committed(member.id);
  member.present = false;
  ++round_.workers_lost;
  dirty_members_.insert(member.id);
  dirty_round_ = true;
  emit(event(EventKind::worker_lost, &member, std::move(why)));
}

void Coordinator::seen(Member& member, TimePoint now) {
  member.last_seen = now;
  member.silent_until = now + to_duration(config_.heartbeat_timeout_s);
  if (member.present) return;
  member.present = true;
  member.left = false;
  dirty_members_.insert(member.id);
  emit(event(EventKind::worker_returned, &member));
}

void Coordinator::refuse(LeaseRecord& lease, Member& member, const std::string& why) {
  lose_lease(lease, LeaseState::refused);
  ++member.rejected;
  ++member.failures;
  emit(event(EventKind::update_rejected, &member, why));
}

// What came first in the first rounds had nothing to be compared with: compare once more, with each other.
void Coordinator::refuse_outliers() {
  std::vector<double> norms;
  for (const auto& [id, lease] : leases_)
    if (lease.state == LeaseState::reported) norms.push_back(lease.reported_norm);
  if (norms.size() < kNormsNeeded) return;
  const double usual = median(norms);
  for (auto& [id, lease] : leases_) {
    if (lease.state != LeaseState::reported || !(usual > 0) || lease.reported_norm <= config_.norm_bound * usual)
      continue;
    if (!lease.committed) old_blobs_.push_back(lease.blob);
    refuse(lease, members_.at(lease.node), "the update is far longer than the others of its round");
  }
}

void Coordinator::close_round(TimePoint now, std::span<const float> peers_mean) {
  const bool by_peers = !peers_mean.empty();
  if (!by_peers) refuse_outliers();
  std::vector<const LeaseRecord*> updates;
  RoundRecord record;
  for (const auto& [id, lease] : leases_) {
    if (lease.state != LeaseState::reported) continue;
    updates.push_back(&lease);
    record.tokens += lease.reported_tokens;
  }
  std::sort(updates.begin(), updates.end(), [](const LeaseRecord* a, const LeaseRecord* b) {
    return std::tie(a->node, a->sequence) < std::tie(b->node, b->sequence);
  });

  // Parameters: read every update, average in canonical order, take the outer step, quantise what it changes.
  const size_t count = config_.manifest.parameter_count;
  train::WeightedMean mean(count, record.tokens);
  std::vector<float> values(count);
  for (const LeaseRecord* update : updates) {
    if (by_peers) break;
    Result<std::vector<std::byte>> encoded = store_->read_blob(update->blob);
    Status status = encoded.ok() ? train::decompress(*encoded, values) : encoded.status();
    if (!status.ok()) {
      failure_ = status.with_context("the run cannot read an update that it had accepted");
      return;
    }
    mean.add(values, update->reported_tokens);
  }
  outer_.step(by_peers ? peers_mean : mean.mean(), config_.outer_step(round_.number), values);
  Result<std::vector<std::byte>> delta = feedback_.encode(values);
  auto parameters = std::make_shared<std::vector<float>>(*parameters_);
  Status status = delta.ok() ? train::decompress_add(*delta, *parameters) : delta.status();
  if (!status.ok()) {
    failure_ = status.with_context("round " + std::to_string(round_.number) + " diverged; lower the learning rates");
    return;
  }
  feedback_.commit();
  delta_ = std::move(*delta);
  parameters_ = std::move(parameters);
  parameters_sha256_ = sha256(std::as_bytes(std::span(*parameters_)));

  // Accounts.
  for (const LeaseRecord* update : updates) {
    Member& member = members_.at(update->node);
    member.tokens += update->reported_tokens;
    member.steps += update->reported_steps;
    ++member.reports;
    record.steps += update->reported_steps;
    record.train_loss +=
        update->reported_mean_loss * static_cast<double>(update->reported_tokens) / static_cast<double>(record.tokens);
    round_.norms.push_back(update->reported_norm);
    record.update_bytes += update->update_bytes;
    old_blobs_.push_back(update->blob);
  }
  record.compression = describe_compressions(updates);
  if (round_.norms.size() > kNormsKept)
    round_.norms.erase(round_.norms.begin(), round_.norms.end() - static_cast<std::ptrdiff_t>(kNormsKept));
  record.round = round_.number;
  record.inner_steps = schedule_.steps(round_.number);
  record.reports = static_cast<uint32_t>(updates.size());
  record.leases_lost = round_.leases_lost;
  record.bytes_in = round_.bytes_in - round_.round_bytes_in;
  record.bytes_out = round_.bytes_out - round_.round_bytes_out;
  record.seconds = to_seconds(now - round_opened_);
  record.closed_unix_ms = unix_ms_;
  history_.push_back(record);
  dirty_history_.insert(record.round);
  for (const auto& [id, member] : members_) dirty_members_.insert(id);  // their byte counts, too
  for (const auto& [what, content] : {std::pair{"parameters-", std::as_bytes(std::span(*parameters_))},
                                      std::pair{"momentum-", std::as_bytes(outer_.momentum())},
                                      std::pair{"feedback-", std::as_bytes(feedback_.residual())},
                                      std::pair{"delta-", std::as_bytes(std::span(delta_))}}) {
    old_blobs_.push_back(what + std::to_string(round_.number));
    new_blobs_.emplace_back(what + std::to_string(round_.number + 1),
                            std::vector<std::byte>(content.begin(), content.end()));
  }

  Event closed = event(EventKind::round_closed);
  closed.workers = record.reports;
  closed.inner_steps = record.inner_steps;
  closed.steps = record.steps;
  closed.tokens = record.tokens;
  closed.seconds = record.seconds;
  closed.train_loss = record.train_loss;
  closed.compression = record.compression;
  closed.update_bytes = record.update_bytes;
  closed.by_peers = by_peers;
  emit(std::move(closed));

  ++round_.number;
  closed_attempt_ = by_peers ? reduction_->attempt() : 0;
  reduction_.reset();
  attempts_ = 0;
  uploading_ = false;
  round_.sequence = 0;
  round_.leases_lost = 0;
  round_.steps_done += record.steps;
  round_.tokens_done += record.tokens;
  leases_.clear();
  dirty_leases_.clear();
  cleared_leases_ = true;
  dirty_round_ = true;
  if (finished()) {
    Event done = event(EventKind::finished);
    done.tokens = round_.tokens_done;
    done.train_loss = record.train_loss;
    emit(std::move(done));
  }
}

}  // namespace sporkle::run
