#include "mesh/dht_publisher.h"

#include <condition_variable>
#include <mutex>
#include <optional>
#include <utility>

#include "base/log.h"

namespace sporkle::mesh {
namespace {

using std::chrono::steady_clock;

constexpr size_t enough_nodes = 4;

void publish(const std::stop_token& stop, Dht& dht, const Identity& identity,
             const std::function<Result<RunRecord>()>& record, const DhtPublisherOptions& options) {
  std::mutex mutex;
  std::condition_variable_any wake;
  std::optional<uint64_t> published;
  steady_clock::time_point refresh_at{};
  std::string last_failure;
  while (!stop.stop_requested()) {
    Status failure;
    if (const auto now = record(); !now.ok()) {
      failure = now.status();
    } else if (published != now->sequence || steady_clock::now() >= refresh_at) {
      const auto nodes = dht.put(*now, identity, options.put_timeout, stop);
      if (nodes.ok()) {
        published = now->sequence;
        // A table that has just begun has few nodes yet, or shows few of them to one who has just come.
        refresh_at = steady_clock::now() + (*nodes < enough_nodes ? options.look_interval : options.refresh_interval);
        last_failure.clear();
        if (options.on_published) options.on_published(now->sequence, *nodes);
      } else if (nodes.status().code() != Code::cancelled) {
        failure = nodes.status();
      }
    }
    if (!failure.ok() && std::exchange(last_failure, failure.message()) != failure.message())
      log(LogLevel::warning, "mesh", "the run's record is not in the DHT yet: " + failure.message());
    std::unique_lock lock(mutex);
    wake.wait_for(lock, stop, options.look_interval, [] { return false; });
  }
}

}  // namespace

DhtPublisher::DhtPublisher(Dht& dht, const Identity& identity, std::function<Result<RunRecord>()> record,
                           DhtPublisherOptions options)
    : thread_([&dht, identity, record = std::move(record), options = std::move(options)](std::stop_token stop) {
        publish(stop, dht, identity, record, options);
      }) {}

}  // namespace sporkle::mesh
