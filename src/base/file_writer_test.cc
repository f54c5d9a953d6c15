#include "base/file_writer.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <string>

#include "base/file.h"

namespace sporkle {
namespace {

namespace fs = std::filesystem;

class FileWriterTest : public ::testing::Test {
 protected:
  FileWriterTest() {
    std::string pattern = (fs::temp_directory_path() / "sporkle-file-writer-XXXXXX").string();
    if (::mkdtemp(pattern.data()) != nullptr) folder_ = pattern;
  }
  ~FileWriterTest() override {
    std::error_code error;
    fs::remove_all(folder_, error);
  }
  size_t files() const { return static_cast<size_t>(std::distance(fs::directory_iterator(folder_), {})); }
  fs::path folder_;
};

TEST_F(FileWriterTest, AppearsWholeAtCommit) {
  const fs::path path = folder_ / "file";
  ASSERT_TRUE(write_file_atomically(path, "old").ok());
  auto writer = FileWriter::create(path);
  ASSERT_TRUE(writer.ok()) << writer.status().to_string();
  std::string expected = "____";
  ASSERT_TRUE(writer->write("____").ok());
  for (int i = 0; i < 1000; ++i) {  // small and large pieces, past the buffer
    const std::string piece(static_cast<size_t>(i % 10 == 0 ? 300000 : i), static_cast<char>('a' + i % 26));
    ASSERT_TRUE(writer->write(piece).ok());
    expected += piece;
    if (expected.size() > 2'000'000) break;
  }
  ASSERT_TRUE(writer->write_at(0, std::as_bytes(std::span("head", 4))).ok());
  expected.replace(0, 4, "head");
  EXPECT_EQ(*read_file(path), "old");
  ASSERT_TRUE(writer->commit().ok());
  EXPECT_EQ(*read_file(path), expected);
  EXPECT_EQ(files(), 1u);
}

TEST_F(FileWriterTest, NothingIsLeftWithoutCommit) {
  {
    auto writer = FileWriter::create(folder_ / "file");
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE(writer->write(std::string(1 << 20, 'x')).ok());
    const FileWriter moved = std::move(*writer);
    EXPECT_EQ(files(), 1u);
  }
  EXPECT_EQ(files(), 0u);
}

TEST_F(FileWriterTest, FailuresNameTheFile) {
  const Status missing = FileWriter::create(folder_ / "none" / "file").status();
  EXPECT_EQ(missing.code(), Code::not_found);
  EXPECT_NE(missing.message().find("none/file"), std::string::npos);
  fs::create_directory(folder_ / "taken");
  auto writer = FileWriter::create(folder_ / "taken");
  ASSERT_TRUE(writer.ok());
  EXPECT_FALSE(writer->commit().ok());
  EXPECT_FALSE(sync_folder(folder_ / "none").ok());
}

}  // namespace
}  // namespace sporkle
