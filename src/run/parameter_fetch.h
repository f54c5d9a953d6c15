// Fetching the parameters of a run from several donors at once, the coordinator among them: what the coordinator offers
// (ParameterOffer), and the fetch. Every piece is checked against the manifest that the coordinator signed, so a donor
// need not be trusted.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/sha256.h"
#include "base/status.h"
#include "mesh/channel.h"
#include "mesh/content_fetch.h"
#include "mesh/content_manifest.h"
#include "mesh/run_link.h"

namespace sporkle::run {

// Who has which parameters. A plain value.
struct ParameterOffer {
  uint64_t version = 0;
  Digest sha256{};
  mesh::ContentManifest manifest;
  std::vector<mesh::RunLink> donors;  // links to workers; their keys are checked

  static mesh::Message request();
  // Reads the answer to "donors"; nothing when the coordinator names too few to be worth while. `parameter_bytes` is
  // what the run's manifest says. corrupt_data for what makes no sense, or is signed by another key than the
  // coordinator's, when that is known.
  static Result<std::optional<ParameterOffer>> parse(const mesh::Message& reply, uint64_t parameter_bytes,
                                                     const std::optional<mesh::NodeId>& coordinator);
  // The answer itself.
  mesh::Message encode() const;
};

// Pieces of parameters by "parameter_piece", over a connection of its own that is made when the first one is wanted.
class ParameterSource : public mesh::PieceSource {
 public:
  using Dial = std::function<Result<std::unique_ptr<mesh::Channel>>()>;
  ParameterSource(Dial dial, const Digest& sha256, std::chrono::milliseconds timeout)
      : dial_(std::move(dial)), sha256_(sha256), timeout_(timeout) {}
  Result<std::vector<std::byte>> fetch(const mesh::ContentManifest& manifest, size_t piece) override;
  void cancel() override;

 private:
  const Dial dial_;
  const Digest sha256_;
  const std::chrono::milliseconds timeout_;
  std::mutex mutex_;
  std::shared_ptr<mesh::Channel> channel_;
  bool cancelled_ = false;
};

mesh::Message parameter_piece_request(const Digest& sha256, const mesh::ContentManifest& manifest, size_t piece);

struct FetchedParameters {
  std::vector<float> values;
  std::vector<bool> have;  // of the pieces; empty: none
  uint64_t bytes = 0;      // that are here
  mesh::FetchReport report;
};

// How fast the coordinator alone is: fetches the first pieces over `channel` into `to`, a quarter of a mebibyte.
// Bytes a second. Errors: the channel's, and corrupt_data.
Result<double> probe_coordinator(mesh::Channel& channel, const ParameterOffer& offer, std::chrono::milliseconds timeout,
                                 FetchedParameters& to);

// Fetches what `to` lacks. `sources` are the coordinator's and the donors'. `go_on` hears how many bytes are here, and
// ends the fetch (cancelled) when it says false. Errors: those of fetch_pieces; what came by then stays in `to`.
Status fetch_from_donors(const ParameterOffer& offer, const std::vector<mesh::PieceSource*>& sources,
                         const std::function<bool(uint64_t bytes)>& go_on, FetchedParameters& to);

// "12.3 MB from 3: coordinator 38 %, abcd2345 31 %, efgh2345 31 %; ijkl2345 failed: ...", the coordinator's first.
std::string describe_fetch(const ParameterOffer& offer, const FetchedParameters& fetched);

}  // namespace sporkle::run
