#include "train/dataset.h"

#include <gtest/gtest.h>

#include <cstring>
#include <set>

#include "base/file.h"
#include "train/bpe.h"
#include "train/temporary_folder.h"

namespace sporkle::train {
namespace {

using testing::TemporaryFolder;

// Text in which the byte at i is i % 251, kept below 128 so that it is UTF-8.
std::string counting_text(size_t size) {
  std::string text(size, '\0');
  for (size_t i = 0; i < size; ++i) text[i] = static_cast<char>(i % 127);
  return text;
}

Dataset counting_dataset(const TemporaryFolder& folder, size_t size, int64_t context, double fraction) {
  auto corpus = open_corpus(folder.file("count.txt", counting_text(size)));
  EXPECT_TRUE(corpus.ok());
  auto tokens = cached_token_file(*corpus, *byte_tokenizer());
  EXPECT_TRUE(tokens.ok()) << tokens.status().to_string();
  auto dataset = Dataset::split(std::move(*tokens), byte_tokenizer(), context, fraction);
  EXPECT_TRUE(dataset.ok()) << dataset.status().to_string();
  return std::move(*dataset);
}

TEST(DatasetTest, TheValidationPartIsTheEnd) {
  const TemporaryFolder folder;
  const Dataset dataset = counting_dataset(folder, 1000, 8, 0.1);
  EXPECT_EQ(dataset.training(), (TokenRange{0, 900}));
  EXPECT_EQ(dataset.validation(), (TokenRange{900, 1000}));
}

TEST(DatasetTest, TargetsAreOneAheadAndInsideTheRange) {
  const TemporaryFolder folder;
  const Dataset dataset = counting_dataset(folder, 1000, 8, 0.1);
  std::vector<int32_t> inputs(64 * 8), targets(64 * 8);
  std::set<int32_t> starts;
  const TokenRange range{100, 120};
  dataset.batch(range, 1, 0, 0, inputs, targets);
  for (size_t row = 0; row < 64; ++row) {
    const int32_t start = inputs[row * 8];
    starts.insert(start);
    EXPECT_GE(start, 100);
    EXPECT_LE(start, 111);  // 111 + 8 is the last token
    for (int32_t i = 0; i < 8; ++i) {
      EXPECT_EQ(inputs[row * 8 + static_cast<size_t>(i)], start + i);
      EXPECT_EQ(targets[row * 8 + static_cast<size_t>(i)], start + i + 1);
    }
  }
  EXPECT_EQ(starts.size(), 12u);  // every offset occurs
}

TEST(DatasetTest, ABatchDependsOnSeedStepAndRowAlone) {
  const TemporaryFolder folder;
  const Dataset dataset = counting_dataset(folder, 10000, 4, 0.1);
  const auto rows = [&](uint64_t seed, uint64_t step, uint64_t first, size_t count) {
    std::vector<int32_t> inputs(count * 4), targets(count * 4);
    dataset.batch(dataset.training(), seed, step, first, inputs, targets);
    return inputs;
  };
  const auto all = rows(1, 5, 0, 6);
  EXPECT_EQ(rows(1, 5, 0, 6), all);
  EXPECT_EQ(rows(1, 5, 2, 4), std::vector<int32_t>(all.begin() + 8, all.end()));
  EXPECT_NE(rows(1, 6, 0, 6), all);
  EXPECT_NE(rows(2, 5, 0, 6), all);
  // The same on every machine and in every version: resumed runs depend on it.
  EXPECT_EQ(rows(1, 0, 0, 3)[0], rows(1, 0, 0, 1)[0]);
  const auto known = rows(1, 0, 0, 2);
  EXPECT_EQ((std::vector<int32_t>{known[0], known[4]}), (std::vector<int32_t>{74, 49}));
}

TEST(DatasetTest, WindowsGoThroughTheRangeOnce) {
  const TemporaryFolder folder;
  const Dataset dataset = counting_dataset(folder, 1000, 8, 0.1);
  const TokenRange range{0, 100};
  ASSERT_EQ(dataset.window_count(range), 12);  // 96 targets and 3 tokens that are left over
  std::vector<int32_t> inputs(12 * 8), targets(12 * 8);
  dataset.windows(range, 0, std::span(inputs).first(40), std::span(targets).first(40));
  dataset.windows(range, 5, std::span(inputs).subspan(40), std::span(targets).subspan(40));
  for (int32_t i = 0; i < 96; ++i) {
    EXPECT_EQ(inputs[static_cast<size_t>(i)], i);
    EXPECT_EQ(targets[static_cast<size_t>(i)], i + 1);
  }
  EXPECT_EQ(dataset.window_count({0, 0}), 0);
  EXPECT_EQ(dataset.window_count({0, 8}), 0);
  EXPECT_EQ(dataset.window_count({0, 9}), 1);
}

TEST(DatasetTest, ShardsAreDisjointAndCoverTheTrainingPart) {
  const TemporaryFolder folder;
  const Dataset dataset = counting_dataset(folder, 1000, 8, 0.1);
  uint64_t at = 0;
  for (int64_t i = 0; i < 7; ++i) {
    const auto shard = dataset.shard(i, 7);
    ASSERT_TRUE(shard.ok());
    EXPECT_EQ(shard->begin, at);
    EXPECT_GE(shard->size(), 128u);
    EXPECT_LE(shard->size(), 129u);
    at = shard->end;
  }
  EXPECT_EQ(at, 900u);
  EXPECT_TRUE(dataset.shard(99, 100).ok());
  EXPECT_NE(dataset.shard(0, 101).status().message().find("too few for a context of 8"), std::string::npos);
  EXPECT_EQ(dataset.shard(7, 7).status().code(), Code::invalid_argument);
  EXPECT_EQ(dataset.shard(-1, 7).status().code(), Code::invalid_argument);
  EXPECT_EQ(dataset.shard(0, 0).status().code(), Code::invalid_argument);
}

TEST(DatasetTest, TooLittleTextForTheContext) {
  const TemporaryFolder folder;
  DataConfig config;
  config.path = folder.file("small.txt", counting_text(1000)).string();
  config.validation_fraction = 0.05;
  EXPECT_TRUE(Dataset::open(config, 49).ok());
  const Status status = Dataset::open(config, 50).status();
  EXPECT_EQ(status.code(), Code::invalid_argument);
  EXPECT_NE(status.message().find("the validation part has 50 of all 1000 tokens, and a context of 50 needs 51"),
            std::string::npos)
      << status.message();
  EXPECT_NE(Dataset::open(config, 1000).status().message().find("the training part"), std::string::npos);
  EXPECT_FALSE(Dataset::open(config, 0).ok());
}

TEST(DatasetTest, EvaluationTakesAllAndCountsBytes) {
  const TemporaryFolder folder;
  const auto corpus = open_corpus(folder.file("e.txt", "the theme of the thesis: the them\u00e9"));
  ASSERT_TRUE(corpus.ok());
  const auto bytes = Dataset::open_for_evaluation(*corpus, byte_tokenizer(), 4);
  ASSERT_TRUE(bytes.ok()) << bytes.status().to_string();
  EXPECT_EQ(bytes->validation().size(), corpus->size_bytes);
  EXPECT_EQ(bytes->training().size(), 0u);

  DataConfig config;
  config.path = corpus->files[0].string();
  config.tokenizer = "bpe";
  config.vocab_size = 260;
  const auto tokenizer = prepare_tokenizer(config, *corpus);
  ASSERT_TRUE(tokenizer.ok());
  const auto merged = Dataset::open_for_evaluation(*corpus, *tokenizer, 1);
  ASSERT_TRUE(merged.ok());
  std::vector<int32_t> all(merged->tokens().size());
  merged->tokens().read(0, all);
  EXPECT_LT(all.size(), corpus->size_bytes);
  EXPECT_EQ(merged->text_bytes(all), corpus->size_bytes);
  EXPECT_EQ(merged->text_bytes(std::vector<int32_t>{*merged->tokenizer().end_of_text()}), 0u);
}

TEST(TokenFileTest, HoldsWhatTheTokenizerGivesAndWhereItIsFrom) {
  const TemporaryFolder folder;
  folder.file("t/1", "in the beginning the ");
  folder.file("t/2", "end of the beginning");
  DataConfig config;
  config.path = (folder.path() / "t").string();
  config.tokenizer = "bpe";
  config.vocab_size = 270;
  const auto corpus = open_corpus(config);
  ASSERT_TRUE(corpus.ok());
  const auto tokenizer = prepare_tokenizer(config, *corpus);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().to_string();
  const auto file = cached_token_file(*corpus, **tokenizer);
  ASSERT_TRUE(file.ok()) << file.status().to_string();
  std::vector<int32_t> expected = (*tokenizer)->encode("in the beginning the ");
  expected.push_back(*(*tokenizer)->end_of_text());
  (*tokenizer)->encode("end of the beginning", expected);
  std::vector<int32_t> tokens(file->size());
  file->read(0, tokens);
  EXPECT_EQ(tokens, expected);
  EXPECT_EQ(file->info().source, corpus->sha256);
  EXPECT_EQ(file->info().tokenizer, (*tokenizer)->digest());
  EXPECT_EQ(file->info().text_bytes, corpus->size_bytes);
  // The trained tokenizer comes from the cache the second time and is the same.
  EXPECT_EQ((*prepare_tokenizer(config, *corpus))->digest(), (*tokenizer)->digest());
}

TEST(TokenFileTest, LargeVocabulariesTakeFourBytes) {
  const TemporaryFolder folder;
  BpeModel model = *BpeTrainer().train(257);
  model.added.push_back({70000, "<|far|>"});
  const auto tokenizer = make_bpe_tokenizer(model);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().to_string();
  const auto corpus = open_corpus(folder.file("a", "x<|far|>y"));
  const auto file = cached_token_file(*corpus, **tokenizer);
  ASSERT_TRUE(file.ok()) << file.status().to_string();
  EXPECT_EQ(file->info().bytes_per_token, 4u);
  std::vector<int32_t> tokens(3);
  file->read(0, tokens);
  EXPECT_EQ(tokens[1], 70000);
}

class DamagedTokenFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    corpus_ = *open_corpus(folder_.file("a.txt", "some text to damage"));
    ASSERT_TRUE(write_token_file(path_, corpus_, *byte_tokenizer()).ok());
    content_ = *read_file(path_);
  }
  std::string error_of(const std::string& content) {
    const auto file = TokenFile::open(folder_.file("damaged", content));
    if (file.ok()) return "no error";
    EXPECT_EQ(file.status().code(), Code::corrupt_data);
    return file.status().message();
  }
  std::string with(size_t offset, const std::string& bytes) {
    std::string changed = content_;
    changed.replace(offset, bytes.size(), bytes);
    return changed;
  }
  TemporaryFolder folder_;
  std::filesystem::path path_ = folder_.path() / "x.tokens";
  Corpus corpus_;
  std::string content_;
};

