#include "tune/microarchitecture.h"

#include <gtest/gtest.h>

namespace sporkle::tune {
namespace {

TEST(Microarchitecture, ComesFromFamilyAndModel) {
  EXPECT_EQ(classify_processor("AuthenticAMD", 0x19, 0x11), Microarchitecture::zen4);  // EPYC 9xx4
  EXPECT_EQ(classify_processor("AuthenticAMD", 0x19, 0x61), Microarchitecture::zen4);  // Ryzen 7000
  EXPECT_EQ(classify_processor("AuthenticAMD", 0x19, 0x01), Microarchitecture::zen3);  // EPYC 7xx3
  EXPECT_EQ(classify_processor("AuthenticAMD", 0x17, 0x31), Microarchitecture::zen2);
  EXPECT_EQ(classify_processor("GenuineIntel", 6, 0x55), Microarchitecture::skylake_x);
  EXPECT_EQ(classify_processor("GenuineIntel", 6, 0x8f), Microarchitecture::sapphire_rapids);
  EXPECT_EQ(classify_processor("GenuineIntel", 0x19, 0x11), Microarchitecture::generic);
  EXPECT_EQ(classify_processor("somebody", 1, 2), Microarchitecture::generic);
}

TEST(Microarchitecture, NamesRoundTrip) {
  for (const Microarchitecture value : {Microarchitecture::generic, Microarchitecture::zen4, Microarchitecture::zen5,
                                        Microarchitecture::sapphire_rapids})
    EXPECT_EQ(parse_microarchitecture(microarchitecture_name(value)), value);
  EXPECT_FALSE(parse_microarchitecture("zen"));
}

}  // namespace
}  // namespace sporkle::tune
