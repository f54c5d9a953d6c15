#include "run/worker.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <random>
#include <thread>
#include <utility>

#include "base/log.h"
#include "mesh/client.h"
#include "mesh/reduction_group.h"
#include "mesh/retry.h"
#include "mesh/run_record.h"
#include "run/parameter_fetch.h"
#include "run/protocol.h"
#include "run/worker_core.h"

namespace sporkle::run {
namespace {

using SteadyClock = std::chrono::steady_clock;

// What the coordinator alone brings within this is not worth while to ask others for.
constexpr double kShortTransfer_s = 1.0;
constexpr std::chrono::milliseconds kPieceTimeout(20'000), kDonorConnectTimeout(1500);

WorkerInfo worker_info(const WorkerOptions& options) {
  std::random_device random;
  const uint64_t session = uint64_t{random()} << 32 | random();
  return {options.software, options.name, options.threads, session, options.run};
}

WorkerOptions with_run_of(const mesh::RunLink& link, const mesh::Identity& identity, WorkerOptions options) {
  options.run = mesh::run_in_link(link);
  options.identity = identity;
  options.coordinator = link.coordinator;
  return options;
}

double seconds_since(SteadyClock::time_point start) {
  return std::chrono::duration<double>(SteadyClock::now() - start).count();
}

}  // namespace

std::string_view worker_event_kind_name(WorkerEventKind kind) {
  switch (kind) {
    case WorkerEventKind::joined:
      return "joined";
    case WorkerEventKind::fetching:
      return "fetching";
    case WorkerEventKind::fetched:
      return "fetched";
    case WorkerEventKind::ready:
      return "ready";
    case WorkerEventKind::lease_taken:
      return "lease_taken";
    case WorkerEventKind::accepted:
      return "accepted";
    case WorkerEventKind::reduced:
      return "reduced";
    case WorkerEventKind::late:
      return "late";
    case WorkerEventKind::rejected:
      return "rejected";
    case WorkerEventKind::lease_lost:
      return "lease_lost";
    case WorkerEventKind::disconnected:
      return "disconnected";
    case WorkerEventKind::reconnected:
      return "reconnected";
    case WorkerEventKind::finished:
      return "finished";
  }
  return "unknown";
}

struct Worker::State {
  State(Connect connect_to, ReplicaFactory factory, WorkerOptions worker_options)
      : connect(std::move(connect_to)),
        options(std::move(worker_options)),
        core(worker_info(options), std::move(factory)) {}

  const Connect connect;
  const WorkerOptions options;
  WorkerCore core;                        // run()'s thread only, what it says otherwise excepted
  std::unique_ptr<ParameterDonor> donor;  // null: nothing is served
  WorkerSummary summary;
  double round_trip_s = 0;   // of a small call
  bool has_stepped = false;  // a step was done since the start
  std::optional<mesh::ReductionListener> listener;
  uint16_t listening_port = 0;

  std::mutex mutex;
  std::condition_variable wake;  // stopping
  bool stopping = false;
  std::shared_ptr<mesh::Channel> channel;  // null while there is no connection
  bool connecting = false;
  bool ever_connected = false;
  Progress progress;  // what the next heartbeat says
  std::string lost_lease;
  bool lost_lease_folds = false;
  std::vector<WorkerEvent> events;  // from the heartbeat thread, told by run()'s

  // --- connection, used by both threads ---

