#include "run/coordinator_server.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "base/log.h"
#include "mesh/clock.h"
#include "mesh/dial.h"
#include "mesh/record_signer.h"
#include "run/coordinator.h"
#include "run/donor_list.h"

namespace sporkle::run {
namespace {

// Of "host:port", an IPv6 address in brackets.
std::string host_of(const std::string& address) {
  std::string host = address.substr(0, address.rfind(':'));
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  return host;
}

}  // namespace

struct CoordinatorServer::State {
  explicit State(ModelHost& model_host, CoordinatorServerOptions server_options)
      : host(model_host), options(std::move(server_options)) {}

  ModelHost& host;
  const CoordinatorServerOptions options;
  mesh::SystemClock clock;
  mesh::RunLink link;
  mesh::Clock::TimePoint started;

  mutable std::mutex mutex;  // over the coordinator and what follows
  std::condition_variable changed;
  std::unique_ptr<Coordinator> coordinator;
  std::unique_ptr<mesh::RecordSigner> signer;  // set once, before the mutex is first released
  std::map<mesh::NodeId, int> connections;
  bool stopping = false;
  struct HostWork {
    std::shared_ptr<const std::vector<float>> parameters;
    CheckpointInfo info;
    bool evaluate;
    bool save;
  };
  std::optional<HostWork> host_work;  // the latest only: an evaluation that falls behind skips rounds
  std::vector<Event> events;          // to be told
  bool telling = false;               // some are being told
  std::deque<std::pair<mesh::NodeId, mesh::Address>> dials;  // to be tried
  bool final_work_done = false;
  std::optional<double> final_loss;
  std::string final_checkpoint;

  std::unique_ptr<DonorList> donors;  // set once, like the signer

  std::thread ticker;
  std::thread dial_thread;
  std::thread host_thread;
  std::thread event_thread;
  std::unique_ptr<mesh::Server> server;

  // With the mutex held, after every use of the coordinator: picks up its events, and what they call for.
  void collect() {
    for (Event& event : coordinator->take_events()) {
      if (event.kind == EventKind::round_closed && !coordinator->finished()) {
        const uint64_t rounds = event.round + 1;
        want_host_work(options.evaluate_every_rounds > 0 && rounds % options.evaluate_every_rounds == 0,
                       options.checkpoint_every_rounds > 0 && rounds % options.checkpoint_every_rounds == 0);
      }
      if (event.kind == EventKind::finished) want_host_work(true, true);
      events.push_back(std::move(event));
    }
    for (auto& dial : coordinator->take_dials()) dials.push_back(std::move(dial));
    changed.notify_all();
  }

  // Whether workers can be reached where they say that they listen. One at a time: each waits for seconds at most, and
  // a worker that is not tried yet counts as one that cannot be reached.
  void dial_loop() {
    std::unique_lock lock(mutex);
    for (;;) {
      changed.wait(lock, [&] { return stopping || !dials.empty(); });
      if (stopping) return;
      const auto [node, address] = dials.front();
      dials.pop_front();
      lock.unlock();
      const Status status = mesh::dial(address, std::chrono::milliseconds(1500));
      if (!status.ok())
        log(LogLevel::debug, "run", node.short_id() + " cannot be reached by its peers: " + status.message());
      lock.lock();
      coordinator->dialled(node, address, status.ok());
    }
  }

  void want_host_work(bool evaluate, bool save) {
    if (!evaluate && !save) return;
    if (host_work) {  // what was due and did not come to its turn is due now
      evaluate |= host_work->evaluate;
      save |= host_work->save;
    }
    host_work = HostWork{coordinator->parameters(), coordinator->checkpoint_info(), evaluate, save};
  }

  void add_event(EventKind kind, uint64_t round, std::string message) {
    Event event;
    event.kind = kind;
    event.round = round;
    event.message = std::move(message);
    events.push_back(std::move(event));
    changed.notify_all();
  }

