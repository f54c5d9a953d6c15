// Worker: a machine's part in a run. Connects to the coordinator of a link, fetches parameters, and then, until the run
// is finished: takes leases, fetches shards, trains, submits, applies what the round came to. A second thread sends
// heartbeats and learns when a lease is lost. A lost connection is made again with back-off; every request may be
// repeated, so nothing but time is lost.
//
// run() works on the caller's thread; stop() may be called from any other, and from a callback. Callbacks come from
// run()'s thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/status.h"
#include "mesh/channel.h"
#include "mesh/client.h"
#include "mesh/identity.h"
#include "mesh/run_link.h"
#include "run/parameter_donor.h"
#include "run/replica.h"

namespace sporkle::run {

enum class WorkerEventKind {
  joined,        // hello answered, replica built
  fetching,      // parameters, from several donors at once; message: how many
  fetched,       // the same are here; seconds; message: what each donor gave
  ready,         // parameters are here and work has been asked for
  lease_taken,   // steps
  accepted,      // steps, tokens, loss, seconds
  reduced,       // added up with others; message: with how many
  late,          // the round had gone on; message
  rejected,      // message: why
  lease_lost,    // while training
  disconnected,  // message: why; it goes on trying
  reconnected,
  finished,
};
std::string_view worker_event_kind_name(WorkerEventKind kind);

struct WorkerEvent {
  WorkerEventKind kind = WorkerEventKind::joined;
  uint64_t round = 0;
  uint32_t steps = 0;
  uint64_t tokens = 0;
  double loss = 0;
  double seconds = 0;
  std::string message;
};

struct WorkerSummary {
  uint64_t accepted = 0;
  uint64_t late = 0;
  uint64_t rejected = 0;
  uint64_t leases_lost = 0;
  uint64_t reconnects = 0;
  uint64_t steps = 0;
  uint64_t tokens = 0;
  bool finished = false;  // false: stopped
};

using Connect = std::function<Result<std::unique_ptr<mesh::Channel>>()>;

struct WorkerOptions {
  std::string software = "sporkle";
  std::string name;
  std::string run;  // the first hexadecimal digits of the run's ID; another run is refused. Empty: whatever is there
  uint32_t threads = 1;
  // With it, this worker adds up updates with the others of a run that asks for that (config.h, `reduction`), and then
  // listens for them on a port of all addresses. Without, its updates go to the coordinator.
  std::optional<mesh::Identity> reduction_identity;
  // Told when others are about to be joined; for tests.
  std::function<void(uint64_t round)> on_reduction;
  double speed = 1.0;  // below 1: sleeps after every step, so as to be only so fast
  std::chrono::milliseconds call_timeout{60'000};
  std::chrono::milliseconds first_connection_patience{10'000};  // to reach the coordinator at all
  std::chrono::milliseconds patience{600'000};                  // to reach it again
  // This node's key. With it, parameters of some size come from several workers at once where that is faster, and this
  // worker gives what it has to others; without, everything comes from the coordinator and nothing is served.
  std::optional<mesh::Identity> identity;
  std::optional<mesh::NodeId> coordinator;  // whose signature the manifest of parameters must have; when known
  bool serve = true;                        // to others
  ParameterDonorOptions donor;
  // When it is not empty, hears how much of the parameters is here while they come; from threads of the fetch, one at a
  // time.
  std::function<void(uint64_t bytes, uint64_t total_bytes)> on_parameters;
  // When it is not empty, every finished step's progress is told here.
  std::function<void(uint64_t round, const InnerProgress&)> on_step;
  std::function<void(const WorkerEvent&)> on_event;
};

class Worker {
 public:
  // `connect` makes one connection to the coordinator; it is called again after a loss, and for a second one while
  // parameters come from several donors.
  Worker(Connect connect, ReplicaFactory factory, WorkerOptions options);
  // The usual one: TLS to the coordinator of `link`, whose run it sets in the options.
  Worker(const mesh::RunLink& link, const mesh::Identity& identity, ReplicaFactory factory, WorkerOptions options);
  ~Worker();

  // Until the run is finished (ok), stop() (ok) or an error that waiting cannot mend: a coordinator with another key or
  // protocol, a model that cannot be built or diverges, or a coordinator that stays away for longer than the patience.
  // Called once.
  Result<WorkerSummary> run();
  void stop();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace sporkle::run
