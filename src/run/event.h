// Event: what happens in a run, for the command line and its --json lines. A plain value.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace sporkle::run {

enum class EventKind {
  worker_joined,
  worker_returned,    // was lost or had left
  worker_lost,        // message: why
  worker_left,        // said good-bye
  round_opened,       // workers, inner_steps
  lease_lost,         // its round's deadline passed
  reduction_failed,   // message: why; the round goes on, by another attempt or by the coordinator
  round_closed,       // train_loss, tokens, steps, seconds, workers = updates that went in, compression, update_bytes
  update_late,        // came after its round
  update_rejected,    // message: why
  evaluated,          // validation_loss
  evaluation_failed,  // message; the run goes on
  checkpoint_saved,   // message: where it lies
  checkpoint_failed,  // message; the run goes on
  finished,
};
std::string_view event_kind_name(EventKind kind);

struct Event {
  EventKind kind = EventKind::worker_joined;
  uint64_t round = 0;
  std::string node;       // short ID; empty when it is about no node
  std::string node_name;  // what the node calls itself
  std::string message;
  uint32_t workers = 0;
  uint32_t inner_steps = 0;
  uint64_t steps = 0;
  uint64_t tokens = 0;  // of this round; for `finished`, of the run
  double seconds = 0;
  double train_loss = 0;
  std::string compression;  // as in RoundRecord
  uint64_t update_bytes = 0;
  bool by_peers = false;  // round_closed: the workers added up
  std::optional<double> validation_loss;
};
using EventCallback = std::function<void(const Event&)>;

}  // namespace sporkle::run