  // The connection, made anew when there is none. Blocks, with back-off, for as long as the patience lasts.
  Result<std::shared_ptr<mesh::Channel>> connection() {
    std::unique_lock lock(mutex);
    wake.wait(lock, [&] { return stopping || !connecting; });
    if (stopping) return Status(Code::cancelled, "the worker is stopping");
    if (channel) return channel;
    connecting = true;
    const auto patience = ever_connected ? options.patience : options.first_connection_patience;
    const auto give_up = SteadyClock::now() + patience;
    mesh::Backoff backoff;
    Status status;
    while (!stopping) {
      lock.unlock();
      Result<std::unique_ptr<mesh::Channel>> made = connect();
      lock.lock();
      status = made.status();
      if (status.ok()) {
        channel = std::move(*made);
        if (ever_connected) {
          ++summary.reconnects;
          events.push_back({.kind = WorkerEventKind::reconnected});
        }
        ever_connected = true;
        break;
      }
      const auto wait = backoff.next();
      if (!mesh::is_retryable(status) || SteadyClock::now() + wait >= give_up) break;
      wake.wait_for(lock, wait, [&] { return stopping; });
    }
    connecting = false;
    if (stopping && channel) channel->close();
    wake.notify_all();
    if (stopping) return Status(Code::cancelled, "the worker is stopping");
    if (!status.ok()) return status;
    return channel;
  }

  // Another one beside it, that its owner may close.
  Result<std::unique_ptr<mesh::Channel>> second_connection() {
    std::unique_lock lock(mutex);
    wake.wait(lock, [&] { return stopping || !connecting; });
    if (stopping) return Status(Code::cancelled, "the worker is stopping");
    connecting = true;
    lock.unlock();
    Result<std::unique_ptr<mesh::Channel>> made = connect();
    lock.lock();
    connecting = false;
    wake.notify_all();
    return made;
  }

  void lost(const std::shared_ptr<mesh::Channel>& which, const Status& why) {
    which->close();
    const std::lock_guard lock(mutex);
    if (channel != which) return;
    channel.reset();
    if (!stopping) events.push_back({.kind = WorkerEventKind::disconnected, .message = why.message()});
  }

  // One request, repeated over new connections until it is answered.
  // `seconds`: set to how long the answered one took.
  Result<mesh::Message> call(std::string_view method, const mesh::Message& request, double* seconds = nullptr) {
    mesh::Backoff backoff;
    for (;;) {
      SPORKLE_ASSIGN_OR_RETURN(const std::shared_ptr<mesh::Channel> to, connection());
      const auto start = SteadyClock::now();
      Result<mesh::Message> reply = to->call(method, request, options.call_timeout);
      if (seconds) *seconds = seconds_since(start);
      if (reply.ok()) return reply;
      const Status status = reply.status();
      if (is_stopping()) return Status(Code::cancelled, "the worker is stopping");
      // `cancelled` without our doing: the other thread found the connection lost.
      if (!mesh::is_retryable(status) && status.code() != Code::cancelled) return status;
      lost(to, status);
      pause(backoff.next());
    }
  }

  bool is_stopping() {
    const std::lock_guard lock(mutex);
    return stopping;
  }

  // True when it was cut short by stop().
  bool pause(SteadyClock::duration duration) {
    std::unique_lock lock(mutex);
    return wake.wait_for(lock, duration, [&] { return stopping; });
  }

  // --- heartbeats ---

  void heartbeat_loop(std::chrono::milliseconds interval) {
    while (!pause(interval)) {
      Progress now;
      {
        const std::lock_guard lock(mutex);
        now = progress;
      }
      if (donor && donor->held(now.serves_sha256)) now.serves_port = donor->port();
      const Result<mesh::Message> reply = call("heartbeat", WorkerCore::heartbeat(now));
      if (!reply.ok()) {
        // Whatever is wrong for good, run()'s thread meets and reports it.
        log(LogLevel::debug, "run", "heartbeat: " + reply.status().message());
        continue;
      }
      const Result<HeartbeatAnswer> answer = WorkerCore::on_heartbeat(*reply);
      if (!answer.ok() || !answer->lease_lost || now.lease.empty()) continue;
      const std::lock_guard lock(mutex);
      lost_lease = now.lease;
      lost_lease_folds = answer->fold;
    }
  }

