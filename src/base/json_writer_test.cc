#include "base/json_writer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>

namespace sporkle {
namespace {

TEST(JsonWriter, WritesEveryKindOfValueInOrder) {
  EXPECT_EQ(JsonObject().text(), "{}");
  EXPECT_EQ(JsonArray().text(), "[]");
  const std::string name = "b";
  EXPECT_EQ(JsonObject()
                .add("text", "a")
                .add("name", name)
                .add("yes", true)
                .add("count", 3)
                .add("big", std::numeric_limits<uint64_t>::max())
                .add("low", std::numeric_limits<int64_t>::min())
                .add("real", 2.5)
                .add("list", JsonArray().add(1).add("x").add(JsonObject().add("k", false)))
                .text(),
            R"({"text":"a","name":"b","yes":true,"count":3,"big":18446744073709551615,)"
            R"("low":-9223372036854775808,"real":2.5,"list":[1,"x",{"k":false}]})");
}

TEST(JsonWriter, EscapesStrings) {
  EXPECT_EQ(json_quote("a\"b\\c\nd\te\x01\x7f"), R"("a\"b\\c\nd\u0009e\u0001\u007f")");
  EXPECT_EQ(json_quote(std::string_view("\0", 1)), R"("\u0000")");
  EXPECT_EQ(json_quote("é€😀"), "\"é€😀\"");
  EXPECT_EQ(JsonObject().add("a\"b", 1).text(), R"({"a\"b":1})");
}

TEST(JsonWriter, ReplacesWhatIsNotUtf8) {
  EXPECT_EQ(json_quote("a\xff"
                       "b"),
            "\"a\uFFFDb\"");
  EXPECT_EQ(json_quote("\xC3"), "\"\uFFFD\"");                      // cut off
  EXPECT_EQ(json_quote("\xC0\xAF"), "\"\uFFFD\uFFFD\"");            // overlong
  EXPECT_EQ(json_quote("\xED\xA0\x80"), "\"\uFFFD\uFFFD\uFFFD\"");  // a surrogate
  EXPECT_EQ(json_quote("\xF4\x90\x80\x80").size(), 2u + 4 * 3);     // past U+10FFFF
}

TEST(JsonWriter, DoublesReadBackExactly) {
  for (double value : {0.0, -0.0, 0.1, 1.0 / 3, 1e300, 5e-324, -2.5e-7, 123456789.125}) {
    EXPECT_EQ(std::strtod(json_value(value).c_str(), nullptr), value) << json_value(value);
  }
  EXPECT_EQ(json_value(0.1), "0.1");
  EXPECT_EQ(json_value(std::nan("")), "null");
  EXPECT_EQ(json_value(-std::numeric_limits<double>::infinity()), "null");
}

}  // namespace
}  // namespace sporkle
