#include "apps/sporkle/demo.h"

#include <signal.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>
#include <vector>

#include "apps/sporkle/run_view.h"
#include "base/child_process.h"
#include "base/file.h"
#include "base/format_units.h"
#include "mesh/client.h"
#include "run/config.h"
#include "run/status.h"
#include "train/corpus.h"
#include "train/generate.h"
#include "train/trainer.h"

namespace sporkle::app {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr int64_t kWorkers = 4;
constexpr int64_t kDefaultTokens = 3'276'800;
constexpr int64_t kPassageTokens = 600;

struct NodePlan {
  const char* name;
  double speed;
};
constexpr NodePlan kNodes[kWorkers] = {{"desktop", 1.0}, {"laptop", 1.0}, {"netbook", 0.5}, {"phone", 0.35}};
constexpr size_t kVictim = 1;
constexpr NodePlan kNewcomer = {"newcomer", 1.0};
// Shares of the run's tokens at which things happen.
constexpr double kKillAt = 0.45, kNewcomerAt = 0.55;

struct Node {
  NodePlan plan;
  ChildProcess process;
};

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// A run of the demo: its processes and what is shown of them.
class Demo {
 public:
  Demo(const DemoOptions& options, const DemoCallbacks& callbacks)
      : options_(options), callbacks_(callbacks), mesh_(demo_mesh_config(options)), start_(Clock::now()) {}

  Result<DemoSummary> run() {
    SPORKLE_RETURN_IF_ERROR(prepare());
    SPORKLE_RETURN_IF_ERROR(start_mesh());
    SPORKLE_RETURN_IF_ERROR(follow_mesh());
    SPORKLE_RETURN_IF_ERROR(train_synchronously());
    SPORKLE_RETURN_IF_ERROR(write_passage());
    summary_.seconds = seconds_since(start_);
    return summary_;
  }

 private:
  void say(const std::string& text) {
    screen_.events.push_back({seconds_since(start_), text});
    if (screen_.events.size() > 100) screen_.events.erase(screen_.events.begin());
    if (callbacks_.event) callbacks_.event(text);
  }

  void show() {
    screen_.elapsed_s = seconds_since(start_);
    if (callbacks_.show) callbacks_.show(screen_);
  }

  Status check_stop() const {
    return callbacks_.stop && callbacks_.stop() ? Status(Code::cancelled, "the demo was stopped") : Status();
  }

  Status prepare() {
    screen_.stage = "preparing the text";
    show();
    std::error_code error;
    for (const char* part : {"mesh", "synchronous", "nodes", "run"}) fs::remove_all(options_.directory / part, error);
    fs::create_directories(options_.directory / "nodes", error);
    if (error) return errno_status(error.value(), "cannot create " + options_.directory.string());
    SPORKLE_RETURN_IF_ERROR(write_file_atomically(options_.directory / "mesh.toml", train::config_to_toml(mesh_)));
    SPORKLE_RETURN_IF_ERROR(write_file_atomically(options_.directory / "synchronous.toml",
                                                  train::config_to_toml(demo_synchronous_config(options_))));
    SPORKLE_ASSIGN_OR_RETURN(train::Dataset dataset, train::Dataset::open(mesh_.data, mesh_.model.context));
    dataset_.emplace(std::move(dataset));
    screen_.corpus = mesh_.data.corpus;
    for (const train::NamedCorpus& corpus : train::named_corpora())
      if (corpus.name == mesh_.data.corpus) screen_.corpus = corpus.title;
    return {};
  }

  std::vector<std::pair<std::string, std::string>> environment(const std::string& node) const {
    return {{"SPORKLE_HOME", fs::absolute(options_.directory / "nodes" / node).string()}};
  }

  Result<ChildProcess> start_process(const std::string& node, const std::vector<std::string>& arguments) {
    ChildOptions child;
    child.program = own_program();
    child.arguments = arguments;
    child.environment = environment(node);
    child.error_log = options_.directory / "nodes" / (node + ".log");
    return ChildProcess::start(child);
  }