  // After stop() or the end of the run. Frees run()'s thread, too, wherever it waits for an answer: the coordinator
  // ends its long poll, and at the latest the connection closes.
  void say_goodbye() {
    std::shared_ptr<mesh::Channel> last;
    {
      const std::lock_guard lock(mutex);
      last = channel;
    }
    if (!last) return;
    const auto goodbye = last->call("leave", core.leave(), std::chrono::milliseconds(1000));
    if (!goodbye.ok()) log(LogLevel::debug, "run", "leave: " + goodbye.status().message());
    last->close();
  }

  void set_progress(Progress now) {
    const std::lock_guard lock(mutex);
    progress = std::move(now);
  }

  bool lease_is_lost(bool& folds) {
    const std::lock_guard lock(mutex);
    folds = lost_lease_folds;
    return core.has_lease() && lost_lease == core.lease_id();
  }

  // --- run()'s thread ---

  void tell(WorkerEvent event) {
    tell_waiting();
    if (options.on_event) options.on_event(event);
  }

  void tell_waiting() {
    std::vector<WorkerEvent> waiting;
    {
      const std::lock_guard lock(mutex);
      waiting.swap(events);
    }
    if (!options.on_event) return;
    for (const WorkerEvent& event : waiting) options.on_event(event);
  }

  Status say_hello() {
    SPORKLE_ASSIGN_OR_RETURN(const mesh::Message reply, call("hello", core.hello(), &round_trip_s));
    return core.on_hello(reply);
  }

  // A call by a member. A coordinator that does not know us (it lost its state) hears hello first.
  Result<mesh::Message> member_call(std::string_view method, const mesh::Message& request, double* seconds = nullptr) {
    Result<mesh::Message> reply = call(method, request, seconds);
    tell_waiting();
    if (reply.ok() || reply.status().code() != Code::not_found) return reply;
    SPORKLE_RETURN_IF_ERROR(say_hello());
    return call(method, request, seconds);
  }

  uint64_t parameter_bytes() const { return core.manifest().parameter_count * sizeof(float); }

  void tell_parameters(uint64_t bytes) {
    if (options.on_parameters) options.on_parameters(bytes, parameter_bytes());
  }

  Status fetch_parameters() {
    if (!core.needs_parameters()) return {};
    if (options.identity && core.version() < 0 && parameter_bytes() > kLeastDonatedBytes) {
      const Status status = fetch_from_others();
      if (is_stopping()) return Status(Code::cancelled, "the worker is stopping");
      if (!status.ok()) log(LogLevel::info, "run", "parameters come from the coordinator: " + status.message());
    }
    while (core.needs_parameters()) {
      SPORKLE_ASSIGN_OR_RETURN(const mesh::Message reply, member_call("parameters", core.parameters_request()));
      SPORKLE_RETURN_IF_ERROR(core.on_parameters(reply));
      tell_parameters(core.needs_parameters() ? core.arrived_bytes() : parameter_bytes());
    }
    offer_parameters();
    return {};
  }

  // Others may have them, too.
  void offer_parameters() {
    if (donor && !core.needs_parameters()) donor->hold(core.parameters_sha256(), core.lend_parameters());
  }

