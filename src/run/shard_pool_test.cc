#include "run/shard_pool.h"

#include <gtest/gtest.h>

#include <set>

#include "run/simulation_testing.h"

namespace sporkle::run {
namespace {

TEST(ShardPool, EveryEpochHandsOutEveryShardOnceInItsOwnOrder) {
  const std::vector<std::byte> tokens = testing::toy_tokens(1001);
  auto pool = ShardPool::create(tokens, 2, 10, 5);
  ASSERT_TRUE(pool.ok());
  ASSERT_EQ(pool->shard_count(), 100u);
  std::vector<std::vector<uint64_t>> epochs;
  for (int epoch = 0; epoch < 3; ++epoch) {
    std::vector<uint64_t> order;
    for (const uint64_t unit : pool->take(100)) order.push_back(pool->shard_of(unit));
    EXPECT_EQ(std::set<uint64_t>(order.begin(), order.end()).size(), 100u);
    epochs.push_back(order);
  }
  EXPECT_NE(epochs[0], epochs[1]);
  EXPECT_NE(epochs[1], epochs[2]);
  auto again = ShardPool::create(tokens, 2, 10, 5);
  std::vector<uint64_t> order;
  for (const uint64_t unit : again->take(100)) order.push_back(again->shard_of(unit));
  EXPECT_EQ(order, epochs[0]);
}

TEST(ShardPool, ShardsOverlapByTheTokenThatIsOnlyPredicted) {
  const std::vector<std::byte> tokens = testing::toy_tokens(101);
  auto pool = ShardPool::create(tokens, 2, 10, 5);
  ASSERT_TRUE(pool.ok());
  for (uint64_t i = 0; i < 10; ++i) {
    const auto shard = pool->shard(i);
    ASSERT_EQ(shard.size(), 22u);
    EXPECT_EQ(shard.data(), tokens.data() + i * 20);
  }
  EXPECT_TRUE(pool->shard(10).empty());
  EXPECT_TRUE(pool->shard(UINT64_MAX).empty());
}

TEST(ShardPool, ReturnedUnitsComeFirst) {
  const std::vector<std::byte> tokens = testing::toy_tokens(1001);
  auto pool = ShardPool::create(tokens, 2, 10, 5);
  const auto first = pool->take(10);
  pool->give_back(std::span(first).subspan(3, 2));
  EXPECT_EQ(pool->take(3), (std::vector<uint64_t>{first[3], first[4], 10}));
  pool->give_back(std::span(first).subspan(0, 2));
  EXPECT_FALSE(pool->take_back(std::span(first).subspan(1, 2)));
  EXPECT_EQ(pool->returned().size(), 2u);
  EXPECT_TRUE(pool->take_back(std::span(first).subspan(0, 2)));
  EXPECT_TRUE(pool->returned().empty());
}

TEST(ShardPool, TooLittleText) {
  EXPECT_EQ(ShardPool::create({}, 2, 10, 5).status().code(), Code::invalid_argument);
  EXPECT_EQ(ShardPool::create(testing::toy_tokens(10), 2, 10, 5).status().code(), Code::invalid_argument);
}

}  // namespace
}  // namespace sporkle::run
