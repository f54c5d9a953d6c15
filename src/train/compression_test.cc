#include "train/compression.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>

#include "base/sha256.h"
#include "codegen/cpu_target.h"
#include "train/compression_kernels.h"

namespace sporkle::train {
namespace {

constexpr Compression kLossy[] = {Compression::int8, Compression::int4, Compression::sign, Compression::topk};

std::vector<float> random_values(size_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<float> values(count);
  // Integer arithmetic only, so that every machine tests the same values.
  for (float& value : values) {
    const uint64_t bits = random();
    value = static_cast<float>(static_cast<int32_t>(bits >> 32)) * std::ldexp(1.0f, -31 - static_cast<int>(bits % 20));
  }
  return values;
}

std::vector<std::byte> compressed(Compression compression, std::span<const float> values,
                                  KernelRunner* runner = nullptr) {
  auto encoded = compress(compression, values, runner);
  EXPECT_TRUE(encoded.ok()) << encoded.status().to_string();
  return encoded.ok() ? std::move(*encoded) : std::vector<std::byte>();
}

std::vector<float> decompressed(std::span<const std::byte> encoded, size_t count, KernelRunner* runner = nullptr) {
  std::vector<float> values(count, 99.0f);
  const Status status = decompress(encoded, values, runner);
  EXPECT_TRUE(status.ok()) << status.to_string();
  return values;
}

float largest(std::span<const float> values) {
  float most = 0;
  for (const float value : values) most = std::max(most, std::fabs(value));
  return most;
}

TEST(Compression, NamesAreReadBack) {
  for (const Compression compression : kCompressions) {
    const auto parsed = parse_compression(compression_name(compression));
    ASSERT_TRUE(parsed.ok());
    EXPECT_EQ(*parsed, compression);
  }
  const Status unknown = parse_compression("int9").status();
  EXPECT_EQ(unknown.code(), Code::invalid_argument);
  EXPECT_NE(unknown.message().find("\"int9\"; one of these was expected: none, int8, int4, sign, topk"),
            std::string::npos)
      << unknown.message();
}

TEST(Compression, ErrorIsAtMostHalfAScaleInEveryBlock) {
  struct Case {
    Compression compression;
    size_t block;
    float most;
  };
  for (const auto& [compression, block, most] : {Case{Compression::int8, 256, 127}, Case{Compression::int4, 128, 7}})
    for (const size_t count : {1u, 127u, 128u, 129u, 255u, 256u, 257u, 5000u}) {
      const std::vector<float> values = random_values(count, count);
      const std::vector<float> decoded = decompressed(compressed(compression, values), count);
      for (size_t begin = 0; begin < count; begin += block) {
        const size_t end = std::min(count, begin + block);
        const float scale = largest(std::span(values).subspan(begin, end - begin)) / most;
        for (size_t i = begin; i < end; ++i)
          EXPECT_LE(std::fabs(values[i] - decoded[i]), scale * 0.50001f) << compression_name(compression) << " " << i;
      }
    }
}

TEST(Compression, NoneKeepsEveryBit) {
  const std::vector<float> values = random_values(1000, 5);
  EXPECT_EQ(decompressed(compressed(Compression::none, values), 1000), values);
}

TEST(Compression, SignKeepsSignsAndTheMeanMagnitude) {
  for (const size_t count : {1u, 7u, 8u, 9u, 255u, 256u, 257u, 3000u}) {
    const std::vector<float> values = random_values(count, count);
    const std::vector<float> decoded = decompressed(compressed(Compression::sign, values), count);
    for (size_t begin = 0; begin < count; begin += 256) {
      const size_t end = std::min<size_t>(count, begin + 256);
      double sum = 0;
      for (size_t i = begin; i < end; ++i) sum += std::fabs(values[i]);
      const double mean = sum / static_cast<double>(end - begin);
      for (size_t i = begin; i < end; ++i) EXPECT_NEAR(decoded[i], values[i] < 0 ? -mean : mean, 1e-6 * mean) << i;
    }
  }
}

TEST(Compression, TopkKeepsTheLargestOfEachBlock) {
  for (const size_t count : {1u, 63u, 64u, 65u, 4095u, 4096u, 4097u, 10'000u}) {
    const std::vector<float> values = random_values(count, count);
    const std::vector<float> decoded = decompressed(compressed(Compression::topk, values), count);
    for (size_t begin = 0; begin < count; begin += 4096) {
      const size_t end = std::min<size_t>(count, begin + 4096);
      std::vector<size_t> order;
      for (size_t i = begin; i < end; ++i) order.push_back(i);
      std::stable_sort(order.begin(), order.end(),
                       [&](size_t a, size_t b) { return std::fabs(values[a]) > std::fabs(values[b]); });
      const float scale = std::fabs(values[order.front()]) / 127.0f;
      for (size_t rank = 0; rank < order.size(); ++rank) {
        const size_t i = order[rank];
        if (rank < (end - begin + 63) / 64)
          EXPECT_LE(std::fabs(values[i] - decoded[i]), scale * 0.50001f) << i;
        else
          EXPECT_EQ(decoded[i], 0.0f) << i;
      }
    }
  }
}

TEST(Compression, TopkGivesTiesToTheFirst) {
  std::vector<float> values(4096, -2.0f);
  values[4000] = 3.0f;
  const std::vector<float> decoded = decompressed(compressed(Compression::topk, values), values.size());
  for (size_t i = 0; i < values.size(); ++i) EXPECT_EQ(decoded[i] != 0.0f, i < 63 || i == 4000) << i;
}

TEST(Compression, TiesGoToTheEvenCode) {
  // A scale of exactly 1, so that the codes are the rounded values.
  const std::vector<float> eight = {127.0f, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, 3.5f};
  EXPECT_EQ(decompressed(compressed(Compression::int8, eight), 8),
            (std::vector<float>{127, 0, 2, 2, -0.0f, -2, -2, 4}));
  const std::vector<float> four = {7.0f, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, 3.5f, -6.5f};
  EXPECT_EQ(decompressed(compressed(Compression::int4, four), 9), (std::vector<float>{7, 0, 2, 2, 0, -2, -2, 4, -6}));
}

TEST(Compression, SizesAreWhatTheyAreSaidToBe) {
  for (const Compression compression : kCompressions)
    for (const size_t count : {0u, 1u, 255u, 4097u, 100'000u})
      EXPECT_EQ(compressed(compression, random_values(count, 1)).size(), compressed_size_bytes(compression, count));
  EXPECT_LT(compressed_size_bytes(Compression::int8, 1'000'000), 1'016'000u);
  EXPECT_LT(compressed_size_bytes(Compression::int4, 1'000'000), 532'000u);
  EXPECT_LT(compressed_size_bytes(Compression::sign, 1'000'000), 141'000u);
  EXPECT_LT(compressed_size_bytes(Compression::topk, 1'000'000), 41'000u);
}

TEST(Compression, SubnormalAndZeroBlocks) {
  std::vector<float> values(300, 0.0f);
  values[7] = std::numeric_limits<float>::denorm_min();
  values[299] = std::numeric_limits<float>::min();
  for (const Compression compression : {Compression::int8, Compression::topk}) {
    const std::vector<float> decoded = decompressed(compressed(compression, values), values.size());
    EXPECT_EQ(decoded[0], 0.0f);
    EXPECT_EQ(decoded[7], 0.0f);
    EXPECT_NEAR(decoded[299], values[299], values[299] / 50);
  }
  const std::vector<float> zeros(300, 0.0f);
  for (const Compression compression : kCompressions)
    EXPECT_EQ(decompressed(compressed(compression, zeros), 300), zeros) << compression_name(compression);
}

TEST(Compression, RefusesWhatIsNotFinite) {
  for (const Compression compression : kCompressions)
    for (const float bad : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                            std::numeric_limits<float>::quiet_NaN()})
      for (const size_t at : {0u, 3u, 599u}) {
        std::vector<float> values = random_values(600, 2);
        values[at] = bad;
        EXPECT_EQ(compress(compression, values).status().code(), Code::invalid_argument)
            << compression_name(compression) << " " << bad << " at " << at;
      }
}

TEST(Compression, WhatIsTooLargeIsRefusedBeforeItIsSent) {
  const std::vector<float> large(300, -3e38f), largest_float(300, std::numeric_limits<float>::max());
  for (const Compression compression : {Compression::none, Compression::int8, Compression::int4, Compression::topk}) {
    const float decoded = decompressed(compressed(compression, large), 300)[0];
    EXPECT_NEAR(decoded / -3e38f, 1.0f, 1e-6f) << compression_name(compression);
    const auto encoded = compress(compression, largest_float);
    EXPECT_TRUE(encoded.ok() ? std::isfinite(decompressed(*encoded, 300)[0])
                             : encoded.status().code() == Code::invalid_argument)
        << compression_name(compression);
  }
  EXPECT_EQ(compress(Compression::sign, large).status().code(), Code::invalid_argument);  // a block's sum is infinite
}

// ---- The same bits everywhere ----

TEST(Compression, BytesAreTheSameEverywhere) {
  const std::pair<Compression, const char*> expected[] = {
      {Compression::none, "d644d00a08fa33c1264440bd629702fa5e939e8b9767f76d12e025ed329b9634"},
      {Compression::int8, "469a1f409de199f3f8e489ef8b06539a8d245099f38e9a4e673c3c524d6944ca"},
      {Compression::int4, "3d5feef41dafbecfed128bd9c2fe92438a05f2cd9e188a4a953ea9e08930bcf5"},
      {Compression::sign, "698e020b8707bd81eb2adf706cdc0785ad8174af80cd41b255f99c093305318d"},
      {Compression::topk, "250c00ccb70240cfee1cf161cfe7d1d3cd55abd74a421d3eb5f3fdf3fca32d3f"},
  };
  for (const auto& [compression, sha] : expected)
    EXPECT_EQ(to_hex(sha256(compressed(compression, random_values(3000, 42)))), sha) << compression_name(compression);
}

// docs/protocol.md has these.
TEST(Compression, TestVectors) {
  const std::vector<float> values = {1.0f, -2.0f, 0.5f, 0.0f, 3.0f, -7.0f, 0.25f, 7.0f, -1.5f};
  const std::pair<Compression, const char*> expected[] = {
      {Compression::none,
       "534634010000000009000000000000000000803f000000c00000003f00000000000040400000e0c00000803e0000e0400000c0bf"},
      {Compression::int8, "5351380100010000090000000000000087c3613d12dc09003681057fe5"},
      {Compression::int4, "535134018000000009000000000000000000803f69881bf806"},
      {Compression::sign, "53534701000100000900000000000000e4381e402201"},
      {Compression::topk, "53544b0100100000090000000000000087c3613d050081"},
  };
  for (const auto& [compression, hex] : expected)
    EXPECT_EQ(to_hex(compressed(compression, values)), hex) << compression_name(compression);
  std::vector<float> longer(130);
  for (size_t i = 0; i < longer.size(); ++i) longer[i] = static_cast<float>(i) - 64.0f;
  EXPECT_EQ(to_hex(compressed(Compression::topk, longer)), "53544b010010000082000000000000000c06033f0000088100837d7f");
}

// The interpreter says what the kernels mean; every instruction set and device must say the same.
TEST(Compression, EveryDeviceGivesTheInterpretersBits) {
  const auto interpreter = KernelRunner::open("reference");
  ASSERT_TRUE(interpreter.ok()) << interpreter.status().to_string();
  std::vector<std::pair<std::string, std::unique_ptr<KernelRunner>>> runners;
  for (const std::string& level : codegen::host_cpu_levels())
    for (const int threads : {1, 3}) {
      hal::DeviceOptions options;
      options.threads = threads;
      options.cpu_target = level;
      auto runner = KernelRunner::open("cpu", options);
      ASSERT_TRUE(runner.ok()) << runner.status().to_string();
      runners.emplace_back(level, std::move(*runner));
    }
  if (auto gpu = KernelRunner::open("vulkan"); gpu.ok()) runners.emplace_back("vulkan", std::move(*gpu));
  int compared = 0;
  for (const size_t count : {1u, 700u, 9001u}) {
    std::vector<float> values = random_values(count, 8 + count);
    if (count > 600) {  // ties, zeros and subnormal numbers
      std::fill_n(values.begin() + 100, 200, 0.125f);
      std::fill_n(values.begin() + 300, 100, -0.0f);
      std::fill_n(values.begin() + 400, 200, 3e-40f);
    }
    for (const Compression compression : kLossy) {
      const std::vector<std::byte> encoded = compressed(compression, values, interpreter->get());
      const std::vector<float> decoded = decompressed(encoded, count, interpreter->get());
      for (const auto& [name, runner] : runners) {
        const auto on_it = compress(compression, values, runner.get());
        if (on_it.status().code() == Code::unsupported) continue;  // no libLLVM, or a GPU without 8-bit stores
        ++compared;
        ASSERT_TRUE(on_it.ok()) << name << ": " << on_it.status().to_string();
        EXPECT_EQ(*on_it, encoded) << name << " " << compression_name(compression) << " " << count;
        const std::vector<float> there = decompressed(encoded, count, runner.get());
        EXPECT_EQ(std::memcmp(there.data(), decoded.data(), count * sizeof(float)), 0)
            << name << " " << compression_name(compression) << " " << count;
      }
    }
  }
  if (compared == 0) GTEST_SKIP() << "no device here compiles kernels";
}

// More values than kernels take at once.
TEST(Compression, PiecesFitTogether) {
  const size_t count = (size_t{1} << 22) + 4097;
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = static_cast<float>(static_cast<int32_t>(i * 2654435761u)) * 0x1p-31f;
  const std::span<const float> tail = std::span(values).subspan(size_t{1} << 22);
  for (const Compression compression : kCompressions) {
    const std::vector<float> all = decompressed(compressed(compression, values), count);
    const std::vector<float> last = decompressed(compressed(compression, tail), tail.size());
    EXPECT_TRUE(std::equal(last.begin(), last.end(), all.end() - static_cast<std::ptrdiff_t>(last.size())))
        << compression_name(compression);
    double error = 0, energy = 0;
    for (size_t i = 0; i < count; ++i) {
      error += std::pow(values[i] - all[i], 2);
      energy += std::pow(values[i], 2);
    }
    EXPECT_LT(error, energy) << compression_name(compression);
  }
}

// ---- Hostile bytes ----

class Hostile {
 public:
  Hostile(Compression compression, size_t count) : values_(random_values(count, 1)), decoded_(count, 5.0f) {
    good_ = compressed(compression, values_);
    EXPECT_EQ(decompressed(good_, count).size(), count);
  }
  const std::vector<std::byte>& good() const { return good_; }

  // Refused as corrupt_data, with a message that has this in it.
  void refuses(const std::vector<std::byte>& bytes, std::string_view part) {
    const Status status = decompress_add(bytes, decoded_);
    EXPECT_EQ(status.code(), Code::corrupt_data) << part;
    EXPECT_NE(status.message().find(part), std::string::npos) << status.message() << "\nlacks: " << part;
    EXPECT_EQ(decoded_, std::vector<float>(decoded_.size(), 5.0f)) << "changed on failure";
  }
  template <typename T>
  void refuses_with(size_t at, T value, std::string_view part) {
    auto bytes = good_;
    std::memcpy(bytes.data() + at, &value, sizeof value);
    refuses(bytes, part);
  }

 private:
  std::vector<float> values_, decoded_;
  std::vector<std::byte> good_;
};

TEST(Compression, DecodingTrustsNoHeader) {
  for (const Compression compression : kCompressions) {
    Hostile hostile(compression, 600);
    const std::vector<std::byte>& good = hostile.good();
    for (size_t size = 0; size < good.size(); size += 7)
      hostile.refuses({good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size)},
                      size < 16 ? "known form" : "bytes where");
    auto longer = good;
    longer.push_back(std::byte{0});
    hostile.refuses(longer, "bytes where");
    hostile.refuses_with(0, 'X', "known form");
    hostile.refuses_with(3, char{2}, "known form");
    hostile.refuses_with(8, uint64_t{599}, "599 values where 600 belong");
    hostile.refuses_with(8, std::numeric_limits<uint64_t>::max(), "values where 600 belong");
    if (compression == Compression::int8) {
      hostile.refuses_with(4, uint32_t{0}, "blocks of 0 values");
      hostile.refuses_with(4, uint32_t{1}, "bytes where");
      hostile.refuses_with(4, uint32_t{1} << 21, "blocks of 2097152 values");
    } else {
      hostile.refuses_with(4, uint32_t{77}, "blocks of 77 values");
    }
  }
}

TEST(Compression, DecodingTrustsNoScale) {
  for (const Compression compression : kLossy) {
    Hostile hostile(compression, 600);
    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), -1.0f, -0.0f})
      hostile.refuses_with(16, bad, "a scale that is negative or not finite in block 0");
    if (compression != Compression::sign)
      hostile.refuses_with(16, std::numeric_limits<float>::max(), "not finite in block 0");
  }
}

TEST(Compression, DecodingTrustsNoCode) {
  Hostile none(Compression::none, 10);
  none.refuses_with(16 + 4 * 9, std::numeric_limits<float>::quiet_NaN(), "not finite at 9");
  Hostile int8(Compression::int8, 600);
  int8.refuses_with(16 + 12 + 5, int8_t{-128}, "the code -128");
  Hostile int4(Compression::int4, 131);  // 2 scales, 66 bytes, the last with one code
  int4.refuses_with(16 + 8 + 3, uint8_t{0x80}, "in byte 3");
  int4.refuses_with(16 + 8 + 3, uint8_t{0x08}, "in byte 3");
  int4.refuses_with(16 + 8 + 65, uint8_t{0x88}, "in byte 65");
  int4.refuses_with(16 + 8 + 65, uint8_t{0x00}, "in byte 65");
  Hostile sign(Compression::sign, 257);  // 2 scales, 33 bytes, the last with one bit
  sign.refuses_with(16 + 8 + 32, uint8_t{2}, "bits set after");
}

TEST(Compression, DecodingTrustsNoPosition) {
  Hostile topk(Compression::topk, 4096 + 130);  // 2 scales, 64 + 3 positions in 101 bytes, 67 codes
  const size_t positions = 16 + 8;
  ASSERT_EQ(topk.good().size(), positions + 101 + 67);
  topk.refuses_with(positions, uint8_t{0xFF}, "repeated or out of order in block 0");  // may rise to 255 + 256 n
  auto repeated = topk.good();
  std::copy_n(repeated.begin() + static_cast<std::ptrdiff_t>(positions), 3,
              repeated.begin() + static_cast<std::ptrdiff_t>(positions) + 3);
  topk.refuses(repeated, "repeated or out of order in block 0");
  auto beyond = topk.good();
  beyond[positions + 96] = std::byte{130};  // the first position of the second block: 130 of 130
  beyond[positions + 97] = std::byte{0};
  topk.refuses(beyond, "the position 130 in block 1 of 130 values");
  auto filled = topk.good();
  filled[positions + 100] |= std::byte{0x10};
  topk.refuses(filled, "bits set after its last position");
  topk.refuses_with(positions + 101, int8_t{-128}, "the code -128");
}

}  // namespace
}  // namespace sporkle::train