  // The parameters from several donors at once. Whatever goes wrong, the coordinator has them, too; ok without having
  // them means that it alone is as fast.
  Status fetch_from_others() {
    Result<mesh::Message> reply = member_call("donors", ParameterOffer::request());
    // A coordinator of an earlier release.
    if (!reply.ok() && reply.status().code() == Code::unsupported) return {};
    if (!reply.ok()) return reply.status();
    SPORKLE_ASSIGN_OR_RETURN(const std::optional<ParameterOffer> offer,
                             ParameterOffer::parse(*reply, parameter_bytes(), options.coordinator));
    if (!offer) return {};
    SPORKLE_ASSIGN_OR_RETURN(const std::shared_ptr<mesh::Channel> first, connection());
    FetchedParameters fetched;
    SPORKLE_ASSIGN_OR_RETURN(const double rate, probe_coordinator(*first, *offer, options.call_timeout, fetched));
    if (static_cast<double>(parameter_bytes()) < rate * kShortTransfer_s) return {};
    tell({.kind = WorkerEventKind::fetching,
          .message = std::to_string(offer->donors.size()) + " workers and the coordinator"});
    const auto start = SteadyClock::now();
    std::vector<std::unique_ptr<ParameterSource>> sources;
    sources.push_back(
        std::make_unique<ParameterSource>([this] { return second_connection(); }, offer->sha256, kPieceTimeout));
    for (const mesh::RunLink& link : offer->donors)
      sources.push_back(std::make_unique<ParameterSource>(
          [this, link]() -> Result<std::unique_ptr<mesh::Channel>> {
            mesh::ClientOptions client_options;
            client_options.software = options.software;
            client_options.connect_timeout = kDonorConnectTimeout;
            SPORKLE_ASSIGN_OR_RETURN(std::unique_ptr<mesh::Client> client,
                                     mesh::Client::connect(link, *options.identity, client_options));
            return std::unique_ptr<mesh::Channel>(std::move(client));
          },
          offer->sha256, kPieceTimeout));
    std::vector<mesh::PieceSource*> pointers;
    for (const auto& source : sources) pointers.push_back(source.get());
    SPORKLE_RETURN_IF_ERROR(fetch_from_donors(
        *offer, pointers,
        [this](uint64_t bytes) {
          tell_parameters(bytes);
          return !is_stopping();
        },
        fetched));
    const std::string shares = describe_fetch(*offer, fetched);
    SPORKLE_RETURN_IF_ERROR(core.take_parameters(offer->version, offer->sha256, std::move(fetched.values)));
    tell({.kind = WorkerEventKind::fetched,
          .round = offer->version,
          .seconds = seconds_since(start),
          .message = shares});
    return {};
  }

  void start_donor() {
    if (!options.identity || !options.serve || parameter_bytes() <= kLeastDonatedBytes) return;
    auto started = ParameterDonor::start(*options.identity, options.donor);
    if (started.ok())
      donor = *std::move(started);
    else
      log(LogLevel::warning, "run", "this worker gives no parameters to others: " + started.status().message());
  }

  // Trains under the lease. Returns with the update ready, or with the lease given up.
  Status train() {
    const auto start = SteadyClock::now();
    auto step_start = start;
    bool folds = false;
    Progress now{core.lease_id(), core.lease_round(), 0, 0, core.tokens_per_second()};
    set_progress(now);
    const uint64_t round = core.lease_round();
    const Status status = core.train([&](const InnerProgress& step) {
      // The first step of all compiles kernels: a pause in proportion to that would last many steps.
      if (options.speed < 1.0 && std::exchange(has_stepped, true)) {
        const double slept = seconds_since(step_start) * (1.0 / std::max(options.speed, 1e-3) - 1.0);
        if (pause(std::chrono::nanoseconds(static_cast<int64_t>(std::min(slept, 3600.0) * 1e9)))) return false;
      }
      step_start = SteadyClock::now();
      now.step = step.step;
      now.loss = step.loss;
      set_progress(now);
      if (options.on_step) options.on_step(round, step);
      return !is_stopping() && !lease_is_lost(folds);
    });
    core.set_seconds(seconds_since(start));
    SPORKLE_RETURN_IF_ERROR(status);
    if (lease_is_lost(folds)) {
      ++summary.leases_lost;
      core.abandon_lease(folds);
      tell({.kind = WorkerEventKind::lease_lost, .round = round, .steps = now.step});
    } else if (core.report().steps < core.lease_steps()) {
      core.abandon_lease(false);  // stopping
    }
    return {};
  }