  void host_loop() {
    std::unique_lock lock(mutex);
    for (;;) {
      changed.wait(lock, [&] { return stopping || host_work; });
      if (stopping) return;
      const HostWork work = *std::exchange(host_work, std::nullopt);
      const uint64_t round = work.info.round == 0 ? 0 : work.info.round - 1;
      lock.unlock();
      Result<double> loss = work.evaluate ? host.evaluate(*work.parameters) : Result<double>(0.0);
      Result<std::string> saved =
          work.save ? host.save_checkpoint(*work.parameters, work.info) : Result<std::string>(std::string());
      lock.lock();
      if (work.evaluate) {
        if (loss.ok())
          coordinator->record_evaluation(round, *loss);
        else
          add_event(EventKind::evaluation_failed, round, loss.status().message());
        collect();
      }
      if (work.save) {
        if (saved.ok())
          add_event(EventKind::checkpoint_saved, round, *saved);
        else
          add_event(EventKind::checkpoint_failed, round, saved.status().message());
      }
      if (work.info.final) {
        if (loss.ok()) final_loss = *loss;
        if (saved.ok()) final_checkpoint = *saved;
        final_work_done = true;
        changed.notify_all();
      }
    }
  }

  void tick_loop() {
    std::unique_lock lock(mutex);
    while (!stopping) {
      coordinator->tick(clock.now(), clock.unix_ms());
      collect();
      changed.wait_for(lock, std::chrono::milliseconds(50), [&] { return stopping; });
    }
  }

  void event_loop() {
    std::unique_lock lock(mutex);
    for (;;) {
      changed.wait(lock, [&] { return stopping || !events.empty(); });
      const std::vector<Event> now = std::exchange(events, {});
      telling = true;
      lock.unlock();
      for (const Event& event : now)
        if (options.on_event) options.on_event(event);
      lock.lock();
      telling = false;
      changed.notify_all();
      if (stopping && events.empty()) return;
    }
  }

  mesh::ServerCallbacks callbacks() {
    mesh::ServerCallbacks callbacks;
    callbacks.handler = [this](const mesh::Peer& peer, std::string_view method, mesh::Message request,
                               mesh::Responder respond) {
      std::unique_lock lock(mutex);
      if (method == "record") {
        lock.unlock();
        const Result<mesh::RunRecord> record = signer->current();
        if (!record.ok()) return respond(record.status());
        const std::vector<std::byte> bytes = record->encode();
        return respond(mesh::Message{{reinterpret_cast<const char*>(bytes.data()), bytes.size()}, {}});
      }
      if ((method == "donors" || method == "parameter_piece") && coordinator->failure().ok()) {
        if (!coordinator->is_member(peer.id)) return respond(not_found("this node has not said hello to the run"));
        lock.unlock();
        if (method == "parameter_piece") return respond(donors->answer_piece(request));
        return donors->answer_donors(peer.id, std::move(respond));
      }
      coordinator->handle(peer.id, method, std::move(request), std::move(respond), clock.now());
      collect();
    };
    callbacks.on_connect = [this](const mesh::Peer& peer) {
      const std::lock_guard lock(mutex);
      ++connections[peer.id];
      coordinator->connected(peer.id, host_of(peer.address));
      donors->seen(peer.id, peer.address);
    };
    callbacks.on_disconnect = [this](const mesh::Peer& peer, const Status&) {
      const std::lock_guard lock(mutex);
      if (--connections[peer.id] > 0) return;
      connections.erase(peer.id);
      donors->gone(peer.id);
      coordinator->disconnected(peer.id, clock.now());
    };
    return callbacks;
  }

