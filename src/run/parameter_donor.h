// ParameterDonor: a worker's port, where others that join fetch pieces of the parameters that it has anyway. It only
// reads, sends no faster than its bound, and its threads get what processor time nobody else wants (the lowest
// priority, where the system lets a thread have one of its own): the round comes first.
//
// Owns its server and threads. Methods are thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/sha256.h"
#include "base/status.h"
#include "mesh/identity.h"

namespace sporkle::run {

struct ParameterDonorOptions {
  std::string host;   // to listen on; empty: every address
  uint16_t port = 0;  // 0: any free one
  // To all who fetch, together; 0: no limit.
  uint64_t bytes_per_second = 12'500'000;
  std::string software = "sporkle";
};

class ParameterDonor {
 public:
  // Serves nothing until the first hold(). Errors: those of mesh::Server::start.
  static Result<std::unique_ptr<ParameterDonor>> start(const mesh::Identity& identity,
                                                       const ParameterDonorOptions& options);
  ~ParameterDonor();

  uint16_t port() const;
  // What is served from now on. They must never change.
  void hold(const Digest& sha256, std::shared_ptr<const std::vector<float>> parameters);
  // False before the first hold().
  bool held(Digest& sha256) const;

 private:
  struct State;
  explicit ParameterDonor(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace sporkle::run