  Status submit() {
    WorkerEvent event{.round = core.lease_round(),
                      .steps = core.report().steps,
                      .tokens = core.report().tokens,
                      .loss = core.report().mean_loss,
                      .seconds = core.report().seconds};
    double seconds = 0;
    SPORKLE_ASSIGN_OR_RETURN(const mesh::Message reply, member_call("submit", core.submit(), &seconds));
    core.note_upload(seconds - round_trip_s);
    SPORKLE_ASSIGN_OR_RETURN(const Verdict verdict, core.on_submit(reply));
    set_progress({});
    event.message = core.verdict_reason();
    switch (verdict) {
      case Verdict::accepted:
        event.kind = WorkerEventKind::accepted;
        ++summary.accepted;
        summary.steps += event.steps;
        summary.tokens += event.tokens;
        break;
      case Verdict::late:
        event.kind = WorkerEventKind::late;
        ++summary.late;
        break;
      case Verdict::rejected:
        event.kind = WorkerEventKind::rejected;
        ++summary.rejected;
        break;
    }
    tell(std::move(event));
    return {};
  }

  // --- adding up with other workers ---

  // All addresses; on the port that it had, if that is still free.
  void listen() {
    if (!options.reduction_identity || !core.peers_reduce() || listener) return;
    for (const char* host : {"::", "0.0.0.0"})
      for (const uint16_t port : {listening_port, uint16_t{0}}) {
        if (listener) break;
        auto opened = mesh::ReductionListener::open(host, port);
        if (opened.ok())
          listener.emplace(std::move(*opened));
        else
          log(LogLevel::debug, "run", opened.status().message());
      }
    listening_port = listener ? listener->port() : 0;
    core.set_reduces(listening_port);
  }

  Result<std::vector<mesh::NodeId>> reduce_with_peers(std::span<float> mean) {
    const WorkerCore::PeerReduction& reduction = core.reduction();
    mesh::ReductionGroupOptions group_options;
    group_options.connect_timeout = std::chrono::milliseconds(4000);
    group_options.reduction.silence_timeout = std::chrono::milliseconds(8000);
    const mesh::NodeId self = options.reduction_identity->id();
    const bool listens = std::ranges::any_of(
        reduction.members, [&](const mesh::ReductionMember& member) { return member.id == self && member.address; });
    std::optional<mesh::ReductionListener> mine;
    if (listens && listener) {
      mine.emplace(std::move(*listener));
      listener.reset();
    }
    SPORKLE_ASSIGN_OR_RETURN(
        const auto group,
        mesh::ReductionGroup::join(*options.reduction_identity, reduction.members, std::move(mine), group_options));
    return group->all_reduce(std::as_bytes(core.contribution()), std::as_writable_bytes(mean),
                             [this](std::span<const size_t> members, std::span<const std::byte* const> inputs,
                                    std::span<std::byte> sum) { core.combine(members, inputs, sum); });
  }

  Status reduce(uint64_t round) {
    if (options.on_reduction) options.on_reduction(round);
    std::vector<float> mean(core.contribution().size());
    const Result<std::vector<mesh::NodeId>> contributors = reduce_with_peers(mean);
    listen();
    if (!contributors.ok()) {
      log(LogLevel::info, "run", "adding up with the other workers: " + contributors.status().message());
      return member_call("reduced", core.could_not_reduce()).status();
    }
    SPORKLE_ASSIGN_OR_RETURN(
        const mesh::Message reply,
        member_call("reduced", core.reduced(*contributors, std::move(mean), options.reduction_identity->id())));
    tell({.kind = WorkerEventKind::reduced, .round = round, .message = std::to_string(contributors->size())});
    SPORKLE_ASSIGN_OR_RETURN(const std::vector<uint32_t> chunks, core.on_reduced(reply));
    if (chunks.empty()) return {};
    return member_call("audit", core.audit(chunks)).status();
  }

