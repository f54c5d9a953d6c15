#include "mesh/client.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "mesh/printable.h"
#include "mesh/stream_state.h"
#include "mesh/tls.h"
#include "mesh/transport.h"

namespace sporkle::mesh {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

// As the wire has it, where 0 is none: a call without any time left is over in a moment.
uint64_t timeout_ms(milliseconds timeout) {
  return timeout.count() > 0 ? static_cast<uint64_t>(timeout.count()) : timeout.count() < 0 ? 1 : 0;
}

// One call() that waits; lives on its caller's stack.
struct PendingCall {
  std::condition_variable done;
  std::optional<Result<Message>> result;
};

// Who waits for an answer: a blocked caller, or a callback.
struct Waiter {
  PendingCall* blocked = nullptr;
  Client::OnDone on_done;
};

}  // namespace

struct Client::State {
  ClientOptions options;
  std::shared_ptr<Connection> connection;
  std::string server_software;
  uint32_t minor_version = 0;
  Address server_address;

  mutable std::mutex mutex;
  uint64_t last_call_id = 0;
  std::unordered_map<uint64_t, Waiter> pending;
  std::optional<Status> closed;

  // Joined by ~Client before anything above goes away.
  std::unique_ptr<Reactor> reactor;

  // Callbacks run without the lock: they may start calls.
  void on_response(Session::Event event) {
    Client::OnDone on_done;
    {
      const std::lock_guard lock(mutex);
      const auto it = pending.find(event.call_id);
      if (it == pending.end()) return;
      if (PendingCall* const call = it->second.blocked) {
        call->result = std::move(event.result);
        call->done.notify_one();
      }
      on_done = std::move(it->second.on_done);
      pending.erase(it);
    }
    if (on_done) on_done(std::move(event.result));
  }

  void on_closed(const Status& why) {
    std::unordered_map<uint64_t, Waiter> ended;
    {
      const std::lock_guard lock(mutex);
      if (closed) return;
      closed = why;
      ended.swap(pending);
      for (const auto& [id, waiter] : ended) {
        if (!waiter.blocked) continue;
        waiter.blocked->result = why;
        waiter.blocked->done.notify_one();
      }
    }
    for (const auto& [id, waiter] : ended)
      if (waiter.on_done) waiter.on_done(why);
  }

  // Under the lock, so that the loss of the connection cannot slip in between and miss the call. Moves from `waiter`
  // only when it succeeds.
  Result<uint64_t> send(std::string_view method, Message request, Waiter&& waiter, uint64_t timeout_ms) {
    SPORKLE_RETURN_IF_ERROR(may_call(method));
    const uint64_t call_id = ++last_call_id;
    pending.emplace(call_id, std::move(waiter));
    connection->send_request(call_id, std::string(method), std::move(request), timeout_ms);
    return call_id;
  }

  Status may_call(std::string_view method) const {
    if (closed) return *closed;
    if (pending.size() >= options.limits.max_calls_in_flight)
      return unavailable("cannot call '" + printable(method, max_method_bytes) +
                         "': " + std::to_string(pending.size()) + " calls are in flight already");
    return {};
  }
};

namespace {

// What the connecting thread and the reactor's share while the addresses are tried. Outlives the connecting: attempts
// that lose may end later.
struct Race {
  struct Attempt {
    std::shared_ptr<Connection> connection;  // the connecting thread's
    std::optional<Status> failure;
  };
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<Attempt> attempts;  // of the addresses so far, in their order
  std::optional<size_t> winner;
  std::string software;  // of the winner
  uint32_t minor_version = 0;
  bool over = false;  // nobody may win any more

