// DhtPublisher: keeps a run's record in the DHT: puts it there when it starts, when it has changed, and every half
// hour, since nodes leave and forget. Owns a thread; the destructor ends it within moments.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <thread>

#include "mesh/dht.h"

namespace sporkle::mesh {

struct DhtPublisherOptions {
  std::chrono::milliseconds look_interval{10'000};  // between looks whether the record has changed
  std::chrono::milliseconds refresh_interval{30 * 60'000};
  std::chrono::milliseconds put_timeout{60'000};
  // Called on the publisher's thread with the sequence number and the number of nodes that took it; may be empty.
  std::function<void(uint64_t sequence, size_t nodes)> on_published;
};

class DhtPublisher {
 public:
  // `dht` outlives the publisher. `record` gives the record that holds now; it is called on the publisher's thread.
  DhtPublisher(Dht& dht, const Identity& identity, std::function<Result<RunRecord>()> record,
               DhtPublisherOptions options = {});

 private:
  std::jthread thread_;
};

}  // namespace sporkle::mesh
