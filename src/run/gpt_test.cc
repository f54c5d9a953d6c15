#include "run/gpt.h"

#include <gtest/gtest.h>

#include "train/diloco.h"
#include "train/error_feedback.h"

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

// A run's ID is a hash of this text: runs begun before there was a choice keep theirs.
TEST(ModelDescription, TheDefaultCompressionIsNotWritten) {
  EXPECT_EQ(encode_model(tiny()).find("compression"), std::string::npos);
  ModelDescription description = tiny();
  description.config.run.compression = "topk";
  const auto decoded = decode_model(encode_model(description));
  ASSERT_TRUE(decoded.ok()) << decoded.status().to_string();
  EXPECT_EQ(decoded->config, description.config);
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

// The last round's training loss of two workers that exchange updates in this form, by plain averaging.
double loss_of_run(train::Compression compression) {
  ModelDescription description = tiny();
  description.config.train.learning_rate = 0.01;
  description.config.train.warmup_steps = 1;
  RunManifest manifest = manifest_of(description);
  manifest.total_steps = 200;
  std::unique_ptr<Replica> workers[2];
  std::vector<train::ErrorFeedback> feedback;
  for (auto& worker : workers) {
    auto made = gpt_replica_factory({"cpu", 1})(manifest);
    EXPECT_TRUE(made.ok()) << made.status().to_string();
    worker = std::move(made).value();
    feedback.emplace_back(manifest.parameter_count);
  }
  const std::vector<std::byte> tokens = shard(10, 20);
  std::vector<float> start(manifest.parameter_count), end(start.size());
  EXPECT_TRUE(workers[0]->get_parameters(start).ok());
  double loss = 0;
  for (uint64_t round = 0; round < 40; ++round) {
    train::WeightedMean mean(start.size(), 2);
    loss = 0;
    for (size_t i = 0; i < 2; ++i) {
      InnerWork work = work_on(tokens, 5);
      work.schedule_step = static_cast<double>(round) * 5;
      work.schedule_total_steps = manifest.total_steps;
      EXPECT_TRUE(workers[i]->set_parameters(start).ok());
      const auto report = workers[i]->train(work, {});
      EXPECT_TRUE(report.ok()) << report.status().to_string();
      loss += report->mean_loss / 2;
      EXPECT_TRUE(workers[i]->get_parameters(end).ok());
      train::pseudo_gradient(start, end, end);
      const auto update = feedback[i].encode(end, compression);
      EXPECT_TRUE(update.ok() && train::decompress(*update, end).ok());
      feedback[i].commit();
      mean.add(end, 1);
    }
    for (size_t k = 0; k < start.size(); ++k) start[k] -= mean.mean()[k];
  }
  return loss;
}

// The bars, in nats a token, where training begins at ln 20 = 3.0.
TEST(GptReplica, CompressedUpdatesTrainNearlyAsWell) {
  const double plain = loss_of_run(train::Compression::none);
  EXPECT_LT(plain, 0.02);
  EXPECT_NEAR(loss_of_run(train::Compression::int8), plain, 0.005);
  EXPECT_LT(loss_of_run(train::Compression::int4), plain + 0.01);
  EXPECT_LT(loss_of_run(train::Compression::sign), plain + 0.05);
  EXPECT_LT(loss_of_run(train::Compression::topk), plain + 0.15);
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
