#include "apps/sporkle/bench_join.h"

#include <signal.h>

#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/child_process.h"
#include "base/file.h"
#include "base/temporary_folder.h"
#include "bench/statistics.h"
#include "mesh/delay_proxy.h"
#include "mesh/identity.h"
#include "run/coordinator_server.h"
#include "run/gpt.h"

namespace sporkle::app {
namespace {

namespace fs = std::filesystem;

// From the start of a `sporkle join` process to its line "ready", once.
Result<double> join_once(const std::string& link, const fs::path& home, const fs::path& log) {
  const auto start = std::chrono::steady_clock::now();
  ChildOptions options;
  options.program = own_program();
  options.arguments = {"join", link, "--threads", "1", "--json"};
  options.environment = {{"SPORKLE_HOME", home.string()}};
  options.error_log = log;
  SPORKLE_ASSIGN_OR_RETURN(ChildProcess child, ChildProcess::start(options));
  for (;;) {
    const std::optional<std::string> line = child.read_line(20'000);
    if (!line) {
      const auto errors = read_file(log);
      return unavailable("a joining process did not become ready: " + (errors.ok() ? *errors : std::string("no word")));
    }
    if (line->find("\"ready\"") != std::string::npos) break;
  }
  const double ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  child.send_signal(SIGTERM);
  if (!child.wait(5000).ok()) child.send_signal(SIGKILL);
  return ms;
}

// The run that is joined, and what serves it.
struct Joined {
  train::TrainConfig config;
  run::RunConfig run;
  std::vector<std::byte> tokens;
  std::unique_ptr<run::GptHost> host;
};

// The model of the demo, over a text that is there on every machine. The run waits for more workers than come, so that
// joining is all that happens.
Result<Joined> prepare_run(const fs::path& folder) {
  std::string text;
  for (int i = 0; text.size() < 200'000; ++i)
    text += "This is sentence number " + std::to_string(i) + " of the text.\n";
  SPORKLE_RETURN_IF_ERROR(write_file_atomically(folder / "text.txt", text));
  Joined joined;
  train::TrainConfig& config = joined.config;
  config.data.path = (folder / "text.txt").string();
  config.train.batch_size = 8;
  config.output.directory = (folder / "out").string();
  config.run.workers = 1000;
  SPORKLE_ASSIGN_OR_RETURN(const train::Dataset dataset, train::Dataset::open(config.data, config.model.context));
  SPORKLE_ASSIGN_OR_RETURN(joined.run, run::run_config(config, dataset));
  joined.tokens = run::training_tokens(dataset, joined.run.manifest.token_bytes);
  SPORKLE_ASSIGN_OR_RETURN(joined.host, run::GptHost::create(config, dataset, {"", 1}, 1));
  return joined;
}

// A coordinator on loopback that says it is at `host`, with its state in `folder`.
Result<std::unique_ptr<run::CoordinatorServer>> serve(const Joined& joined, const std::string& host,
                                                      const fs::path& folder) {
  SPORKLE_ASSIGN_OR_RETURN(const mesh::Identity identity, mesh::Identity::generate());
  run::CoordinatorServerOptions options;
  options.folder = folder;
  fs::create_directories(options.folder);
  options.server.host = "127.0.0.1";
  options.addresses = {host};
  return run::CoordinatorServer::start(joined.run, identity, joined.tokens, *joined.host, options);
}

void add_records(const std::string& kind, const std::vector<double>& times, std::vector<bench::Record>& records) {
  for (const auto& [shape, quantile] : {std::pair("p50", 0.5), std::pair("p99", 0.99)}) {
    bench::Record& record = records.emplace_back();
    record.name = "join";
    record.shape = kind + shape;
    record.dtype = "f32";
    record.numerics = "strict";
    record.device = "cpu";
    record.threads = 1;
    record.value = bench::quantile(times, quantile);
    record.unit = "ms";
    record.seconds = record.value * 1e-3;
    record.noise = bench::relative_noise(times);
    record.rounds = static_cast<int64_t>(times.size());
  }
}

}  // namespace

Result<std::vector<bench::Record>> bench_join(const JoinBenchOptions& options) {
  SPORKLE_ASSIGN_OR_RETURN(const TemporaryFolder folder, TemporaryFolder::create("sporkle-bench"));
  SPORKLE_ASSIGN_OR_RETURN(const Joined joined, prepare_run(folder.path()));
  const fs::path home = folder.path() / "home", log = folder.path() / "errors.log";
  const int64_t total = (options.count + 1) * (options.round_trip_ms > 0 ? 2 : 1);
  int64_t done = 0;
  // The first makes the node's key, warms the caches and remembers where the run is; it does not count.
  const auto join_many = [&](const std::string& first_link, const std::string& link) -> Result<std::vector<double>> {
    std::vector<double> times;
    for (int64_t i = -1; i < options.count; ++i) {
      SPORKLE_ASSIGN_OR_RETURN(const double ms, join_once(i < 0 ? first_link : link, home, log));
      if (i >= 0) times.push_back(ms);
      if (options.on_progress) options.on_progress(static_cast<double>(++done) / static_cast<double>(total));
    }
    return times;
  };
  std::vector<bench::Record> records;
  {
    SPORKLE_ASSIGN_OR_RETURN(const auto server, serve(joined, "127.0.0.1", folder.path() / "run"));
    const std::string link = server->link().to_string();
    SPORKLE_ASSIGN_OR_RETURN(const std::vector<double> times, join_many(link, link));
    server->stop();
    add_records("", times, records);
  }
  if (options.round_trip_ms == 0) return records;
  // The delay stands at the same port of another address, which is the only one that anybody is told.
  const std::string far = "127.0.0.2";
  SPORKLE_ASSIGN_OR_RETURN(const auto server, serve(joined, far, folder.path() / "far_run"));
  SPORKLE_ASSIGN_OR_RETURN(const auto proxy,
                           mesh::DelayProxy::start({far, server->port()}, {"127.0.0.1", server->port()},
                                                   std::chrono::milliseconds(options.round_trip_ms)));
  mesh::RunLink link = server->link();
  const std::string first_link = link.to_string();
  link.addresses.clear();
  SPORKLE_ASSIGN_OR_RETURN(const std::vector<double> times, join_many(first_link, link.to_string()));
  server->stop();
  add_records(std::to_string(options.round_trip_ms) + "ms_", times, records);
  return records;
}

}  // namespace sporkle::app