  // What a process said on its standard error, for a message.
  std::string last_words(const std::string& node) const {
    const auto log = read_file(options_.directory / "nodes" / (node + ".log"));
    return log.ok() && !log->empty() ? *log : "it said nothing; see " + (options_.directory / "nodes").string();
  }

  Status start_worker(const NodePlan& plan, bool late) {
    char speed[16];
    std::snprintf(speed, sizeof speed, "%.2f", plan.speed);
    SPORKLE_ASSIGN_OR_RETURN(
        ChildProcess process,
        start_process(plan.name, {"join", link_, "--name", plan.name, "--threads", "1", "--speed", speed, "--json"}));
    nodes_.push_back({plan, std::move(process)});
    DemoNode shown;
    shown.name = plan.name;
    shown.speed_limit = plan.speed;
    shown.joined_late = late;
    screen_.nodes.push_back(shown);
    return {};
  }

  Status start_mesh() {
    screen_.stage = "starting the mesh";
    say("starting a coordinator and " + std::to_string(kWorkers) + " workers, each a process of its own");
    show();
    SPORKLE_ASSIGN_OR_RETURN(
        ChildProcess coordinator,
        start_process("coordinator", {"run", "start", (options_.directory / "mesh.toml").string(), "--state",
                                      (options_.directory / "run").string(), "--listen", "127.0.0.1:0", "--address",
                                      "127.0.0.1", "--threads", "1", "--evaluate-every", "8", "--evaluation-windows",
                                      "96", "--checkpoint-every", "25", "--json"}));
    coordinator_.emplace(std::move(coordinator));
    while (link_.empty()) {
      const auto line = coordinator_->read_line(60'000);
      if (!line) return unavailable("the coordinator did not start: " + last_words("coordinator"));
      const auto event = nlohmann::json::parse(*line, nullptr, false);
      if (event.is_object() && event.value("event", "") == "link") link_ = event.value("link", "");
    }
    for (const NodePlan& plan : kNodes) SPORKLE_RETURN_IF_ERROR(start_worker(plan, false));
    return {};
  }

  // Until the coordinator has finished: shows the run, kills a worker, lets another join.
  Status follow_mesh() {
    screen_.stage = "training on the mesh";
    const auto mesh_start = Clock::now();
    SPORKLE_ASSIGN_OR_RETURN(const mesh::RunLink link, mesh::RunLink::parse(link_));
    SPORKLE_ASSIGN_OR_RETURN(const mesh::Identity identity, mesh::Identity::generate());
    mesh::ClientOptions client_options;
    client_options.role = "observer";
    SPORKLE_ASSIGN_OR_RETURN(const std::unique_ptr<mesh::Client> client,
                             mesh::Client::connect(link, identity, client_options));
    bool killed = false, joined = false;
    std::string checkpoint;
    while (checkpoint.empty()) {
      if (Status stop = check_stop(); !stop.ok()) return stop;
      while (const auto line = coordinator_->read_line(0)) {
        const auto event = nlohmann::json::parse(*line, nullptr, false);
        if (event.is_object()) on_coordinator_event(event, &checkpoint);
      }
      if (checkpoint.empty() && coordinator_->finished())
        return unavailable("the coordinator ended before the run did: " + last_words("coordinator"));
      for (Node& node : nodes_) drain(node);
      const auto status = run::fetch_status(*client, std::chrono::seconds(5));
      if (status.ok()) {
        show_status(*status, &screen_);
        last_status_ = *status;
        screen_.model = "GPT, " + format_count(static_cast<double>(status->parameter_count)) + " parameters";
        const double done = static_cast<double>(status->tokens) / static_cast<double>(status->total_tokens);
        if (!killed && done >= kKillAt) {
          killed = true;
          Node& victim = nodes_[kVictim];
          victim.process.send_signal(SIGKILL);
          screen_.nodes[kVictim].state = DemoNodeState::killed;
          say("killed \"" + std::string(victim.plan.name) + "\" with SIGKILL while it worked");
        }
        if (killed && !joined && done >= kNewcomerAt) {
          joined = true;
          say("\"" + std::string(kNewcomer.name) + "\" joins in mid-run");
          SPORKLE_RETURN_IF_ERROR(start_worker(kNewcomer, true));
        }
      }
      show();
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
    }
    screen_.remaining_s.reset();
    summary_.rounds = last_status_.round;
    summary_.tokens = last_status_.tokens;
    summary_.workers_joined = static_cast<int64_t>(last_status_.workers_joined);
    summary_.workers_lost = static_cast<int64_t>(last_status_.workers_lost);
    summary_.checkpoint = checkpoint;
    // All that crossed the wire, shared among the nominal workers: what the killed one moved counts too.
    uint64_t bytes = 0;
    for (const run::NodeStatus& node : last_status_.nodes) bytes += node.bytes_in + node.bytes_out;
    summary_.bytes_per_node = bytes / kWorkers;
    const uint64_t steps = last_status_.tokens / static_cast<uint64_t>(kWorkers * mesh_.tokens_per_step());
    summary_.all_reduce_bytes_per_node =
        run::all_reduce_bytes_per_node(last_status_.parameter_count, static_cast<uint32_t>(kWorkers), steps);
    say("the mesh has finished in " + format_duration(seconds_since(mesh_start)));
    for (Node& node : nodes_) {
      if (!node.process.wait(5000).ok()) node.process.send_signal(SIGTERM);
      drain(node);
    }
    SPORKLE_ASSIGN_OR_RETURN(summary_.validation_loss, validation_loss(checkpoint));
    screen_.validation_loss.emplace_back(static_cast<double>(summary_.tokens), summary_.validation_loss);
    return {};
  }

  void on_coordinator_event(const nlohmann::json& event, std::string* checkpoint) {
    const std::string kind = event.value("event", "");
    const std::string who = event.value("name", event.value("node", ""));
    if (kind == "worker_joined") say("\"" + who + "\" joined as " + event.value("node", ""));
    if (kind == "worker_lost") say("the coordinator lost \"" + who + "\": its work is handed out again");
    if (kind == "update_rejected") say("an update of \"" + who + "\" was refused: " + event.value("message", ""));
    if (kind == "checkpoint_failed") say("a checkpoint could not be saved: " + event.value("message", ""));
    if (kind == "summary") *checkpoint = event.value("checkpoint", "");
  }

  // Keeps a worker's output from filling its pipe.
  static void drain(Node& node) {
    while (node.process.read_line(0)) {
    }
  }

  // Over the whole validation part, in nats a byte (the demo's tokens are bytes).
  Result<double> validation_loss(const fs::path& checkpoint) {
    SPORKLE_ASSIGN_OR_RETURN(const train::Checkpoint loaded, train::load_checkpoint(checkpoint));
    SPORKLE_ASSIGN_OR_RETURN(
        model_, train::LanguageModel::from_checkpoint(loaded, mesh_.train, {"", static_cast<int>(options_.threads)}));
    SPORKLE_ASSIGN_OR_RETURN(const train::Evaluation evaluation,
                             train::evaluate(*model_, *dataset_, dataset_->validation(), 0, 32));
    return evaluation.nats_per_byte;
  }

  Status train_synchronously() {
    screen_.stage = "the same training in one process, for comparison";
    say("now the same tokens and the same global batch, synchronously in one process");
    train::TrainConfig config = demo_synchronous_config(options_);
    SPORKLE_ASSIGN_OR_RETURN(const std::unique_ptr<train::Trainer> trainer,
                             train::Trainer::create(config, {"", static_cast<int>(options_.threads)}, false));
    const auto start = Clock::now();
    auto shown = Clock::now() - std::chrono::seconds(1);
    std::string folder;
    train::TrainCallbacks callbacks;
    callbacks.step = [&](const train::StepReport& report) {
      const double share = static_cast<double>(report.step) / static_cast<double>(config.total_steps());
      screen_.tokens = report.tokens;
      screen_.total_tokens = static_cast<uint64_t>(config.total_steps() * config.tokens_per_step());
      const double seconds = seconds_since(start);
      screen_.tokens_per_second = static_cast<double>(report.tokens) / seconds;
      screen_.remaining_s = seconds / share - seconds;
      if (Clock::now() - shown < std::chrono::milliseconds(250)) return;
      shown = Clock::now();
      show();
    };
    callbacks.evaluated = [&](int64_t step, const train::Evaluation& evaluation) {
      screen_.synchronous_loss.emplace_back(static_cast<double>(step * config.tokens_per_step()),
                                            evaluation.nats_per_byte);
      summary_.synchronous_validation_loss = evaluation.nats_per_byte;
    };
    callbacks.saved = [&](int64_t, const fs::path& path) { folder = path.string(); };
    callbacks.stop = callbacks_.stop;
    SPORKLE_RETURN_IF_ERROR(trainer->train(callbacks));
    SPORKLE_RETURN_IF_ERROR(check_stop());
    screen_.remaining_s.reset();
    say("synchronous training has finished in " + format_duration(seconds_since(start)));
    return {};
  }

  Status write_passage() {
    screen_.stage = "writing";
    show();
    const train::Tokenizer& tokenizer = dataset_->tokenizer();
    train::SamplingOptions sampling;
    sampling.temperature = 0.7;
    sampling.top_p = 0.95;
    std::string text = options_.prompt;
    SPORKLE_RETURN_IF_ERROR(
        train::generate(*model_, tokenizer.encode(options_.prompt), '\n', kPassageTokens, sampling, [&](int32_t token) {
          text += tokenizer.token_bytes(token);
          return true;
        }));
    // The passage ends with a whole sentence where there is one.
    if (const size_t end = text.find_last_of(".?!"); end != std::string::npos && end > text.size() / 2)
      text.resize(end + 1);
    summary_.passage = text;
    return {};
  }

  const DemoOptions& options_;
  const DemoCallbacks& callbacks_;
  const train::TrainConfig mesh_;
  const Clock::time_point start_;
  std::optional<train::Dataset> dataset_;
  std::unique_ptr<train::LanguageModel> model_;
  std::optional<ChildProcess> coordinator_;
  std::vector<Node> nodes_;
  std::string link_;
  run::RunStatus last_status_;
  DemoScreen screen_;
  DemoSummary summary_;
};

}  // namespace

train::TrainConfig demo_mesh_config(const DemoOptions& options) {
  train::TrainConfig config;
  config.data.corpus = options.corpus;
  config.model = {.layers = 4, .heads = 4, .width = 128, .context = 128};
  config.train.batch_size = 8;
  config.train.tokens = options.tokens > 0 ? options.tokens : kDefaultTokens;
  config.train.learning_rate = 3e-3;
  config.train.min_learning_rate = 3e-4;
  config.train.warmup_steps = 50;
  config.train.eval_every = 0;
  config.train.checkpoint_every = 0;
  config.output.directory = (options.directory / "mesh").string();
  config.run.workers = kWorkers;
  // Rounds grow: from scratch, frequent averaging at the start is worth its bytes.
  config.run.inner_steps = "1x10,2x10,5x20,10x20,20x";
  config.run.outer_learning_rate = 1.0;
  config.run.outer_momentum = 0.0;
  config.run.heartbeat_timeout_s = 3.0;
  config.run.listen = "127.0.0.1:0";
  return config;
}

train::TrainConfig demo_synchronous_config(const DemoOptions& options) {
  train::TrainConfig config = demo_mesh_config(options);
  config.train.batch_size *= kWorkers;
  config.train.eval_every = std::max<int64_t>(config.total_steps() / 8, 1);
  config.train.eval_batches = 4;
  config.output.directory = (options.directory / "synchronous").string();
  config.run = {};
  return config;
}

Result<DemoSummary> run_demo(const DemoOptions& options, const DemoCallbacks& callbacks) {
  return Demo(options, callbacks).run();
}

}  // namespace sporkle::app
