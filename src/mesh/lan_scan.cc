#include "mesh/lan_scan.h"

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <tuple>

#include "mesh/clock.h"
#include "mesh/lan_socket.h"

namespace sporkle::mesh {
namespace {

namespace asio = boost::asio;
using std::chrono::milliseconds;

// A query or its answer may get lost.
constexpr milliseconds query_times[] = {milliseconds(0), milliseconds(150), milliseconds(450)};

}  // namespace

std::vector<Address> LanRun::addresses() const {
  std::vector<Address> result;
  const auto add = [&result](const Address& address) {
    if (std::ranges::find(result, address) == result.end()) result.push_back(address);
  };
  if (!source.empty()) add({source, record.addresses.front().port});
  for (const Address& address : record.addresses) add(address);
  return result;
}

Result<bool> LanCollector::receive(std::span<const std::byte> datagram, const std::string& source) {
  SPORKLE_ASSIGN_OR_RETURN(const LanDatagram arrived, decode_lan_datagram(datagram));
  if (arrived.kind != LanDatagram::Kind::record) return false;
  const Digest digest = sha256(datagram);
  if (seen_.contains(digest)) return false;
  if (seen_.size() == max_signatures_checked)
    return unavailable("more than " + std::to_string(max_signatures_checked) +
                       " records arrived; a machine floods this network");
  seen_.insert(digest);
  SPORKLE_ASSIGN_OR_RETURN(RunRecord record, RunRecord::parse(arrived.record));
  SPORKLE_RETURN_IF_ERROR(record.check_expiry(now_unix_s_));
  const auto key = std::pair(record.key, record.run_id);
  if (const auto known = runs_.find(key); known != runs_.end()) {
    std::optional<RunRecord> held = known->second.record;
    SPORKLE_RETURN_IF_ERROR(replace_if_newer(held, std::move(record)));
    known->second = {*std::move(held), source};
    return true;
  }
  if (runs_.size() == max_runs || runs_of_source_[source] == max_runs_of_source)
    return unavailable("too many runs: more than " + std::to_string(max_runs) + ", or more than " +
                       std::to_string(max_runs_of_source) + " of " + source);
  ++runs_of_source_[source];
  runs_.emplace(key, LanRun{std::move(record), source});
  return true;
}

std::vector<LanRun> LanCollector::runs() const {
  std::vector<LanRun> result;
  for (const auto& [key, run] : runs_) result.push_back(run);
  std::ranges::sort(result, {},
                    [](const LanRun& run) { return std::tuple(run.record.name, run.record.coordinator()); });
  return result;
}

Result<LanScan> scan_lan(const LanScanOptions& options) {
  asio::io_context context(1);
  // Queries leave from ports of our own, to which the answers come; announcements come to the shared one.
  LanSocket query_v4(context, LanSocket::Family::v4), query_v6(context, LanSocket::Family::v6);
  LanSocket group_v4(context, LanSocket::Family::v4), group_v6(context, LanSocket::Family::v6);
  Status status = query_v4.open(0);
  if (query_v6.open(0).ok()) status = Status();
  SPORKLE_RETURN_IF_ERROR(status);
  const std::vector<LanInterface> interfaces = lan_interfaces(options.scope);
  LanCollector collector(unix_seconds());
  LanScan scan;
  const auto on_datagram = [&](std::span<const std::byte> bytes, const LanSocket::Endpoint& source) {
    const auto result = collector.receive(bytes, source.address().to_string());
    if (!result.ok()) {
      ++scan.left_out;
      scan.why_left_out = result.status().message();
    } else if (*result && options.enough && std::ranges::any_of(collector.runs(), options.enough)) {
      context.stop();
    }
  };
  for (LanSocket* socket : {&group_v4, &group_v6}) {
    // Without it, only answers are heard.
    if (!socket->open(options.port).ok()) continue;
    for (const LanInterface& interface : interfaces) socket->join(interface);
  }
  for (LanSocket* socket : {&query_v4, &query_v6, &group_v4, &group_v6}) socket->receive(on_datagram);
  const std::vector<std::byte> query = encode_lan_query();
  std::vector<asio::steady_timer> timers;
  timers.reserve(std::size(query_times));
  for (const milliseconds when : query_times) {
    timers.emplace_back(context, when).async_wait([&](boost::system::error_code) {
      for (LanSocket* socket : {&query_v4, &query_v6})
        for (const LanInterface& interface : interfaces) socket->send_to_group(query, interface, options.port);
    });
  }
  context.run_for(options.duration);
  scan.runs = collector.runs();
  return scan;
}

}  // namespace sporkle::mesh
