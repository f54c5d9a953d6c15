#include "base/temporary_folder.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <string>

#include "base/file.h"

namespace sporkle {
namespace {

namespace fs = std::filesystem;

TEST(TemporaryFolder, GoesWithAllInIt) {
  fs::path path;
  {
    Result<TemporaryFolder> made = TemporaryFolder::create("sporkle-test");
    ASSERT_TRUE(made.ok()) << made.status().to_string();
    const TemporaryFolder moved = std::move(*made);
    path = moved.path();
    EXPECT_TRUE(path.filename().string().starts_with("sporkle-test-"));
    fs::create_directory(path / "inside");
    ASSERT_TRUE(write_file_atomically(path / "inside" / "file", "text").ok());
  }
  EXPECT_FALSE(fs::exists(path));
}

TEST(TemporaryFolder, AWrongPlaceIsSaid) {
  const char* before = ::getenv("TMPDIR");
  const std::string kept = before ? before : "";
  ::setenv("TMPDIR", "/nowhere/at/all", 1);
  const Status status = TemporaryFolder::create("sporkle-test").status();
  before ? ::setenv("TMPDIR", kept.c_str(), 1) : ::unsetenv("TMPDIR");
  EXPECT_EQ(status.code(), Code::not_found);
  EXPECT_NE(status.message().find("TMPDIR"), std::string::npos) << status.message();
}

}  // namespace
}  // namespace sporkle
