#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "base/file.h"
#include "base/sha256.h"
#include "base/status.h"

namespace sporkle {
namespace {

Result<int> half(int x) {
  if (x % 2) return invalid_argument("odd: " + std::to_string(x));
  return x / 2;
}

Result<int> quarter(int x) {
  SPORKLE_ASSIGN_OR_RETURN(int h, half(x));
  SPORKLE_ASSIGN_OR_RETURN(int q, half(h));
  return q;
}

TEST(Status, PropagatesTheFirstFailure) {
  EXPECT_EQ(quarter(8).value(), 2);
  EXPECT_EQ(quarter(6).status().to_string(), "invalid_argument: odd: 3");
  EXPECT_EQ(quarter(6).status().with_context("here").message(), "here: odd: 3");
}

TEST(Sha256, KnownAnswer) {
  EXPECT_EQ(to_hex(sha256("abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(File, AtomicWriteReadAndMap) {
  const auto path = std::filesystem::temp_directory_path() / ("sporkle_base_test." + std::to_string(::getpid()));
  ASSERT_TRUE(write_file_atomically(path, "one").ok());
  ASSERT_TRUE(write_file_atomically(path, "two").ok());
  EXPECT_EQ(read_file(path).value(), "two");
  auto map = MappedFile::open(path);
  ASSERT_TRUE(map.ok());
  EXPECT_EQ(map->bytes().size(), 3u);
  std::filesystem::remove(path);
  EXPECT_EQ(read_file(path).status().code(), Code::not_found);
  EXPECT_EQ(write_file_atomically(path / "missing" / "x", "y").code(), Code::not_found);
}

}  // namespace
}  // namespace sporkle
