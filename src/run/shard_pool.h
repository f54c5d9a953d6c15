// ShardPool: which pieces of the training data are still to be handed out.
//
// Token bytes are cut into shards of `shard_tokens` tokens and one more (the next shard's first), so that a shard
// yields shard_tokens predictions; a shorter rest at the end is left out. A unit is one shard in one epoch, numbered
// epoch * shards + position; each epoch has an order of its own, shuffled from the seed. Every unit is taken once, and
// again only after it was given back. Views the caller's bytes. Not thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <vector>

#include "base/status.h"

namespace sporkle::run {

class ShardPool {
 public:
  // `tokens` outlives the pool. invalid_argument when it does not hold a single shard.
  static Result<ShardPool> create(std::span<const std::byte> tokens, uint32_t token_bytes, uint64_t shard_tokens,
                                  uint64_t seed);

  uint64_t shard_count() const { return shard_count_; }
  // Empty for a shard that does not exist.
  std::span<const std::byte> shard(uint64_t index) const;
  // The shard of a unit.
  uint64_t shard_of(uint64_t unit);

  // Returned units first, lowest number first, then new ones.
  std::vector<uint64_t> take(size_t count);
  void give_back(std::span<const uint64_t> units);
  // Takes exactly these again. False, and nothing taken, when one of them is not among the returned ones.
  bool take_back(std::span<const uint64_t> units);

  // The whole state, for persistence.
  uint64_t next() const { return next_; }
  const std::set<uint64_t>& returned() const { return returned_; }
  void restore(uint64_t next, std::set<uint64_t> returned);

 private:
  ShardPool(std::span<const std::byte> tokens, size_t shard_bytes, size_t token_bytes, uint64_t shard_count,
            uint64_t seed)
      : tokens_(tokens), shard_bytes_(shard_bytes), token_bytes_(token_bytes), shard_count_(shard_count), seed_(seed) {}
  const std::vector<uint32_t>& order(uint64_t epoch);

  std::span<const std::byte> tokens_;
  size_t shard_bytes_;
  size_t token_bytes_;
  uint64_t shard_count_;
  uint64_t seed_;
  uint64_t next_ = 0;
  std::set<uint64_t> returned_;
  std::map<uint64_t, std::vector<uint32_t>> orders_;  // of the epochs in use
};

}  // namespace sporkle::run
