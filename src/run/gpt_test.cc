#include "run/gpt.h"

#include <gtest/gtest.h>

namespace sporkle::run {
namespace {

ModelDescription tiny() {
  ModelDescription description;
  description.config.data.corpus = "kjv";
  description.config.model = {.layers = 1, .heads = 2, .width = 16, .context = 8};
  description.config.train.batch_size = 2;
  description.vocab_size = 20;
  return description;
}

RunManifest manifest_of(const ModelDescription& description) {
  RunManifest manifest;
  manifest.model = encode_model(description);
  // wte, wpe, two norms, attention, MLP, the last norm.
  manifest.parameter_count =
      20 * 16 + 8 * 16 + 4 * 16 + (16 * 48 + 48) + (16 * 16 + 16) + (16 * 64 + 64) + (64 * 16 + 16) + 2 * 16;
  manifest.token_bytes = 1;
  manifest.tokens_per_step = 16;
  manifest.total_steps = 4;
  return manifest;
}

std::unique_ptr<Replica> replica() {
  auto made = gpt_replica_factory({"cpu", 1})(manifest_of(tiny()));
  EXPECT_TRUE(made.ok()) << made.status().to_string();
  return std::move(made).value();
}

// `count` sequences of context + 1 tokens in one shard; neighbours share a token.
std::vector<std::byte> shard(size_t count, uint8_t vocabulary) {
  std::vector<std::byte> tokens(count * 8 + 1);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<std::byte>(i % vocabulary);
  return tokens;
}

InnerWork work_on(const std::vector<std::byte>& tokens, uint32_t steps) {
  InnerWork work;
  work.shards = {tokens};
  work.token_bytes = 1;
  work.steps = steps;
  work.schedule_total_steps = 4;
  return work;
}

TEST(ModelDescription, RoundTrips) {
  const auto decoded = decode_model(encode_model(tiny()));
  ASSERT_TRUE(decoded.ok()) << decoded.status().to_string();
  EXPECT_EQ(decoded->config, tiny().config);
  EXPECT_EQ(decoded->vocab_size, 20);
}

TEST(ModelDescription, WhatIsNotOneIsRefused) {
  for (const std::string& text :
       {std::string(), std::string("sporkle-model 2\nvocab_size 256\n"), std::string("sporkle-model 1\nvocab_size 0\n"),
        std::string("sporkle-model 1\nvocab_size 999999999\n"),
        std::string("sporkle-model 1\nvocab_size 256\n[model]\nheads = 3\n")})
    EXPECT_EQ(decode_model(text).status().code(), Code::invalid_argument) << text;
}

TEST(GptReplica, TrainsOnShardsAndReportsThem) {
  const auto one = replica();
  const std::vector<std::byte> tokens = shard(6, 20);
  std::vector<float> before(one->parameter_count()), after(before.size());
  ASSERT_TRUE(one->get_parameters(before).ok());
  uint32_t told = 0;
  const auto report = one->train(work_on(tokens, 3), [&](const InnerProgress& progress) {
    told = progress.step;
    return true;
  });
  ASSERT_TRUE(report.ok()) << report.status().to_string();
  EXPECT_EQ(report->steps, 3u);
  EXPECT_EQ(report->tokens, 48u);
  EXPECT_EQ(told, 3u);
  EXPECT_GT(report->mean_loss, 0);
  ASSERT_TRUE(one->get_parameters(after).ok());
  EXPECT_NE(before, after);
}

TEST(GptReplica, StopsWhenTheCallbackSaysSo) {
  const auto report = replica()->train(work_on(shard(6, 20), 3), [](const InnerProgress&) { return false; });
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(report->steps, 1u);
}

TEST(GptReplica, WorkThatDoesNotFitIsRefused) {
  const auto one = replica();
  EXPECT_EQ(one->train(work_on(shard(5, 20), 3), {}).status().code(), Code::invalid_argument);  // too few sequences
  EXPECT_EQ(one->train(work_on(shard(6, 21), 3), {}).status().code(), Code::corrupt_data);      // a token too large
  EXPECT_EQ(one->train(work_on({std::byte{1}}, 1), {}).status().code(), Code::corrupt_data);    // less than a sequence
  RunManifest lies = manifest_of(tiny());
  ++lies.parameter_count;
  EXPECT_EQ(gpt_replica_factory({"cpu", 1})(lies).status().code(), Code::invalid_argument);
}

}  // namespace
}  // namespace sporkle::run