  bool workers_gone() const {
    for (const NodeStatus& node : coordinator->status(clock.now()).nodes)
      if (node.state == NodeState::waiting || node.state == NodeState::computing) return false;
    return true;
  }
};

CoordinatorServer::CoordinatorServer(std::unique_ptr<State> state) : state_(std::move(state)) {}
CoordinatorServer::~CoordinatorServer() { stop(); }

Result<std::unique_ptr<CoordinatorServer>> CoordinatorServer::start(const RunConfig& config,
                                                                    const mesh::Identity& identity,
                                                                    std::span<const std::byte> tokens, ModelHost& host,
                                                                    CoordinatorServerOptions options) {
  auto state = std::make_unique<State>(host, std::move(options));
  State& s = *state;
  s.started = s.clock.now();
  SPORKLE_ASSIGN_OR_RETURN(std::unique_ptr<Store> store, Store::open(s.options.folder));
  SPORKLE_ASSIGN_OR_RETURN(
      s.coordinator, Coordinator::open(
                         config, std::move(store), tokens, [&host] { return host.initial_parameters(); }, s.clock.now(),
                         s.clock.unix_ms()));
  {
    // The first callback may come before start() returns.
    const std::lock_guard lock(s.mutex);
    s.donors = std::make_unique<DonorList>(identity, [&s]() -> DonorList::Now {
      const std::lock_guard now(s.mutex);
      const Coordinator& c = *s.coordinator;
      return {c.version(), c.parameters_sha256(), c.parameters(), c.donors()};
    });
    SPORKLE_ASSIGN_OR_RETURN(s.server, mesh::Server::start(identity, s.options.server, s.callbacks()));
    const mesh::RunId run_id = s.coordinator->run_digest();
    const auto addresses = [given = s.options.addresses, port = s.server->port(), relayed = s.options.relay_addresses] {
      // Last, as a way round is slower; but there is always room for them.
      std::vector<mesh::Address> relays = relayed ? relayed() : std::vector<mesh::Address>();
      relays.resize(std::min(relays.size(), mesh::RunLink::max_addresses / 2));
      std::vector<mesh::Address> result;
      for (const std::string& name : given.empty() ? mesh::local_addresses() : given)
        if (result.size() + relays.size() < mesh::RunLink::max_addresses) result.push_back({name, port});
      result.insert(result.end(), relays.begin(), relays.end());
      return result;
    };
    s.link = {identity.id(),
              addresses(),
              {{std::string(mesh::link_run_parameter), mesh::link_run_value(run_id)},
               {std::string(mesh::link_key_parameter), mesh::link_key_value(identity.public_key())}}};
    mesh::RecordSigner::Options signer_options;
    signer_options.run_id = run_id;
    signer_options.name = s.options.name.empty() ? config.manifest.name : s.options.name;
    signer_options.addresses = addresses;
    signer_options.file = s.options.folder / "record";
    s.signer = std::make_unique<mesh::RecordSigner>(identity, s.clock, std::move(signer_options));
    if (const auto record = s.signer->current(); !record.ok())
      log(LogLevel::warning, "run", "this run has no signed record: " + record.status().message());
    if (s.coordinator->finished()) s.want_host_work(true, true);  // the end came between two starts
  }
  s.ticker = std::thread([&s] { s.tick_loop(); });
  s.dial_thread = std::thread([&s] { s.dial_loop(); });
  s.host_thread = std::thread([&s] { s.host_loop(); });
  s.event_thread = std::thread([&s] { s.event_loop(); });
  return std::unique_ptr<CoordinatorServer>(new CoordinatorServer(std::move(state)));
}

uint16_t CoordinatorServer::port() const { return state_->server->port(); }
const mesh::RunLink& CoordinatorServer::link() const { return state_->link; }
Result<mesh::RunRecord> CoordinatorServer::record() const { return state_->signer->current(); }

RunStatus CoordinatorServer::status() const {
  const std::lock_guard lock(state_->mutex);
  return state_->coordinator->status(state_->clock.now());
}

std::shared_ptr<const std::vector<float>> CoordinatorServer::parameters() const {
  const std::lock_guard lock(state_->mutex);
  return state_->coordinator->parameters();
}

Result<RunSummary> CoordinatorServer::wait(std::chrono::milliseconds linger) {
  State& s = *state_;
  std::unique_lock lock(s.mutex);
  const auto broken = [&] { return s.stopping || !s.coordinator->failure().ok(); };
  s.changed.wait(lock, [&] { return broken() || s.final_work_done; });
  // Workers learn of the end by their next question and leave.
  const auto until = std::chrono::steady_clock::now() + linger;
  s.changed.wait_until(lock, until, [&] { return broken() || s.workers_gone(); });
  // The caller's last word comes after all of the events.
  s.changed.wait(lock, [&] { return broken() || (s.events.empty() && !s.telling); });
  if (!s.coordinator->failure().ok()) return s.coordinator->failure();
  if (s.stopping) return Status(Code::cancelled, "the coordinator was stopped; its run can go on from its folder");
  RunSummary summary;
  summary.status = s.coordinator->status(s.clock.now());
  summary.validation_loss = s.final_loss;
  summary.checkpoint = s.final_checkpoint;
  summary.seconds = std::chrono::duration<double>(s.clock.now() - s.started).count();
  return summary;
}

void CoordinatorServer::stop() {
  State& s = *state_;
  {
    const std::lock_guard lock(s.mutex);
    s.stopping = true;
  }
  s.changed.notify_all();
  if (s.server) s.server->stop();
  s.donors.reset();
  for (std::thread* thread : {&s.ticker, &s.dial_thread, &s.host_thread, &s.event_thread})
    if (thread->joinable()) thread->join();
}

}  // namespace sporkle::run
