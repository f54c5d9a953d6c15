#include "mesh/handshake_gate.h"

#include <gtest/gtest.h>

#include <vector>

namespace sporkle::mesh {
namespace {

struct Crowd {
  explicit Crowd(size_t most, size_t most_of_an_address) : gate(most, most_of_an_address) {}
  uint64_t enter(const std::string& address, int who) {
    return gate.enter(address, [this, who] { gone.push_back(who); });
  }
  HandshakeGate gate;
  std::vector<int> gone;
};

TEST(HandshakeGate, AnAddressOnlyPushesOutItsOwn) {
  Crowd crowd(100, 2);
  crowd.enter("a", 1);
  crowd.enter("b", 2);
  crowd.enter("b", 3);
  crowd.enter("b", 4);
  EXPECT_EQ(crowd.gone, std::vector<int>{2});
  crowd.enter("b", 5);
  EXPECT_EQ(crowd.gone, (std::vector<int>{2, 3}));
  EXPECT_EQ(crowd.gate.inside(), 3u);
}

TEST(HandshakeGate, WhoHasMostMakesRoom) {
  Crowd crowd(4, 3);
  crowd.enter("a", 1);
  crowd.enter("b", 2);
  crowd.enter("b", 3);
  crowd.enter("c", 4);
  crowd.enter("d", 5);
  EXPECT_EQ(crowd.gone, std::vector<int>{2});
}

TEST(HandshakeGate, OfAddressesWithAsManyTheOldestMakesRoom) {
  Crowd crowd(3, 3);
  crowd.enter("z", 1);
  crowd.enter("a", 2);
  crowd.enter("b", 3);
  crowd.enter("c", 4);
  crowd.enter("d", 5);
  EXPECT_EQ(crowd.gone, (std::vector<int>{1, 2}));
}

TEST(HandshakeGate, WhoHasLeftIsLeftAlone) {
  Crowd crowd(2, 2);
  const uint64_t first = crowd.enter("a", 1);
  crowd.enter("a", 2);
  crowd.gate.leave(first);
  crowd.gate.leave(first);
  crowd.enter("a", 3);
  EXPECT_TRUE(crowd.gone.empty());
  crowd.enter("a", 4);
  EXPECT_EQ(crowd.gone, std::vector<int>{2});
}

TEST(HandshakeGate, CountsByAddressAndByNetworkOfIpv6) {
  EXPECT_EQ(handshake_source("192.0.2.1:77"), handshake_source("192.0.2.1:99"));
  EXPECT_NE(handshake_source("192.0.2.1:77"), handshake_source("192.0.2.2:77"));
  EXPECT_EQ(handshake_source("[2001:db8:1:2::5]:7"), handshake_source("[2001:db8:1:2:9::]:8"));
  EXPECT_NE(handshake_source("[2001:db8:1:2::5]:7"), handshake_source("[2001:db8:1:3::5]:7"));
}

}  // namespace
}  // namespace sporkle::mesh
