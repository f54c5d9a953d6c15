// For tests: a whole run under simulated time. Workers are WorkerCores driven by an event queue; messages take time,
// may be dropped, and workers may be killed, frozen and made slower. Everything follows from the seed. Also a toy
// model.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <queue>
#include <random>
#include <string>
#include <vector>

#include "run/coordinator.h"
#include "run/duration.h"
#include "run/worker_core.h"

namespace sporkle::run::testing {

// A new folder, deleted in the end.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    // In memory where there is such a place: a run syncs often, and disks of test machines are slow.
    const std::filesystem::path memory = "/dev/shm";
    const std::filesystem::path parent =
        ::access(memory.c_str(), W_OK) == 0 ? memory : std::filesystem::temp_directory_path();
    std::string pattern = (parent / "sporkle-run-XXXXXX").string();
    if (::mkdtemp(pattern.data()) != nullptr) path_ = pattern;
  }
  ~TemporaryFolder() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// A quadratic bowl whose gradient is noisy with the data: loss = mean (w - target)^2.
class ToyReplica : public Replica {
 public:
  explicit ToyReplica(size_t count) : parameters_(count) {}
  static float target(size_t i) { return static_cast<float>(i % 17) / 8.0f - 1.0f; }
  static double loss(std::span<const float> parameters) {
    double sum = 0;
    for (size_t i = 0; i < parameters.size(); ++i) sum += std::pow(parameters[i] - target(i), 2);
    return sum / static_cast<double>(parameters.size());
  }

  size_t parameter_count() const override { return parameters_.size(); }
  Status set_parameters(std::span<const float> parameters) override {
    parameters_.assign(parameters.begin(), parameters.end());
    return {};
  }
  Status get_parameters(std::span<float> parameters) override {
    std::copy(parameters_.begin(), parameters_.end(), parameters.begin());
    return {};
  }
  Result<InnerReport> train(const InnerWork& work, const StepCallback& callback) override {
    InnerReport report;
    uint64_t noise = work.seed;
    for (const auto& shard : work.shards)
      for (const std::byte b : shard) noise = noise * 1099511628211u + std::to_integer<uint64_t>(b);
    for (uint32_t step = 0; step < work.steps; ++step) {
      report.mean_loss += loss(parameters_);
      for (size_t i = 0; i < parameters_.size(); ++i) {
        noise = noise * 6364136223846793005u + 1442695040888963407u;
        const float jitter = static_cast<float>(static_cast<int32_t>(noise >> 32)) * 0x1p-31f;
        parameters_[i] -= 0.05f * (parameters_[i] - target(i) + 0.3f * jitter);
      }
      ++report.steps;
      report.tokens += tokens_per_step;
      if (on_step) on_step();
      if (!callback({report.steps, report.mean_loss / report.steps})) break;
    }
    report.mean_loss /= report.steps;
    return report;
  }
  Result<double> measure_tokens_per_second() override { return 0.0; }

  uint64_t tokens_per_step = 64;
  std::function<void()> on_step;

 private:
  std::vector<float> parameters_;
};

inline constexpr size_t kToyParameters = 700;

inline RunConfig toy_config() {
  RunConfig config;
  config.manifest.name = "toy";
  config.manifest.parameter_count = kToyParameters;
  config.manifest.token_bytes = 2;
  config.manifest.tokens_per_step = 64;
  config.manifest.shard_tokens = 32;
  config.manifest.total_steps = 60;
  config.manifest.nominal_workers = 3;
  config.manifest.seed = 7;
  config.inner_steps = "1x2,5";
  config.start_workers = 3;
  return config;
}

inline std::vector<std::byte> toy_tokens(size_t count = 20001) {
  std::vector<std::byte> tokens(count * 2);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<std::byte>(i * 2654435761u >> 13);
  return tokens;
}

inline mesh::NodeId node_id(unsigned number) {
  mesh::NodeId id;
  // Not in the order of the numbers.
  const Digest digest = sha256("node " + std::to_string(number));
  std::copy(digest.begin(), digest.end(), id.bytes.begin());
  return id;
}

class Simulation {
 public:
  using TimePoint = mesh::Clock::TimePoint;

