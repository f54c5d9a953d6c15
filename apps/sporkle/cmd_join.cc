#include <atomic>
#include <chrono>
#include <cstdio>
#include <memory>
#include <optional>
#include <thread>

#include "apps/sporkle/bandwidth_options.h"
#include "apps/sporkle/cli.h"
#include "apps/sporkle/commands.h"
#include "apps/sporkle/interrupt.h"
#include "apps/sporkle/lan_runs.h"
#include "apps/sporkle/run_connector.h"
#include "apps/sporkle/run_view.h"
#include "apps/sporkle/version.h"
#include "base/file.h"
#include "base/format_units.h"
#include "base/json_writer.h"
#include "base/log.h"
#include "base/progress.h"
#include "base/terminal.h"
#include "mesh/identity.h"
#include "mesh/lan_scan.h"
#include "mesh/run_link.h"
#include "run/gpt.h"
#include "run/worker.h"

namespace sporkle::app {
namespace {

struct JoinOptions {
  std::string run;
  bool lan = false;
  bool list = false;
  std::vector<std::string> seeds;
  DhtChoice dht;
  std::string name;
  std::string device;
  int64_t threads = 0;
  double speed = 1.0;
  double upload_mbit = 0;
  double download_mbit = 0;
  bool plaintext = false;
  bool no_serve = false;
  int64_t serve_port = 0;
  double serve_mbit = 100;
  bool json = false;
};

Status list_lan_runs(const JoinOptions& o) {
  SPORKLE_ASSIGN_OR_RETURN(const mesh::LanScan scan, scan_for_run(o.run));
  const std::vector<LanRunLine> lines = check_lan_runs(scan.runs);
  if (o.json) {
    for (const LanRunLine& line : lines) std::printf("%s\n", lan_json(line).c_str());
  } else if (lines.empty()) {
    std::printf("%s\n", choose_lan_run(scan, "").status().message().c_str());
  } else {
    std::printf("Runs on this network:\n\n%s\nJoin one with: sporkle join --lan %s\n", lan_table(lines).c_str(),
                lines.front().short_id.c_str());
  }
  return {};
}

// The link given, or the one that the local network has for what was given.
Result<mesh::RunLink> link_to_join(const JoinOptions& o) {
  std::optional<mesh::RunRecord> found;
  SPORKLE_ASSIGN_OR_RETURN(mesh::RunLink link, find_run(o.run, o.lan, "join", &found));
  if (!o.json && found)
    std::printf("Found '%s' (%s) on this network.\n", printable(found->name).c_str(),
                link.coordinator.short_id().c_str());
  return link;
}

Status join(const JoinOptions& o) {
  if (o.list) return list_lan_runs(o);
  SPORKLE_ASSIGN_OR_RETURN(const mesh::RunLink link, link_to_join(o));
  SPORKLE_ASSIGN_OR_RETURN(const mesh::Identity identity, mesh::Identity::load_or_create(home_directory()));
  RunConnectorOptions connector_options;
  connector_options.lan = o.lan;
  connector_options.seeds = o.seeds;
  if (!o.dht.bootstrap.empty()) SPORKLE_RETURN_IF_ERROR(o.dht.options(0).status());
  connector_options.dht = o.dht;
  connector_options.client.software = "sporkle " + std::string(version());
  connector_options.client.plaintext = o.plaintext;
  connector_options.client.upload_limit_bytes_per_s = bytes_per_second(o.upload_mbit);
  connector_options.client.download_limit_bytes_per_s = bytes_per_second(o.download_mbit);
  if (o.plaintext)
    log(LogLevel::warning, "join", "--plaintext: what this node sends and receives can be read and changed on the way");
  SPORKLE_ASSIGN_OR_RETURN(const std::unique_ptr<RunConnector> connector,
                           RunConnector::create(link, identity, connector_options));
  if (!o.json) std::printf("This node is %s. Joining ...\n", identity.id().short_id().c_str());
  const auto print = [&](const std::string& line) {
    if (line.empty()) return;
    std::printf("%s\n", line.c_str());
    std::fflush(stdout);
  };
  Terminal terminal(1);
  run::WorkerOptions options;
  options.software = "sporkle " + std::string(version());
  options.name = o.name;
  options.run = mesh::run_in_link(link);
  options.threads = static_cast<uint32_t>(o.threads);
  options.speed = o.speed;
  options.reduction_identity = identity;
  options.identity = identity;
  options.coordinator = link.coordinator;
  options.serve = !o.no_serve;
  options.donor.port = static_cast<uint16_t>(o.serve_port);
  options.donor.bytes_per_second = bytes_per_second(o.serve_mbit);
  options.donor.software = options.software;
  std::optional<Progress> fetching;
  if (!o.json)
    options.on_parameters = [&](uint64_t bytes, uint64_t total) {
      if (!fetching) fetching.emplace(&terminal, "parameters", static_cast<double>(total));
      fetching->update(static_cast<double>(bytes), format_bytes(static_cast<double>(bytes)));
      if (bytes == total) fetching.reset();
    };
  options.on_event = [&](const run::WorkerEvent& event) {
    if (o.json) return print(event_json(event));
    const std::string line = describe_event(event);
    if (!line.empty()) terminal.interactive() ? terminal.print(line) : print(line);
  };
  if (!o.json && terminal.interactive())
    options.on_step = [&](uint64_t round, const run::InnerProgress& progress) {
      char loss[32];
      std::snprintf(loss, sizeof loss, "%.3f", progress.loss);
      const std::string lines[] = {"round " + std::to_string(round) + ", step " + std::to_string(progress.step) +
                                   ", loss " + loss};
      terminal.redraw(lines);
    };
  run::Worker worker(
      [&connector]() -> Result<std::unique_ptr<mesh::Channel>> {
        SPORKLE_ASSIGN_OR_RETURN(std::unique_ptr<mesh::Client> client, connector->connect());
        return std::unique_ptr<mesh::Channel>(std::move(client));
      },
      run::gpt_replica_factory({o.device, static_cast<int>(o.threads)}), options);
  catch_interrupts();
  std::jthread watcher([&worker, &connector](std::stop_token stop) {
    while (!stop.stop_requested() && !interrupted()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      connector->remember();
    }
    if (interrupted()) worker.stop();
  });
  const Result<run::WorkerSummary> result = worker.run();
  watcher.request_stop();
  watcher.join();
  connector->remember();
  if (!result.ok()) return result.status();
  const run::WorkerSummary& s = *result;
  if (o.json) {
    print(JsonObject()
              .add("event", "summary")
              .add("finished", s.finished)
              .add("accepted", s.accepted)
              .add("late", s.late)
              .add("rejected", s.rejected)
              .add("leases_lost", s.leases_lost)
              .add("reconnects", s.reconnects)
              .add("steps", s.steps)
              .add("tokens", s.tokens)
              .text());
  } else {
    print(std::string(s.finished ? "The run is finished. " : "Left the run. ") + "This node gave " +
          std::to_string(s.steps) + " steps (" + std::to_string(s.tokens) + " tokens) in " +
          std::to_string(s.accepted) + " updates. Thank you.");
  }
  return {};
}

}  // namespace

void register_join(Cli& cli) {
  auto options = std::make_shared<JoinOptions>();
  JoinOptions& o = *options;
  Command command = cli.command("join", "Give this machine's compute to a run");
  command.option("run", &o.run, "The run's link, from `sporkle run start`; with --lan a name or an ID will do")
      .value_name("LINK");
  command.flag("--lan", &o.lan, "Look on this network: joins the run that is named, or the only one");
  command.flag("--list", &o.list, "Only list the runs on this network");
  command.option("--seeds", &o.seeds, "File of signed records that say where runs are (may be repeated)")
      .one_at_a_time()
      .value_name("FILE");
  o.dht.add_options(command);
  command.option("--threads", &o.threads, "Threads to compute with; 0: one for each core").range(0, 4096);
  command.option("--device", &o.device, "Device to compute on (see `sporkle devices`)").value_name("DEVICE");
  command.option("--name", &o.name, "What others see this node called").value_name("NAME");
  command.option("--speed", &o.speed, "Use only this share of the time, so that the machine stays usable")
      .range(0.01, 1);
  add_bandwidth_options(command, &o.upload_mbit, &o.download_mbit, "to the coordinator", "from it");
  command.flag("--plaintext", &o.plaintext,
               "Connect without encryption; works only where the coordinator was started with --plaintext too");
  command.flag("--no-serve", &o.no_serve,
               "Do not give the run's parameters to others that join; by default this node does, when its processor "
               "and line have nothing better to do");
  command.option("--serve-port", &o.serve_port, "TCP port on which it gives them; 0: any free one").range(0, 65535);
  command.option("--serve-limit", &o.serve_mbit, "Give at most so many Mbit/s to all together; 0: no limit")
      .range(0, 1e6)
      .value_name("MBIT");
  command.flag("--json", &o.json, "Print one JSON event a line");
  command.computes();
  command.example("join 'sporkle://...'", "Joins with all cores; Ctrl-C leaves, and nothing is lost.");
  command.example("join --lan", "Joins the run on this network, or lists them when there are several.");
  command.example("join 'sporkle://...' --threads 2 --speed 0.5", "Gives half of two cores.");
  command.action([options] { return join(*options); });
}

}  // namespace sporkle::app
