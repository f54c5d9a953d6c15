// dial: whether anything answers at an address. Thread-safe.
#pragma once

#include <chrono>

#include "base/status.h"
#include "mesh/run_link.h"

namespace sporkle::mesh {

// Connects by TCP, says nothing and hangs up. Blocks for no longer than `timeout`, the look-up of a name excepted.
// unavailable or deadline_exceeded when nobody answers.
Status dial(const Address& address, std::chrono::milliseconds timeout);

}  // namespace sporkle::mesh
