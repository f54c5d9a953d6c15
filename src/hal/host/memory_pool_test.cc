#include "hal/host/memory_pool.h"

#include <gtest/gtest.h>

#include <cstring>

namespace sporkle::hal {
namespace {

TEST(MemoryPool, BlocksAreAlignedWithSlack) {
  MemoryPool pool(size_t{1} << 30);
  for (const size_t size : {0, 1, 64, 200, 4096, 1 << 20, (16 << 20) + 1}) {
    const Result<MemoryPool::Block> block = pool.allocate(size);
    ASSERT_TRUE(block.ok()) << block.status().to_string();
    EXPECT_EQ(reinterpret_cast<uintptr_t>(block->data) % MemoryPool::kAlignment, 0u);
    EXPECT_GE(block->capacity, size + MemoryPool::kSlack);
    std::memset(block->data, 1, size + MemoryPool::kSlack);
    pool.free(*block);
  }
}

TEST(MemoryPool, CountsWhatIsInUse) {
  MemoryPool pool(size_t{1} << 30);
  const MemoryPool::Block a = *pool.allocate(1000), b = *pool.allocate(5 << 20);
  EXPECT_GE(pool.statistics().in_use_bytes, 1000u + (5u << 20));
  EXPECT_LE(pool.statistics().in_use_bytes, (1000u + (5u << 20)) * 5 / 4 + 4096);
  const size_t peak = pool.statistics().in_use_bytes;
  pool.free(a);
  pool.free(b);
  EXPECT_EQ(pool.statistics().in_use_bytes, 0u);
  EXPECT_EQ(pool.statistics().peak_bytes, peak);
  pool.trim();
  EXPECT_EQ(pool.statistics().kept_bytes, 0u);
}

TEST(MemoryPool, ReusesWhatWasFreed) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "address sanitizer wants every block to go back";
#endif
  MemoryPool pool(size_t{1} << 30);
  const MemoryPool::Block first = *pool.allocate(100'000);
  pool.free(first);
  EXPECT_EQ(pool.statistics().kept_bytes, first.capacity);
  const MemoryPool::Block second = *pool.allocate(99'000);
  EXPECT_EQ(second.data, first.data);
  EXPECT_EQ(pool.statistics().kept_bytes, 0u);
  // Not for something much smaller: that would waste it.
  pool.free(second);
  const MemoryPool::Block small = *pool.allocate(1000);
  EXPECT_NE(small.data, first.data);
  pool.free(small);
}

TEST(MemoryPool, BlocksOfAMiddlingSizeShareHugePages) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "address sanitizer wants every block to go back";
#endif
  MemoryPool pool(size_t{1} << 30);
  std::vector<MemoryPool::Block> blocks;
  for (int i = 0; i < 12; ++i) {
    blocks.push_back(*pool.allocate(700'000));
    std::memset(blocks.back().data, i, blocks.back().capacity);
  }
  for (int i = 0; i < 12; ++i) EXPECT_EQ(blocks[static_cast<size_t>(i)].data[699'999], static_cast<std::byte>(i));
  EXPECT_EQ(blocks[1].data, blocks[0].data + blocks[0].capacity);
  // What lies beside a block in use stays; the rest goes.
  for (size_t i = 1; i < 12; ++i) pool.free(blocks[i]);
  pool.trim();
  EXPECT_GT(pool.statistics().kept_bytes, 0u);
  EXPECT_LT(pool.statistics().kept_bytes, size_t{4} << 20);
  const MemoryPool::Block again = *pool.allocate(700'000);
  EXPECT_NE(again.data, blocks[0].data);
  std::memset(again.data, 1, again.capacity);
  EXPECT_EQ(blocks[0].data[0], std::byte{0});
  pool.free(again);
  pool.free(blocks[0]);
  pool.trim();
  EXPECT_EQ(pool.statistics().kept_bytes, 0u);
  EXPECT_EQ(pool.statistics().in_use_bytes, 0u);
}

TEST(MemoryPool, RefusesMoreThanItsLimit) {
  MemoryPool pool(10 << 20);
  const MemoryPool::Block block = *pool.allocate(6 << 20);
  const Status refused = pool.allocate(8 << 20).status();
  EXPECT_EQ(refused.code(), Code::out_of_memory);
  EXPECT_NE(refused.message().find("cannot allocate 8 MiB"), std::string::npos) << refused.message();
  EXPECT_NE(refused.message().find("in use of at most 10 MiB"), std::string::npos) << refused.message();
  EXPECT_EQ(pool.allocate(SIZE_MAX).status().code(), Code::out_of_memory);
  pool.free(block);
  // What is kept gives way.
  const Result<MemoryPool::Block> other = pool.allocate(9 << 20);
  ASSERT_TRUE(other.ok()) << other.status().to_string();
  pool.free(*other);
}

}  // namespace
}  // namespace sporkle::hal