  size_t failures() const {
    return static_cast<size_t>(std::ranges::count_if(attempts, [](const Attempt& a) { return a.failure.has_value(); }));
  }
};

// Why an address failed, the most telling one first: a wrong key or version says more than silence.
int weight(const Status& status) {
  switch (status.code()) {
    case Code::permission_denied:
      return 3;
    case Code::unsupported:
      return 2;
    case Code::deadline_exceeded:
      return 0;
    default:
      return 1;
  }
}

// The events of the attempt at address `index`; `state` is the Client::State, which outlives the reactor's threads.
template <typename State>
ConnectionEvents race_events(const std::shared_ptr<Race>& race, size_t index, State* state) {
  ConnectionEvents events;
  events.on_open = [race, index](const std::shared_ptr<Connection>& connection, const Session::Event& hello) {
    const std::lock_guard lock(race->mutex);
    if (race->over || race->winner) return connection->close(Status());
    race->winner = index;
    race->software = hello.software;
    race->minor_version = hello.minor_version;
    race->changed.notify_one();
  };
  events.on_message = [state](const std::shared_ptr<Connection>&, Session::Event event,
                              const std::shared_ptr<StreamState>&) { state->on_response(std::move(event)); };
  events.on_closed = [race, index, state](const std::shared_ptr<Connection>&, const Status& why, bool) {
    {
      const std::lock_guard lock(race->mutex);
      if (race->winner != index) {
        if (race->over) return;
        race->attempts[index].failure = why;
        race->changed.notify_one();
        return;
      }
    }
    state->on_closed(why);
  };
  return events;
}

}  // namespace

Client::Client(std::shared_ptr<State> state) : state_(std::move(state)) {}

Result<std::unique_ptr<Client>> Client::connect(const RunLink& link, const Identity& identity,
                                                const ClientOptions& options) {
  if (link.addresses.empty()) return invalid_argument("the run link has no address to connect to");
  SPORKLE_ASSIGN_OR_RETURN(const std::shared_ptr<const TlsContext> tls, TlsContext::create(identity));
  auto state = std::make_shared<State>();
  state->options = options;
  SPORKLE_ASSIGN_OR_RETURN(state->reactor, Reactor::create(1));
  State* const raw = state.get();  // outlives the reactor's threads, which are all that use it

  std::shared_ptr<PeerBandwidth> bandwidth;
  if (options.upload_limit_bytes_per_s > 0 || options.download_limit_bytes_per_s > 0)
    bandwidth = std::make_shared<PeerBandwidth>(options.upload_limit_bytes_per_s, options.download_limit_bytes_per_s);
  const size_t count = link.addresses.size();
  const auto deadline = steady_clock::now() + options.connect_timeout;
  // However many addresses there are, the last one gets most of the time.
  const auto stagger = std::min(options.connect_stagger, options.connect_timeout / static_cast<int>(4 * count));
  const auto race = std::make_shared<Race>();
  std::unique_lock lock(race->mutex);
  while (!race->winner && race->failures() < count) {
    const size_t started = race->attempts.size();
    if (started == count) {
      race->changed.wait(lock, [&] { return race->winner || race->failures() == count; });
      break;
    }
    const auto left = std::chrono::duration_cast<milliseconds>(deadline - steady_clock::now());
    if (left.count() <= 0 && started > 0) break;
    race->attempts.emplace_back();
    lock.unlock();
    ConnectionOptions connection_options;
    connection_options.handshake_timeout = left;
    connection_options.keep_alive_interval = options.keep_alive_interval;
    connection_options.keep_alive_timeout = options.keep_alive_timeout;
    connection_options.session = {options.software, options.role, options.limits, false};
    connection_options.plaintext = options.plaintext;
    connection_options.sessions = options.sessions;
    if (bandwidth) connection_options.bandwidth = [bandwidth](const NodeId&) { return bandwidth; };
    auto connection = state->reactor->connect(link.addresses[started], link.coordinator, tls, connection_options,
                                              race_events(race, started, raw));
    lock.lock();
    race->attempts[started].connection = std::move(connection);
    // The next address has its turn when this one has failed, or has been silent for a while.
    race->changed.wait_for(lock, stagger, [&] { return race->winner || race->attempts[started].failure; });
  }
  race->over = true;
  for (size_t i = 0; i < race->attempts.size(); ++i)
    if (race->winner != i) race->attempts[i].connection->close(Status());
  if (race->winner) {
    state->connection = std::move(race->attempts[*race->winner].connection);
    state->server_software = race->software;
    state->minor_version = race->minor_version;
    state->server_address = link.addresses[*race->winner];
    race->attempts.clear();
    return std::unique_ptr<Client>(new Client(std::move(state)));
  }
  Status failure;
  for (size_t i = 0; i < race->attempts.size(); ++i) {
    const Status status = race->attempts[i]
                              .failure.value_or(Status(Code::deadline_exceeded, "no answer in time"))
                              .with_context(link.addresses[i].to_string());
    if (failure.ok()) {
      failure = status;
    } else {
      const Code code = weight(status) > weight(failure) ? status.code() : failure.code();
      failure = Status(code, failure.message() + "; " + status.message());
    }
  }
  return failure.with_context("cannot connect to coordinator " + link.coordinator.short_id());
}

