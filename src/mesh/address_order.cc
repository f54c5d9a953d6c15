#include "mesh/address_order.h"

#include <algorithm>

namespace sporkle::mesh {

bool is_loopback(const std::string& host) {
  return host == "localhost" || host == "::1" ||
         (host.starts_with("127.") && host.find_first_not_of("0123456789.") == std::string::npos);
}

std::vector<Address> addresses_to_try(std::span<const Address> worked, std::span<const std::vector<Address>> sources) {
  std::vector<Address> result;
  const auto add = [&result](const Address& address) {
    if (result.size() < max_addresses_to_try && std::ranges::find(result, address) == result.end())
      result.push_back(address);
  };
  if (!worked.empty()) add(worked.front());
  std::vector<Address> v6, others, loopback;
  const auto sort_in = [&](const Address& address) {
    const bool is_v6 = address.host.find(':') != std::string::npos;
    (is_loopback(address.host) ? loopback : is_v6 ? v6 : others).push_back(address);
  };
  for (const Address& address : worked) sort_in(address);
  for (const auto& source : sources)
    for (const Address& address : source) sort_in(address);
  for (size_t i = 0; i < std::max(v6.size(), others.size()); ++i) {
    if (i < v6.size()) add(v6[i]);
    if (i < others.size()) add(others[i]);
  }
  for (const Address& address : loopback) add(address);
  return result;
}

}  // namespace sporkle::mesh
