// ContentService: gives what a content store has to other nodes, by the calls "manifest" and "piece"; and the asking
// side. Content is named by a link like a run's: the serving node's key and addresses, and the root as the parameter
// "content". The root alone decides what is right, so that several nodes can be asked at once.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/sha256.h"
#include "base/status.h"
#include "mesh/client.h"
#include "mesh/content_fetch.h"
#include "mesh/content_store.h"
#include "mesh/identity.h"
#include "mesh/run_link.h"
#include "mesh/server.h"

namespace sporkle::mesh {

inline constexpr std::string_view link_content_parameter = "content";

// The root that a link names; nothing when it names none.
std::optional<Digest> content_in_link(const RunLink& link);
RunLink content_link(const NodeId& node, std::vector<Address> addresses, const Digest& root);

// Thread-safe. While it runs, what it serves stays in the store.
class ContentService {
 public:
  // Serves these complete entries. invalid_argument for one that is not, and what Server::start says.
  static Result<std::unique_ptr<ContentService>> start(const Identity& identity, const ContentStore& store,
                                                       const std::vector<ContentStore::Entry>& entries,
                                                       ServerOptions options);
  ~ContentService();
  uint16_t port() const;
  Traffic traffic() const;

 private:
  struct State;
  explicit ContentService(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// Asks a node for the manifest of a root, and checks that it is that root's. not_found when it has none.
Result<ContentManifest> fetch_manifest(Channel& channel, const Digest& root, std::chrono::milliseconds timeout);

struct ContentFetchOptions {
  ClientOptions client;
  std::chrono::milliseconds piece_timeout{60'000};
  std::function<void(const ContentManifest&)> on_manifest;               // may be empty
  std::function<void(uint64_t bytes, uint64_t total_bytes)> on_checked;  // of what was there already; may be empty
  // Of what is here; returns false to stop (cancelled): what came by then stays for the next time. May be empty.
  std::function<bool(uint64_t bytes, uint64_t total_bytes)> on_bytes;
};

struct FetchedContent {
  ContentStore::Entry entry;
  uint64_t resumed_bytes = 0;  // that were there
  std::vector<NodeId> nodes;   // that were asked
  FetchReport report;          // in their order
};

// Fetches content into the store from all nodes of `links` at once, which must name the same root. Goes on where an
// earlier one ended; what is complete already is not
// fetched. Errors: unavailable when no node has it (any more), and the store's.
Result<FetchedContent> fetch_content(const ContentStore& store, std::span<const RunLink> links,
                                     const Identity& identity, const ContentFetchOptions& options = {});

}  // namespace sporkle::mesh
