// CoordinatorServer: a Coordinator on the network. Gives it messages from mesh::Server and the time, evaluates and
// saves checkpoints through the ModelHost on a thread of its own, tells those who join who else has the parameters, and
// tells what happens.
//
// Owns its threads. Methods are thread-safe. Events come one at a time, in order, from a thread of the server's; a
// callback may call status() but must not destroy the server.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "mesh/identity.h"
#include "mesh/run_link.h"
#include "mesh/run_record.h"
#include "mesh/server.h"
#include "run/config.h"
#include "run/event.h"
#include "run/replica.h"
#include "run/status.h"

namespace sporkle::run {

struct CoordinatorServerOptions {
  std::filesystem::path folder;  // the run's state (store.h)
  mesh::ServerOptions server;
  std::vector<std::string> addresses;  // hosts for the link; empty takes this machine's
  // Where relays carry connections to this server, for the link and the record; asked from time to time. May be empty.
  std::function<std::vector<mesh::Address>()> relay_addresses;
  std::string name;                       // of the run, in its record; empty takes the manifest's
  uint64_t evaluate_every_rounds = 1;     // 0: only at the end
  uint64_t checkpoint_every_rounds = 10;  // 0: only at the end
  EventCallback on_event;
};

struct RunSummary {
  RunStatus status;
  std::optional<double> validation_loss;  // none when the last evaluation failed
  std::string checkpoint;                 // empty when it could not be saved
  double seconds = 0;                     // since this server started
};

class CoordinatorServer {
 public:
  // Begins or continues the run in the folder, and serves it. `tokens` and `host` outlive the server. After a restart
  // with the same identity, folder and port the same link works again.
  static Result<std::unique_ptr<CoordinatorServer>> start(const RunConfig& config, const mesh::Identity& identity,
                                                          std::span<const std::byte> tokens, ModelHost& host,
                                                          CoordinatorServerOptions options);
  ~CoordinatorServer();

  uint16_t port() const;
  const mesh::RunLink& link() const;
  // Where this run is to be found now, signed; the file "record" in the folder has it as a seed list. Peers get it by
  // the method "record".
  Result<mesh::RunRecord> record() const;
  RunStatus status() const;
  // The parameters now.
  std::shared_ptr<const std::vector<float>> parameters() const;

  // Blocks until the run is finished, its last evaluation and checkpoint are done and its workers have been told
  // (`linger` at most), or stop() (cancelled), or the state can no longer be kept (that error).
  Result<RunSummary> wait(std::chrono::milliseconds linger = std::chrono::milliseconds(3000));
  // The run can go on later from its folder.
  void stop();

 private:
  struct State;
  explicit CoordinatorServer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace sporkle::run
