#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>

#include "apps/sporkle/bench_gemm.h"
#include "apps/sporkle/cli.h"
#include "apps/sporkle/commands.h"
#include "base/child_process.h"
#include "base/file.h"
#include "base/json_writer.h"
#include "mesh/identity.h"
#include "run/coordinator_server.h"
#include "run/gpt.h"

namespace sporkle::app {
namespace {

namespace fs = std::filesystem;

struct JoinBenchOptions {
  int64_t count = 20;
  bool json = false;
};

// A folder of its own that goes away with the object.
class TemporaryFolder {
 public:
  TemporaryFolder() : path_(fs::temp_directory_path() / ("sporkle-bench-" + std::to_string(::getpid()))) {
    fs::create_directories(path_);
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

// Value at quantile q of sorted times, by the nearest rank.
double quantile(const std::vector<double>& sorted, double q) {
  const auto rank = static_cast<size_t>(q * static_cast<double>(sorted.size()) + 0.999999);
  return sorted[std::clamp<size_t>(rank, 1, sorted.size()) - 1];
}

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

Status bench_join(const JoinBenchOptions& o) {
  const TemporaryFolder folder;
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
  for (int64_t i = -1; i < o.count; ++i) {  // the first makes the node's key and warms the caches
    SPORKLE_ASSIGN_OR_RETURN(const double ms, join_once(link, folder.path() / "home", folder.path() / "errors.log"));
    if (i >= 0) times.push_back(ms);
  }
  server->stop();
  std::ranges::sort(times);
  const double p50 = quantile(times, 0.5), p99 = quantile(times, 0.99);
  if (o.json) {
    std::printf("%s\n", JsonObject()
                            .add("name", "join")
                            .add("count", o.count)
                            .add("p50_ms", p50)
                            .add("p99_ms", p99)
                            .add("min_ms", times.front())
                            .add("max_ms", times.back())
                            .text()
                            .c_str());
  } else {
    std::printf(
        "join, from process start to ready for work, loopback, %lld times:\n"
        "  p50 %.1f ms   p99 %.1f ms   fastest %.1f ms   slowest %.1f ms\n",
        static_cast<long long>(o.count), p50, p99, times.front(), times.back());
  }
  return {};
}

struct GemmCommand {
  GemmBenchOptions options;
  bool json = false;
};

Status print_gemm(const GemmCommand& command) {
  const GemmBenchOptions& o = command.options;
  SPORKLE_ASSIGN_OR_RETURN(const GemmBenchResult r, bench_gemm(o));
  const std::string shape = std::to_string(o.m) + "x" + std::to_string(o.n) + "x" + std::to_string(o.k);
  if (command.json) {
    JsonObject object;
    object.add("name", "gemm").add("shape", shape).add("dtype", "f32").add("numerics", "strict").add("device", "cpu");
    object.add("threads", o.threads).add("value", r.gflops).add("unit", "GFLOP/s").add("rival", r.rival);
    if (r.ratio > 0) {
      object.add("rival_value", r.rival_gflops).add("ratio", r.ratio).add("ratio_min", r.ratio_min);
      object.add("ratio_max", r.ratio_max).add("rival_max_rel_error", r.rival_max_relative_error);
    }
    std::printf("%s\n", object.add("max_rel_error", 0.0).add("rounds", o.rounds).text().c_str());
    return {};
  }
  std::printf(
      "gemm %s, f32 strict, %lld thread(s), median of %lld rounds; every element equals the fma chain\n"
      "  sporkle   %7.1f GFLOP/s\n",
      shape.c_str(), static_cast<long long>(o.threads), static_cast<long long>(o.rounds), r.gflops);
  if (r.ratio > 0)
    std::printf("  OpenBLAS  %7.1f GFLOP/s   (%s)\n  ratio     %7.2f   (%.2f to %.2f)\n", r.rival_gflops,
                r.rival.c_str(), r.ratio, r.ratio_min, r.ratio_max);
  else
    std::printf("  rival: %s\n", r.rival.c_str());
  return {};
}

}  // namespace

void register_bench(Cli& cli) {
  Command bench = cli.command("bench", "Measure this machine and this program");
  auto options = std::make_shared<JoinBenchOptions>();
  Command join = bench.command("join", "How long a node takes from process start to ready for work");
  join.option("--count", &options->count, "How many times").range(1, 100000);
  join.flag("--json", &options->json, "Print one JSON object");
  join.example("bench join", "Starts a coordinator here and joins it twenty times, one process each.");
  join.action([options] { return bench_join(*options); });

  auto gemm_options = std::make_shared<GemmCommand>();
  GemmBenchOptions& g = gemm_options->options;
  Command gemm = bench.command("gemm", "Matrix product beside OpenBLAS, every element checked first");
  gemm.option("--m", &g.m, "Rows").range(1, 16384);
  gemm.option("--n", &g.n, "Columns").range(1, 65536);
  gemm.option("--k", &g.k, "Depth").range(1, 16384);
  gemm.option("--threads", &g.threads, "Threads, for both").range(1, 4096);
  gemm.option("--rounds", &g.rounds, "Rounds; ratios are per round, the median counts").range(1, 1000);
  gemm.flag("--json", &gemm_options->json, "Print one JSON object");
  gemm.example("bench gemm --threads 2", "1024 x 1024 x 1024 on two threads.");
  gemm.action([gemm_options] { return print_gemm(*gemm_options); });
  register_bench_reports(bench);
}

}  // namespace sporkle::app