Client::~Client() {
  close();
  state_->reactor.reset();
}

Result<Message> Client::call(std::string_view method, Message request, milliseconds timeout) {
  const auto deadline = steady_clock::now() + timeout;
  SPORKLE_RETURN_IF_ERROR(Session::check_request(method, request, state_->options.limits));
  PendingCall call;
  std::unique_lock lock(state_->mutex);
  SPORKLE_ASSIGN_OR_RETURN(const uint64_t call_id,
                           state_->send(method, std::move(request), {&call, nullptr}, timeout_ms(timeout)));
  call.done.wait_until(lock, deadline, [&] { return call.result.has_value(); });
  // The server ends an expired call as well; whoever comes first, the failure is the same.
  const bool expired =
      call.result && call.result->status().code() == Code::deadline_exceeded && steady_clock::now() >= deadline;
  if (call.result && !expired) return *std::move(call.result);
  if (!call.result) {
    state_->pending.erase(call_id);
    state_->connection->cancel(call_id);
  }
  return Status(Code::deadline_exceeded, "the call '" + printable(method, max_method_bytes) + "' to " +
                                             state_->server_address.to_string() + " got no answer within " +
                                             std::to_string(timeout.count()) + " ms");
}

uint64_t Client::start_call(std::string_view method, Message request, OnDone on_done) {
  Status failure = Session::check_request(method, request, state_->options.limits);
  Waiter waiter{nullptr, std::move(on_done)};
  if (failure.ok()) {
    const std::lock_guard lock(state_->mutex);
    const Result<uint64_t> call_id = state_->send(method, std::move(request), std::move(waiter), 0);
    if (call_id.ok()) return *call_id;
    failure = call_id.status();
  }
  waiter.on_done(failure);
  return 0;
}

Result<ClientStream> Client::open_stream(std::string_view method, std::string body, milliseconds timeout) {
  SPORKLE_RETURN_IF_ERROR(Session::check_request(method, {body, {}}, state_->options.limits));
  if (state_->minor_version < first_minor_with_streams)
    return unsupported("the peer at " + state_->server_address.to_string() + " speaks protocol version " +
                       std::to_string(protocol_major) + "." + std::to_string(state_->minor_version) +
                       ", which has no streams; update it");
  auto stream = std::make_shared<StreamState>();
  stream->connection = state_->connection;
  stream->most_queued_bytes = state_->options.limits.stream_window_bytes;
  const std::lock_guard lock(state_->mutex);
  SPORKLE_RETURN_IF_ERROR(state_->may_call(method));
  stream->call_id = ++state_->last_call_id;
  state_->connection->open_stream(stream->call_id, std::string(method), std::move(body), timeout_ms(timeout), stream);
  return ClientStream(std::move(stream));
}

void Client::cancel_call(uint64_t call_id) {
  OnDone on_done;
  {
    const std::lock_guard lock(state_->mutex);
    const auto it = state_->pending.find(call_id);
    if (it == state_->pending.end() || !it->second.on_done) return;
    on_done = std::move(it->second.on_done);
    state_->pending.erase(it);
    state_->connection->cancel(call_id);
  }
  on_done(Status(Code::cancelled, "the call was given up"));
}

void Client::close() {
  state_->on_closed(Status(Code::cancelled, "this client was closed"));
  state_->connection->close(Status());
}

Traffic Client::traffic() const { return state_->connection->traffic(); }

bool Client::connected() const {
  const std::lock_guard lock(state_->mutex);
  return !state_->closed;
}

bool Client::encrypted() const { return state_->connection->encrypted(); }
bool Client::resumed() const { return state_->connection->resumed(); }
uint32_t Client::protocol_minor_version() const { return state_->minor_version; }
const std::string& Client::server_software() const { return state_->server_software; }
const Address& Client::server_address() const { return state_->server_address; }

}  // namespace sporkle::mesh
