#include "train/corpus.h"

#include <gtest/gtest.h>

#include "base/file.h"
#include "train/temporary_folder.h"
#include "train/unicode.h"

namespace sporkle::train {
namespace {

using testing::TemporaryFolder;

std::vector<std::string> documents(const Corpus& corpus) {
  std::vector<std::string> texts;
  EXPECT_TRUE(for_each_document(corpus, [&](std::string_view text) -> Status {
                texts.emplace_back(text);
                return {};
              }).ok());
  return texts;
}

TEST(CorpusTest, AFile) {
  const TemporaryFolder folder;
  const auto corpus = open_corpus(folder.file("a.txt", "na\u00efve"));
  ASSERT_TRUE(corpus.ok()) << corpus.status().to_string();
  EXPECT_EQ(corpus->size_bytes, 6u);
  EXPECT_EQ(documents(*corpus), (std::vector<std::string>{"na\u00efve"}));
}

TEST(CorpusTest, AFolderIsWalkedInOrderWithoutHiddenFiles) {
  const TemporaryFolder folder;
  folder.file("t/b.txt", "second");
  folder.file("t/a/z.md", "first");
  folder.file("t/c", "third");
  folder.file("t/empty", "");
  folder.file("t/.hidden", "\xFF");
  folder.file("t/.git/object", "\xFF");
  const auto corpus = open_corpus(folder.path() / "t");
  ASSERT_TRUE(corpus.ok()) << corpus.status().to_string();
  EXPECT_EQ(documents(*corpus), (std::vector<std::string>{"first", "second", "third"}));
  EXPECT_EQ(corpus->size_bytes, 16u);
}

TEST(CorpusTest, TheDigestKnowsContentAndFileEnds) {
  const TemporaryFolder folder;
  folder.file("x/a", "ab");
  folder.file("x/b", "c");
  folder.file("y/a", "a");
  folder.file("y/b", "bc");
  folder.file("z/other-name", "ab");
  folder.file("z/p", "c");
  const auto digest = [&](const char* name) { return open_corpus(folder.path() / name)->sha256; };
  EXPECT_NE(digest("x"), digest("y"));
  EXPECT_EQ(digest("x"), digest("z"));
}

TEST(CorpusTest, BadTextIsNamed) {
  const TemporaryFolder folder;
  folder.file("t/good.txt", "fine");
  const auto bad = folder.file("t/latin1.txt", "caf\xE9 au lait");
  const Status status = open_corpus(folder.path() / "t").status();
  EXPECT_EQ(status.code(), Code::invalid_argument);
  EXPECT_NE(status.message().find(bad.string() + " is not UTF-8 text: bad byte at offset 3"), std::string::npos)
      << status.message();

  EXPECT_EQ(open_corpus(folder.file("empty.txt", "")).status().code(), Code::invalid_argument);
  EXPECT_NE(open_corpus(folder.path() / "empty.txt").status().message().find("it is empty"), std::string::npos);
  std::filesystem::create_directory(folder.path() / "nothing");
  EXPECT_NE(open_corpus(folder.path() / "nothing").status().message().find("no files"), std::string::npos);
  EXPECT_EQ(open_corpus(folder.path() / "missing").status().code(), Code::not_found);
}

TEST(CorpusTest, AnUnknownNameListsTheKnownOnes) {
  const Status status = corpus_file("shakespeare").status();
  EXPECT_EQ(status.code(), Code::invalid_argument);
  EXPECT_EQ(status.message(), "unknown corpus \"shakespeare\"; there are: kjv");
}

TEST(CorpusTest, TheKingJamesBible) {
  const TemporaryFolder folder;
  DataConfig config;
  config.corpus = "kjv";
  const auto corpus = open_corpus(config);
  if (!std::filesystem::exists("/usr/lib/bible.data")) {
    EXPECT_EQ(corpus.status().code(), Code::not_found);
    EXPECT_NE(corpus.status().message().find("apt-get install bible-kjv-text"), std::string::npos);
    GTEST_SKIP() << "bible-kjv-text is not installed";
  }
  ASSERT_TRUE(corpus.ok()) << corpus.status().to_string();
  const std::string text = documents(*corpus)[0];
  EXPECT_GT(text.size(), 4'000'000u);
  EXPECT_TRUE(
      text.starts_with("Genesis 1\nIn the beginning God created the heaven and the earth.\nAnd the earth was "));
  EXPECT_NE(text.find("\n\nPsalm 23\nThe LORD is my shepherd; I shall not want.\n"), std::string::npos);
  EXPECT_TRUE(text.ends_with("\nThe grace of our Lord Jesus Christ be with you all. Amen.\n"));
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'),
            31102 + 1189 + 1188);  // verses, headings, lines between chapters
  EXPECT_EQ(text.find("  "), std::string::npos);
  // From the cache the second time.
  EXPECT_EQ(open_corpus(config)->sha256, corpus->sha256);
}

TEST(CorpusTest, DamagedBibleDataIsFound) {
  EXPECT_EQ(decode_bible_data({}).status().code(), Code::corrupt_data);
  const auto file = MappedFile::open("/usr/lib/bible.data");
  if (!file.ok()) GTEST_SKIP() << "bible-kjv-text is not installed";
  const auto bytes = file->bytes();
  EXPECT_NE(decode_bible_data(bytes.first(100)).status().message().find("table"), std::string::npos);
  EXPECT_NE(decode_bible_data(bytes.first(bytes.size() / 2)).status().message().find("outside the file"),
            std::string::npos);
  std::vector<std::byte> flipped(bytes.begin(), bytes.begin() + 30000);
  flipped[0] ^= std::byte{1};
  EXPECT_EQ(decode_bible_data(flipped).status().code(), Code::corrupt_data);
  // A file of one window, whole and with every kind of damage in it.
  std::vector<std::byte> one(bytes.begin(), bytes.begin() + 0x65E5);
  one[0x5B] = std::byte{1};
  ASSERT_TRUE(decode_bible_data(one).ok() || decode_bible_data(one).status().code() == Code::corrupt_data);
  for (size_t i = 0x173; i < one.size(); i += 997) {
    std::vector<std::byte> damaged = one;
    damaged[i] ^= std::byte{0xFF};
    const auto text = decode_bible_data(damaged);
    if (!text.ok()) {
      EXPECT_EQ(text.status().code(), Code::corrupt_data);
    }
  }
}

}  // namespace
}  // namespace sporkle::train
