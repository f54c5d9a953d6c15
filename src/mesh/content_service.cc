#include "mesh/content_service.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <mutex>
#include <utility>

#include "mesh/content.pb.h"
#include "mesh/printable.h"

namespace sporkle::mesh {
namespace {

constexpr std::chrono::milliseconds manifest_timeout{20'000};

std::string text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

class File {
 public:
  explicit File(int fd) : fd_(fd) {}
  File(File&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  File& operator=(File&&) = delete;
  ~File() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

}  // namespace

std::optional<Digest> content_in_link(const RunLink& link) {
  const auto found = link.parameters.find(std::string(link_content_parameter));
  if (found == link.parameters.end()) return std::nullopt;
  const std::string& hex = found->second;
  Digest root{};
  if (hex.size() != 2 * root.size() || hex.find_first_not_of("0123456789abcdef") != std::string::npos)
    return std::nullopt;
  for (size_t i = 0; i < root.size(); ++i)
    root[i] = static_cast<std::byte>(std::stoi(hex.substr(2 * i, 2), nullptr, 16));
  return root;
}

RunLink content_link(const NodeId& node, std::vector<Address> addresses, const Digest& root) {
  return {node, std::move(addresses), {{std::string(link_content_parameter), to_hex(root)}}};
}

struct ContentService::State {
  struct Served {
    ContentManifest manifest;
    std::vector<std::byte> encoded;
    ContentUse use;
    File file;
  };
  std::map<Digest, Served> served;  // never changes once the server runs
  std::unique_ptr<Server> server;

  const Served* find(const std::string& root) const {
    Digest digest;
    if (root.size() != digest.size()) return nullptr;
    std::ranges::copy(std::as_bytes(std::span(root)), digest.begin());
    const auto found = served.find(digest);
    return found == served.end() ? nullptr : &found->second;
  }

  Result<Message> answer(std::string_view method, const Message& request) const {
    if (method == "manifest") {
      wire::ManifestRequest wanted;
      if (!wanted.ParseFromString(request.body)) return invalid_argument("the request for a manifest cannot be read");
      const Served* const one = find(wanted.root());
      if (!one) return not_found("this content is not here");
      return Message{"", one->encoded};
    }
    if (method != "piece")
      return unsupported("this node does not know the method \"" + printable(std::string(method), 64) + "\"");
    wire::PieceRequest wanted;
    if (!wanted.ParseFromString(request.body)) return invalid_argument("the request for a piece cannot be read");
    const Served* const one = find(wanted.root());
    if (!one) return not_found("this content is not here");
    if (wanted.piece() >= one->manifest.piece_count())
      return not_found("piece " + std::to_string(wanted.piece()) + " is not here");
    const auto piece = static_cast<size_t>(wanted.piece());
    // Read, not mapped: a file that somebody cuts must not end the program.
    std::vector<std::byte> bytes(one->manifest.size_of_piece(piece));
    size_t read = 0;
    while (read < bytes.size()) {
      const ssize_t count = ::pread(one->file.get(), bytes.data() + read, bytes.size() - read,
                                    static_cast<off_t>(uint64_t{piece} * one->manifest.piece_bytes + read));
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) return Status(Code::io_error, "piece " + std::to_string(piece) + " cannot be read here");
      read += static_cast<size_t>(count);
    }
    return Message{"", std::move(bytes)};
  }
};

ContentService::ContentService(std::unique_ptr<State> state) : state_(std::move(state)) {}
ContentService::~ContentService() { state_->server->stop(); }
uint16_t ContentService::port() const { return state_->server->port(); }
Traffic ContentService::traffic() const { return state_->server->total_traffic(); }

Result<std::unique_ptr<ContentService>> ContentService::start(const Identity& identity, const ContentStore& store,
                                                              const std::vector<ContentStore::Entry>& entries,
                                                              ServerOptions options) {
  auto state = std::make_unique<State>();
  for (const ContentStore::Entry& entry : entries) {
    if (!entry.manifest || !entry.complete)
      return invalid_argument("'" + (entry.manifest ? entry.manifest->name : to_hex(entry.root)) +
                              "' cannot be served: " + (entry.manifest ? "it is not complete" : entry.fault));
    SPORKLE_ASSIGN_OR_RETURN(ContentUse use, store.use(entry.root));
    const std::filesystem::path path = store.data_path(entry.root);
    File file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (file.get() < 0) return errno_status(errno, "cannot open " + path.string());
    state->served.emplace(entry.root,
                          State::Served{*entry.manifest, entry.manifest->encode(), std::move(use), std::move(file)});
  }
  options.role = "content";
  ServerCallbacks callbacks;
  callbacks.handler = [s = state.get()](const Peer&, std::string_view method, const Message& request,
                                        Responder respond) { respond(s->answer(method, request)); };
  SPORKLE_ASSIGN_OR_RETURN(state->server, Server::start(identity, options, std::move(callbacks)));
  return std::unique_ptr<ContentService>(new ContentService(std::move(state)));
}

Result<ContentManifest> fetch_manifest(Channel& channel, const Digest& root, std::chrono::milliseconds timeout) {
  wire::ManifestRequest request;
  request.set_root(text(root));
  SPORKLE_ASSIGN_OR_RETURN(const Message answer, channel.call("manifest", {request.SerializeAsString(), {}}, timeout));
  SPORKLE_ASSIGN_OR_RETURN(ContentManifest manifest, ContentManifest::parse(answer.payload));
  if (manifest.root != root) return corrupt_data("the node sent the manifest of other content");
  return manifest;
}

Result<FetchedContent> fetch_content(const ContentStore& store, std::span<const RunLink> links,
                                     const Identity& identity, const ContentFetchOptions& options) {
  if (links.empty()) return invalid_argument("content is fetched from the nodes of links, and none was given");
  const auto root = content_in_link(links.front());
  if (!root) return invalid_argument("the link names no content; `sporkle content serve` prints links that do");
  if (auto there = store.find(to_hex(*root)); there.ok() && there->complete && there->fault.empty()) {
    SPORKLE_ASSIGN_OR_RETURN(const ContentUse used, store.use(*root));
    FetchedContent result;
    result.resumed_bytes = there->manifest->size_bytes;
    result.entry = *std::move(there);
    return result;
  }
  FetchedContent result;
  std::vector<std::shared_ptr<Client>> clients;
  std::vector<std::string> texts;
  std::optional<ContentManifest> manifest;
  Status last;
  for (const RunLink& link : links) {
    if (content_in_link(link) != root) return invalid_argument("the links name different content");
    auto client = Client::connect(link, identity, options.client);
    if (!client.ok()) {
      last = client.status();
      continue;
    }
    if (!manifest) {
      auto fetched = fetch_manifest(**client, *root, manifest_timeout);
      if (!fetched.ok()) {
        last = fetched.status();
        continue;
      }
      manifest = *std::move(fetched);
    }
    clients.push_back(*std::move(client));
    texts.push_back(link.to_string());
    result.nodes.push_back(link.coordinator);
  }
  if (!manifest) return unavailable("no node has the content: " + last.message());
  if (options.on_manifest) options.on_manifest(*manifest);
  SPORKLE_ASSIGN_OR_RETURN(ContentStore::Download download, store.begin(*manifest, [&](uint64_t bytes) {
    if (options.on_checked) options.on_checked(bytes, manifest->size_bytes);
  }));
  SPORKLE_RETURN_IF_ERROR(store.set_sources(*root, texts));
  result.resumed_bytes = download.partial.have_bytes();
  if (result.resumed_bytes < manifest->size_bytes) {
    std::vector<std::unique_ptr<ChannelSource>> sources;
    std::vector<PieceSource*> pointers;
    for (const auto& client : clients) {
      sources.push_back(std::make_unique<ChannelSource>(client, options.piece_timeout));
      pointers.push_back(sources.back().get());
    }
    const std::vector<bool> have = download.partial.have();
    SPORKLE_ASSIGN_OR_RETURN(
        result.report,
        fetch_pieces(*manifest, pointers, have, [&](size_t piece, std::span<const std::byte> bytes) -> Status {
          SPORKLE_RETURN_IF_ERROR(download.partial.store(piece, bytes));
          if (options.on_bytes && !options.on_bytes(download.partial.have_bytes(), manifest->size_bytes))
            return Status(Code::cancelled, "stopped; the same command goes on where this ended");
          return {};
        }));
  }
  SPORKLE_RETURN_IF_ERROR(store.finish(*manifest, download));
  SPORKLE_ASSIGN_OR_RETURN(result.entry, store.find(to_hex(*root)));
  return result;
}

}  // namespace sporkle::mesh