  struct SimWorker {
    unsigned number = 0;
    mesh::NodeId id;
    double steps_per_second = 10;
    double latency_s = 0.01;
    double upload_bytes_per_second = 0;  // of payloads; 0: no limit
    double upload_s = 0;                 // what the last payload took
    std::unique_ptr<WorkerCore> core;
    bool alive = true;
    bool done = false;
    TimePoint frozen_until{};
    uint64_t request = 0;  // serial of the one under way
    uint64_t training = 0;
    bool is_training = false;
    std::function<void(const mesh::Message&)> on_reply;
    mesh::Message message;
    std::string method;
    std::map<std::string, int> verdicts;
    Status failure;
    std::function<void(mesh::Message& submission)> tamper;  // before it is sent
    bool die_before_submit = false;
  };

  explicit Simulation(RunConfig config, uint64_t seed = 1)
      : config_(std::move(config)), tokens_(toy_tokens()), random_(seed) {
    restart();
    schedule(0.02, [this] { tick(); });
  }
  ~Simulation() { closing_ = true; }

  // Also the coordinator's first start. Everything it had only in memory is gone; answers on the way are lost.
  void restart() {
    ++generation_;
    coordinator_.reset();
    auto store = Store::open(folder_.path());
    ASSERT_TRUE(store.ok()) << store.status().to_string();
    auto coordinator = Coordinator::open(
        config_, std::move(*store), tokens_,
        [this]() -> Result<std::vector<float>> { return std::vector<float>(config_.manifest.parameter_count, 0.0f); },
        now_, unix_ms());
    ASSERT_TRUE(coordinator.ok()) << coordinator.status().to_string();
    coordinator_ = std::move(*coordinator);
  }

  SimWorker& add_worker(double steps_per_second, double latency_s = 0.01) {
    auto& worker = *workers_.emplace_back(std::make_unique<SimWorker>());
    worker.number = static_cast<unsigned>(workers_.size());
    worker.id = node_id(worker.number);
    worker.steps_per_second = steps_per_second;
    worker.latency_s = latency_s;
    start_process(worker);
    return worker;
  }

  // A new process under the same key.
  void start_process(SimWorker& worker) {
    WorkerInfo info;
    info.name = "worker " + std::to_string(worker.number);
    info.session = ++sessions_;
    worker.core =
        std::make_unique<WorkerCore>(info, [](const RunManifest& manifest) -> Result<std::unique_ptr<Replica>> {
          return std::unique_ptr<Replica>(std::make_unique<ToyReplica>(manifest.parameter_count));
        });
    worker.alive = true;
    worker.done = false;
    worker.is_training = false;
    ++worker.training;
    say_hello(worker);
    heartbeat(worker, worker.core.get());
  }

  void kill(SimWorker& worker) {
    worker.alive = false;
    ++worker.request;
    ++worker.training;
    const mesh::NodeId id = worker.id;
    schedule(0.05, [this, id] { coordinator_->disconnected(id, now_); });
  }

  // SIGSTOP for a while: its events wait; what was sent to it arrives afterwards.
  void freeze(SimWorker& worker, double for_seconds) { worker.frozen_until = now_ + to_duration(for_seconds); }

  void schedule(double delay_s, std::function<void()> action) {
    queue_.push({now_ + to_duration(delay_s), ++serial_, std::move(action)});
  }

  // Until the condition holds (true) or the simulated time is up.
  bool run_until(const std::function<bool()>& condition, double limit_s = 3600) {
    const TimePoint limit = now_ + to_duration(limit_s);
    while (!condition()) {
      if (queue_.empty() || queue_.top().when > limit) return false;
      auto next = queue_.top();
      queue_.pop();
      now_ = next.when;
      next.action();
    }
    return true;
  }
  bool run(double limit_s = 3600) {
    return run_until([this] { return coordinator_->finished(); }, limit_s);
  }

  Coordinator& coordinator() { return *coordinator_; }
  RunStatus status() const { return coordinator_->status(now_); }
  NodeStatus node(const SimWorker& worker) const {
    for (const NodeStatus& node : status().nodes)
      if (node.id == worker.id.to_string()) return node;
    return {};
  }
  double loss() const { return ToyReplica::loss(*coordinator_->parameters()); }
  Digest digest() const { return sha256(std::as_bytes(std::span(*coordinator_->parameters()))); }
  int count(EventKind kind) const { return kinds_.contains(kind) ? kinds_.at(kind) : 0; }
  double now_s() const { return to_seconds(now_.time_since_epoch()); }
  uint64_t handled() const { return handled_; }
  SimWorker& worker(size_t i) { return *workers_[i]; }
  const std::filesystem::path& folder() const { return folder_.path(); }

