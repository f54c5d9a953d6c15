// Swarm: content by BitTorrent v2, for when uplinks are thin and receivers are many: each passes on what it has. The
// torrent follows from a ContentManifest, so its hashes are those that the manifest's signer vouched for, and every
// block that arrives is checked against them.
//
// A Swarm owns its sockets and threads, and reads and writes files in its folders. Thread-safe.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "base/status.h"
#include "mesh/content_manifest.h"
#include "mesh/run_link.h"

namespace sporkle::mesh {

struct SwarmOptions {
  std::string host;                      // a literal address to listen at; empty: every one
  uint16_t port = 0;                     // 0: any free one
  uint64_t upload_bytes_per_second = 0;  // 0: no limit
  uint64_t download_bytes_per_second = 0;
};

// The torrent of a manifest, bencoded: for other programs. The infohash depends on the manifest's name, size and root.
std::vector<char> torrent_of(const ContentManifest& manifest);

class Swarm {
 public:
  // unavailable when the address or port cannot be had.
  static Result<std::unique_ptr<Swarm>> start(const SwarmOptions& options);
  ~Swarm();

  uint16_t port() const;

  // Gives and takes the content of `manifest`, whose file stands, or will stand, in `folder` under its name. With
  // `complete` the file is taken to be whole (what is wrong in it is found before it is sent); otherwise what is there
  // is checked and goes on. already_exists when it is there already.
  Status add(const ContentManifest& manifest, const std::filesystem::path& folder, bool complete);
  // Somebody who may have it; a literal address. not_found for content that was not added.
  Status add_peer(const ContentManifest& manifest, const Address& peer);

  struct Progress {
    uint64_t bytes_done = 0;  // checked
    uint64_t bytes_uploaded = 0;
    size_t peers = 0;
  };
  Result<Progress> progress(const ContentManifest& manifest) const;
  // Blocks until the content is whole. deadline_exceeded, cancelled, io_error (a full disk, say), not_found.
  Status wait(const ContentManifest& manifest, std::chrono::milliseconds timeout, std::stop_token stop = {});

 private:
  struct State;
  explicit Swarm(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace sporkle::mesh
