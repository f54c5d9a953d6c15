#include <atomic>
#include <chrono>
#include <cstdio>
#include <memory>
#include <thread>

#include "apps/sporkle/cli.h"
#include "apps/sporkle/commands.h"
#include "apps/sporkle/interrupt.h"
#include "apps/sporkle/run_view.h"
#include "apps/sporkle/version.h"
#include "base/file.h"
#include "base/json_writer.h"
#include "base/terminal.h"
#include "mesh/identity.h"
#include "mesh/run_link.h"
#include "run/gpt.h"
#include "run/worker.h"

namespace sporkle::app {
namespace {

struct JoinOptions {
  std::string link;
  std::string name;
  std::string device;
  int64_t threads = 0;
  double speed = 1.0;
  bool json = false;
};

Status join(const JoinOptions& o) {
  SPORKLE_ASSIGN_OR_RETURN(const mesh::RunLink link, mesh::RunLink::parse(o.link));
  SPORKLE_ASSIGN_OR_RETURN(const mesh::Identity identity, mesh::Identity::load_or_create(home_directory()));
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
  options.threads = static_cast<uint32_t>(o.threads);
  options.speed = o.speed;
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
  run::Worker worker(link, identity, run::gpt_replica_factory({o.device, static_cast<int>(o.threads)}), options);
  catch_interrupts();
  std::jthread watcher([&worker](std::stop_token stop) {
    while (!stop.stop_requested() && !interrupted()) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    if (interrupted()) worker.stop();
  });
  const Result<run::WorkerSummary> result = worker.run();
  watcher.request_stop();
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
  command.option("link", &o.link, "The run's link, from `sporkle run start`").required().value_name("LINK");
  command.option("--threads", &o.threads, "Threads to compute with; 0: one for each core").range(0, 4096);
  command.option("--device", &o.device, "Device to compute on (see `sporkle devices`)").value_name("DEVICE");
  command.option("--name", &o.name, "What others see this node called").value_name("NAME");
  command.option("--speed", &o.speed, "Use only this share of the time, so that the machine stays usable")
      .range(0.01, 1);
  command.flag("--json", &o.json, "Print one JSON event a line");
  command.computes();
  command.example("join 'sporkle://...'", "Joins with all cores; Ctrl-C leaves, and nothing is lost.");
  command.example("join 'sporkle://...' --threads 2 --speed 0.5", "Gives half of two cores.");
  command.action([options] { return join(*options); });
}

}  // namespace sporkle::app
