#include "apps/sporkle/bench_connections.h"

#include "mesh/connection_load.h"

namespace sporkle::app {

Result<std::vector<bench::Record>> bench_connections(int64_t count) {
  SPORKLE_ASSIGN_OR_RETURN(const mesh::ConnectionLoad load, mesh::measure_connections(static_cast<size_t>(count)));
  std::vector<bench::Record> records;
  const auto add = [&](const char* shape, double value, const char* unit, double seconds) {
    bench::Record& record = records.emplace_back();
    record.name = "connections";
    record.shape = shape;
    record.dtype = "u8";
    record.numerics = "strict";
    record.device = "cpu";
    record.value = value;
    record.unit = unit;
    record.seconds = seconds;
    record.rounds = 1;
  };
  const double each_s = 1 / load.handshakes_per_s;
  add("memory", load.bytes_each / 1024, "KiB", each_s);
  add("accept", load.handshakes_per_s, "1/s", each_s);
  add("p50", load.heartbeat_p50_ms, "ms", load.heartbeat_p50_ms * 1e-3);
  add("p99", load.heartbeat_p99_ms, "ms", load.heartbeat_p99_ms * 1e-3);
  return records;
}

}  // namespace sporkle::app