  double drop_probability = 0;
  std::function<void(uint64_t handled)> after_handle;
  std::function<void(const Event&)> on_event;

  // Sends for any node, and gives the answer that came at once.
  std::optional<Result<mesh::Message>> ask(const mesh::NodeId& id, std::string_view method, mesh::Message message) {
    std::optional<Result<mesh::Message>> answer;
    coordinator_->handle(id, method, std::move(message),
                         mesh::Responder([&answer](Result<mesh::Message> reply) { answer = std::move(reply); }), now_);
    collect();
    return answer;
  }

 private:
  struct Timed {
    TimePoint when;
    uint64_t serial;
    std::function<void()> action;
    bool operator<(const Timed& other) const {
      return std::tie(when, serial) > std::tie(other.when, other.serial);  // the earliest on top
    }
  };

  int64_t unix_ms() const { return 1'700'000'000'000 + static_cast<int64_t>(now_s() * 1000); }

  void tick() {
    coordinator_->tick(now_, unix_ms());
    collect();
    schedule(0.05, [this] { tick(); });
  }

  void collect() {
    for (const Event& event : coordinator_->take_events()) {
      ++kinds_[event.kind];
      if (on_event) on_event(event);
    }
  }

  bool dropped() { return drop_probability > 0 && std::uniform_real_distribution<>()(random_) < drop_probability; }

  // Runs an action of a worker's process once that is not frozen, if it still lives.
  void in_worker(SimWorker& worker, std::function<void()> action) {
    if (!worker.alive) return;
    if (worker.frozen_until > now_) {
      schedule(to_seconds(worker.frozen_until - now_) + 1e-6,
               [this, &worker, action = std::move(action)] { in_worker(worker, action); });
      return;
    }
    action();
  }

  void send(SimWorker& worker, std::string method, mesh::Message message,
            std::function<void(const mesh::Message&)> on_reply) {
    worker.method = std::move(method);
    worker.message = std::move(message);
    worker.on_reply = std::move(on_reply);
    transmit(worker);
  }

  void transmit(SimWorker& worker) {
    const uint64_t request = ++worker.request;
    const auto payload = static_cast<double>(worker.message.payload.size());
    worker.upload_s = worker.upload_bytes_per_second > 0 ? payload / worker.upload_bytes_per_second : 0;
    if (!dropped())
      schedule(worker.latency_s + worker.upload_s,
               [this, &worker, request, method = worker.method, message = worker.message] {
                 const uint64_t generation = generation_;
                 coordinator_->handle(
                     worker.id, method, message,
                     mesh::Responder([this, &worker, request, generation](Result<mesh::Message> reply) {
                       if (closing_ || generation != generation_ || dropped()) return;
                       schedule(worker.latency_s, [this, &worker, request, reply = std::move(reply)] {
                         in_worker(worker, [this, &worker, request, reply] { receive(worker, request, reply); });
                       });
                     }),
                     now_);
                 collect();
                 ++handled_;
                 if (after_handle) after_handle(handled_);
               });
    const double timeout_s =
        worker.method == "next_work" ? config_.long_poll_s + 2 : 2 + 4 * worker.latency_s + worker.upload_s;
    schedule(timeout_s, [this, &worker, request] {
      in_worker(worker, [this, &worker, request] {
        if (worker.request == request) transmit(worker);
      });
    });
    // A worker notices the coordinator's restart at once: its connection breaks.
    watch_restart(worker, request, generation_);
  }

  void watch_restart(SimWorker& worker, uint64_t request, uint64_t generation) {
    schedule(0.2, [this, &worker, request, generation] {
      if (worker.request != request) return;
      if (generation != generation_)
        in_worker(worker, [this, &worker, request] {
          if (worker.request == request) transmit(worker);
        });
      else
        watch_restart(worker, request, generation);
    });
  }

  void receive(SimWorker& worker, uint64_t request, const Result<mesh::Message>& reply) {
    if (worker.request != request) return;
    ++worker.request;
    if (reply.ok()) {
      const auto on_reply = std::move(worker.on_reply);
      on_reply(*reply);
    } else if (reply.status().code() == Code::not_found) {
      say_hello(worker);
    } else {
      worker.failure = reply.status();
      worker.done = true;
    }
  }

  bool check(SimWorker& worker, const Status& status) {
    if (status.ok()) return true;
    worker.failure = status;
    worker.done = true;
    return false;
  }

