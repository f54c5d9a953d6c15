// Fetching content from several donors at once, piece by piece. Every piece is checked before it counts, so that a
// donor that dies or lies costs the piece it was at, and is asked no more. The faster a donor, the more pieces it
// gives, but none carries more than 40 % while three or more answer. What is there already is not fetched again.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "mesh/channel.h"
#include "mesh/content_manifest.h"

namespace sporkle::mesh {

class PieceSource {
 public:
  virtual ~PieceSource() = default;
  // The bytes of a piece, not to be trusted. Blocks; called by one thread.
  virtual Result<std::vector<std::byte>> fetch(const ContentManifest& manifest, size_t piece) = 0;
  // Ends a fetch() under way in another thread, and all later ones.
  virtual void cancel() = 0;
};

// Pieces by the call "piece" of a mesh connection. One source a connection: cancel() closes it.
class ChannelSource : public PieceSource {
 public:
  ChannelSource(std::shared_ptr<Channel> channel, std::chrono::milliseconds timeout)
      : channel_(std::move(channel)), timeout_(timeout) {}
  Result<std::vector<std::byte>> fetch(const ContentManifest& manifest, size_t piece) override;
  void cancel() override { channel_->close(); }

 private:
  const std::shared_ptr<Channel> channel_;
  const std::chrono::milliseconds timeout_;
};

// The donor's side: the answer to a request of "piece". `content` is the file of the root, or empty when there is none
// here. invalid_argument, not_found.
Result<Message> answer_piece_request(const Message& request, const ContentManifest& manifest,
                                     std::span<const std::byte> content);

struct FetchReport {
  struct Donor {
    uint64_t bytes = 0;  // that counted
    Status failure;      // why it was asked no more
  };
  std::vector<Donor> donors;   // in the order of the sources
  uint64_t pieces_wasted = 0;  // that were false, or came twice
};

struct FetchOptions {
  double largest_share = 0.4;  // of the pieces fetched, of one donor while three or more are left
  // A donor that is at a piece for longer no longer counts as one of them.
  std::chrono::milliseconds patience{1000};
};

// Fetches the pieces of which `have` says false (all, when it is empty), and gives each to `store`, from one thread at
// a time. Blocks until all are there. unavailable when no donor is left (the message has the last one's reason), or
// what `store` failed with; what was stored by then stays good.
Result<FetchReport> fetch_pieces(const ContentManifest& manifest, std::span<PieceSource* const> sources,
                                 const std::vector<bool>& have,
                                 const std::function<Status(size_t piece, std::span<const std::byte> bytes)>& store,
                                 const FetchOptions& options = {});

}  // namespace sporkle::mesh
