#include "train/unicode.h"

#include <gtest/gtest.h>

#include <vector>

namespace sporkle::train {
namespace {

TEST(UnicodeTest, InvalidUtf8IsFoundAtItsFirstByte) {
  EXPECT_EQ(find_invalid_utf8(""), std::nullopt);
  EXPECT_EQ(find_invalid_utf8("plain ASCII, longer than eight bytes"), std::nullopt);
  EXPECT_EQ(find_invalid_utf8("\u00e9 \u20ac \U0001F600 \U0010FFFF"), std::nullopt);
  EXPECT_EQ(find_invalid_utf8("eight by\xFFtes"), 8u);
  EXPECT_EQ(find_invalid_utf8("ab\x80"), 2u);            // a continuation without a lead
  EXPECT_EQ(find_invalid_utf8("ab\xC0\xAF"), 2u);        // overlong
  EXPECT_EQ(find_invalid_utf8("\xE0\x80\x80"), 0u);      // overlong
  EXPECT_EQ(find_invalid_utf8("a\xED\xA0\x80"), 1u);     // a surrogate
  EXPECT_EQ(find_invalid_utf8("\xF4\x90\x80\x80"), 0u);  // past U+10FFFF
  EXPECT_EQ(find_invalid_utf8("\xE2\x82"), 0u);          // cut off
  EXPECT_EQ(find_invalid_utf8("caf\xE9 in Latin-1"), 3u);
}

TEST(UnicodeTest, EveryCharacterRoundTrips) {
  for (uint32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    append_utf8(text, c);
    const CodePoint decoded = decode_utf8(text, 0);
    ASSERT_TRUE(decoded.valid) << c;
    ASSERT_EQ(decoded.value, c);
    ASSERT_EQ(decoded.size, text.size());
  }
}

TEST(UnicodeTest, ClassesAreThoseOfTheGpt2Pattern) {
  for (const uint32_t c : {0x41u, 0xE9u, 0x3B1u, 0x4E2Du, 0x2B0u, 0xAAu})
    EXPECT_EQ(character_class(c), CharacterClass::letter) << c;
  for (const uint32_t c : {0x30u, 0xB2u, 0x2160u, 0x663u}) EXPECT_EQ(character_class(c), CharacterClass::number) << c;
  for (const uint32_t c : {0x20u, 0x0Au, 0x0Bu, 0x85u, 0xA0u, 0x1680u, 0x2003u, 0x2028u, 0x3000u})
    EXPECT_EQ(character_class(c), CharacterClass::space) << c;
  for (const uint32_t c : {0x21u, 0x00u, 0x1Cu, 0x301u, 0x200Bu, 0x180Eu, 0xFEFFu, 0x1F600u, 0xFFFDu})
    EXPECT_EQ(character_class(c), CharacterClass::other) << c;
}

TEST(UnicodeTest, StreamHoldsBackPartsOfACharacter) {
  const std::string text = "a\u00e9\u20ac\U0001F600z";
  Utf8Stream stream;
  std::string all;
  std::vector<size_t> sizes;
  for (const char byte : text) {
    const std::string whole = stream.push({&byte, 1});
    EXPECT_EQ(find_invalid_utf8(whole), std::nullopt);
    sizes.push_back(whole.size());
    all += whole;
  }
  EXPECT_EQ(all, text);
  EXPECT_EQ(sizes, (std::vector<size_t>{1, 0, 2, 0, 0, 3, 0, 0, 0, 4, 1}));
  EXPECT_EQ(stream.finish(), "");
}

TEST(UnicodeTest, StreamReplacesMalformedBytes) {
  Utf8Stream stream;
  EXPECT_EQ(stream.push("a\xFF"
                        "b"),
            "a\uFFFDb");
  EXPECT_EQ(stream.push("\xE2\x82"), "");
  EXPECT_EQ(stream.push("c"), "\uFFFD\uFFFDc");
  EXPECT_EQ(stream.push("\xE0\x80"), "\uFFFD\uFFFD");  // never a character: not held back
  EXPECT_EQ(stream.push("\xED\x9F"), "");              // may become U+D7FF
  EXPECT_EQ(stream.push("\xBF\xF0"), "\uD7FF");
  EXPECT_EQ(stream.finish(), "\uFFFD");
  EXPECT_EQ(stream.finish(), "");
}

}  // namespace
}  // namespace sporkle::train
