#include "apps/sporkle/bench_rpc.h"

#include <signal.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <sstream>

#include "base/child_process.h"
#include "base/temporary_folder.h"
#include "bench/statistics.h"
#include "mesh/client.h"
#include "mesh/crc32c.h"
#include "mesh/server.h"

namespace sporkle::app {
namespace {

using std::chrono::steady_clock;

constexpr size_t kStreamBytes = size_t{256} << 20;
constexpr size_t kStreamMessage = size_t{1} << 20;
constexpr int kInFlight = 16;
constexpr int kRun_ms = 300;
constexpr int kConnects = 5;  // in a round
constexpr std::chrono::seconds kTimeout(60);

double seconds_since(steady_clock::time_point start) {
  return std::chrono::duration<double>(steady_clock::now() - start).count();
}

struct Calls {
  double per_second = 0, p50_us = 0, p99_us = 0;
};

// Each of `in_flight` chains of calls starts its next one where its last was answered.
class CallRun {
 public:
  CallRun(mesh::Client& client, int in_flight) : client_(client), open_(in_flight) {}

  Result<Calls> run() {
    const auto begin = steady_clock::now();
    end_ = begin + std::chrono::milliseconds(kRun_ms);
    for (int i = open_; i > 0; --i) next();
    over_.get_future().wait();
    const std::lock_guard lock(mutex_);  // the last answer's callback still holds it when it says that all is over
    if (!failure_.ok()) return failure_;
    const double seconds = seconds_since(begin);
    return Calls{static_cast<double>(us_.size()) / seconds, bench::quantile(us_, 0.5), bench::quantile(us_, 0.99)};
  }

 private:
  void next() {
    const auto start = steady_clock::now();
    client_.start_call("echo", {text_, {}}, [this, start](Result<mesh::Message> answer) {
      const auto now = steady_clock::now();
      const bool good = answer.ok() && answer->body == text_;
      {
        const std::lock_guard lock(mutex_);
        if (good) us_.push_back(std::chrono::duration<double, std::micro>(now - start).count());
        if (!good) failure_ = answer.ok() ? internal_error("an answer is not the call's text") : answer.status();
      }
      if (good && now < end_) return next();
      const std::lock_guard lock(mutex_);
      if (--open_ == 0) over_.set_value();
    });
  }

  mesh::Client& client_;
  const std::string text_ = std::string(64, 'x');
  steady_clock::time_point end_;
  std::mutex mutex_;
  std::vector<double> us_;
  Status failure_;
  int open_;
  std::promise<void> over_;
};

class Ours {
 public:
  static Result<std::unique_ptr<Ours>> start() {
    auto ours = std::unique_ptr<Ours>(new Ours());
    SPORKLE_ASSIGN_OR_RETURN(const mesh::Identity server_key, mesh::Identity::generate());
    SPORKLE_ASSIGN_OR_RETURN(const mesh::Identity client_key, mesh::Identity::generate());
    ours->key_ = client_key;
    mesh::ServerOptions options;
    options.host = "127.0.0.1";
    const auto handler = [](const mesh::Peer&, std::string_view method, mesh::Message request,
                            mesh::Responder respond) {
      if (method == "echo") return respond(std::move(request));
      if (method == "sum") return respond(mesh::Message{std::to_string(mesh::crc32c(request.payload)), {}});
      respond(mesh::Message{std::to_string(request.payload.size()), {}});
    };
    mesh::ServerCallbacks callbacks{handler, nullptr, nullptr, count_stream};
    SPORKLE_ASSIGN_OR_RETURN(ours->server_, mesh::Server::start(server_key, options, std::move(callbacks)));
    ours->link_.coordinator = server_key.id();
    ours->link_.addresses = {{"127.0.0.1", ours->server_->port()}};
    SPORKLE_ASSIGN_OR_RETURN(ours->client_, mesh::Client::connect(ours->link_, client_key));
    ours->noise_.resize(kStreamBytes);
    uint64_t word = 1;
    for (std::byte& byte : ours->noise_)
      byte = static_cast<std::byte>((word = word * 6364136223846793005u + 1442695040888963407u) >> 56);
    // Before anything is timed: what is streamed arrives whole.
    SPORKLE_ASSIGN_OR_RETURN(const mesh::Message sum, ours->client_->call("sum", {"", ours->noise_}, kTimeout));
    if (sum.body != std::to_string(mesh::crc32c(ours->noise_)))
      return internal_error("the streamed bytes arrived altered");
    return ours;
  }

  // Answers with the number of bytes that came.
  static void count_stream(const mesh::Peer&, std::string_view, const std::string&, mesh::ServerStream stream) {
    auto shared = std::make_shared<mesh::ServerStream>(std::move(stream));
    shared->read_with([shared, total = size_t{0}](const std::vector<std::byte>& bytes) mutable {
      total += bytes.size();
      if (bytes.empty()) shared->respond(std::to_string(total));
    });
  }

