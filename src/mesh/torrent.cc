#include "mesh/torrent.h"

#include <algorithm>
#include <libtorrent/add_torrent_params.hpp>
#include <libtorrent/alert_types.hpp>
#include <libtorrent/bencode.hpp>
#include <libtorrent/create_torrent.hpp>
#include <libtorrent/ip_filter.hpp>
#include <libtorrent/peer_class.hpp>
#include <libtorrent/session.hpp>
#include <libtorrent/session_params.hpp>
#include <libtorrent/settings_pack.hpp>
#include <libtorrent/torrent_flags.hpp>
#include <libtorrent/torrent_handle.hpp>
#include <libtorrent/torrent_info.hpp>
#include <libtorrent/torrent_status.hpp>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

namespace sporkle::mesh {
namespace {

namespace lt = libtorrent;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr milliseconds look_interval{20};

lt::settings_pack settings_for(const SwarmOptions& options) {
  using pack_t = lt::settings_pack;
  pack_t pack;
  const std::string port = ":" + std::to_string(options.port);
  const bool v6 = options.host.find(':') != std::string::npos;
  pack.set_str(pack_t::listen_interfaces, options.host.empty() ? "0.0.0.0" + port + ",[::]" + port
                                                               : (v6 ? "[" + options.host + "]" : options.host) + port);
  pack.set_str(pack_t::user_agent, "sporkle");
  pack.set_int(pack_t::max_retry_port_bind, 0);
  pack.set_bool(pack_t::listen_system_port_fallback, false);
  // Where peers are is told by others: the DHT, records, the run.
  for (const int off : {pack_t::enable_dht, pack_t::enable_lsd, pack_t::enable_upnp, pack_t::enable_natpmp,
                        pack_t::enable_outgoing_utp, pack_t::enable_incoming_utp, pack_t::smooth_connects})
    pack.set_bool(off, false);
  pack.set_bool(pack_t::allow_multiple_connections_per_ip, true);  // a laboratory behind one router
  pack.set_int(pack_t::upload_rate_limit,
               static_cast<int>(std::min<uint64_t>(options.upload_bytes_per_second, INT32_MAX)));
  pack.set_int(pack_t::download_rate_limit,
               static_cast<int>(std::min<uint64_t>(options.download_bytes_per_second, INT32_MAX)));
  pack.set_int(pack_t::unchoke_slots_limit, 8);
  pack.set_int(pack_t::connection_speed, 200);
  pack.set_int(pack_t::min_reconnect_time, 1);
  pack.set_int(pack_t::max_out_request_queue, 2000);
  // Peers are few and uplinks thin: little is asked of each in advance, the rarest first, and who gets is seen to
  // often.
  pack.set_int(pack_t::request_queue_time, 1);
  pack.set_int(pack_t::initial_picker_threshold, 0);
  pack.set_int(pack_t::unchoke_interval, 2);
  pack.set_int(pack_t::alert_mask, static_cast<int>(static_cast<uint32_t>(lt::alert_category::status)));
  return pack;
}

lt::sha256_hash torrent_hash(const Digest& digest) {
  return lt::sha256_hash(lt::span<char const>(reinterpret_cast<const char*>(digest.data()), 32));
}

}  // namespace

std::vector<char> torrent_of(const ContentManifest& manifest) {
  lt::file_storage files;
  files.add_file(manifest.name, static_cast<int64_t>(manifest.size_bytes));
  lt::create_torrent torrent(files, static_cast<int>(manifest.piece_bytes), lt::create_torrent::v2_only);
  torrent.set_creation_date(0);
  for (size_t i = 0; i < manifest.layer.size(); ++i)
    torrent.set_hash2(lt::file_index_t{0}, lt::piece_index_t::diff_type{static_cast<int>(i)},
                      torrent_hash(manifest.layer[i]));
  std::vector<char> bytes;
  lt::bencode(std::back_inserter(bytes), torrent.generate());
  return bytes;
}

struct Swarm::State {
  std::unique_ptr<lt::session> session;
  mutable std::mutex mutex;
  std::map<Digest, lt::torrent_handle> torrents;  // by root

