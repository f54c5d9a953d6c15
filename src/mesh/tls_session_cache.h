// TlsSessionCache: what a client keeps of its connections to shorten the next handshake with the same peer.
//
// A resumed handshake does without certificates and signatures; both sides still prove that they hold the secret of the
// earlier one, and agree on new keys by X25519. Thread-safe. Each entry is used once. Bounded: the oldest go first.
#pragma once

#include <cstddef>
#include <deque>
#include <memory>
#include <mutex>
#include <utility>

#include "mesh/node_id.h"

struct ssl_session_st;

namespace sporkle::mesh {

class TlsSessionCache {
 public:
  using Session = std::shared_ptr<ssl_session_st>;

  // Of a connection whose peer proved to be `peer`.
  void put(const NodeId& peer, Session session);
  // The newest of this peer, which the cache then forgets; null when it has none.
  Session take(const NodeId& peer);
  size_t size() const;

 private:
  mutable std::mutex mutex_;
  std::deque<std::pair<NodeId, Session>> sessions_;  // the oldest first
};

}  // namespace sporkle::mesh
