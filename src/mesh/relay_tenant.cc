#include "mesh/relay_tenant.h"

#include <algorithm>
#include <boost/asio/connect.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>

#include "base/log.h"
#include "mesh/relay.pb.h"
#include "mesh/relay_circuit.h"
#include "mesh/relay_splice.h"

namespace sporkle::mesh {
namespace {

namespace asio = boost::asio;
using asio::awaitable;
using asio::ip::tcp;
using boost::system::error_code;

constexpr std::chrono::milliseconds reserve_timeout{10'000};
constexpr std::chrono::milliseconds poll_timeout{60'000};
// To reach the relay's join port and our own server.
constexpr std::chrono::milliseconds connect_timeout{10'000};

Result<CircuitToken> token_in(const Message& answer) {
  wire::RelayCircuit circuit;
  CircuitToken token;
  if (!circuit.ParseFromString(answer.body) || circuit.token().size() != token.size())
    return corrupt_data("the relay announced a circuit that cannot be read");
  std::ranges::copy(std::as_bytes(std::span(circuit.token())), token.begin());
  return token;
}

}  // namespace

struct RelayTenant::State {
  State(RunLink relay_link, Identity node, const RelayTenantOptions& tenant_options)
      : relay(std::move(relay_link)),
        identity(std::move(node)),
        options(tenant_options),
        work(context.get_executor()) {}

  const RunLink relay;
  const Identity identity;
  const RelayTenantOptions options;

  mutable std::mutex mutex;
  std::condition_variable changed;
  std::shared_ptr<Client> client;  // null: lost
  Address join_address, public_address;
  std::optional<Address> target;
  bool stopping = false;

  // The splices belong to the context's one thread.
  asio::io_context context{1};
  asio::executor_work_guard<asio::io_context::executor_type> work;
  std::set<std::shared_ptr<Splice>> splices;
  size_t connecting = 0;
  bool closing = false;
  std::thread circuit_thread, control_thread;

  Status reserve(uint16_t wanted_port) {
    SPORKLE_ASSIGN_OR_RETURN(std::shared_ptr<Client> made, Client::connect(relay, identity, options.client));
    {
      const std::lock_guard lock(mutex);
      if (stopping) return {Code::cancelled, "stopping"};
      client = made;  // so that stopping ends the call
    }
    const Status status = ask_for_port(*made, wanted_port);
    if (!status.ok()) {
      const std::lock_guard lock(mutex);
      client.reset();
    }
    return status.with_context("relay " + relay.coordinator.short_id());
  }

  Status ask_for_port(Client& with, uint16_t wanted_port) {
    wire::RelayReserve request;
    request.set_wanted_port(wanted_port);
    SPORKLE_ASSIGN_OR_RETURN(const Message answer,
                             with.call("relay.reserve", {request.SerializeAsString(), {}}, reserve_timeout));
    wire::RelayReservation reservation;
    const auto is_port = [](uint32_t port) { return port > 0 && port <= 65535; };
    if (!reservation.ParseFromString(answer.body) || !is_port(reservation.port()) || !is_port(reservation.join_port()))
      return corrupt_data("its answer cannot be read");
    const std::string host = with.server_address().host;
    const std::lock_guard lock(mutex);
    join_address = {host, static_cast<uint16_t>(reservation.join_port())};
    public_address = {host, static_cast<uint16_t>(reservation.port())};
    return {};
  }

  void control_loop() {
    Backoff backoff(options.backoff);
    for (;;) {
      std::shared_ptr<Client> now;
      uint16_t port = 0;
      {
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return stopping || target; });
        if (stopping) return;
        now = client;
        port = public_address.port;
      }
      const Status status = now ? next_circuit(*now) : reserve(port);
      if (status.ok()) {
        backoff.reset();
        continue;
      }
      now.reset();
      std::unique_lock lock(mutex);
      if (stopping) return;
      client.reset();
      log(LogLevel::warning, "relay", status.message() + "; trying again");
      changed.wait_for(lock, backoff.next(), [&] { return stopping; });
    }
  }

  Status next_circuit(Client& from) {
    const Result<Message> answer = from.call("relay.next_circuit", {}, poll_timeout);
    if (answer.status().code() == Code::deadline_exceeded && from.connected()) return {};
    SPORKLE_RETURN_IF_ERROR(answer.status());
    SPORKLE_ASSIGN_OR_RETURN(const CircuitToken token, token_in(*answer));
    const std::lock_guard lock(mutex);
    asio::post(context, [this, token, join = join_address, server = *target] {
      if (closing || connecting + splices.size() >= options.max_circuits) return;
      ++connecting;
      asio::co_spawn(context, open_circuit(token, join, server), asio::detached);
    });
    return {};
  }

  awaitable<void> open_circuit(CircuitToken token, Address join, Address server) {
    const auto to_relay = std::make_shared<tcp::socket>(context), to_server = std::make_shared<tcp::socket>(context);
    asio::steady_timer deadline(context, connect_timeout);
    deadline.async_wait([to_relay, to_server](const error_code& error) {
      error_code ignored;
      if (error) return;
      to_relay->close(ignored);
      to_server->close(ignored);
    });
    // Our own server first: where it does not answer, the stranger learns it by the relay's time-out.
    error_code error = co_await connect(*to_server, server);
    if (!error) error = co_await connect(*to_relay, join);
    const RelayPreamble preamble = encode_relay_preamble(token);
    if (!error) co_await asio::async_write(*to_relay, asio::buffer(preamble), with_error(error));
    deadline.cancel();
    --connecting;
    if (error || closing || !to_relay->is_open() || !to_server->is_open()) {
      if (!closing) log(LogLevel::warning, "relay", "a circuit failed: " + error.message());
      co_return;
    }
    auto splice = std::make_shared<Splice>(std::move(*to_relay), std::move(*to_server), nullptr);
    splice->on_end([this, weak = std::weak_ptr(splice)] { splices.erase(weak.lock()); });
    splices.insert(splice);
    splice->start();
  }

  awaitable<error_code> connect(tcp::socket& socket, Address to) {
    error_code error;
    tcp::resolver resolver(context);
    const auto endpoints = co_await resolver.async_resolve(to.host, std::to_string(to.port), with_error(error));
    if (!error) co_await asio::async_connect(socket, endpoints, with_error(error));
    co_return error;
  }

  void stop() {
    std::shared_ptr<Client> last;
    {
      const std::lock_guard lock(mutex);
      stopping = true;
      last = client;
    }
    changed.notify_all();
    if (last) last->close();
    if (control_thread.joinable()) control_thread.join();
    asio::post(context, [this] {
      closing = true;
      for (const auto& splice : splices) splice->close();
    });
    work.reset();
    if (!circuit_thread.joinable()) return;
    circuit_thread.join();
  }
};

RelayTenant::RelayTenant(std::unique_ptr<State> state) : state_(std::move(state)) {}

Result<std::unique_ptr<RelayTenant>> RelayTenant::start(const RunLink& relay, const Identity& identity,
                                                        const RelayTenantOptions& options) {
  std::unique_ptr<RelayTenant> tenant(new RelayTenant(std::make_unique<State>(relay, identity, options)));
  State* const state = tenant->state_.get();
  SPORKLE_RETURN_IF_ERROR(state->reserve(options.wanted_port));
  state->circuit_thread = std::thread([state] { state->context.run(); });
  state->control_thread = std::thread([state] { state->control_loop(); });
  return tenant;
}

RelayTenant::~RelayTenant() { state_->stop(); }

void RelayTenant::forward_to(const Address& server) {
  const std::lock_guard lock(state_->mutex);
  state_->target = server;
  state_->changed.notify_all();
}

Address RelayTenant::address() const {
  const std::lock_guard lock(state_->mutex);
  return state_->public_address;
}

bool RelayTenant::connected() const {
  const std::lock_guard lock(state_->mutex);
  return state_->client != nullptr && state_->client->connected();
}

}  // namespace sporkle::mesh
