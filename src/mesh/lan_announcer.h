// LanAnnouncer: tells the local network about a run. Sends its signed record to a multicast group when it starts and
// now and then, and answers queries. How much it sends is bounded whatever arrives; nothing that arrives is kept.
//
// Owns a thread and its sockets; methods are thread-safe. The destructor ends both.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>

#include "base/status.h"
#include "mesh/lan_datagram.h"
#include "mesh/lan_scope.h"
#include "mesh/run_record.h"

namespace sporkle::mesh {

struct LanAnnouncerOptions {
  LanScope scope = LanScope::network;
  uint16_t port = lan_port;
  std::chrono::milliseconds interval{30'000};  // between announcements, after the first few
  // Queries beyond this rate are answered together, by one announcement a second.
  double answers_per_second = 10;
  double answer_burst = 20;
};

class LanAnnouncer {
 public:
  // `record` gives the record that holds now; it is called on the announcer's thread. Errors: those of the system when
  // neither IPv4 nor IPv6 can be used.
  static Result<std::unique_ptr<LanAnnouncer>> start(std::function<Result<RunRecord>()> record,
                                                     const LanAnnouncerOptions& options = {});
  ~LanAnnouncer();

  struct Counts {
    uint64_t announcements = 0;  // over all interfaces counted once
    uint64_t answers = 0;
    uint64_t ignored = 0;  // datagrams that are not ours or damaged
  };
  Counts counts() const;

 private:
  struct State;
  explicit LanAnnouncer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace sporkle::mesh
