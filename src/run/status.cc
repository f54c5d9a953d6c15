#include "run/status.h"

#include "mesh/node_id.h"
#include "mesh/printable.h"
#include "run/run.pb.h"

namespace sporkle::run {

std::string_view node_state_name(NodeState state) {
  switch (state) {
    case NodeState::waiting:
      return "waiting";
    case NodeState::computing:
      return "computing";
    case NodeState::lost:
      return "lost";
    case NodeState::left:
      return "left";
  }
  return "unknown";
}

std::string_view run_phase_name(RunPhase phase) {
  switch (phase) {
    case RunPhase::waiting:
      return "waiting";
    case RunPhase::running:
      return "running";
    case RunPhase::finished:
      return "finished";
  }
  return "unknown";
}

std::string encode_status(const RunStatus& status) {
  proto::StatusReply reply;
  reply.set_run_id(status.run_id);
  reply.set_name(status.name);
  reply.set_phase(static_cast<uint32_t>(status.phase));
  reply.set_round(status.round);
  reply.set_inner_steps(status.inner_steps);
  reply.set_step(status.step);
  reply.set_total_steps(status.total_steps);
  reply.set_tokens(status.tokens);
  reply.set_total_tokens(status.total_tokens);
  reply.set_parameter_count(status.parameter_count);
  reply.set_nominal_workers(status.nominal_workers);
  reply.set_bytes_in(status.bytes_in);
  reply.set_bytes_out(status.bytes_out);
  reply.set_workers_joined(status.workers_joined);
  reply.set_workers_lost(status.workers_lost);
  for (const NodeStatus& from : status.nodes) {
    proto::NodeStatus& to = *reply.add_nodes();
    to.set_id(from.id);
    to.set_name(from.name);
    to.set_software(from.software);
    to.set_threads(from.threads);
    to.set_state(static_cast<uint32_t>(from.state));
    to.set_tokens_per_second(from.tokens_per_second);
    to.set_last_seen_seconds(from.last_seen_seconds);
    to.set_tokens(from.tokens);
    to.set_steps(from.steps);
    to.set_reports(from.reports);
    to.set_late(from.late);
    to.set_rejected(from.rejected);
    to.set_leases_lost(from.leases_lost);
    to.set_bytes_in(from.bytes_in);
    to.set_bytes_out(from.bytes_out);
    to.set_lease_step(from.lease_step);
    to.set_lease_steps(from.lease_steps);
    to.set_loss(from.loss);
  }
  for (const RoundRecord& from : status.history) {
    proto::RoundRecord& to = *reply.add_history();
    to.set_round(from.round);
    to.set_inner_steps(from.inner_steps);
    to.set_reports(from.reports);
    to.set_leases_lost(from.leases_lost);
    to.set_steps(from.steps);
    to.set_tokens(from.tokens);
    to.set_train_loss(from.train_loss);
    if (from.validation_loss) to.set_validation_loss(*from.validation_loss);
    to.set_bytes_in(from.bytes_in);
    to.set_bytes_out(from.bytes_out);
    to.set_seconds(from.seconds);
    to.set_closed_unix_ms(from.closed_unix_ms);
    to.set_compression(from.compression);
    to.set_update_bytes(from.update_bytes);
  }
  return reply.SerializeAsString();
}

Result<RunStatus> decode_status(std::string_view body) {
  proto::StatusReply reply;
  if (!reply.ParseFromArray(body.data(), static_cast<int>(body.size())))
    return corrupt_data("the coordinator's status cannot be read");
  RunStatus status;
  status.run_id = reply.run_id();
  status.name = reply.name();
  status.phase = static_cast<RunPhase>(reply.phase());
  status.round = reply.round();
  status.inner_steps = reply.inner_steps();
  status.step = reply.step();
  status.total_steps = reply.total_steps();
  status.tokens = reply.tokens();
  status.total_tokens = reply.total_tokens();
  status.parameter_count = reply.parameter_count();
  status.nominal_workers = reply.nominal_workers();
  status.bytes_in = reply.bytes_in();
  status.bytes_out = reply.bytes_out();
  status.workers_joined = reply.workers_joined();
  status.workers_lost = reply.workers_lost();
  for (const proto::NodeStatus& from : reply.nodes()) {
    NodeStatus to;
    to.id = from.id();
    const auto id = mesh::NodeId::parse(from.id());
    if (!id.ok()) return corrupt_data("the coordinator's status names a node that is none: " + id.status().message());
    to.short_id = id->short_id();
    to.name = from.name();
    to.software = from.software();
    to.threads = from.threads();
    to.state = static_cast<NodeState>(from.state());
    to.tokens_per_second = from.tokens_per_second();
    to.last_seen_seconds = from.last_seen_seconds();
    to.tokens = from.tokens();
    to.steps = from.steps();
    to.reports = from.reports();
    to.late = from.late();
    to.rejected = from.rejected();
    to.leases_lost = from.leases_lost();
    to.bytes_in = from.bytes_in();
    to.bytes_out = from.bytes_out();
    to.lease_step = from.lease_step();
    to.lease_steps = from.lease_steps();
    to.loss = from.loss();
    status.nodes.push_back(std::move(to));
  }
  for (const proto::RoundRecord& from : reply.history()) {
    RoundRecord to;
    to.round = from.round();
    to.inner_steps = from.inner_steps();
    to.reports = from.reports();
    to.leases_lost = from.leases_lost();
    to.steps = from.steps();
    to.tokens = from.tokens();
    to.train_loss = from.train_loss();
    if (from.has_validation_loss()) to.validation_loss = from.validation_loss();
    to.bytes_in = from.bytes_in();
    to.bytes_out = from.bytes_out();
    to.seconds = from.seconds();
    to.closed_unix_ms = from.closed_unix_ms();
    to.compression = mesh::printable(from.compression(), 64);
    to.update_bytes = from.update_bytes();
    status.history.push_back(to);
  }
  return status;
}

Result<RunStatus> fetch_status(mesh::Channel& channel, std::chrono::milliseconds timeout) {
  SPORKLE_ASSIGN_OR_RETURN(const mesh::Message reply, channel.call("status", {}, timeout));
  return decode_status(reply.body);
}

}  // namespace sporkle::run
