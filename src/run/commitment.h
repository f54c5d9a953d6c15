// Commitment: what binds a worker to an update that it does not send to the coordinator. For each chunk of 1024 values
// its SHA-256 and its Euclidean length, 36 bytes in all; docs/protocol.md has the layout. Thread-safe.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "base/status.h"

namespace sporkle::run {

inline constexpr size_t kCommitmentChunk = 1024;  // values
inline constexpr size_t kCommitmentEntryBytes = 36;

size_t commitment_chunks(size_t count);
// The values of chunk `chunk`, which exists.
std::span<const float> commitment_chunk(std::span<const float> values, size_t chunk);

std::vector<std::byte> commit_to(std::span<const float> values);

// The length of the whole update of `count` values. corrupt_data when it is no commitment to so many finite values.
Result<double> committed_norm(std::span<const std::byte> commitment, size_t count);
// Of one chunk of a commitment that committed_norm() has accepted.
double committed_chunk_norm(std::span<const std::byte> commitment, size_t chunk);
// Whether `values` are what was committed to as chunk `chunk`.
bool is_committed(std::span<const std::byte> commitment, size_t chunk, std::span<const float> values);

}  // namespace sporkle::run