  Status upload() {
    SPORKLE_ASSIGN_OR_RETURN(const mesh::Message reply, member_call("submit", core.upload()));
    SPORKLE_ASSIGN_OR_RETURN(const Verdict verdict, core.on_upload(reply));
    if (verdict == Verdict::rejected) {
      ++summary.rejected;
      tell({.kind = WorkerEventKind::rejected, .message = core.verdict_reason()});
    }
    return {};
  }

  Status work() {
    bool announced = false;
    while (!core.finished()) {
      if (is_stopping()) return {};
      listen();
      SPORKLE_RETURN_IF_ERROR(fetch_parameters());
      if (!announced) tell({.kind = WorkerEventKind::ready});
      announced = true;
      SPORKLE_ASSIGN_OR_RETURN(const mesh::Message reply, member_call("next_work", core.next_work()));
      SPORKLE_ASSIGN_OR_RETURN(const WorkerCore::Work kind, core.on_next_work(reply));
      if (kind == WorkerCore::Work::reduce) SPORKLE_RETURN_IF_ERROR(reduce(static_cast<uint64_t>(core.version())));
      if (kind == WorkerCore::Work::upload) SPORKLE_RETURN_IF_ERROR(upload());
      if (kind != WorkerCore::Work::lease) continue;
      SPORKLE_RETURN_IF_ERROR(fetch_parameters());
      if (!core.lease_is_current()) {
        core.abandon_lease(false);  // the run moved on while the parameters came
        continue;
      }
      offer_parameters();
      tell({.kind = WorkerEventKind::lease_taken, .round = core.lease_round(), .steps = core.lease_steps()});
      while (const auto request = core.shards_request()) {
        SPORKLE_ASSIGN_OR_RETURN(const mesh::Message shards, member_call("shards", *request));
        SPORKLE_RETURN_IF_ERROR(core.on_shards(shards));
      }
      SPORKLE_RETURN_IF_ERROR(train());
      if (core.has_lease()) SPORKLE_RETURN_IF_ERROR(submit());
      set_progress({});
    }
    tell({.kind = WorkerEventKind::finished});
    return {};
  }

  Status join_and_work() {
    SPORKLE_RETURN_IF_ERROR(say_hello());
    tell({.kind = WorkerEventKind::joined});
    SPORKLE_ASSIGN_OR_RETURN(const double speed, core.replica().measure_tokens_per_second());
    core.set_tokens_per_second(speed * std::min(options.speed, 1.0));
    start_donor();
    const std::chrono::milliseconds interval(core.heartbeat_interval_ms());
    std::thread heartbeats([this, interval] {
      heartbeat_loop(interval);
      say_goodbye();
    });
    const Status status = work();
    {
      const std::lock_guard lock(mutex);
      stopping = true;
    }
    wake.notify_all();
    heartbeats.join();
    tell_waiting();
    return status;
  }
};

Worker::Worker(Connect connect, ReplicaFactory factory, WorkerOptions options)
    : state_(std::make_unique<State>(std::move(connect), std::move(factory), std::move(options))) {}

Worker::Worker(const mesh::RunLink& link, const mesh::Identity& identity, ReplicaFactory factory, WorkerOptions options)
    : Worker(
          [link, identity, software = options.software]() -> Result<std::unique_ptr<mesh::Channel>> {
            mesh::ClientOptions client_options;
            client_options.software = software;
            SPORKLE_ASSIGN_OR_RETURN(std::unique_ptr<mesh::Client> client,
                                     mesh::Client::connect(link, identity, client_options));
            return std::unique_ptr<mesh::Channel>(std::move(client));
          },
          std::move(factory), with_run_of(link, identity, options)) {}

Worker::~Worker() = default;

Result<WorkerSummary> Worker::run() {
  State& s = *state_;
  Status status = s.join_and_work();
  const bool stopped = status.code() == Code::cancelled;
  if (!status.ok() && !stopped) return status;
  s.summary.finished = s.core.finished();
  return s.summary;
}

void Worker::stop() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->stopping = true;
  }
  state_->wake.notify_all();
}

}  // namespace sporkle::run
