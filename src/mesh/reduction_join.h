// Connecting the members of a reduction: one stream for each pair of which one can be reached. Internal to mesh/.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/sha256.h"
#include "base/status.h"
#include "mesh/reduction_group.h"
#include "mesh/reduction_stream.h"
#include "mesh/tls.h"

namespace sporkle::mesh {

// What members must agree on before they talk: SHA-256 of their IDs in rising order, each with a byte that says whether
// it has an address, and of the two sizes of ReductionOptions that all must have alike. docs/protocol.md has the bytes.
Digest reduction_group_digest(const std::vector<ReductionMember>& members, const ReductionOptions& options);

// The streams by member, null where there is none: to oneself, between two that only send and fetch, and where none
// came about within `timeout`. `members` by rising ID. Of two that both have addresses the one with the higher ID
// connects. Strangers are turned away. Takes no longer than `timeout`.
std::vector<std::unique_ptr<ReductionStream>> join_reduction(const std::vector<ReductionMember>& members, size_t self,
                                                             const ReductionListener* listener,
                                                             std::shared_ptr<const TlsContext> tls, const Digest& group,
                                                             std::chrono::milliseconds timeout);

}  // namespace sporkle::mesh
