#include "apps/sporkle/lan_runs.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "apps/sporkle/version.h"
#include "base/json_writer.h"
#include "base/terminal.h"
#include "mesh/address_order.h"
#include "mesh/client.h"
#include "mesh/identity.h"

namespace sporkle::app {
namespace {

constexpr size_t max_checked = 16;
constexpr std::chrono::milliseconds check_timeout{500};
constexpr size_t shortest_id = 4;
// With the half second that checking takes at most, a list is there after about a second.
constexpr std::chrono::milliseconds lan_scan_time{600};

std::string shown_name(const mesh::RunRecord& record) { return printable(record.name); }

mesh::RunLink link_of(const mesh::LanRun& run) {
  mesh::RunLink link = run.record.link();
  const std::vector<mesh::Address> addresses[] = {run.addresses()};
  link.addresses = mesh::addresses_to_try({}, addresses);
  return link;
}

void check(const mesh::LanRun& run, LanRunLine& line) {
  // Only asking: nobody needs to know this machine's key.
  const auto identity = mesh::Identity::generate();
  if (!identity.ok()) return;
  mesh::ClientOptions options;
  options.connect_timeout = check_timeout;
  options.software = "sporkle " + std::string(version());
  options.role = "observer";
  const auto client = mesh::Client::connect(link_of(run), *identity, options);
  line.verified = client.ok();
  if (client.ok()) line.address = (*client)->server_address().to_string();
}

std::string why_nothing(const mesh::LanScan& scan) {
  std::string text =
      "no run announces itself on this network. Where one is coordinated, `sporkle run start` must be running, not "
      "with --no-lan, and both machines must let UDP port " +
      std::to_string(mesh::lan_port) + " pass; a run link needs none of that";
  if (scan.left_out > 0)
    text += " (" + std::to_string(scan.left_out) +
            " datagrams were left out, one of them because: " + printable(scan.why_left_out) + ")";
  return text;
}

}  // namespace

bool is_named(const mesh::RunRecord& record, std::string_view text) {
  return record.name == text || (text.size() >= shortest_id && record.coordinator().to_string().starts_with(text));
}

std::vector<LanRunLine> check_lan_runs(const std::vector<mesh::LanRun>& runs) {
  std::vector<LanRunLine> lines;
  for (const mesh::LanRun& run : runs) {
    const mesh::RunLink link = link_of(run);
    lines.push_back({shown_name(run.record), link.coordinator.short_id(), link.coordinator.to_string(),
                     link.to_string(), link.addresses.front().to_string(), false});
  }
  std::vector<std::jthread> threads;
  for (size_t i = 0; i < std::min(runs.size(), max_checked); ++i)
    threads.emplace_back([&run = runs[i], &line = lines[i]] { check(run, line); });
  threads.clear();
  return lines;
}

std::string lan_table(const std::vector<LanRunLine>& lines) {
  int name_width = 4, address_width = 7;
  for (const LanRunLine& line : lines) {
    name_width = std::max(name_width, display_width(line.name));
    address_width = std::max(address_width, display_width(line.address));
  }
  std::string text =
      "  " + pad_right("name", name_width) + "  ID        " + pad_right("address", address_width) + "  key\n";
  for (const LanRunLine& line : lines)
    text += "  " + pad_right(line.name, name_width) + "  " + line.short_id + "  " +
            pad_right(line.address, address_width) + (line.verified ? "  verified\n" : "  no answer\n");
  return text;
}

std::string lan_json(const LanRunLine& line) {
  return JsonObject()
      .add("event", "run")
      .add("name", line.name)
      .add("short_id", line.short_id)
      .add("id", line.id)
      .add("address", line.address)
      .add("verified", line.verified)
      .add("link", line.link)
      .text();
}

Result<mesh::RunLink> choose_lan_run(const mesh::LanScan& scan, const std::string& wanted) {
  if (scan.runs.empty()) return not_found(why_nothing(scan));
  std::vector<mesh::LanRun> matching;
  for (const mesh::LanRun& run : scan.runs)
    if (wanted.empty() || is_named(run.record, wanted)) matching.push_back(run);
  if (matching.size() == 1) return link_of(matching.front());
  const std::vector<LanRunLine> lines = check_lan_runs(matching.empty() ? scan.runs : matching);
  if (matching.empty())
    return not_found("no run on this network is called '" + printable(wanted) + "'. There are:\n\n" + lan_table(lines));
  // An announcement that was recorded and played again does not stand in the way of the run that is there.
  if (std::ranges::count_if(lines, &LanRunLine::verified) == 1)
    return link_of(matching[static_cast<size_t>(std::ranges::find_if(lines, &LanRunLine::verified) - lines.begin())]);
  return invalid_argument((wanted.empty() ? std::string("several runs are on this network")
                                          : "several runs match '" + printable(wanted) + "'") +
                          "; name one, by its name or ID, as in: sporkle join --lan " + lines.front().short_id +
                          "\n\n" + lan_table(lines));
}

Result<mesh::LanScan> scan_for_run(const std::string& text) {
  mesh::LanScanOptions options;
  options.duration = lan_scan_time;
  // A whole ID is worth no wait for others of that name; a name is.
  if (const auto id = mesh::NodeId::parse(text); id.ok())
    options.enough = [id = *id](const mesh::LanRun& run) { return run.record.coordinator() == id; };
  return mesh::scan_lan(options);
}

Result<mesh::RunLink> find_run(const std::string& text, bool lan, std::string_view verb,
                               std::optional<mesh::RunRecord>* found) {
  if (text.starts_with("sporkle://")) return mesh::RunLink::parse(text);
  if (!lan && text.empty())
    return invalid_argument("which run? Give its link, from `sporkle run start`, or --lan to " + std::string(verb) +
                            " one on this network");
  if (!lan)
    return invalid_argument("'" + printable(text) + "' is not a run link; it begins with sporkle://. To " +
                            std::string(verb) + " a run of this network by its name or ID, add --lan");
  SPORKLE_ASSIGN_OR_RETURN(const mesh::LanScan scan, scan_for_run(text));
  SPORKLE_ASSIGN_OR_RETURN(mesh::RunLink link, choose_lan_run(scan, text));
  for (const mesh::LanRun& run : scan.runs)
    if (found && run.record.belongs_to(link)) *found = run.record;
  return link;
}

}  // namespace sporkle::app