  Result<Calls> calls(int in_flight) { return CallRun(*client_, in_flight).run(); }

  // As gRPC's side does: one stream of pieces of 1 MiB, from memory that stays, counted where they arrive.
  Result<double> stream_s() {
    const auto start = steady_clock::now();
    SPORKLE_ASSIGN_OR_RETURN(mesh::ClientStream stream, client_->open_stream("sink", "", kTimeout));
    for (size_t at = 0; at < kStreamBytes; at += kStreamMessage) {
      const std::span<const std::byte> piece(noise_.data() + at, kStreamMessage);
      SPORKLE_RETURN_IF_ERROR(stream.write(mesh::SharedBytes(nullptr, piece), kTimeout));
    }
    stream.finish_writing();
    SPORKLE_ASSIGN_OR_RETURN(const std::string answer, stream.result(kTimeout));
    const double seconds = seconds_since(start);
    if (answer != std::to_string(kStreamBytes)) return internal_error("not all streamed bytes arrived");
    return seconds;
  }

  // All of it as one message, which the receiver holds whole.
  Result<double> message_s() {
    std::vector<std::byte> payload = noise_;  // a message owns its payload; making it is not sending it
    const auto start = steady_clock::now();
    SPORKLE_ASSIGN_OR_RETURN(const mesh::Message answer, client_->call("sink", {"", std::move(payload)}, kTimeout));
    const double seconds = seconds_since(start);
    if (answer.body != std::to_string(kStreamBytes)) return internal_error("not all streamed bytes arrived");
    return seconds;
  }

  Result<double> connect_ms() {
    const auto start = steady_clock::now();
    SPORKLE_ASSIGN_OR_RETURN(const std::unique_ptr<mesh::Client> client, mesh::Client::connect(link_, *key_));
    SPORKLE_ASSIGN_OR_RETURN(const mesh::Message answer, client->call("echo", {std::string(64, 'x'), {}}, kTimeout));
    const double ms = 1e3 * seconds_since(start);
    if (answer.body != std::string(64, 'x')) return internal_error("an answer is not the call's text");
    return ms;
  }

 private:
  Ours() = default;
  std::unique_ptr<mesh::Server> server_;
  std::unique_ptr<mesh::Client> client_;
  std::optional<mesh::Identity> key_;
  mesh::RunLink link_;
  std::vector<std::byte> noise_;
};

class Grpc {
 public:
  static Result<std::unique_ptr<Grpc>> start() {
    ChildOptions options;
    options.program = own_program().parent_path() / "grpc_rival";
    if (!std::filesystem::exists(options.program))
      return unavailable("not found: " + options.program.string() + "; install libgrpc++-dev and build again");
    SPORKLE_ASSIGN_OR_RETURN(TemporaryFolder folder, TemporaryFolder::create("sporkle-rival"));
    options.error_log = folder.path() / "errors.log";
    options.talks = true;
    SPORKLE_ASSIGN_OR_RETURN(ChildProcess child, ChildProcess::start(options));
    auto grpc = std::unique_ptr<Grpc>(new Grpc(std::move(folder), std::move(child)));
    SPORKLE_ASSIGN_OR_RETURN(grpc->version_, grpc->ask("version"));
    return grpc;
  }
  const std::string& version() const { return version_; }

  Result<Calls> calls(int in_flight) {
    const std::string command = "calls " + std::to_string(in_flight) + " " + std::to_string(kRun_ms);
    SPORKLE_ASSIGN_OR_RETURN(const std::string line, ask(command));
    Calls calls;
    std::istringstream words(line);
    if (!(words >> calls.per_second >> calls.p50_us >> calls.p99_us)) return unexpected(line);
    return calls;
  }
  Result<double> message_s() { return stream_s(); }  // the same measurement again
  Result<double> stream_s() { return number("stream " + std::to_string(kStreamBytes)); }
  Result<double> connect_ms() { return number("connect"); }

  // Its threads must not run beside our measurements, nor the other way round.
  void pause() { child_.send_signal(SIGSTOP); }
  void resume() { child_.send_signal(SIGCONT); }

 private:
  Grpc(TemporaryFolder folder, ChildProcess child) : folder_(std::move(folder)), child_(std::move(child)) {}

