// What the run layer's two ends must agree on beyond run.proto.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sporkle::run {

// Raised when an old worker could misunderstand a new coordinator, or the other way round.
inline constexpr uint32_t kRunProtocol = 1;

// Parameters travel in chunks of so many values: other messages get through in between.
inline constexpr size_t kParameterChunk = size_t{1} << 20;

// Parameters of no more bytes than this come from the coordinator: to ask for donors and reach them takes longer.
inline constexpr size_t kLeastDonatedBytes = size_t{4} << 20;
// Nor from fewer donors than this, the coordinator not counted.
inline constexpr size_t kLeastDonors = 2;
inline constexpr size_t kMostDonors = 16;

// Shards asked for at once: bounded by number here, by bytes on the coordinator.
inline constexpr int kShardsPerRequest = 8192;
inline constexpr size_t kShardBytesPerRequest = size_t{64} << 20;

}  // namespace sporkle::run
