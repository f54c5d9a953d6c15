#include "apps/sporkle/bench_content.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "base/file.h"
#include "base/temporary_folder.h"
#include "mesh/client.h"
#include "mesh/clock.h"
#include "mesh/content_fetch.h"
#include "mesh/content_manifest.h"
#include "mesh/server.h"
#include "mesh/torrent.h"

namespace sporkle::app {
namespace {

namespace fs = std::filesystem;
using std::chrono::steady_clock;

constexpr std::chrono::minutes kPatience(30);

double seconds_since(steady_clock::time_point start) {
  return std::chrono::duration<double>(steady_clock::now() - start).count();
}

struct Content {
  TemporaryFolder folder;
  std::vector<std::byte> bytes;
  mesh::ContentManifest manifest;
};

Result<Content> make_content(int64_t megabytes) {
  SPORKLE_ASSIGN_OR_RETURN(TemporaryFolder folder, TemporaryFolder::create("sporkle-bench"));
  std::vector<std::byte> bytes(static_cast<size_t>(megabytes) * 1'000'000);
  uint64_t word = 1;
  for (std::byte& byte : bytes)
    byte = static_cast<std::byte>((word = word * 6364136223846793005u + 1442695040888963407u) >> 56);
  SPORKLE_RETURN_IF_ERROR(write_file_atomically(folder.path() / "content", bytes));
  SPORKLE_ASSIGN_OR_RETURN(const mesh::Identity signer, mesh::Identity::generate());
  SPORKLE_ASSIGN_OR_RETURN(mesh::ContentManifest manifest,
                           mesh::ContentManifest::of_bytes(bytes, "content", mesh::ContentKind::dataset, signer));
  return Content{std::move(folder), std::move(bytes), std::move(manifest)};
}

Result<double> by_swarm(const Content& content, const ContentBenchOptions& o) {
  mesh::SwarmOptions options;
  options.host = "127.0.0.1";
  options.upload_bytes_per_second = static_cast<uint64_t>(o.uplink_mbit) * 125'000;
  SPORKLE_ASSIGN_OR_RETURN(const std::unique_ptr<mesh::Swarm> source, mesh::Swarm::start(options));
  SPORKLE_RETURN_IF_ERROR(source->add(content.manifest, content.folder.path(), true));
  std::vector<std::unique_ptr<mesh::Swarm>> nodes;
  std::vector<TemporaryFolder> folders;
  for (int64_t i = 0; i < o.nodes; ++i) {
    SPORKLE_ASSIGN_OR_RETURN(nodes.emplace_back(), mesh::Swarm::start(options));
    SPORKLE_ASSIGN_OR_RETURN(TemporaryFolder folder, TemporaryFolder::create("sporkle-bench"));
    folders.push_back(std::move(folder));
  }
  const auto start = steady_clock::now();
  for (size_t i = 0; i < nodes.size(); ++i) {
    SPORKLE_RETURN_IF_ERROR(nodes[i]->add(content.manifest, folders[i].path(), false));
    SPORKLE_RETURN_IF_ERROR(nodes[i]->add_peer(content.manifest, {"127.0.0.1", source->port()}));
    for (size_t j = 0; j < i; ++j)
      SPORKLE_RETURN_IF_ERROR(nodes[i]->add_peer(content.manifest, {"127.0.0.1", nodes[j]->port()}));
  }
  for (const auto& node : nodes) SPORKLE_RETURN_IF_ERROR(node->wait(content.manifest, kPatience));
  const double seconds = seconds_since(start);
  nodes.clear();  // what is still to be written is written
  for (const TemporaryFolder& folder : folders) {
    SPORKLE_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::open(folder.path() / "content"));
    if (!std::ranges::equal(file.bytes(), content.bytes)) return internal_error("a node's file is not the source's");
  }
  return seconds;
}

// Sends pieces no faster than the uplink, in the order of the requests.
class OneSource {
 public:
  OneSource(const Content& content, int64_t uplink_mbit) : content_(content), uplink_mbit_(uplink_mbit) {}

  Result<mesh::RunLink> start() {
    SPORKLE_ASSIGN_OR_RETURN(const mesh::Identity identity, mesh::Identity::generate());
    mesh::ServerOptions options;
    options.host = "127.0.0.1";
    options.threads = 2;
    const auto handler = [this](const mesh::Peer&, std::string_view, mesh::Message request, mesh::Responder respond) {
      answer(std::move(request), std::move(respond));
    };
    SPORKLE_ASSIGN_OR_RETURN(server_, mesh::Server::start(identity, options, {handler, nullptr, nullptr}));
    return mesh::RunLink{identity.id(), {{"127.0.0.1", server_->port()}}, {}};
  }

