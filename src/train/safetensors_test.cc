#include "train/safetensors.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/file.h"
#include "train/temporary_folder.h"

namespace sporkle::train {
namespace {

using testing::TemporaryFolder;

std::string with_header(const std::string& header, size_t data_bytes) {
  const uint64_t size = header.size();
  std::string file(reinterpret_cast<const char*>(&size), sizeof size);
  return file + header + std::string(data_bytes, '\0');
}

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

std::string error_of(const std::string& file) {
  const auto parsed = SafetensorsFile::parse(bytes_of(file), "m.safetensors");
  if (parsed.ok()) return "no error";
  EXPECT_EQ(parsed.status().code(), Code::corrupt_data);
  EXPECT_TRUE(parsed.status().message().starts_with("m.safetensors: ")) << parsed.status().message();
  return parsed.status().message();
}

std::string tensor(const std::string& name, const std::string& type, const std::string& shape,
                   const std::string& offsets) {
  return "\"" + name + R"(":{"dtype":")" + type + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
}

TEST(SafetensorsTest, WrittenFilesReadBack) {
  const TemporaryFolder folder;
  const std::vector<float> a = {1.0f, -0.0f, std::numeric_limits<float>::denorm_min(), 4.0f, 5.0f, 6.0f};
  const std::vector<uint8_t> b = {1, 2, 3};
  const auto path = folder.path() / "m.safetensors";
  ASSERT_TRUE(write_safetensors(path,
                                {{"weight", StoredType::f32, {2, 3}, std::as_bytes(std::span(a))},
                                 {"bytes \"x\"", StoredType::u8, {3}, std::as_bytes(std::span(b))},
                                 {"scalar", StoredType::f32, {}, std::as_bytes(std::span(a)).first(4)},
                                 {"empty", StoredType::f32, {0, 7}, {}}},
                                {{"format", "pt"}})
                  .ok());
  const auto file = SafetensorsFile::open(path);
  ASSERT_TRUE(file.ok()) << file.status().to_string();
  ASSERT_EQ(file->tensors().size(), 4u);
  EXPECT_EQ(file->tensors()[0].name, "bytes \"x\"");  // sorted
  EXPECT_EQ(file->metadata().at("format"), "pt");
  const StoredTensor* weight = file->find("weight");
  ASSERT_TRUE(weight);
  EXPECT_EQ(weight->shape, (std::vector<int64_t>{2, 3}));
  const auto values = to_f32(*weight);
  ASSERT_TRUE(values.ok());
  EXPECT_EQ(std::memcmp(values->data(), a.data(), a.size() * 4), 0);
  EXPECT_EQ(file->find("none"), nullptr);
  EXPECT_EQ(to_f32(*file->find("bytes \"x\"")).status().code(), Code::unsupported);
  const std::string content = *read_file(path);
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, content.data(), 8);
  EXPECT_EQ(header_bytes % 8, 0u);
}

TEST(SafetensorsTest, WriterRefusesWhatDoesNotFit) {
  const TemporaryFolder folder;
  const std::vector<float> a(6);
  const auto bytes = std::as_bytes(std::span(a));
  const auto path = folder.path() / "m.safetensors";
  const auto refused = [&](std::vector<StoredTensor> tensors) {
    return write_safetensors(path, std::move(tensors), {}).code() == Code::invalid_argument;
  };
  EXPECT_TRUE(refused({{"x", StoredType::f32, {7}, bytes}}));
  EXPECT_TRUE(refused({{"x", StoredType::f32, {-2, -3}, bytes}}));
  EXPECT_TRUE(refused({{"x", StoredType::f32, {6}, bytes}, {"x", StoredType::f32, {6}, bytes}}));
  EXPECT_TRUE(refused({{"", StoredType::f32, {6}, bytes}}));
  EXPECT_FALSE(std::filesystem::exists(path));
  EXPECT_EQ(write_safetensors(folder.path() / "no" / "m", {}, {}).code(), Code::not_found);
  EXPECT_NE(write_safetensors("/dev/full/x", {}, {}).code(), Code::ok);
}

TEST(SafetensorsTest, ConvertsOtherFloatingPointTypes) {
  const auto convert = [](StoredType type, auto value) {
    const StoredTensor stored{"x", type, {1}, std::as_bytes(std::span(&value, 1))};
    return (*to_f32(stored))[0];
  };
  EXPECT_EQ(convert(StoredType::f64, 0.1), 0.1f);
  EXPECT_EQ(convert(StoredType::bf16, uint16_t{0x3F80}), 1.0f);
  EXPECT_EQ(convert(StoredType::bf16, uint16_t{0xC2F7}), -123.5f);
  EXPECT_EQ(convert(StoredType::f16, uint16_t{0x3C00}), 1.0f);
  EXPECT_EQ(convert(StoredType::f16, uint16_t{0xC500}), -5.0f);
  EXPECT_EQ(convert(StoredType::f16, uint16_t{0x7BFF}), 65504.0f);
  EXPECT_EQ(convert(StoredType::f16, uint16_t{0x0001}), std::ldexp(1.0f, -24));
  EXPECT_EQ(convert(StoredType::f16, uint16_t{0x83FF}), -1023 * std::ldexp(1.0f, -24));
  EXPECT_EQ(std::bit_cast<uint32_t>(convert(StoredType::f16, uint16_t{0x8000})), 0x80000000u);
  EXPECT_EQ(convert(StoredType::f16, uint16_t{0x7C00}), std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(convert(StoredType::f16, uint16_t{0x7E00})));
}

TEST(SafetensorsTest, AFileByAnotherWriterIsRead) {
  // Spaces after the header and the data in another order than the names, as the format allows.
  const std::string file =
      with_header("{" + tensor("b", "F32", "[2]", "[0,8]") + "," + tensor("a", "BOOL", "[1,1]", "[8,9]") +
                      R"(,"__metadata__":{"k":"v"}})" + "   ",
                  9);
  const auto parsed = SafetensorsFile::parse(bytes_of(file), "m");
  ASSERT_TRUE(parsed.ok()) << parsed.status().to_string();
  EXPECT_EQ(parsed->find("a")->type, StoredType::boolean);
  EXPECT_EQ(parsed->metadata().at("k"), "v");
}

TEST(SafetensorsTest, DamageIsNamed) {
  const auto has = [](const std::string& file, const std::string& what) {
    EXPECT_NE(error_of(file).find(what), std::string::npos) << error_of(file);
  };
  const auto one = [](const std::string& type, const std::string& shape, const std::string& offsets) {
    return "{" + tensor("x", type, shape, offsets) + "}";
  };
  has("", "only 0 bytes");
  has("1234567", "only 7 bytes");
  has(std::string("\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF", 8) + "{}", "not a safetensors file");
  has(std::string("\0\0\0\0\0\0\0\0", 8), "not a safetensors file");
  has(with_header("{}", 0).substr(0, 9), "cut short");
  has(with_header("{]", 0), "not JSON");
  has(with_header("{} x", 0), "not JSON");
  has(with_header("[]", 0), "a list where none belongs");
  has(with_header(std::string(5000, '['), 0), "a list where none belongs");
  has(with_header("12", 0), "a number where none belongs");
  has(with_header(R"({"x":1})", 0), "a number where none belongs, after \"x\"");
  has(with_header(R"({"__metadata__":{"a":1}})", 0), "a number where none belongs");
  has(with_header(R"({"__metadata__":{"a":{}}})", 0), "an object where none belongs");
  has(with_header(R"({"x":{"dtype":"F32","shape":[1]}})", 4), "\"x\" lacks one of dtype, shape and data_offsets");
  has(with_header(R"({"x":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4), "has dtype twice");
  has(with_header(R"({"x":{"kind":"F32"}})", 4), "unknown field \"kind\"");
  has(with_header(one("F99", "[1]", "[0,4]"), 4), "unknown type \"F99\"");
  has(with_header(one("F32", "[-1]", "[0,4]"), 4), "a negative number");
  has(with_header(one("F32", "[1.5]", "[0,4]"), 4), "a fraction");
  has(with_header(one("F32", "[null]", "[0,4]"), 4), "null where");
  has(with_header(one("F32", "[true]", "[0,4]"), 4), "true or false where");
  has(with_header(one("F32", "[18446744073709551615]", "[0,4]"), 4), "impossible dimension");
  has(with_header(one("F32", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", "[0,4]"), 4), "more than 16 dimensions");
  has(with_header(one("F32", "[4611686018427387904,4]", "[0,0]"), 0), "does not fit");  // overflows to 0
  has(with_header(one("F32", "[2]", "[0,4]"), 4), "type F32 and shape [2] does not fit its bytes 0 to 4");
  has(with_header(one("F32", "[1]", "[0]"), 4), "fewer than two data_offsets");
  has(with_header(one("F32", "[1]", "[0,4,8]"), 4), "more than two data_offsets");
  has(with_header(one("F32", "[1]", "[4,0]"), 4), "bytes 4 to 0");
  has(with_header(one("F32", "[2]", "[0,8]"), 7), "cut short: tensor \"x\"");
  has(with_header(one("F32", "[1]", "[0,4]"), 5), "1 bytes after the last tensor");
  has(with_header(one("F32", "[1]", "[4,8]"), 8), "the data before it ends at 0");
  has(with_header("{" + tensor("x", "U8", "[4]", "[0,4]") + "," + tensor("y", "U8", "[4]", "[2,6]") + "}", 6),
      "the data before it ends at 4");
  has(with_header("{" + tensor("x", "U8", "[1]", "[0,1]") + "," + tensor("x", "U8", "[1]", "[1,2]") + "}", 2),
      "tensor \"x\" is there twice");
}

TEST(SafetensorsTest, AMissingFileIsNotFound) {
  const TemporaryFolder folder;
  EXPECT_EQ(SafetensorsFile::open(folder.path() / "none").status().code(), Code::not_found);
  EXPECT_EQ(SafetensorsFile::open(folder.path()).status().code(), Code::invalid_argument);
}

}  // namespace
}  // namespace sporkle::train
