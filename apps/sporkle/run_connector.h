// RunConnector: connections to a run's coordinator, by whatever leads there: the link's own addresses, what this
// machine remembers, seed lists, and when none of these does, the local network and the DHT at once. The link's key
// decides; addresses are only hints.
//
// connect() is called by one thread at a time; remember() from any.
#pragma once

#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "apps/sporkle/dht_choice.h"
#include "base/status.h"
#include "mesh/client.h"
#include "mesh/dht.h"
#include "mesh/identity.h"
#include "mesh/known_runs.h"
#include "mesh/run_link.h"

namespace sporkle::app {

struct RunConnectorOptions {
  bool lan = false;                // asks the local network when no other address leads there
  std::vector<std::string> seeds;  // files
  DhtChoice dht;                   // asked only when nothing else leads there
  mesh::ClientOptions client;
};

class RunConnector {
 public:
  // Reads what is remembered and the seed lists. A link of which no address is known at all is looked for on the local
  // network and in the DHT, for some seconds at most. not_found when nothing leads anywhere: says what was tried.
  static Result<std::unique_ptr<RunConnector>> create(const mesh::RunLink& link, const mesh::Identity& identity,
                                                      RunConnectorOptions options);

  // As mesh::Client::connect. When an address that is not the link's own is taken by another key, or one that worked
  // before is now, that is `unavailable`: the coordinator may be back in a moment.
  Result<std::unique_ptr<mesh::Client>> connect();

  // Writes down what the connections since the last call have taught: for the next time. Does nothing when there was
  // none. Failures are logged.
  void remember();

 private:
  struct Lesson {
    mesh::Address address;
    std::optional<mesh::RunRecord> record;
  };
  // Shared with calls in flight, which may end after the connector has.
  struct Lessons {
    std::mutex mutex;
    std::vector<Lesson> waiting;
  };

  RunConnector(mesh::RunLink link, const mesh::Identity& identity, RunConnectorOptions options);
  std::vector<mesh::Address> addresses() const;
  // Asks the network (the local one if `lan`), and whether that gave addresses that were not known.
  bool look_around(bool lan);
  Result<mesh::RunRecord> find_in_dht(const std::stop_token& stop);

  const mesh::RunLink link_;
  const mesh::Identity identity_;
  const RunConnectorOptions options_;
  const mesh::KnownRunsFile file_;
  std::optional<mesh::KnownRun> known_;
  std::optional<mesh::RunRecord> record_;  // the newest, of memory and seeds
  std::vector<mesh::Address> lan_;         // where the local network says it is
  std::shared_ptr<mesh::Dht> dht_;         // once it was needed
  std::chrono::steady_clock::time_point last_look_{};
  bool ever_connected_ = false;
  std::jthread lan_thread_;
  const std::shared_ptr<Lessons> lessons_ = std::make_shared<Lessons>();
};

}  // namespace sporkle::app
