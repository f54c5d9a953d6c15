#include <chrono>
#include <cstdio>
#include <memory>
#include <optional>
#include <thread>

#include "apps/sporkle/bandwidth_options.h"
#include "apps/sporkle/cli.h"
#include "apps/sporkle/commands.h"
#include "apps/sporkle/dht_choice.h"
#include "apps/sporkle/interrupt.h"
#include "apps/sporkle/lan_runs.h"
#include "apps/sporkle/listen_address.h"
#include "apps/sporkle/relay_reservations.h"
#include "apps/sporkle/run_connector.h"
#include "apps/sporkle/run_view.h"
#include "apps/sporkle/version.h"
#include "base/file.h"
#include "base/format_units.h"
#include "base/json_writer.h"
#include "base/log.h"
#include "base/terminal.h"
#include "mesh/address_order.h"
#include "mesh/client.h"
#include "mesh/dht_publisher.h"
#include "mesh/lan_announcer.h"
#include "run/coordinator_server.h"
#include "run/gpt.h"

namespace sporkle::app {
namespace {

namespace fs = std::filesystem;

struct StartOptions {
  std::string config;
  std::string state;
  std::string listen;
  std::string name;
  std::vector<std::string> addresses;
  std::vector<std::string> relays;
  int64_t threads = 0;
  int64_t evaluate_every = 1;
  int64_t evaluation_windows = 256;
  int64_t checkpoint_every = 10;
  bool no_lan = false;
  double upload_mbit = 0;
  double download_mbit = 0;
  bool plaintext = false;
  DhtChoice dht;
  int64_t dht_port = 0;
  bool json = false;
};

void say(bool json, const std::string& line, const std::string& json_line) {
  const std::string& text = json ? json_line : line;
  if (text.empty()) return;
  std::printf("%s\n", text.c_str());
  std::fflush(stdout);
}

// Tells the local network; a coordinator that listens on loopback alone tells this machine alone. Null when that is not
// wanted, or does not work: the link still does.
std::unique_ptr<mesh::LanAnnouncer> announce(const run::CoordinatorServer& server, const std::string& listen_host,
                                             bool no_lan) {
  if (no_lan) return nullptr;
  mesh::LanAnnouncerOptions options;
  if (mesh::is_loopback(listen_host)) options.scope = mesh::LanScope::loopback;
  auto announcer = mesh::LanAnnouncer::start([&server] { return server.record(); }, options);
  if (announcer.ok()) return *std::move(announcer);
  log(LogLevel::warning, "run", "`sporkle join --lan` will not find this run: " + announcer.status().message());
  return nullptr;
}

Status start_run(const StartOptions& o) {
  std::optional<mesh::DhtOptions> dht_options;
  if (o.dht.wanted() || (!o.dht.off && o.dht_port != 0)) {
    SPORKLE_ASSIGN_OR_RETURN(dht_options, o.dht.options(static_cast<uint16_t>(o.dht_port)));
  }
  SPORKLE_ASSIGN_OR_RETURN(const train::TrainConfig config, train::load_config(o.config));
  const fs::path state = o.state.empty() ? fs::path(config.output.directory) / "run" : fs::path(o.state);
  std::error_code error;
  fs::create_directories(state, error);
  if (error) return errno_status(error.value(), "cannot create the run's folder " + state.string());
  if (!o.json) std::printf("Preparing data and model ...\n");
  SPORKLE_ASSIGN_OR_RETURN(const train::Dataset dataset, train::Dataset::open(config.data, config.model.context));
  SPORKLE_ASSIGN_OR_RETURN(const run::RunConfig run, run::run_config(config, dataset));
  const std::vector<std::byte> tokens = run::training_tokens(dataset, run.manifest.token_bytes);
  SPORKLE_ASSIGN_OR_RETURN(
      const std::unique_ptr<run::GptHost> host,
      run::GptHost::create(config, dataset, {"", static_cast<int>(o.threads)}, o.evaluation_windows));
  SPORKLE_ASSIGN_OR_RETURN(const mesh::Identity identity, mesh::Identity::load_or_create(home_directory()));

  run::CoordinatorServerOptions options;
  options.folder = state;
  options.addresses = o.addresses;
  // The data may be named by a path, which is nobody's business.
  options.name = o.name.empty() ? fs::path(run.manifest.name).stem().string() : o.name;
  options.server.software = "sporkle " + std::string(version());
  options.server.plaintext = o.plaintext;
  if (o.plaintext)
    log(LogLevel::warning, "run",
        "--plaintext: what is exchanged with nodes that ask for it can be read and changed on the way");
  options.server.upload_limit_bytes_per_s = bytes_per_second(o.upload_mbit);
  options.server.download_limit_bytes_per_s = bytes_per_second(o.download_mbit);
  options.evaluate_every_rounds = static_cast<uint64_t>(o.evaluate_every);
  options.checkpoint_every_rounds = static_cast<uint64_t>(o.checkpoint_every);
  options.on_event = [&o](const run::Event& event) { say(o.json, describe_event(event), event_json(event)); };
  SPORKLE_RETURN_IF_ERROR(parse_listen(o.listen.empty() ? config.run.listen : o.listen, &options.server));
  // A link names a port, so a coordinator that starts again takes the one that it had.
  const fs::path port_file = state / "port";
  if (options.server.port == 0)
    if (const auto before = read_file(port_file); before.ok())
      SPORKLE_RETURN_IF_ERROR(parse_listen(options.server.host + ":" + *before, &options.server));

  // Before the server, whose link names the relays' ports.
  SPORKLE_ASSIGN_OR_RETURN(const std::unique_ptr<RelayReservations> relays,
                           RelayReservations::make(o.relays, identity, state));
  options.relay_addresses = [&relays] { return relays->addresses(); };
  SPORKLE_ASSIGN_OR_RETURN(const std::unique_ptr<run::CoordinatorServer> server,
                           run::CoordinatorServer::start(run, identity, tokens, *host, options));
  SPORKLE_RETURN_IF_ERROR(write_file_atomically(port_file, std::to_string(server->port())));
  relays->forward_to({options.server.host.empty() ? "127.0.0.1" : options.server.host, server->port()});
  const std::unique_ptr<mesh::LanAnnouncer> announcer = announce(*server, options.server.host, o.no_lan);
  const std::string link = server->link().to_string();
  say(o.json,
      "Run link:\n\n  " + link + "\n\nOn any machine that reaches this one:\n\n  sporkle join '" + link + "'\n\n" +
          (announcer ? "On any machine of this network (--no-lan switches that off):\n\n  sporkle join --lan\n\n"
                     : "") +
          "Waiting for " + std::to_string(run.start_workers) + (run.start_workers == 1 ? " worker" : " workers") +
          ". Ctrl-C stops; the same command goes on from " + state.string() + ".",
      JsonObject()
          .add("event", "link")
          .add("link", link)
          .add("port", server->port())
          .add("lan", announcer != nullptr)
          .add("record", (state / "record").string())
          .text());

  // After the link is told: nobody who joins waits for it.
  std::unique_ptr<mesh::Dht> dht;
  std::optional<mesh::DhtPublisher> publisher;
  if (dht_options) {
    auto started = mesh::Dht::start(*dht_options);
    if (started.ok()) {
      dht = *std::move(started);
      mesh::DhtPublisherOptions publisher_options;
      publisher_options.on_published = [&o](uint64_t sequence, size_t nodes) {
        if (o.json)
          say(true, "", JsonObject().add("event", "dht").add("sequence", sequence).add("nodes", nodes).text());
      };
      publisher.emplace(
          *dht, identity, [&server] { return server->record(); }, publisher_options);
    } else {
      log(LogLevel::warning, "run", started.status().message());
    }
  }

  catch_interrupts();
  std::jthread watcher([&server](std::stop_token stop) {
    while (!stop.stop_requested() && !interrupted()) std::this_thread::sleep_for(std::chrono::milliseconds(50));
    if (interrupted()) server->stop();
  });
  const Result<run::RunSummary> result = server->wait();
  watcher.request_stop();
  if (!result.ok() && result.status().code() == Code::cancelled) {
    say(o.json, "Stopped. Go on with: sporkle run start " + o.config,
        JsonObject().add("event", "stopped").add("state", state.string()).text());
    return {};
  }
  if (!result.ok()) return result.status();
  const run::RunSummary& summary = *result;
  JsonObject object;
  object.add("event", "summary").add("rounds", summary.status.round).add("tokens", summary.status.tokens);
  if (summary.validation_loss) object.add("validation_loss", *summary.validation_loss);
  object.add("bytes_in", summary.status.bytes_in).add("bytes_out", summary.status.bytes_out);
  object.add("workers_joined", summary.status.workers_joined).add("workers_lost", summary.status.workers_lost);
  object.add("checkpoint", summary.checkpoint).add("seconds", summary.seconds);
  char loss[32] = "unknown";
  if (summary.validation_loss) std::snprintf(loss, sizeof loss, "%.4f", *summary.validation_loss);
  say(o.json,
      "\nFinished after " + std::to_string(summary.status.round) + " rounds, " + format_duration(summary.seconds) +
          ". Validation loss " + loss +
          " nats a token.\nCheckpoint: " + (summary.checkpoint.empty() ? "could not be saved" : summary.checkpoint),
      object.text());
  if (summary.checkpoint.empty()) return Status(Code::io_error, "the final checkpoint could not be saved");
  return {};
}

struct StatusOptions {
  std::string link;
  bool lan = false;
  std::vector<std::string> seeds;
  DhtChoice dht;
  bool json = false;
  bool watch = false;
};

Status show_run(const StatusOptions& o) {
  SPORKLE_ASSIGN_OR_RETURN(const mesh::RunLink link, find_run(o.link, o.lan, "show"));
  // Only asking: nobody needs to know this machine's key.
  SPORKLE_ASSIGN_OR_RETURN(const mesh::Identity identity, mesh::Identity::generate());
  mesh::ClientOptions options;
  options.software = "sporkle " + std::string(version());
  options.role = "observer";
  RunConnectorOptions connector_options;
  connector_options.client = options;
  connector_options.lan = o.lan;
  connector_options.seeds = o.seeds;
  connector_options.dht = o.dht;
  SPORKLE_ASSIGN_OR_RETURN(const std::unique_ptr<RunConnector> connector,
                           RunConnector::create(link, identity, connector_options));
  SPORKLE_ASSIGN_OR_RETURN(const std::unique_ptr<mesh::Client> client, connector->connect());
  Terminal terminal(1);
  DemoScreen screen;
  const auto start = std::chrono::steady_clock::now();
  catch_interrupts();
  for (;;) {
    SPORKLE_ASSIGN_OR_RETURN(const run::RunStatus status, run::fetch_status(*client, std::chrono::seconds(10)));
    if (o.json) {
      say(true, "", status_json(status));
    } else {
      show_status(status, &screen);
      screen.corpus = status.name;
      screen.model = "GPT, " + format_count(static_cast<double>(status.parameter_count)) + " parameters";
      screen.stage = "run " + std::string(run::run_phase_name(status.phase));
      screen.elapsed_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      const ScreenSize size{terminal.width(), terminal.interactive() ? terminal.height() : 40, terminal.colour()};
      const std::vector<std::string> lines = render_demo_screen(screen, size);
      if (terminal.interactive() && o.watch) {
        terminal.redraw(lines);
      } else {
        for (const std::string& line : lines) std::printf("%s\n", line.c_str());
      }
    }
    if (!o.watch || interrupted() || status.phase == run::RunPhase::finished) return {};
    std::this_thread::sleep_for(std::chrono::milliseconds(1000));
  }
}

}  // namespace

void register_run(Cli& cli) {
  Command run = cli.command("run", "Start a training run that others can join, or look at one");

  auto start_options = std::make_shared<StartOptions>();
  StartOptions& s = *start_options;
  Command start = run.command("start", "Coordinate a run: hand out work, average what comes back");
  start.option("config", &s.config, "The run's configuration (TOML)").required().value_name("CONFIG");
  start.option("--state", &s.state, "Folder for the run's state (default: OUTPUT/run)").value_name("DIR");
  start.option("--listen", &s.listen, "Address to listen on, instead of run.listen").value_name("HOST:PORT");
  start.option("--address", &s.addresses, "Host that the link names (may be repeated; default: this machine's)")
      .one_at_a_time()
      .value_name("HOST");
  start
      .option("--relay", &s.relays,
              "Link of a relay through which this run can be reached from behind a NAT or firewall (may be repeated)")
      .one_at_a_time()
      .value_name("LINK");
  start.option("--name", &s.name, "What others see this run called (default: the name of its data)").value_name("NAME");
  start.option("--threads", &s.threads, "Threads for evaluation; 0: one for each core").range(0, 4096);
  start.option("--evaluate-every", &s.evaluate_every, "Rounds between evaluations; 0: only at the end").range(0, 1e9);
  start.option("--evaluation-windows", &s.evaluation_windows, "Validation windows to look at; 0: all").range(0, 1e9);
  start.option("--checkpoint-every", &s.checkpoint_every, "Rounds between checkpoints; 0: only at the end")
      .range(0, 1e9);
  start.flag(
      "--no-lan", &s.no_lan,
      "Do not tell the local network of this run. By default its name and addresses are announced there, so that "
      "`sporkle join --lan` finds it");
  add_bandwidth_options(start, &s.upload_mbit, &s.download_mbit, "to each node", "from each node");
  start.flag("--plaintext", &s.plaintext,
             "Allow connections without encryption to nodes that ask for them with --plaintext; all others stay "
             "encrypted");
  s.dht.add_options(start);
  start.option("--dht-port", &s.dht_port, "UDP port for the table; 0: any. With a port it works without others, too")
      .range(0, 65535);
  start.flag("--json", &s.json, "Print one JSON event a line");
  start.computes();
  start.example("run start examples/configs/mesh.toml", "Prints a link for `sporkle join`, then conducts the run.");
  start.action([start_options] { return start_run(*start_options); });

  auto status_options = std::make_shared<StatusOptions>();
  StatusOptions& t = *status_options;
  Command status = run.command("status", "Show nodes, rounds, loss and bytes of a run");
  status.option("link", &t.link, "The run's link; with --lan a name or an ID will do").value_name("LINK");
  status.flag("--lan", &t.lan, "Look on this network: shows the run that is named, or the only one");
  status.option("--seeds", &t.seeds, "File of signed records that say where runs are (may be repeated)")
      .one_at_a_time()
      .value_name("FILE");
  t.dht.add_options(status);
  status.flag("--watch", &t.watch, "Keep showing it until the run is finished");
  status.flag("--json", &t.json, "Print JSON");
  status.example("run status 'sporkle://...' --watch", "Follows a run.");
  status.example("run status --lan", "Shows the run on this network.");
  status.action([status_options] { return show_run(*status_options); });
}

}  // namespace sporkle::app
