#include <chrono>
#include <cstdio>
#include <memory>
#include <thread>

#include "apps/sporkle/cli.h"
#include "apps/sporkle/commands.h"
#include "apps/sporkle/dht_choice.h"
#include "apps/sporkle/interrupt.h"
#include "base/json_writer.h"
#include "mesh/address_order.h"
#include "mesh/printable.h"

namespace sporkle::app {
namespace {

struct DhtCommand {
  DhtChoice choice;
  std::string link;
  std::string host;
  int64_t port = 0;
  double seconds = 10;
  bool json = false;
};

Status serve(const DhtCommand& o) {
  SPORKLE_ASSIGN_OR_RETURN(mesh::DhtOptions options, o.choice.options(static_cast<uint16_t>(o.port)));
  if (!o.host.empty()) options.host = o.host;
  options.shared_address = mesh::is_loopback(options.host);
  SPORKLE_ASSIGN_OR_RETURN(const std::unique_ptr<mesh::Dht> dht, mesh::Dht::start(options));
  if (o.json) {
    std::printf("%s\n", JsonObject().add("event", "serving").add("port", dht->port()).text().c_str());
  } else {
    std::printf(
        "Serving the table on UDP port %d. Others name this machine with --dht-bootstrap HOST:%d. Ctrl-C stops.\n",
        dht->port(), dht->port());
  }
  std::fflush(stdout);
  catch_interrupts();
  while (!interrupted()) std::this_thread::sleep_for(std::chrono::milliseconds(50));
  return {};
}

Status find(const DhtCommand& o) {
  SPORKLE_ASSIGN_OR_RETURN(const mesh::RunLink link, mesh::RunLink::parse(o.link));
  if (!o.choice.wanted())
    return invalid_argument("no node of the table is known here yet; name one with --dht-bootstrap HOST:PORT");
  SPORKLE_ASSIGN_OR_RETURN(const mesh::DhtOptions options, o.choice.options(0));
  SPORKLE_ASSIGN_OR_RETURN(const std::unique_ptr<mesh::Dht> dht, mesh::Dht::start(options));
  const auto start = std::chrono::steady_clock::now();
  SPORKLE_ASSIGN_OR_RETURN(const mesh::RunRecord record,
                           dht->find(link, std::chrono::milliseconds(static_cast<int64_t>(o.seconds * 1e3))));
  const double ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  if (o.json) {
    std::printf("%s\n", JsonObject()
                            .add("name", mesh::printable(record.name, mesh::RunRecord::max_name_bytes))
                            .add("sequence", record.sequence)
                            .add("link", record.link().to_string())
                            .add("ms", ms)
                            .text()
                            .c_str());
    return {};
  }
  std::printf("'%s', found in %.0f ms:\n", mesh::printable(record.name, mesh::RunRecord::max_name_bytes).c_str(), ms);
  for (const mesh::Address& address : record.addresses) std::printf("  %s\n", address.to_string().c_str());
  std::printf("As a line of a seed list:\n  %s\n", mesh::record_to_text(record).c_str());
  return {};
}

}  // namespace

void register_dht(Cli& cli) {
  Command dht = cli.command("dht", "The distributed hash table that tells where runs are: serve it, or look into it");

  auto serve_options = std::make_shared<DhtCommand>();
  Command serving = dht.command("serve", "Be a node of the table that others can begin with");
  serving.option("--port", &serve_options->port, "UDP port; 0: any free one").range(0, 65535);
  serving.option("--host", &serve_options->host, "Address to serve at (default: all of this machine's but loopback)")
      .value_name("HOST");
  serve_options->choice.add_options(serving);
  serving.flag("--json", &serve_options->json, "Print JSON");
  serving.example("dht serve --port 37748", "On a machine that others reach.");
  serving.action([serve_options] { return serve(*serve_options); });

  auto find_options = std::make_shared<DhtCommand>();
  Command finding = dht.command("find", "Look up where a run's coordinator is now");
  finding.option("link", &find_options->link, "The run's link").required().value_name("LINK");
  finding.option("--seconds", &find_options->seconds, "How long to look").range(0.1, 3600);
  find_options->choice.add_options(finding);
  finding.flag("--json", &find_options->json, "Print JSON");
  finding.example("dht find 'sporkle://...' --dht-bootstrap host.example:37748", "Prints its signed record.");
  finding.action([find_options] { return find(*find_options); });
}

}  // namespace sporkle::app
