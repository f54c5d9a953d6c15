// DonorList: a coordinator's knowledge of who gives the parameters to those who join. It connects to every worker that
// says it serves, at the address that the worker itself connects from, and names only those whose key answered; it
// makes the manifest of a version once somebody wants it; and it gives pieces itself.
//
// Owns two threads. Methods are thread-safe and return at once.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/sha256.h"
#include "base/status.h"
#include "mesh/content_manifest.h"
#include "mesh/identity.h"
#include "mesh/run_link.h"
#include "mesh/server.h"
#include "run/coordinator.h"
#include "run/held_parameters.h"

namespace sporkle::run {

class DonorList {
 public:
  // What the run is at.
  struct Now {
    uint64_t version = 0;
    Digest sha256{};
    std::shared_ptr<const std::vector<float>> parameters;
    std::vector<Coordinator::Donor> donors;
  };
  // `now` is called by the list's threads.
  DonorList(const mesh::Identity& identity, std::function<Now()> now);
  ~DonorList();

  // A connection of this node, from this address ("host:port").
  void seen(const mesh::NodeId& node, const std::string& address);
  void gone(const mesh::NodeId& node);
  // Answers "donors" later.
  void answer_donors(const mesh::NodeId& asks, mesh::Responder respond);
  Result<mesh::Message> answer_piece(const mesh::Message& request) { return held_.answer(request); }

 private:
  struct Reached {
    mesh::Address address;
    bool answers = false;
    std::chrono::steady_clock::time_point checked;
  };
  struct Question {
    mesh::NodeId asks;
    mesh::Responder respond;
  };
  void answer_loop();
  void check_loop();
  mesh::Message offer_to(const mesh::NodeId& asks, const Now& now);
  std::optional<mesh::Address> address_of(const Coordinator::Donor& donor) const;  // with the mutex held

  const mesh::Identity identity_;
  const std::function<Now()> now_;
  HeldParameters held_;
  std::optional<mesh::ContentManifest> manifest_;  // of manifest_sha256_; the answering thread's
  Digest manifest_sha256_{};
  size_t turn_ = 0;  // the same

  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false;
  std::deque<Question> questions_;
  std::map<mesh::NodeId, std::string> hosts_;
  std::map<mesh::NodeId, Reached> reached_;
  std::thread answers_, checks_;
};

}  // namespace sporkle::run
