#include "run/link.h"

#include <gtest/gtest.h>

namespace sporkle::run {
namespace {

using train::Compression;

TEST(UploadMeter, TakesTheBestOfTheLastFew) {
  UploadMeter meter;
  EXPECT_EQ(meter.bytes_per_second(), 0);
  meter.sent(1000, 1e-6);  // says nothing
  EXPECT_EQ(meter.bytes_per_second(), 0);
  meter.sent(1'000'000, 0.5);
  meter.sent(1'000'000, 2);
  EXPECT_DOUBLE_EQ(meter.bytes_per_second(), 2e6);
  for (int i = 0; i < 3; ++i) meter.sent(1'000'000, 4);
  EXPECT_DOUBLE_EQ(meter.bytes_per_second(), 5e5) << "a link that became slow is seen to be";
  meter.sent(1'000'000, -1);  // faster than its round trip was
  EXPECT_GT(meter.bytes_per_second(), 1e9);
}

TEST(ChooseCompression, SlowerLinksTakeSmallerForms) {
  const size_t count = 10'000'000;  // int8 10.2 MB, int4 5.3 MB, sign 1.4 MB, topk 0.4 MB
  const auto choose = [&](double bytes_per_second, Compression previous = Compression::int8) {
    return choose_compression(count, bytes_per_second, 10, previous);  // a second to send it in
  };
  EXPECT_EQ(choose(0), Compression::int8);
  EXPECT_EQ(choose(11e6), Compression::int8);
  EXPECT_EQ(choose(10e6), Compression::int4);
  EXPECT_EQ(choose(5e6), Compression::sign);
  EXPECT_EQ(choose(1e6), Compression::topk);
  EXPECT_EQ(choose(1), Compression::topk);
  EXPECT_EQ(choose_compression(count, 1e6, 0, Compression::topk), Compression::int8) << "no training time is known";
}

TEST(ChooseCompression, ShortRoundsDoNotAskForSmallForms) {
  EXPECT_EQ(choose_compression(100'000, 1e7, 0.02, Compression::int8), Compression::int8);  // 10 ms to send
  EXPECT_EQ(choose_compression(100'000, 1e6, 0.02, Compression::int8), Compression::sign);  // 100 ms
}

TEST(ChooseCompression, GoingBackNeedsTwiceTheSpeed) {
  const size_t count = 10'000'000;
  EXPECT_EQ(choose_compression(count, 11e6, 10, Compression::int4), Compression::int4);
  EXPECT_EQ(choose_compression(count, 21e6, 10, Compression::int4), Compression::int8);
  EXPECT_EQ(choose_compression(count, 2e6, 10, Compression::topk), Compression::topk);
  EXPECT_EQ(choose_compression(count, 3e6, 10, Compression::topk), Compression::sign);
}

}  // namespace
}  // namespace sporkle::run
