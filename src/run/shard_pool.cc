#include "run/shard_pool.h"

#include <numeric>
#include <string>
#include <utility>

namespace sporkle::run {
namespace {

// SplitMix64 (Steele, Lea, Flood 2014): a counter through a mixer, the same everywhere.
uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace

Result<ShardPool> ShardPool::create(std::span<const std::byte> tokens, uint32_t token_bytes, uint64_t shard_tokens,
                                    uint64_t seed) {
  if (token_bytes == 0 || shard_tokens == 0 || shard_tokens > (1ull << 40))
    return invalid_argument("data shards need a token size and a shard size");
  const uint64_t count = tokens.size() / token_bytes;
  const uint64_t shards = count == 0 ? 0 : (count - 1) / shard_tokens;
  if (shards == 0)
    return invalid_argument("the training data has " + std::to_string(count) + " tokens, less than one shard of " +
                            std::to_string(shard_tokens + 1) + "; use more text or a smaller shard");
  if (shards > UINT32_MAX)
    return invalid_argument("the training data makes " + std::to_string(shards) +
                            " shards, more than 2^32; use a larger shard");
  return ShardPool(tokens, shard_tokens * token_bytes, token_bytes, shards, seed);
}

std::span<const std::byte> ShardPool::shard(uint64_t index) const {
  if (index >= shard_count_) return {};
  return tokens_.subspan(index * shard_bytes_, shard_bytes_ + token_bytes_);
}

const std::vector<uint32_t>& ShardPool::order(uint64_t epoch) {
  auto [entry, fresh] = orders_.try_emplace(epoch);
  if (!fresh) return entry->second;
  std::vector<uint32_t>& order = entry->second;
  order.resize(shard_count_);
  std::iota(order.begin(), order.end(), 0u);
  // Fisher and Yates; the modulo's bias, below 2^-32, does not matter here.
  for (uint64_t i = shard_count_ - 1; i > 0; --i)
    std::swap(order[i], order[mix(mix(seed_ ^ mix(epoch)) + i) % (i + 1)]);
  while (orders_.size() > 4) {  // epochs long past come back only if a unit of theirs does
    const auto oldest = orders_.begin();
    orders_.erase(oldest->first == epoch ? std::next(oldest) : oldest);
  }
  return orders_.at(epoch);
}

uint64_t ShardPool::shard_of(uint64_t unit) { return order(unit / shard_count_)[unit % shard_count_]; }

std::vector<uint64_t> ShardPool::take(size_t count) {
  std::vector<uint64_t> units;
  units.reserve(count);
  while (units.size() < count && !returned_.empty()) units.push_back(returned_.extract(returned_.begin()).value());
  while (units.size() < count) units.push_back(next_++);
  return units;
}

void ShardPool::give_back(std::span<const uint64_t> units) { returned_.insert(units.begin(), units.end()); }

bool ShardPool::take_back(std::span<const uint64_t> units) {
  for (const uint64_t unit : units)
    if (!returned_.contains(unit)) return false;
  for (const uint64_t unit : units) returned_.erase(unit);
  return true;
}

void ShardPool::restore(uint64_t next, std::set<uint64_t> returned) {
  next_ = next;
  returned_ = std::move(returned);
}

}  // namespace sporkle::run
