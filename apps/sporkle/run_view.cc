#include "apps/sporkle/run_view.h"

#include <algorithm>
#include <cstdio>

#include "base/json_writer.h"

namespace sporkle::app {
namespace {

std::string number(double value, const char* format) {
  char text[48];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

std::string node_of(const run::Event& event) {
  return event.node_name.empty() ? event.node : event.node_name + " (" + event.node + ")";
}

DemoNodeState state_of(const run::NodeStatus& node) {
  switch (node.state) {
    case run::NodeState::waiting:
      return DemoNodeState::waiting;
    case run::NodeState::computing:
      return node.lease_steps > 0 && node.lease_step >= node.lease_steps ? DemoNodeState::sending
                                                                         : DemoNodeState::training;
    case run::NodeState::lost:
      return DemoNodeState::lost;
    case run::NodeState::left:
      return DemoNodeState::left;
  }
  return DemoNodeState::waiting;
}

}  // namespace

void show_status(const run::RunStatus& status, DemoScreen* screen) {
  screen->round = status.round;
  screen->inner_steps = status.inner_steps;
  screen->tokens = status.tokens;
  screen->total_tokens = status.total_tokens;
  screen->tokens_per_second = 0;
  for (const run::NodeStatus& node : status.nodes) {
    auto shown = std::ranges::find(screen->nodes, node.short_id, &DemoNode::short_id);
    if (shown == screen->nodes.end())
      shown = std::ranges::find_if(screen->nodes,
                                   [&](const DemoNode& n) { return n.short_id.empty() && n.name == node.name; });
    if (shown == screen->nodes.end()) shown = screen->nodes.insert(shown, DemoNode{});
    shown->short_id = node.short_id;
    if (shown->name.empty()) shown->name = node.name.empty() ? node.short_id : node.name;
    if (shown->state != DemoNodeState::killed) shown->state = state_of(node);
    const bool at_work = node.state == run::NodeState::computing || node.state == run::NodeState::waiting;
    shown->tokens_per_second = at_work ? node.tokens_per_second : 0;
    shown->tokens = node.tokens;
    shown->bytes_sent = node.bytes_in;
    shown->bytes_received = node.bytes_out;
    shown->lease_step = node.lease_step;
    shown->lease_steps = node.lease_steps;
    screen->tokens_per_second += shown->tokens_per_second;
  }
  // The history holds the latest rounds, and a status the tokens of all closed ones: count back from there.
  uint64_t tokens = status.tokens;
  for (const run::RoundRecord& round : status.history) tokens -= std::min(tokens, round.tokens);
  for (const run::RoundRecord& round : status.history) {
    tokens += round.tokens;
    const auto at = static_cast<double>(tokens);
    const auto add = [at](History& history, double loss) {
      if (history.empty() || history.back().first < at) history.emplace_back(at, loss);
    };
    add(screen->train_loss, round.train_loss);
    if (round.validation_loss) add(screen->validation_loss, *round.validation_loss);
  }
  if (screen->tokens_per_second > 0 && status.total_tokens > status.tokens)
    screen->remaining_s = static_cast<double>(status.total_tokens - status.tokens) / screen->tokens_per_second;
}

std::string describe_event(const run::Event& event) {
  using run::EventKind;
  const std::string round = "round " + std::to_string(event.round);
  switch (event.kind) {
    case EventKind::worker_joined:
      return node_of(event) + " joined";
    case EventKind::worker_returned:
      return node_of(event) + " is back";
    case EventKind::worker_lost:
      return node_of(event) + " was lost: " + event.message;
    case EventKind::worker_left:
      return node_of(event) + " left";
    case EventKind::round_opened:
      return "";
    case EventKind::lease_lost:
      return node_of(event) + " lost its lease in " + round;
    case EventKind::reduction_failed:
      return round + ": the workers could not add up their updates: " + event.message;
    case EventKind::round_closed:
      return round + " closed: " + std::to_string(event.workers) + " updates of " + std::to_string(event.inner_steps) +
             " steps, loss " + number(event.train_loss, "%.3f") + ", " + number(event.seconds, "%.1f s") + ", " +
             event.compression + ", " + number(static_cast<double>(event.update_bytes) / 1e6, "%.3g MB") +
             (event.by_peers ? " between peers" : "");
    case EventKind::update_late:
      return "an update of " + node_of(event) + " came after its round";
    case EventKind::update_rejected:
      return "an update of " + node_of(event) + " was refused: " + event.message;
    case EventKind::evaluated:
      return round + ": validation loss " + number(event.validation_loss.value_or(0), "%.3f") + " nats a token";
    case EventKind::evaluation_failed:
      return "evaluation failed: " + event.message;
    case EventKind::checkpoint_saved:
      return "checkpoint saved: " + event.message;
    case EventKind::checkpoint_failed:
      return "the checkpoint could not be saved: " + event.message;
    case EventKind::finished:
      return "the run is finished";
  }
  return "";
}

std::string describe_event(const run::WorkerEvent& event) {
  using run::WorkerEventKind;
  const std::string round = "round " + std::to_string(event.round);
  switch (event.kind) {
    case WorkerEventKind::joined:
      return "joined the run";
    case WorkerEventKind::fetching:
      return "fetching parameters from " + event.message;
    case WorkerEventKind::fetched:
      return "parameters of " + round + ": " + event.message + " (" + number(event.seconds, "%.1f s") + ")";
    case WorkerEventKind::ready:
      return "ready for work";
    case WorkerEventKind::lease_taken:
      return "";
    case WorkerEventKind::accepted:
      return round + ": " + std::to_string(event.steps) + " steps, loss " + number(event.loss, "%.3f") + ", " +
             number(event.seconds > 0 ? static_cast<double>(event.tokens) / event.seconds : 0, "%.0f tokens/s");
    case WorkerEventKind::reduced:
      return "";
    case WorkerEventKind::late:
      return round + ": finished too late, its work goes into the next update";
    case WorkerEventKind::rejected:
      return round + ": the update was refused: " + event.message;
    case WorkerEventKind::lease_lost:
      return round + ": the lease was lost, taking new work";
    case WorkerEventKind::disconnected:
      return "connection lost, trying again: " + event.message;
    case WorkerEventKind::reconnected:
      return "connected again";
    case WorkerEventKind::finished:
      return "the run is finished";
  }
  return "";
}

std::string event_json(const run::Event& event) {
  JsonObject object;
  object.add("event", run::event_kind_name(event.kind)).add("round", event.round);
  if (!event.node.empty()) object.add("node", event.node).add("name", event.node_name);
  if (!event.message.empty()) object.add("message", event.message);
  if (event.kind == run::EventKind::round_opened || event.kind == run::EventKind::round_closed)
    object.add("workers", event.workers).add("inner_steps", event.inner_steps);
  if (event.kind == run::EventKind::round_closed)
    object.add("steps", event.steps)
        .add("train_loss", event.train_loss)
        .add("seconds", event.seconds)
        .add("compression", event.compression)
        .add("update_bytes", event.update_bytes)
        .add("by_peers", event.by_peers);
  if (event.tokens > 0) object.add("tokens", event.tokens);
  if (event.validation_loss) object.add("validation_loss", *event.validation_loss);
  return object.text();
}

std::string event_json(const run::WorkerEvent& event) {
  JsonObject object;
  object.add("event", run::worker_event_kind_name(event.kind)).add("round", event.round);
  if (event.steps > 0) object.add("steps", event.steps).add("tokens", event.tokens);
  if (event.loss > 0) object.add("loss", event.loss);
  if (event.seconds > 0) object.add("seconds", event.seconds);
  if (!event.message.empty()) object.add("message", event.message);
  return object.text();
}

std::string status_json(const run::RunStatus& status) {
  JsonArray nodes, rounds;
  for (const run::NodeStatus& n : status.nodes)
    nodes.add(JsonObject()
                  .add("id", n.id)
                  .add("short_id", n.short_id)
                  .add("name", n.name)
                  .add("state", run::node_state_name(n.state))
                  .add("tokens_per_second", n.tokens_per_second)
                  .add("last_seen_seconds", n.last_seen_seconds)
                  .add("tokens", n.tokens)
                  .add("steps", n.steps)
                  .add("reports", n.reports)
                  .add("late", n.late)
                  .add("rejected", n.rejected)
                  .add("leases_lost", n.leases_lost)
                  .add("bytes_in", n.bytes_in)
                  .add("bytes_out", n.bytes_out));
  for (const run::RoundRecord& r : status.history) {
    JsonObject round;
    round.add("round", r.round).add("inner_steps", r.inner_steps).add("reports", r.reports).add("tokens", r.tokens);
    round.add("train_loss", r.train_loss).add("seconds", r.seconds);
    round.add("compression", r.compression).add("update_bytes", r.update_bytes);
    if (r.validation_loss) round.add("validation_loss", *r.validation_loss);
    rounds.add(round);
  }
  return JsonObject()
      .add("event", "status")
      .add("run", status.run_id)
      .add("name", status.name)
      .add("phase", run::run_phase_name(status.phase))
      .add("round", status.round)
      .add("tokens", status.tokens)
      .add("total_tokens", status.total_tokens)
      .add("bytes_in", status.bytes_in)
      .add("bytes_out", status.bytes_out)
      .add("workers_joined", status.workers_joined)
      .add("workers_lost", status.workers_lost)
      .add("nodes", nodes)
      .add("rounds", rounds)
      .text();
}

}  // namespace sporkle::app
