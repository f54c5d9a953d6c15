// HeldParameters: parameters that this node has, for others to fetch pieces of. Read-only views of vectors that never
// change. A version that another follows stays for as long as somebody is fetching it. Thread-safe.
#pragma once

#include <chrono>
#include <memory>
#include <mutex>
#include <vector>

#include "base/sha256.h"
#include "base/status.h"
#include "mesh/message.h"

namespace sporkle::run {

class HeldParameters {
 public:
  // From now on these, and what came before for as long as it is asked for.
  void hold(const Digest& sha256, std::shared_ptr<const std::vector<float>> parameters);
  // The answer to "parameter_piece". invalid_argument for a request that makes no sense, not_found when these
  // parameters are not here (any more).
  Result<mesh::Message> answer(const mesh::Message& request);
  // Gives up versions that are not the latest and have not been asked for lately.
  void forget_old();

 private:
  struct Version {
    Digest sha256;
    std::shared_ptr<const std::vector<float>> parameters;
    std::chrono::steady_clock::time_point asked;
  };
  void forget_old_locked();
  std::mutex mutex_;
  std::vector<Version> versions_;  // the latest last
};

}  // namespace sporkle::run
