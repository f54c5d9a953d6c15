#include "mesh/handshake_gate.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace sporkle::mesh {

HandshakeGate::HandshakeGate(size_t most, size_t most_of_an_address)
    : most_(std::max<size_t>(most, 1)), most_of_an_address_(std::max<size_t>(most_of_an_address, 1)) {}

void HandshakeGate::remove(std::map<uint64_t, Entry>::iterator entry) {
  const auto count = counts_.find(entry->second.address);
  if (--count->second == 0) counts_.erase(count);
  entries_.erase(entry);
}

uint64_t HandshakeGate::enter(const std::string& address, std::function<void()> turn_away) {
  // Under the lock, so that nobody is turned away who has just left.
  const std::lock_guard lock(mutex_);
  const auto own = counts_.find(address);
  const bool crowd = own != counts_.end() && own->second >= most_of_an_address_;
  if (crowd || entries_.size() >= most_) {
    const auto most = std::ranges::max_element(counts_, {}, [](const auto& entry) { return entry.second; })->second;
    const auto oldest = std::ranges::find_if(entries_, [&](const auto& one) {
      return crowd ? one.second.address == address : counts_.at(one.second.address) == most;
    });
    const auto turn = std::move(oldest->second.turn_away);
    remove(oldest);
    turn();
  }
  ++counts_[address];
  entries_.emplace(++last_, Entry{address, std::move(turn_away)});
  return last_;
}

void HandshakeGate::leave(uint64_t number) {
  const std::lock_guard lock(mutex_);
  if (const auto entry = entries_.find(number); entry != entries_.end()) remove(entry);
}

size_t HandshakeGate::inside() const {
  const std::lock_guard lock(mutex_);
  return entries_.size();
}

std::string handshake_source(const std::string& endpoint) {
  std::string host = endpoint.substr(0, endpoint.rfind(':'));
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  in6_addr address{};
  if (::inet_pton(AF_INET6, host.c_str(), &address) != 1) return host;
  std::memset(&address.s6_addr[8], 0, 8);
  char text[INET6_ADDRSTRLEN];
  return ::inet_ntop(AF_INET6, &address, text, sizeof text);
}

}  // namespace sporkle::mesh
