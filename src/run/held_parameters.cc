#include "run/held_parameters.h"

#include <algorithm>
#include <span>
#include <utility>

#include "mesh/content_manifest.h"
#include "run/run.pb.h"

namespace sporkle::run {
namespace {

using SteadyClock = std::chrono::steady_clock;
constexpr std::chrono::seconds kKeptAfterRequest(10);
constexpr size_t kMostVersions = 2;  // each is as large as the model

}  // namespace

void HeldParameters::hold(const Digest& sha256, std::shared_ptr<const std::vector<float>> parameters) {
  const std::lock_guard lock(mutex_);
  if (!versions_.empty() && versions_.back().sha256 == sha256) return;
  std::erase_if(versions_, [&](const Version& version) { return version.sha256 == sha256; });
  versions_.push_back({sha256, std::move(parameters), {}});
  forget_old_locked();
}

void HeldParameters::forget_old() {
  const std::lock_guard lock(mutex_);
  forget_old_locked();
}

void HeldParameters::forget_old_locked() {
  while (versions_.size() > kMostVersions) versions_.erase(versions_.begin());
  const auto now = SteadyClock::now();
  while (versions_.size() > 1 && now - versions_.front().asked > kKeptAfterRequest) versions_.erase(versions_.begin());
}

Result<mesh::Message> HeldParameters::answer(const mesh::Message& request) {
  proto::ParameterPieceRequest wanted;
  if (!wanted.ParseFromString(request.body) || wanted.parameters_sha256().size() != sizeof(Digest))
    return invalid_argument("the request for a piece of parameters cannot be read");
  std::shared_ptr<const std::vector<float>> parameters;
  {
    const std::lock_guard lock(mutex_);
    for (Version& version : versions_)
      if (std::ranges::equal(std::as_bytes(std::span(wanted.parameters_sha256())), version.sha256)) {
        version.asked = SteadyClock::now();
        parameters = version.parameters;
      }
  }
  if (!parameters) return not_found("these parameters are not here");
  const auto bytes = std::as_bytes(std::span(*parameters));
  if (wanted.size_bytes() == 0 || wanted.size_bytes() > mesh::ContentManifest::largest_piece_bytes ||
      wanted.offset() > bytes.size() || wanted.size_bytes() > bytes.size() - wanted.offset())
    return invalid_argument("the parameters have " + std::to_string(bytes.size()) + " bytes; " +
                            std::to_string(wanted.size_bytes()) + " from " + std::to_string(wanted.offset()) +
                            " on were asked for");
  const auto piece = bytes.subspan(static_cast<size_t>(wanted.offset()), wanted.size_bytes());
  return mesh::Message{"", {piece.begin(), piece.end()}};
}

}  // namespace sporkle::run
