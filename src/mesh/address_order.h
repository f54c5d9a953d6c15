// In which order to try the addresses of one coordinator that come from several sources. Thread-safe.
#pragma once

#include <span>
#include <vector>

#include "mesh/run_link.h"

namespace sporkle::mesh {

inline constexpr size_t max_addresses_to_try = 32;

// The address that worked last comes first: most joins are joins again. Then the addresses of all `sources`, without
// repetitions: IPv6 and other families in turn, IPv6 first (RFC 8305), each family in the order of the sources, the
// best source first; those of this machine alone (loopback) last, since they usually mean another machine's own.
// At most max_addresses_to_try.
std::vector<Address> addresses_to_try(std::span<const Address> worked, std::span<const std::vector<Address>> sources);

// "localhost", 127.0.0.0/8 or ::1.
bool is_loopback(const std::string& host);

}  // namespace sporkle::mesh
