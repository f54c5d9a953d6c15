// The header of every message between the peers of a reduction (reduction.h). docs/protocol.md has the layout.
//
// Pure computation on bytes, from any thread. What arrives is never trusted: a header is checked before its numbers are
// believed, and none of them makes anything be allocated.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/status.h"

namespace sporkle::mesh {

inline constexpr size_t reduction_header_bytes = 56;
inline constexpr size_t max_reduction_members = 64;  // a set of members is one word
inline constexpr uint32_t max_reduction_chunk_bytes = uint32_t{4} << 20;

enum class ReductionKind : uint8_t {
  hello = 1,         // first each way; payload: the sender's node ID and the group's digest
  contribution = 2,  // payload: a chunk of the sender's input, to the chunk's aggregator
  result = 3,        // payload: a chunk's sum, from its aggregator
  done = 4,          // to the view's leader: the sender holds every sum of this view
  commit = 5,        // every member of the view holds every sum: the operation is over
  accuse = 6,        // `members` are those that the sender has lost; those in `accepted` are only silent
  propose = 7,       // a would-be leader: `view` is its ballot, `members` whom it wants to go on with
  promise = 8,  // the answer: nothing of a ballot below `view` will be done; `accepted`, `members`: the view so far
  start = 9,    // a new view begins; who is not among its `members` is out
  alive = 10,   // nothing to say
};

struct ReductionMessage {
  ReductionKind kind{};
  bool done = false;       // promise: the sender has said `done` in the view `accepted`
  uint64_t operation = 0;  // from 1; 0 in a hello
  uint64_t view = 0;
  uint64_t members = 0;  // bit i: the member with the i-th smallest node ID
  uint64_t accepted = 0;
  uint32_t chunk = 0;
  uint32_t payload_bytes = 0;  // that follow the header

  bool operator==(const ReductionMessage&) const = default;
};

// Writes the header.
void encode_reduction(const ReductionMessage& message, std::span<std::byte, reduction_header_bytes> out);

// Reads one. corrupt_data when it is none, unsupported when it is of another version.
Result<ReductionMessage> decode_reduction(std::span<const std::byte, reduction_header_bytes> header);

}  // namespace sporkle::mesh
