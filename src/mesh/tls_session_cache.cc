#include "mesh/tls_session_cache.h"

#include <algorithm>

namespace sporkle::mesh {
namespace {

constexpr size_t max_sessions = 64;

}  // namespace

void TlsSessionCache::put(const NodeId& peer, Session session) {
  const std::lock_guard lock(mutex_);
  if (sessions_.size() == max_sessions) sessions_.pop_front();
  sessions_.emplace_back(peer, std::move(session));
}

TlsSessionCache::Session TlsSessionCache::take(const NodeId& peer) {
  const std::lock_guard lock(mutex_);
  const auto newest =
      std::find_if(sessions_.rbegin(), sessions_.rend(), [&](const auto& s) { return s.first == peer; });
  if (newest == sessions_.rend()) return nullptr;
  Session session = std::move(newest->second);
  sessions_.erase(std::next(newest).base());
  return session;
}

size_t TlsSessionCache::size() const {
  const std::lock_guard lock(mutex_);
  return sessions_.size();
}

}  // namespace sporkle::mesh