TEST_F(DamagedTokenFileTest, EveryFieldIsChecked) {
  EXPECT_EQ(error_of(content_), "no error");
  EXPECT_NE(error_of("").find("too short"), std::string::npos);
  EXPECT_NE(error_of(content_.substr(0, 127)).find("too short"), std::string::npos);
  EXPECT_NE(error_of(content_.substr(0, content_.size() - 2)).find("cut short"), std::string::npos);
  EXPECT_NE(error_of(content_ + "x").find("overlong"), std::string::npos);
  EXPECT_NE(error_of(with(0, "X")).find("not a token file"), std::string::npos);
  EXPECT_NE(error_of(with(8, "\x02")).find("version 2"), std::string::npos);
  EXPECT_NE(error_of(with(12, "\x03")).find("tokens of 3 bytes"), std::string::npos);
  EXPECT_NE(error_of(with(16, "\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF")).find("cut short"), std::string::npos);
  EXPECT_NE(error_of(with(32, std::string(4, '\0'))).find("vocabulary size 0"), std::string::npos);
  EXPECT_NE(error_of(with(32, "\xFF\xFF\xFF\xFF")).find("vocabulary size"), std::string::npos);
  EXPECT_NE(error_of(with(128, std::string("\x00\x01", 2))).find("token 256 in a vocabulary of 256"),
            std::string::npos);
}

TEST_F(DamagedTokenFileTest, TheCacheIsMadeAnew) {
  ASSERT_TRUE(cached_token_file(corpus_, *byte_tokenizer()).ok());
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(cache_directory() / "tokens"))
    files.push_back(entry.path());
  ASSERT_EQ(files.size(), 1u);
  ASSERT_TRUE(write_file_atomically(files[0], content_.substr(0, 140)).ok());
  const auto again = cached_token_file(corpus_, *byte_tokenizer());
  ASSERT_TRUE(again.ok()) << again.status().to_string();
  EXPECT_EQ(again->size(), corpus_.size_bytes);
}

TEST_F(DamagedTokenFileTest, AVocabularyLargerThanTheTokenizersIsRefused) {
  auto tokens = TokenFile::open(folder_.file("big", with(32, std::string("\x00\x02\x00\x00", 4))));
  ASSERT_TRUE(tokens.ok());
  EXPECT_EQ(Dataset::split(std::move(*tokens), byte_tokenizer(), 2, 0.5).status().code(), Code::invalid_argument);
}

}  // namespace
}  // namespace sporkle::train