  static Status unexpected(const std::string& line) {
    return internal_error("gRPC's side answered \"" + line.substr(0, 200) + "\"");
  }
  Result<std::string> ask(const std::string& command) {
    SPORKLE_RETURN_IF_ERROR(child_.write_line(command));
    const std::optional<std::string> line = child_.read_line(60'000);
    if (!line) return unavailable("gRPC's side ended or did not answer");
    if (line->starts_with("error")) return unavailable("gRPC's side: " + *line);
    return *line;
  }
  Result<double> number(const std::string& command) {
    SPORKLE_ASSIGN_OR_RETURN(const std::string line, ask(command));
    std::istringstream words(line);
    double value = 0;
    if (!(words >> value) || !(value > 0)) return unexpected(line);
    return value;
  }

  TemporaryFolder folder_;
  ChildProcess child_;
  std::string version_;
};

struct Row {
  const char* shape;
  const char* unit;
};
constexpr std::array<Row, 6> kRows = {
    {{"calls", "calls/s"}, {"p50", "us"}, {"p99", "us"}, {"stream", "GB/s"}, {"message", "GB/s"}, {"connect", "ms"}}};
using Sample = std::array<double, kRows.size()>;

template <typename Side>
Result<Sample> sample(Side& side) {
  SPORKLE_ASSIGN_OR_RETURN(const Calls many, side.calls(kInFlight));
  SPORKLE_ASSIGN_OR_RETURN(const Calls one, side.calls(1));
  SPORKLE_ASSIGN_OR_RETURN(const double stream_s, side.stream_s());
  SPORKLE_ASSIGN_OR_RETURN(const double message_s, side.message_s());
  std::vector<double> connects;
  for (int i = 0; i < kConnects; ++i) {
    SPORKLE_ASSIGN_OR_RETURN(const double ms, side.connect_ms());
    connects.push_back(ms);
  }
  return Sample{many.per_second,
                one.p50_us,
                one.p99_us,
                static_cast<double>(kStreamBytes) / stream_s * 1e-9,
                static_cast<double>(kStreamBytes) / message_s * 1e-9,
                bench::median(connects)};
}

// Seconds of one call, stream or connection.
double seconds_of(const std::string& unit, double value) {
  if (unit == "us") return value * 1e-6;
  if (unit == "ms") return value * 1e-3;
  return (unit == "GB/s" ? static_cast<double>(kStreamBytes) * 1e-9 : 1.0) / value;
}

bench::Record record_of(size_t row, const std::vector<Sample>& ours, const std::vector<Sample>& theirs) {
  std::vector<double> values, rival_values, ratios;
  for (const Sample& s : ours) values.push_back(s[row]);
  for (const Sample& s : theirs) rival_values.push_back(s[row]);
  bench::Record record;
  record.name = "rpc";
  record.shape = kRows[row].shape;
  record.dtype = "u8";
  record.numerics = "strict";
  record.device = "cpu";
  record.value = bench::median(values);
  record.unit = kRows[row].unit;
  record.seconds = seconds_of(record.unit, record.value);
  record.noise = bench::relative_noise(values);
  record.rounds = static_cast<int64_t>(values.size());
  if (rival_values.empty()) return record;
  for (size_t i = 0; i < values.size(); ++i)
    ratios.push_back(bench::smaller_is_better(record.unit) ? rival_values[i] / values[i] : values[i] / rival_values[i]);
  record.rival_value = bench::median(rival_values);
  record.ratio = bench::median(ratios);
  record.ratio_min = *std::ranges::min_element(ratios);
  record.ratio_max = *std::ranges::max_element(ratios);
  record.ratio_noise = bench::relative_noise(ratios);
  return record;
}

}  // namespace

Result<std::vector<bench::Record>> bench_rpc(const RpcBenchOptions& options) {
  SPORKLE_ASSIGN_OR_RETURN(const std::unique_ptr<Ours> ours, Ours::start());
  std::string rival_version;
  std::unique_ptr<Grpc> grpc;
  if (options.against) {
    Result<std::unique_ptr<Grpc>> started = Grpc::start();
    rival_version = started.ok() ? (*started)->version() : started.status().message();
    if (started.ok()) grpc = *std::move(started);
  }
  std::vector<Sample> our_samples, their_samples;
  for (int64_t i = -1; i < options.rounds; ++i) {  // the first warms up
    if (grpc) grpc->pause();
    SPORKLE_ASSIGN_OR_RETURN(const Sample mine, sample(*ours));
    if (i >= 0) our_samples.push_back(mine);
    if (grpc) {
      grpc->resume();
      SPORKLE_ASSIGN_OR_RETURN(const Sample theirs, sample(*grpc));
      if (i >= 0) their_samples.push_back(theirs);
    }
    if (options.on_progress) options.on_progress(static_cast<double>(i + 2) / static_cast<double>(options.rounds + 1));
  }
  std::vector<bench::Record> records;
  for (size_t row = 0; row < kRows.size(); ++row) {
    records.push_back(record_of(row, our_samples, their_samples));
    if (!options.against) continue;
    records.back().rival = "gRPC";
    records.back().rival_version = rival_version;
  }
  return records;
}

}  // namespace sporkle::app
