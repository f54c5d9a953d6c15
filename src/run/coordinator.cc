#include "run/coordinator.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstring>

#include "base/sha256.h"
#include "run/duration.h"
#include "run/run.pb.h"

namespace sporkle::run {
namespace {

static_assert(std::endian::native == std::endian::little, "tensors travel and lie on disk as little-endian f32");

std::string serialize_manifest(const RunManifest& manifest) {
  proto::Manifest to;
  to.set_name(manifest.name);
  to.set_model(manifest.model);
  to.set_parameter_count(manifest.parameter_count);
  to.set_token_bytes(manifest.token_bytes);
  to.set_tokens_per_step(manifest.tokens_per_step);
  to.set_shard_tokens(manifest.shard_tokens);
  to.set_data_sha256(manifest.data_sha256);
  to.set_total_steps(manifest.total_steps);
  to.set_nominal_workers(manifest.nominal_workers);
  to.set_seed(manifest.seed);
  return to.SerializeAsString();
}

std::vector<std::byte> bytes_of(std::span<const float> values) {
  const auto bytes = std::as_bytes(values);
  return {bytes.begin(), bytes.end()};
}

Result<std::vector<float>> floats_of(std::span<const std::byte> bytes, size_t count, const std::string& name) {
  if (bytes.size() != count * sizeof(float))
    return corrupt_data("blob " + name + " has " + std::to_string(bytes.size()) + " bytes where " +
                        std::to_string(count * sizeof(float)) + " belong");
  std::vector<float> values(count);
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

std::string blob_name(std::string_view what, uint64_t version) {
  return std::string(what) + "-" + std::to_string(version);
}

}  // namespace

Coordinator::Coordinator(const RunConfig& config, InnerStepSchedule schedule, std::unique_ptr<Store> store,
                         ShardPool pool, std::string manifest)
    : config_(config),
      schedule_(std::move(schedule)),
      store_(std::move(store)),
      pool_(std::move(pool)),
      manifest_(std::move(manifest)),
      run_id_(to_hex(sha256(manifest_))),
      outer_(config.manifest.parameter_count),
      feedback_(config.manifest.parameter_count) {}

Result<std::unique_ptr<Coordinator>> Coordinator::open(const RunConfig& config, std::unique_ptr<Store> store,
                                                       std::span<const std::byte> tokens,
                                                       const InitialParameters& initial_parameters, TimePoint now,
                                                       int64_t unix_ms) {
  SPORKLE_RETURN_IF_ERROR(config.validate());
  SPORKLE_ASSIGN_OR_RETURN(InnerStepSchedule schedule, InnerStepSchedule::parse(config.inner_steps));
  const RunManifest& m = config.manifest;
  SPORKLE_ASSIGN_OR_RETURN(ShardPool pool, ShardPool::create(tokens, m.token_bytes, m.shard_tokens, m.seed));
  std::string manifest = serialize_manifest(m);
  SPORKLE_ASSIGN_OR_RETURN(const std::string stored, store->manifest());
  if (!stored.empty() && stored != manifest)
    return invalid_argument(
        "the run's folder holds another run (its model, data, seed or length differs); choose "
        "another folder, or start with the configuration that it was begun with");
  auto coordinator = std::unique_ptr<Coordinator>(
      new Coordinator(config, std::move(schedule), std::move(store), std::move(pool), std::move(manifest)));
  coordinator->unix_ms_ = unix_ms;
  SPORKLE_RETURN_IF_ERROR(stored.empty() ? coordinator->begin_run(initial_parameters) : coordinator->restore(now));
  return coordinator;
}

Status Coordinator::begin_run(const InitialParameters& initial_parameters) {
  SPORKLE_ASSIGN_OR_RETURN(std::vector<float> parameters, initial_parameters());
  if (parameters.size() != config_.manifest.parameter_count)
    return invalid_argument("the model has " + std::to_string(parameters.size()) +
                            " parameters, the run's manifest says " + std::to_string(config_.manifest.parameter_count));
  parameters_ = std::make_shared<const std::vector<float>>(std::move(parameters));
  parameters_sha256_ = sha256(std::as_bytes(std::span(*parameters_)));
  new_blobs_.emplace_back(blob_name("parameters", 0), bytes_of(*parameters_));
  new_blobs_.emplace_back(blob_name("momentum", 0), bytes_of(outer_.momentum()));
  new_blobs_.emplace_back(blob_name("feedback", 0), bytes_of(feedback_.residual()));
  new_blobs_.emplace_back(blob_name("delta", 0), std::vector<std::byte>());
  new_run_ = dirty_round_ = true;
  flush();
  return failure_;
}

Status Coordinator::restore(TimePoint now) {
  SPORKLE_ASSIGN_OR_RETURN(CoordinatorState state, store_->load());
  const size_t count = config_.manifest.parameter_count;
  const uint64_t version = state.round.number;
  const auto read = [&](std::string_view what) -> Result<std::vector<float>> {
    const std::string name = blob_name(what, version);
    SPORKLE_ASSIGN_OR_RETURN(const std::vector<std::byte> bytes, store_->read_blob(name));
    return floats_of(bytes, count, name);
  };
  SPORKLE_ASSIGN_OR_RETURN(std::vector<float> parameters, read("parameters"));
  SPORKLE_ASSIGN_OR_RETURN(const std::vector<float> momentum, read("momentum"));
  SPORKLE_ASSIGN_OR_RETURN(const std::vector<float> feedback, read("feedback"));
  SPORKLE_ASSIGN_OR_RETURN(delta_, store_->read_blob(blob_name("delta", version)));
  parameters_ = std::make_shared<const std::vector<float>>(std::move(parameters));
  parameters_sha256_ = sha256(std::as_bytes(std::span(*parameters_)));
  SPORKLE_RETURN_IF_ERROR(outer_.restore(momentum));
  SPORKLE_RETURN_IF_ERROR(feedback_.restore(feedback));
  round_ = std::move(state.round);
  history_ = std::move(state.history);
  if (history_.size() != round_.number)
    return corrupt_data("the run's database has a history of " + std::to_string(history_.size()) + " rounds after " +
                        std::to_string(round_.number));
  pool_.restore(round_.next_unit, std::move(state.returned_units));
  for (Member& member : state.members) {
    // Nobody is given up because the coordinator was away.
    member.last_seen = now;
    member.silent_until = now + to_duration(std::max(config_.restart_grace_s, config_.heartbeat_timeout_s));
    members_.emplace(member.id, std::move(member));
  }
  for (LeaseRecord& lease : state.leases) {
    const auto holder = members_.find(lease.node);
    if (holder == members_.end()) return corrupt_data("the run's database has a lease of a node that is no member");
    if (lease.state == LeaseState::active) holder->second.lease = lease.id;
    leases_.emplace(lease.id, std::move(lease));
  }
  round_opened_ = now;
  set_deadline(now);
  deadline_ += to_duration(config_.restart_grace_s);
  return {};
}

void Coordinator::handle(const mesh::NodeId& node, std::string_view method, mesh::Message request,
                         mesh::Responder respond, TimePoint now) {
  if (!failure_.ok()) {
    respond(unavailable("the coordinator has stopped: " + failure_.message()));
    return;
  }
  const uint64_t size = method.size() + request.body.size() + request.payload.size();
  round_.bytes_in += size;
  if (const auto member = members_.find(node); member != members_.end()) member->second.bytes_in += size;
  bool pending = false;
  Result<Reply> reply = dispatch(node, method, request, respond, pending, now);
  if (!pending) answer(node, std::move(respond), std::move(reply));
  advance(now);
  answer_polls(now);
  flush();
}

void Coordinator::disconnected(const mesh::NodeId& node, TimePoint now) {
  const auto member = members_.find(node);
  hosts_.erase(node);
  if (member == members_.end() || !member->second.present) return;
  member->second.silent_until = std::min(member->second.silent_until, now + to_duration(config_.disconnect_grace_s));
}

void Coordinator::tick(TimePoint now, int64_t unix_ms) {
  if (!failure_.ok()) return;
  unix_ms_ = unix_ms;
  for (auto& [id, member] : members_)
    if (member.present && now > member.silent_until) {
      char text[64];
      std::snprintf(text, sizeof text, "no sign of life for %.1f s", to_seconds(now - member.last_seen));
      lose_member(member, text);
    }
  advance(now);
  answer_polls(now);
  flush();
}

void Coordinator::answer(const mesh::NodeId& node, mesh::Responder respond, Result<Reply> reply) {
  if (!reply.ok()) {
    outbox_.emplace_back(std::move(respond), reply.status());
    return;
  }
  mesh::Message message{std::move(reply->body), std::move(reply->payload)};
  const uint64_t size = message.body.size() + message.payload.size();
  round_.bytes_out += size;
  if (const auto member = members_.find(node); member != members_.end()) member->second.bytes_out += size;
  outbox_.emplace_back(std::move(respond), std::move(message));
}

void Coordinator::flush() {
  const bool dirty = dirty_round_ || dirty_returned_ || cleared_leases_ || !dirty_members_.empty() ||
                     !dirty_leases_.empty() || !dirty_history_.empty() || !new_blobs_.empty() || !old_blobs_.empty();
  if (dirty && failure_.ok()) {
    round_.next_unit = pool_.next();
    store_->begin();
    if (new_run_) store_->put_manifest(manifest_);
    store_->put_round(round_);
    for (const mesh::NodeId& id : dirty_members_) store_->put_member(members_.at(id));
    if (cleared_leases_) store_->clear_leases();
    for (const std::string& id : dirty_leases_)
      if (const auto lease = leases_.find(id); lease != leases_.end()) store_->put_lease(lease->second);
    if (dirty_returned_) store_->put_returned(pool_.returned());
    for (const uint64_t round : dirty_history_) store_->put_history(history_[round]);
    for (const auto& [name, content] : new_blobs_) store_->put_blob(name, content);
    for (const std::string& name : old_blobs_) store_->drop_blob(name);
    failure_ = store_->commit().with_context("the run cannot keep its state");
  }
  new_run_ = dirty_round_ = dirty_returned_ = cleared_leases_ = false;
  dirty_members_.clear();
  dirty_leases_.clear();
  dirty_history_.clear();
  new_blobs_.clear();
  old_blobs_.clear();
  // Only now: what was answered is on disk.
  for (auto& [respond, reply] : outbox_) {
    if (failure_.ok())
      respond(std::move(reply));
    else
      respond(unavailable("the coordinator has stopped: " + failure_.message()));
  }
  outbox_.clear();
}

std::vector<Event> Coordinator::take_events() { return std::exchange(events_, {}); }

void Coordinator::record_evaluation(uint64_t round, double validation_loss) {
  if (!failure_.ok() || round >= history_.size()) return;
  history_[round].validation_loss = validation_loss;
  dirty_history_.insert(round);
  Event done = event(EventKind::evaluated);
  done.round = round;
  done.validation_loss = validation_loss;
  done.train_loss = history_[round].train_loss;
  emit(std::move(done));
  flush();
}

bool Coordinator::finished() const { return round_.steps_done >= config_.manifest.total_inner_steps(); }

CheckpointInfo Coordinator::checkpoint_info() const {
  return {round_.number, static_cast<double>(round_.steps_done) / config_.manifest.nominal_workers, round_.tokens_done,
          finished()};
}

std::vector<Coordinator::Donor> Coordinator::donors() const {
  std::vector<Donor> result;
  for (const auto& [id, member] : members_)
    if (member.present && member.serves_port != 0)
      result.push_back({id, member.serves_port,
                        std::ranges::equal(std::as_bytes(std::span(member.serves_sha256)), parameters_sha256_)});
  return result;
}

Event Coordinator::event(EventKind kind, const Member* member, std::string message) const {
  Event event;
  event.kind = kind;
  event.round = round_.number;
  event.message = std::move(message);
  if (member) {
    event.node = member->id.short_id();
    event.node_name = member->name;
  }
  return event;
}

RunStatus Coordinator::status(TimePoint now) const {
  constexpr size_t kHistoryShown = 1000;
  RunStatus status;
  status.run_id = run_id_;
  status.name = config_.manifest.name;
  status.phase = finished() ? RunPhase::finished : leases_.empty() ? RunPhase::waiting : RunPhase::running;
  status.round = round_.number;
  status.inner_steps = schedule_.steps(round_.number);
  status.step = checkpoint_info().step;
  status.total_steps = config_.manifest.total_steps;
  status.tokens = round_.tokens_done;
  status.total_tokens = config_.manifest.total_tokens();
  status.parameter_count = config_.manifest.parameter_count;
  status.nominal_workers = config_.manifest.nominal_workers;
  status.bytes_in = round_.bytes_in;
  status.bytes_out = round_.bytes_out;
  status.workers_joined = round_.workers_joined;
  status.workers_lost = round_.workers_lost;
  for (const auto& [id, member] : members_) {
    NodeStatus node;
    node.id = id.to_string();
    node.short_id = id.short_id();
    node.name = member.name;
    node.software = member.software;
    node.threads = member.threads;
    node.state = member.left ? NodeState::left : member.present ? NodeState::waiting : NodeState::lost;
    if (const auto lease = leases_.find(member.lease); lease != leases_.end()) {
      node.state = NodeState::computing;
      node.lease_step = member.step;
      node.lease_steps = lease->second.steps;
    }
    node.tokens_per_second = member.tokens_per_second;
    node.last_seen_seconds = std::chrono::duration<double>(now - member.last_seen).count();
    node.tokens = member.tokens;
    node.steps = member.steps;
    node.reports = member.reports;
    node.late = member.late;
    node.rejected = member.rejected;
    node.leases_lost = member.leases_lost;
    node.bytes_in = member.bytes_in;
    node.bytes_out = member.bytes_out;
    node.loss = member.loss;
    status.nodes.push_back(std::move(node));
  }
  const size_t shown = std::min(history_.size(), kHistoryShown);
  status.history.assign(history_.end() - static_cast<std::ptrdiff_t>(shown), history_.end());
  return status;
}

}  // namespace sporkle::run