  void say_hello(SimWorker& worker) {
    send(worker, "hello", worker.core->hello(), [this, &worker](const mesh::Message& reply) {
      if (!check(worker, worker.core->on_hello(reply))) return;
      static_cast<ToyReplica&>(worker.core->replica()).tokens_per_step = config_.manifest.tokens_per_step;
      if (worker.core->tokens_per_second() == 0)
        worker.core->set_tokens_per_second(worker.steps_per_second *
                                           static_cast<double>(config_.manifest.tokens_per_step));
      proceed(worker);
    });
  }

  void proceed(SimWorker& worker) {
    WorkerCore& core = *worker.core;
    if (core.finished()) {
      worker.done = true;
      return;
    }
    if (core.needs_parameters()) {
      send(worker, "parameters", core.parameters_request(), [this, &worker](const mesh::Message& reply) {
        if (check(worker, worker.core->on_parameters(reply))) proceed(worker);
      });
    } else if (!core.has_lease()) {
      send(worker, "next_work", core.next_work(), [this, &worker](const mesh::Message& reply) {
        if (check(worker, worker.core->on_next_work(reply).status())) proceed(worker);
      });
    } else if (!core.lease_is_current()) {
      core.abandon_lease(false);
      proceed(worker);
    } else if (const auto request = core.shards_request()) {
      send(worker, "shards", *request, [this, &worker](const mesh::Message& reply) {
        if (check(worker, worker.core->on_shards(reply))) proceed(worker);
      });
    } else {
      train(worker);
    }
  }

  void train(SimWorker& worker) {
    const uint64_t training = ++worker.training;
    worker.is_training = true;
    const double duration = worker.core->lease_steps() / worker.steps_per_second;
    schedule(duration, [this, &worker, training, duration] {
      in_worker(worker, [this, &worker, training, duration] {
        if (worker.training != training) return;
        worker.is_training = false;
        if (worker.die_before_submit) return kill(worker);
        if (!check(worker, worker.core->train([](const InnerProgress&) { return true; }))) return;
        worker.core->set_seconds(duration);
        mesh::Message submission = worker.core->submit();
        if (worker.tamper) worker.tamper(submission);
        send(worker, "submit", std::move(submission), [this, &worker](const mesh::Message& reply) {
          worker.core->note_upload(worker.upload_s);
          const auto verdict = worker.core->on_submit(reply);
          if (!check(worker, verdict.status())) return;
          ++worker.verdicts[*verdict == Verdict::accepted ? "accepted"
                            : *verdict == Verdict::late   ? "late"
                                                          : "rejected"];
          proceed(worker);
        });
      });
    });
  }

  // The second thread of a worker.
  void heartbeat(SimWorker& worker, WorkerCore* core) {
    schedule(config_.heartbeat_interval_s, [this, &worker, core] {
      if (worker.core.get() != core || worker.done) return;
      in_worker(worker, [this, &worker, core] {
        heartbeat(worker, core);
        if (core->version() < 0 || dropped()) return;
        Progress progress;
        if (worker.is_training && core->has_lease()) {
          progress.lease = core->lease_id();
          progress.round = core->lease_round();
        }
        schedule(worker.latency_s, [this, &worker, core, progress] {
          const auto reply = ask(worker.id, "heartbeat", WorkerCore::heartbeat(progress));
          if (!reply || !reply->ok() || dropped()) return;
          const auto answer = WorkerCore::on_heartbeat(**reply);
          if (!answer.ok() || !answer->lease_lost) return;
          in_worker(worker, [this, &worker, core, progress, fold = answer->fold] {
            if (worker.core.get() != core || !worker.is_training || core->lease_id() != progress.lease) return;
            ++worker.training;
            worker.is_training = false;
            ++worker.verdicts["lost"];
            core->abandon_lease(fold);
            proceed(worker);
          });
        });
      });
    });
  }

  const RunConfig config_;
  const std::vector<std::byte> tokens_;
  TemporaryFolder folder_;
  std::mt19937_64 random_;
  TimePoint now_{};
  uint64_t serial_ = 0;
  uint64_t sessions_ = 0;
  uint64_t generation_ = 0;
  uint64_t handled_ = 0;
  bool closing_ = false;
  std::priority_queue<Timed> queue_;
  std::vector<std::unique_ptr<SimWorker>> workers_;
  std::map<EventKind, int> kinds_;
  std::unique_ptr<Coordinator> coordinator_;
};

}  // namespace sporkle::run::testing
