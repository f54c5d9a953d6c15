#include "apps/sporkle/bench_join.h"

#include <signal.h>

#include <chrono>
#include <memory>
#include <string>

#include "base/child_process.h"
#include "base/file.h"
#include "base/temporary_folder.h"
#include "bench/statistics.h"
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

}  // namespace

Result<std::vector<bench::Record>> bench_join(int64_t count) {
  SPORKLE_ASSIGN_OR_RETURN(const TemporaryFolder folder, TemporaryFolder::create("sporkle-bench"));
  // The model of the demo, over a text that is there on every machine. The run waits for more workers than come, so
  // that joining is all that happens.
  std::string text;
  for (int i = 0; text.size() < 200'000; ++i)
    text += "This is sentence number " + std::to_string(i) + " of the text.\n";
  SPORKLE_RETURN_IF_ERROR(write_file_atomically(folder.path() / "text.txt", text));
  train::TrainConfig config;
  config.data.path = (folder.path() / "text.txt").string();
  config.train.batch_size = 8;
  config.output.directory = (folder.path() / "out").string();
  config.run.workers = 1000;
  SPORKLE_ASSIGN_OR_RETURN(const train::Dataset dataset, train::Dataset::open(config.data, config.model.context));
  SPORKLE_ASSIGN_OR_RETURN(const run::RunConfig run, run::run_config(config, dataset));
  const std::vector<std::byte> tokens = run::training_tokens(dataset, run.manifest.token_bytes);
  SPORKLE_ASSIGN_OR_RETURN(const std::unique_ptr<run::GptHost> host, run::GptHost::create(config, dataset, {"", 1}, 1));
  SPORKLE_ASSIGN_OR_RETURN(const mesh::Identity identity, mesh::Identity::generate());
  run::CoordinatorServerOptions options;
  options.folder = folder.path() / "run";
  fs::create_directories(options.folder);
  options.server.host = "127.0.0.1";
  options.addresses = {"127.0.0.1"};
  SPORKLE_ASSIGN_OR_RETURN(const std::unique_ptr<run::CoordinatorServer> server,
                           run::CoordinatorServer::start(run, identity, tokens, *host, options));
  const std::string link = server->link().to_string();
  std::vector<double> times;
  for (int64_t i = -1; i < count; ++i) {  // the first makes the node's key and warms the caches
    SPORKLE_ASSIGN_OR_RETURN(const double ms, join_once(link, folder.path() / "home", folder.path() / "errors.log"));
    if (i >= 0) times.push_back(ms);
  }
  server->stop();
  std::vector<bench::Record> records;
  for (const auto& [shape, quantile] : {std::pair("p50", 0.5), std::pair("p99", 0.99)}) {
    bench::Record& record = records.emplace_back();
    record.name = "join";
    record.shape = shape;
    record.dtype = "f32";
    record.numerics = "strict";
    record.device = "cpu";
    record.threads = 1;
    record.value = bench::quantile(times, quantile);
    record.unit = "ms";
    record.seconds = record.value * 1e-3;
    record.noise = bench::relative_noise(times);
    record.rounds = count;
  }
  return records;
}

}  // namespace sporkle::app