 private:
  void answer(mesh::Message request, mesh::Responder respond) {
    auto result = mesh::answer_piece_request(request, content_.manifest, content_.bytes);
    if (uplink_mbit_ == 0 || !result.ok()) return respond(std::move(result));
    const auto needs = std::chrono::nanoseconds(
        static_cast<int64_t>(static_cast<double>(result->payload.size()) * 8000.0 / static_cast<double>(uplink_mbit_)));
    const auto later =
        std::make_shared<std::pair<mesh::Responder, Result<mesh::Message>>>(std::move(respond), std::move(result));
    const std::lock_guard lock(mutex_);
    free_at_ = std::max(free_at_, clock_.now()) + needs;
    clock_.call_at(free_at_, [later] { later->first(std::move(later->second)); });
  }

  const Content& content_;
  const int64_t uplink_mbit_;
  std::mutex mutex_;
  mesh::Clock::TimePoint free_at_{};
  mesh::SystemClock clock_;
  std::unique_ptr<mesh::Server> server_;
};

Status fetch_into(const mesh::RunLink& link, const Content& content, const fs::path& path) {
  SPORKLE_ASSIGN_OR_RETURN(const mesh::Identity identity, mesh::Identity::generate());
  SPORKLE_ASSIGN_OR_RETURN(std::unique_ptr<mesh::Client> client, mesh::Client::connect(link, identity));
  mesh::ChannelSource source(std::move(client), kPatience);
  mesh::PieceSource* const pointer = &source;
  std::FILE* const file = std::fopen(path.c_str(), "wb");
  if (!file) return errno_status(errno, "cannot write " + path.string());
  const auto fetched = mesh::fetch_pieces(
      content.manifest, {&pointer, 1}, {}, [&](size_t piece, std::span<const std::byte> bytes) -> Status {
        if (std::fseek(file, static_cast<long>(piece * content.manifest.piece_bytes), SEEK_SET) != 0 ||
            std::fwrite(bytes.data(), 1, bytes.size(), file) != bytes.size())
          return errno_status(errno, "cannot write " + path.string());
        return {};
      });
  const bool closed = std::fclose(file) == 0;
  if (!fetched.ok()) return fetched.status();
  return closed ? Status() : errno_status(errno, "cannot write " + path.string());
}

Result<double> from_one_source(const Content& content, const ContentBenchOptions& o) {
  OneSource source(content, o.uplink_mbit);
  SPORKLE_ASSIGN_OR_RETURN(const mesh::RunLink link, source.start());
  SPORKLE_ASSIGN_OR_RETURN(const TemporaryFolder folder, TemporaryFolder::create("sporkle-bench"));
  std::vector<Status> results(static_cast<size_t>(o.nodes));
  const auto path = [&](size_t i) { return folder.path() / std::to_string(i); };
  const auto start = steady_clock::now();
  {
    std::vector<std::jthread> threads;
    for (size_t i = 0; i < results.size(); ++i)
      threads.emplace_back([&, i] { results[i] = fetch_into(link, content, path(i)); });
  }
  const double seconds = seconds_since(start);
  for (size_t i = 0; i < results.size(); ++i) {
    SPORKLE_RETURN_IF_ERROR(results[i]);
    SPORKLE_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::open(path(i)));
    if (!std::ranges::equal(file.bytes(), content.bytes)) return internal_error("a node's file is not the source's");
  }
  return seconds;
}

}  // namespace

Result<std::vector<bench::Record>> bench_content(const ContentBenchOptions& options) {
  SPORKLE_ASSIGN_OR_RETURN(const Content content, make_content(options.megabytes));
  SPORKLE_ASSIGN_OR_RETURN(const double swarm, by_swarm(content, options));
  SPORKLE_ASSIGN_OR_RETURN(const double one_source, from_one_source(content, options));
  // What no limited uplink can do: send the file once faster than this, or all of the copies from one source.
  const double once = options.uplink_mbit == 0
                          ? 0
                          : static_cast<double>(options.megabytes) * 8 / static_cast<double>(options.uplink_mbit);
  if (swarm < 0.9 * once || one_source < 0.9 * once * static_cast<double>(options.nodes))
    return internal_error("the uplinks' limit did not hold: " + std::to_string(swarm) + " s by the swarm and " +
                          std::to_string(one_source) + " s from one source, where sending the file once takes " +
                          std::to_string(once) + " s");
  bench::Record record;
  record.name = "content";
  record.shape = std::to_string(options.megabytes) + "MBx" + std::to_string(options.nodes) +
                 (options.uplink_mbit == 0 ? "" : "@" + std::to_string(options.uplink_mbit) + "Mbit");
  record.dtype = "bytes";
  record.numerics = "strict";
  record.device = "cpu";
  record.value = record.seconds = swarm;
  record.unit = "s";
  record.bytes = static_cast<double>(content.bytes.size()) * static_cast<double>(options.nodes);
  record.rival = "one source";
  record.rival_value = one_source;
  record.ratio = record.ratio_min = record.ratio_max = one_source / swarm;
  record.rounds = 1;
  return std::vector<bench::Record>{record};
}

}  // namespace sporkle::app
