#include "train/tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <random>

#include "base/file.h"
#include "train/bpe.h"
#include "train/temporary_folder.h"

namespace sporkle::train {
namespace {

const std::filesystem::path kTestdata = std::filesystem::path(SPORKLE_SOURCE_DIR) / "src/train/testdata";

std::string random_bytes(size_t size, unsigned seed) {
  std::mt19937 generator(seed);
  std::string text(size, '\0');
  for (char& byte : text) byte = static_cast<char>(generator());
  return text;
}

nlohmann::json expected_by_hugging_face() {
  return nlohmann::json::parse(*read_file(kTestdata / "tokenizer_expected.json"));
}

nlohmann::json small_tokenizer() { return nlohmann::json::parse(*read_file(kTestdata / "tokenizer_huggingface.json")); }

TEST(TokenizerTest, BytesAreTheirOwnTokens) {
  const TokenizerPtr tokenizer = byte_tokenizer();
  EXPECT_EQ(tokenizer->vocab_size(), 256);
  EXPECT_EQ(tokenizer->encode("A\xFF\n"), (std::vector<int32_t>{65, 255, 10}));
  const std::string all = random_bytes(1000, 1);
  EXPECT_EQ(*tokenizer->decode(tokenizer->encode(all)), all);
  EXPECT_EQ(tokenizer->to_json(), "");
  EXPECT_EQ(tokenizer->end_of_text(), std::nullopt);
}

TEST(TokenizerTest, DecodingAnUnknownTokenIsAnError) {
  const std::vector<int32_t> bad = {65, 256};
  EXPECT_EQ(byte_tokenizer()->decode(bad).status().message(), "token 256 is not in the vocabulary of 256 tokens");
  const std::vector<int32_t> negative = {-1};
  EXPECT_FALSE(byte_tokenizer()->decode(negative).ok());
  EXPECT_EQ(byte_tokenizer()->token_bytes(-1), "");
}

TEST(TokenizerTest, EncodesAsHuggingFaceDoes) {
  const auto tokenizer = load_tokenizer(kTestdata / "tokenizer_huggingface.json");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().to_string();
  size_t merged = 0;
  const nlohmann::json expected = expected_by_hugging_face();
  for (const auto& test_case : expected["cases"]) {
    const auto text = test_case["text"].get<std::string>();
    const std::vector<int32_t> ids = (*tokenizer)->encode(text);
    EXPECT_EQ(ids, test_case["ids"].get<std::vector<int32_t>>()) << text;
    EXPECT_EQ(*(*tokenizer)->decode(ids), text);
    merged += text.size() - ids.size();
  }
  EXPECT_GT(merged, 50u);
}

TEST(TokenizerTest, LearnsTheMergesThatHuggingFaceLearns) {
  BpeTrainer trainer;
  trainer.add(expected_by_hugging_face()["training_text"].get<std::string>());
  const auto model = trainer.train(400);
  ASSERT_TRUE(model.ok());
  const auto theirs = bpe_from_json(small_tokenizer().dump(), "fixture");
  ASSERT_TRUE(theirs.ok()) << theirs.status().to_string();
  EXPECT_GT(model->merges.size(), 50u);
  EXPECT_EQ(model->merges, theirs->merges);
  EXPECT_EQ(model->tokens, theirs->tokens);
}

TEST(TokenizerTest, WrittenJsonReadsBackTheSame) {
  const auto tokenizer = load_tokenizer(kTestdata / "tokenizer_huggingface.json");
  ASSERT_TRUE(tokenizer.ok());
  const auto again = parse_tokenizer((*tokenizer)->to_json(), "again");
  ASSERT_TRUE(again.ok()) << again.status().to_string();
  EXPECT_EQ((*again)->to_json(), (*tokenizer)->to_json());
  EXPECT_EQ((*again)->digest(), (*tokenizer)->digest());
  EXPECT_NE((*again)->digest(), byte_tokenizer()->digest());
  EXPECT_EQ((*again)->kind(), "bpe");
  EXPECT_EQ((*again)->end_of_text(), (*again)->vocab_size() - 1);
  const std::string text = random_bytes(5000, 2);  // well-formed or not, bytes come back
  EXPECT_EQ(*(*again)->decode((*again)->encode(text)), text);
}

TEST(TokenizerTest, SafeCutsChangeNothing) {
  const auto tokenizer = load_tokenizer(kTestdata / "tokenizer_huggingface.json");
  ASSERT_TRUE(tokenizer.ok());
  std::string text;
  const nlohmann::json expected = expected_by_hugging_face();
  for (const auto& test_case : expected["cases"]) text += test_case["text"].get<std::string>() + " x";
  const std::vector<int32_t> whole = (*tokenizer)->encode(text);
  size_t cuts = 0;
  for (size_t wanted = 0; wanted < text.size(); wanted += 3) {
    const size_t cut = (*tokenizer)->safe_cut(text, wanted);
    ASSERT_LE(cut, text.size());
    cuts += cut < text.size();
    std::vector<int32_t> parts = (*tokenizer)->encode(std::string_view(text).substr(0, cut));
    (*tokenizer)->encode(std::string_view(text).substr(cut), parts);
    ASSERT_EQ(parts, whole) << cut;
  }
  EXPECT_GT(cuts, 100u);
}

TEST(TokenizerTest, PiecesAreThoseOfTheGpt2Pattern) {
  const auto pieces = [](std::string_view text) {
    std::vector<std::string> list;
    for_each_piece(text, [&](std::string_view piece) { list.emplace_back(piece); });
    return list;
  };
  using List = std::vector<std::string>;
  EXPECT_EQ(pieces("Hello, it's 42!"), (List{"Hello", ",", " it", "'s", " 42", "!"}));
  EXPECT_EQ(pieces("a   b\n\nc  "), (List{"a", "  ", " b", "\n", "\n", "c", "  "}));
  EXPECT_EQ(pieces(" 's 'll'x"), (List{" '", "s", " '", "ll", "'", "x"}));
  EXPECT_EQ(pieces("\u00e9t\u00e9\u00b2\u3000\u3000\u4e2d"),
            (List{"\u00e9t\u00e9", "\u00b2", "\u3000", "\u3000", "\u4e2d"}));
  EXPECT_EQ(pieces(""), List{});
}

TEST(TokenizerTest, TrainingIsBoundedAndRepeatable) {
  BpeTrainer trainer;
  trainer.add(std::string(300000, 'a') + std::string(1000, ' ') + random_bytes(20000, 3));
  const auto first = trainer.train(600);
  const auto second = trainer.train(600);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(bpe_to_json(*first), bpe_to_json(*second));
  const auto tokenizer = make_bpe_tokenizer(*first);
  ASSERT_TRUE(tokenizer.ok());
  const std::string runs = std::string(100001, 'a') + std::string(50000, '\n');
  EXPECT_EQ(*(*tokenizer)->decode((*tokenizer)->encode(runs)), runs);

  BpeTrainer tiny;
  tiny.add("abab");
  EXPECT_EQ(tiny.train(5000)->tokens.size(), 258u);  // "ab" once, then no pair occurs twice
  EXPECT_EQ(tiny.train(256).status().code(), Code::invalid_argument);
  EXPECT_EQ(BpeTrainer().train(257)->tokens.size(), 257u);
}

TEST(TokenizerTest, AddedTokensAreFoundLongestFirst) {
  nlohmann::json json = small_tokenizer();
  const int next = 400;
  const auto add = [&](const char* content, int id, bool normalized) {
    json["added_tokens"].push_back(
        {{"id", id}, {"content", content}, {"special", !normalized}, {"normalized", normalized}});
  };
  add("<|end|>", next, false);
  add("<|end|>more", next + 1, false);
  add("the earth", next + 2, true);
  const auto tokenizer = parse_tokenizer(json.dump(), "t");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().to_string();
  EXPECT_EQ((*tokenizer)->vocab_size(), next + 3);
  const auto ids = (*tokenizer)->encode("<|end|>more<|end|>the earth");
  EXPECT_EQ(ids, (std::vector<int32_t>{next + 1, next, next + 2}));
  EXPECT_EQ(*(*tokenizer)->decode(ids), "<|end|>more<|end|>the earth");
  const std::string text = "in the earth";
  EXPECT_EQ((*tokenizer)->safe_cut(text, 3), text.size());  // could cut an added token
}

TEST(TokenizerTest, PrefixSpaceAndNoPattern) {
  nlohmann::json json = small_tokenizer();
  json["pre_tokenizer"]["add_prefix_space"] = true;
  const auto prefixed = parse_tokenizer(json.dump(), "t");
  ASSERT_TRUE(prefixed.ok());
  const auto plain = load_tokenizer(kTestdata / "tokenizer_huggingface.json");
  EXPECT_EQ((*prefixed)->encode("the heaven"), (*plain)->encode(" the heaven"));
  EXPECT_EQ((*prefixed)->encode(" the heaven"), (*plain)->encode(" the heaven"));
  EXPECT_NE((*prefixed)->digest(), (*plain)->digest());
  json["pre_tokenizer"] = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  const auto whole = parse_tokenizer(json.dump(), "t");
  ASSERT_TRUE(whole.ok());
  EXPECT_EQ(*(*whole)->decode((*whole)->encode("the  heaven")), "the  heaven");
  EXPECT_EQ((*whole)->safe_cut("the heaven", 2), 10u);
}

TEST(TokenizerTest, OldFilesWithoutTypeAndWithMergesAsText) {
  nlohmann::json json = small_tokenizer();
  json["model"].erase("type");
  for (auto& merge : json["model"]["merges"])
    if (merge.is_array()) merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
  const auto tokenizer = parse_tokenizer(json.dump(), "t");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().to_string();
  EXPECT_EQ((*tokenizer)->digest(), (*load_tokenizer(kTestdata / "tokenizer_huggingface.json"))->digest());
}

struct BadJson {
  const char* what;
  Code code;
  std::function<void(nlohmann::json&)> change;
};

TEST(TokenizerTest, OtherTokenizersAreNamedAsSuch) {
  const std::vector<BadJson> cases = {
      {"model is of type \"Unigram\"", Code::unsupported, [](auto& j) { j["model"]["type"] = "Unigram"; }},
      {"pre_tokenizer is of type \"Metaspace\"", Code::unsupported,
       [](auto& j) {
         j["pre_tokenizer"] = {{"type", "Metaspace"}};
       }},
      {"no pre_tokenizer", Code::unsupported, [](auto& j) { j["pre_tokenizer"] = nullptr; }},
      {"no pre_tokenizer", Code::unsupported, [](auto& j) { j.erase("pre_tokenizer"); }},
      {"decoder is of type \"WordPiece\"", Code::unsupported, [](auto& j) { j["decoder"]["type"] = "WordPiece"; }},
      {"it has a normalizer", Code::unsupported,
       [](auto& j) {
         j["normalizer"] = {{"type", "NFC"}};
       }},
      {"model.end_of_word_suffix is set", Code::unsupported,
       [](auto& j) { j["model"]["end_of_word_suffix"] = "</w>"; }},
      {"model.dropout is set", Code::unsupported, [](auto& j) { j["model"]["dropout"] = 0.1; }},
      {"model.ignore_merges is true", Code::unsupported, [](auto& j) { j["model"]["ignore_merges"] = true; }},
      {"has lstrip", Code::unsupported, [](auto& j) { j["added_tokens"][0]["lstrip"] = true; }},
      {"no object \"model\"", Code::corrupt_data, [](auto& j) { j.erase("model"); }},
      {"not a JSON object", Code::corrupt_data, [](auto& j) { j = nlohmann::json::array(); }},
      {"model.vocab is missing", Code::corrupt_data, [](auto& j) { j["model"].erase("vocab"); }},
      {"the id of token \"a\"", Code::corrupt_data, [](auto& j) { j["model"]["vocab"]["a"] = "x"; }},
      {"the id of token \"a\"", Code::corrupt_data, [](auto& j) { j["model"]["vocab"]["a"] = -1; }},
      {"the id of token \"a\"", Code::corrupt_data, [](auto& j) { j["model"]["vocab"]["a"] = 4000000; }},
      {"belongs to two tokens", Code::corrupt_data,
       [](auto& j) { j["model"]["vocab"]["a"] = j["model"]["vocab"]["b"]; }},
      {"empty token", Code::corrupt_data, [](auto& j) { j["model"]["vocab"][""] = 1; }},
      {"no token for the byte 97", Code::corrupt_data,
       [](auto& j) {
         j["model"]["vocab"].erase("a");
         j["model"]["merges"] = nlohmann::json::array();
       }},
      {"model.merges is missing", Code::corrupt_data, [](auto& j) { j["model"].erase("merges"); }},
      {"merge 0 is \"a b c\"", Code::corrupt_data, [](auto& j) { j["model"]["merges"][0] = "a b c"; }},
      {"merge 0 is neither", Code::corrupt_data,
       [](auto& j) {
         j["model"]["merges"][0] = {"a", 1};
       }},
      {"merge 0 names \"nope\"", Code::corrupt_data,
       [](auto& j) {
         j["model"]["merges"][0] = {"a", "nope"};
       }},
      {"merge 0 makes \"%%\"", Code::corrupt_data,
       [](auto& j) {
         j["model"]["merges"][0] = {"%", "%"};
       }},
      {"added_tokens is not a list", Code::corrupt_data, [](auto& j) { j["added_tokens"] = 1; }},
      {"has no id or content", Code::corrupt_data, [](auto& j) { j["added_tokens"][0].erase("id"); }},
      {"empty or there twice", Code::corrupt_data, [](auto& j) { j["added_tokens"][0]["content"] = ""; }},
      {"has the id of another token", Code::corrupt_data, [](auto& j) { j["added_tokens"][0]["id"] = 3; }},
      {"added_tokens.special is not", Code::corrupt_data, [](auto& j) { j["added_tokens"][0]["special"] = 3; }},
  };
  for (const BadJson& bad : cases) {
    nlohmann::json json = small_tokenizer();
    bad.change(json);
    const auto tokenizer = parse_tokenizer(json.dump(), "bad.json");
    ASSERT_FALSE(tokenizer.ok()) << bad.what;
    EXPECT_EQ(tokenizer.status().code(), bad.code) << tokenizer.status().to_string();
    EXPECT_NE(tokenizer.status().message().find(bad.what), std::string::npos) << tokenizer.status().to_string();
    EXPECT_TRUE(tokenizer.status().message().starts_with("bad.json: ")) << tokenizer.status().to_string();
  }
  EXPECT_EQ(parse_tokenizer("{\"model\": ", "bad.json").status().code(), Code::corrupt_data);
  EXPECT_EQ(parse_tokenizer(std::string(100000, '['), "bad.json").status().code(), Code::corrupt_data);
  EXPECT_EQ(load_tokenizer(kTestdata / "none.json").status().code(), Code::not_found);
}

TEST(TokenizerTest, ModelsMadeInCodeAreChecked) {
  BpeModel model = *BpeTrainer().train(257);
  model.merges.emplace_back(0, 5000);
  EXPECT_NE(make_bpe_tokenizer(model).status().message().find("merge 0 names a token"), std::string::npos);
  model.merges[0] = {0, 1};
  EXPECT_NE(make_bpe_tokenizer(model).status().message().find("result of merge 0"), std::string::npos);
  model.merges.clear();
  model.added[0].id = -7;
  EXPECT_NE(make_bpe_tokenizer(model).status().message().find("needs an id"), std::string::npos);
}

}  // namespace
}  // namespace sporkle::train
