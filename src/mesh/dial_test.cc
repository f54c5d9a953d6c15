#include "mesh/dial.h"

#include <gtest/gtest.h>

#include "mesh/reduction_stream.h"

namespace sporkle::mesh {
namespace {

TEST(Dial, SaysWhetherSomebodyListens) {
  uint16_t port = 0;
  {
    const auto listener = ReductionListener::open("127.0.0.1", 0);
    ASSERT_TRUE(listener.ok());
    port = listener->port();
    EXPECT_TRUE(dial({"127.0.0.1", port}, std::chrono::milliseconds(2000)).ok());
  }
  EXPECT_FALSE(dial({"127.0.0.1", port}, std::chrono::milliseconds(2000)).ok());
}

}  // namespace
}  // namespace sporkle::mesh
