#include "run/parameter_donor.h"

#include <sys/resource.h>

#include <algorithm>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "mesh/clock.h"
#include "mesh/content_manifest.h"
#include "mesh/printable.h"
#include "mesh/server.h"
#include "run/held_parameters.h"
#include "run/run.pb.h"

namespace sporkle::run {
namespace {

constexpr int kLowestPriority = 19;
constexpr size_t kMostConnections = 64, kMostCallsInFlight = 16;
constexpr std::chrono::seconds kLongestQueue(15);  // who would wait for longer asks another donor

}  // namespace

struct ParameterDonor::State {
  explicit State(uint64_t bytes_per_second) : rate(static_cast<double>(bytes_per_second)) {}

  const double rate;
  HeldParameters parameters;
  mutable std::mutex mutex;
  std::optional<Digest> held;
  mesh::Clock::TimePoint free_at{};  // when what was asked for so far has been sent
  std::optional<mesh::SystemClock> clock;
  std::unique_ptr<mesh::Server> server;

  void answer(std::string_view method, mesh::Message request, mesh::Responder respond) {
    if (method != "parameter_piece")
      return respond(unsupported("this worker does not know the method \"" + mesh::printable(method, 64) + "\""));
    if (rate <= 0) return respond(parameters.answer(request));
    // A piece is copied only once its turn has come: those who wait cost no memory.
    proto::ParameterPieceRequest wanted;
    if (!wanted.ParseFromString(request.body) || wanted.size_bytes() > mesh::ContentManifest::largest_piece_bytes)
      return respond(parameters.answer(request));
    struct Waiting {
      mesh::Message request;
      mesh::Responder respond;
    };
    const auto waiting = std::make_shared<Waiting>(Waiting{std::move(request), std::move(respond)});
    mesh::Clock::TimePoint turn;
    {
      const std::lock_guard lock(mutex);
      turn = std::max(free_at, clock->now());
      if (turn - clock->now() > kLongestQueue)
        return waiting->respond(unavailable("too many fetch parameters from this worker"));
      free_at = turn + std::chrono::nanoseconds(static_cast<int64_t>(wanted.size_bytes() / rate * 1e9));
    }
    clock->call_at(turn, [this, waiting] {
      if (!waiting->respond.abandoned()) waiting->respond(parameters.answer(waiting->request));
    });
  }
};

ParameterDonor::ParameterDonor(std::unique_ptr<State> state) : state_(std::move(state)) {}

ParameterDonor::~ParameterDonor() {
  state_->server->stop();
  state_->clock.reset();  // its timers use the rest
}

Result<std::unique_ptr<ParameterDonor>> ParameterDonor::start(const mesh::Identity& identity,
                                                              const ParameterDonorOptions& options) {
  auto state = std::make_unique<State>(options.bytes_per_second);
  mesh::ServerOptions server;
  server.host = options.host;
  server.port = options.port;
  server.max_connections = kMostConnections;
  server.limits.max_calls_in_flight = kMostCallsInFlight;
  server.software = options.software;
  server.role = "donor";
  Status status;
  // Threads have the priority of the one that made them.
  std::thread([&] {
    (void)::setpriority(PRIO_PROCESS, 0, kLowestPriority);
    state->clock.emplace();
    mesh::ServerCallbacks callbacks;
    callbacks.handler = [s = state.get()](const mesh::Peer&, std::string_view method, mesh::Message request,
                                          mesh::Responder respond) {
      s->answer(method, std::move(request), std::move(respond));
    };
    auto started = mesh::Server::start(identity, server, std::move(callbacks));
    if (started.ok())
      state->server = *std::move(started);
    else
      status = started.status();
  }).join();
  if (!status.ok()) return status;
  return std::unique_ptr<ParameterDonor>(new ParameterDonor(std::move(state)));
}

uint16_t ParameterDonor::port() const { return state_->server->port(); }

void ParameterDonor::hold(const Digest& sha256, std::shared_ptr<const std::vector<float>> parameters) {
  state_->parameters.hold(sha256, std::move(parameters));
  const std::lock_guard lock(state_->mutex);
  state_->held = sha256;
}

bool ParameterDonor::held(Digest& sha256) const {
  state_->parameters.forget_old();
  const std::lock_guard lock(state_->mutex);
  if (state_->held) sha256 = *state_->held;
  return state_->held.has_value();
}

}  // namespace sporkle::run
