#include "mesh/lan_announcer.h"

#include <algorithm>
#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <thread>
#include <utility>

#include "base/log.h"
#include "mesh/lan_socket.h"
#include "mesh/token_bucket.h"

namespace sporkle::mesh {
namespace {

namespace asio = boost::asio;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

// Datagrams get lost, so the first announcement is repeated.
constexpr milliseconds first_pauses[] = {milliseconds(1000), milliseconds(2000)};
constexpr milliseconds shortest_pause{1000};

}  // namespace

struct LanAnnouncer::State {
  State(std::function<Result<RunRecord>()> current_record, const LanAnnouncerOptions& announcer_options)
      : record(std::move(current_record)),
        options(announcer_options),
        answer_rate(options.answers_per_second, options.answer_burst) {}

  const std::function<Result<RunRecord>()> record;
  const LanAnnouncerOptions options;
  TokenBucket answer_rate;
  asio::io_context context{1};
  LanSocket v4{context, LanSocket::Family::v4};
  LanSocket v6{context, LanSocket::Family::v6};
  asio::steady_timer timer{context};
  size_t announced = 0;
  steady_clock::time_point last_announcement{};
  steady_clock::time_point next_announcement{};
  std::string last_failure;
  std::atomic<uint64_t> announcements{0}, answers{0}, ignored{0};
  std::thread thread;

  std::vector<std::byte> datagram() {
    const auto now = record();
    if (now.ok()) return encode_lan_record(now->encode());
    if (std::exchange(last_failure, now.status().message()) != now.status().message())
      log(LogLevel::warning, "mesh", "the run is not announced on the local network: " + now.status().message());
    return {};
  }

  // Interfaces come and go, so they are listed anew each time.
  void announce() {
    const std::vector<LanInterface> interfaces = lan_interfaces(options.scope);
    for (LanSocket* socket : {&v4, &v6})
      for (const LanInterface& interface : interfaces) socket->join(interface);
    if (const std::vector<std::byte> bytes = datagram(); !bytes.empty()) {
      for (LanSocket* socket : {&v4, &v6})
        for (const LanInterface& interface : interfaces) socket->send_to_group(bytes, interface, options.port);
      ++announcements;
    }
    last_announcement = steady_clock::now();
    const milliseconds pause =
        announced < std::size(first_pauses) ? std::min(first_pauses[announced], options.interval) : options.interval;
    ++announced;
    announce_at(last_announcement + pause);
  }

  void announce_at(steady_clock::time_point when) {
    next_announcement = when;
    timer.expires_at(when);
    timer.async_wait([this](boost::system::error_code error) {
      if (!error) announce();
    });
  }

  void receive(LanSocket& socket, std::span<const std::byte> bytes, const LanSocket::Endpoint& source) {
    const auto arrived = decode_lan_datagram(bytes);
    if (!arrived.ok()) {
      ++ignored;
      return;
    }
    if (arrived->kind != LanDatagram::Kind::query) return;
    const auto now = steady_clock::now();
    if (answer_rate.take(now)) {
      if (const std::vector<std::byte> answer = datagram(); !answer.empty()) {
        socket.send(answer, source);
        ++answers;
      }
    } else if (const auto soon = std::max(now, last_announcement + shortest_pause); soon < next_announcement) {
      announce_at(soon);
    }
  }
};

LanAnnouncer::LanAnnouncer(std::unique_ptr<State> state) : state_(std::move(state)) {}

Result<std::unique_ptr<LanAnnouncer>> LanAnnouncer::start(std::function<Result<RunRecord>()> record,
                                                          const LanAnnouncerOptions& options) {
  auto state = std::make_unique<State>(std::move(record), options);
  State& s = *state;
  Status status = s.v4.open(options.port);
  if (const Status v6 = s.v6.open(options.port); v6.ok() || status.ok()) {
    status = Status();
  }
  SPORKLE_RETURN_IF_ERROR(status);
  for (LanSocket* socket : {&s.v4, &s.v6})
    socket->receive([&s, socket](std::span<const std::byte> bytes, const LanSocket::Endpoint& source) {
      s.receive(*socket, bytes, source);
    });
  asio::post(s.context, [&s] { s.announce(); });
  s.thread = std::thread([&s] { s.context.run(); });
  return std::unique_ptr<LanAnnouncer>(new LanAnnouncer(std::move(state)));
}

LanAnnouncer::~LanAnnouncer() {
  state_->context.stop();
  state_->thread.join();
}

LanAnnouncer::Counts LanAnnouncer::counts() const { return {state_->announcements, state_->answers, state_->ignored}; }

}  // namespace sporkle::mesh