  Result<lt::torrent_handle> find(const ContentManifest& manifest) const {
    const std::lock_guard lock(mutex);
    const auto found = torrents.find(manifest.root);
    if (found == torrents.end()) return not_found("'" + manifest.name + "' is not in this swarm");
    return found->second;
  }
};

Swarm::Swarm(std::unique_ptr<State> state) : state_(std::move(state)) {}
Swarm::~Swarm() = default;

Result<std::unique_ptr<Swarm>> Swarm::start(const SwarmOptions& options) {
  auto state = std::make_unique<State>();
  try {
    lt::session_params params;
    params.settings = settings_for(options);
    state->session = std::make_unique<lt::session>(std::move(params));
    // By itself libtorrent does not limit peers of the local network; a limit here is one for all.
    lt::ip_filter everybody;
    const auto global = uint32_t{1} << static_cast<uint32_t>(lt::session_handle::global_peer_class_id);
    everybody.add_rule(lt::make_address("0.0.0.0"), lt::make_address("255.255.255.255"), global);
    everybody.add_rule(lt::make_address("::"), lt::make_address("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), global);
    state->session->set_peer_class_filter(everybody);
    // The port is known, or the failure is, once the session's thread has opened its sockets.
    const auto deadline = steady_clock::now() + std::chrono::seconds(5);
    while (state->session->listen_port() == 0 && steady_clock::now() < deadline) {
      std::vector<lt::alert*> alerts;
      state->session->pop_alerts(&alerts);
      for (const lt::alert* alert : alerts)
        if (const auto* failed = lt::alert_cast<lt::listen_failed_alert>(alert))
          return unavailable("the swarm cannot listen: " + failed->error.message() + " (port " +
                             std::to_string(failed->port) + ")");
      std::this_thread::sleep_for(milliseconds(1));
    }
    if (state->session->listen_port() == 0) return unavailable("the swarm has no socket after 5 s");
  } catch (const std::exception& failure) {
    return unavailable("the swarm does not start: " + std::string(failure.what()));
  }
  return std::unique_ptr<Swarm>(new Swarm(std::move(state)));
}

uint16_t Swarm::port() const { return state_->session->listen_port(); }

Status Swarm::add(const ContentManifest& manifest, const std::filesystem::path& folder, bool complete) {
  const std::lock_guard lock(state_->mutex);
  if (state_->torrents.contains(manifest.root))
    return Status(Code::already_exists, "'" + manifest.name + "' is in this swarm already");
  try {
    lt::add_torrent_params params;
    params.ti = std::make_shared<lt::torrent_info>(torrent_of(manifest), lt::from_span);
    params.save_path = folder.string();
    params.flags &= ~(lt::torrent_flags::auto_managed | lt::torrent_flags::paused);
    if (complete) params.flags |= lt::torrent_flags::seed_mode;
    state_->torrents[manifest.root] = state_->session->add_torrent(std::move(params));
  } catch (const std::exception& failure) {
    return invalid_argument("'" + manifest.name + "' cannot be in a swarm: " + failure.what());
  }
  return {};
}

Status Swarm::add_peer(const ContentManifest& manifest, const Address& peer) {
  SPORKLE_ASSIGN_OR_RETURN(const lt::torrent_handle torrent, state_->find(manifest));
  lt::error_code error;
  const auto address = lt::make_address(peer.host, error);
  if (error) return invalid_argument("'" + peer.host + "' is no literal address");
  torrent.connect_peer({address, peer.port});
  return {};
}

Result<Swarm::Progress> Swarm::progress(const ContentManifest& manifest) const {
  SPORKLE_ASSIGN_OR_RETURN(const lt::torrent_handle torrent, state_->find(manifest));
  const lt::torrent_status status = torrent.status();
  return Progress{static_cast<uint64_t>(std::max<int64_t>(status.total_wanted_done, 0)),
                  static_cast<uint64_t>(std::max<int64_t>(status.total_payload_upload, 0)),
                  static_cast<size_t>(std::max(status.num_peers, 0))};
}

Status Swarm::wait(const ContentManifest& manifest, milliseconds timeout, std::stop_token stop) {
  SPORKLE_ASSIGN_OR_RETURN(const lt::torrent_handle torrent, state_->find(manifest));
  const auto deadline = steady_clock::now() + timeout;
  for (;;) {
    const lt::torrent_status status = torrent.status({});
    if (status.errc)
      return Status(Code::io_error, "'" + manifest.name + "' cannot be fetched: " + status.errc.message());
    if (status.is_seeding) break;
    if (stop.stop_requested()) return Status(Code::cancelled, "fetching '" + manifest.name + "' was given up");
    if (steady_clock::now() >= deadline)
      return Status(Code::deadline_exceeded, "'" + manifest.name + "' did not come within " +
                                                 std::to_string(timeout.count()) + " ms; what is there stays");
    std::this_thread::sleep_for(look_interval);
  }
  torrent.flush_cache();
  return {};
}

}  // namespace sporkle::mesh
