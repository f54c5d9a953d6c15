#include "run/event.h"

namespace sporkle::run {

std::string_view event_kind_name(EventKind kind) {
  switch (kind) {
    case EventKind::worker_joined:
      return "worker_joined";
    case EventKind::worker_returned:
      return "worker_returned";
    case EventKind::worker_lost:
      return "worker_lost";
    case EventKind::worker_left:
      return "worker_left";
    case EventKind::round_opened:
      return "round_opened";
    case EventKind::lease_lost:
      return "lease_lost";
    case EventKind::reduction_failed:
      return "reduction_failed";
    case EventKind::round_closed:
      return "round_closed";
    case EventKind::update_late:
      return "update_late";
    case EventKind::update_rejected:
      return "update_rejected";
    case EventKind::evaluated:
      return "evaluated";
    case EventKind::evaluation_failed:
      return "evaluation_failed";
    case EventKind::checkpoint_saved:
      return "checkpoint_saved";
    case EventKind::checkpoint_failed:
      return "checkpoint_failed";
    case EventKind::finished:
      return "finished";
  }
  return "unknown";
}

}  // namespace sporkle::run
