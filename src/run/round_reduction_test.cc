#include "run/round_reduction.h"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>

#include "run/commitment.h"
#include "run/simulation_testing.h"
#include "train/diloco.h"

namespace sporkle::run {
namespace {

constexpr size_t kCount = 5 * kCommitmentChunk + 77;

// Three workers that reduce by hand; a test changes what they commit to, say or show.
struct Workers {
  std::vector<mesh::NodeId> nodes;
  std::vector<std::vector<float>> updates;
  std::vector<float> mean = std::vector<float>(kCount);
  std::vector<uint32_t> audited = {1, 5};
  std::function<void(size_t worker, std::vector<std::byte>& commitment)> change_commitment;
  std::function<void(size_t worker, std::vector<std::byte>& shown)> change_shown;
  Digest said;

  Workers() {
    for (unsigned i = 0; i < 3; ++i) nodes.push_back(testing::node_id(i));
    std::sort(nodes.begin(), nodes.end());
    for (size_t i = 0; i < 3; ++i) {
      auto& update = updates.emplace_back(kCount);
      for (size_t k = 0; k < kCount; ++k) update[k] = std::sin(static_cast<float>(k * (i + 1)));
    }
    add_up({0, 1, 2});
  }
  static uint64_t tokens(size_t worker) { return 100 + worker; }
  void add_up(const std::vector<size_t>& who) {
    uint64_t total = 0;
    for (const size_t i : who) total += tokens(i);
    train::WeightedMean sum(kCount, total);
    for (const size_t i : who) sum.add(updates[i], tokens(i));
    mean.assign(sum.mean().begin(), sum.mean().end());
    said = sha256(std::as_bytes(std::span(mean)));
  }
  RoundReduction start() {
    std::vector<RoundReduction::Member> members;
    for (size_t i = 0; i < 3; ++i) {
      members.push_back({nodes[i], "lease", tokens(i), std::nullopt, commit_to(updates[i])});
      if (change_commitment) change_commitment(i, members.back().commitment);
    }
    return {7, kCount, members, audited, {}};
  }
  void say(RoundReduction& reduction, size_t worker, const std::vector<size_t>& who) const {
    std::vector<mesh::NodeId> contributors;
    size_t rank = 0;
    for (const size_t i : who) {
      if (i == worker) rank = contributors.size();
      contributors.push_back(nodes[i]);
    }
    const size_t begin = slice_begin(kCount, rank, who.size());
    const size_t end = slice_begin(kCount, rank + 1, who.size());
    reduction.reduced(nodes[worker], said, contributors, std::as_bytes(std::span(mean).subspan(begin, end - begin)));
  }
  void show(RoundReduction& reduction, size_t worker) const {
    std::vector<std::byte> bytes;
    for (const uint32_t chunk : audited) {
      const auto values = std::as_bytes(commitment_chunk(updates[worker], chunk));
      bytes.insert(bytes.end(), values.begin(), values.end());
    }
    if (change_shown) change_shown(worker, bytes);
    reduction.shown(nodes[worker], bytes);
  }
  Status outcome() {
    RoundReduction reduction = start();
    for (size_t i = 0; i < 3; ++i) say(reduction, i, {0, 1, 2});
    for (size_t i = 0; i < 3; ++i) show(reduction, i);
    if (!reduction.failure().empty()) return unavailable(reduction.failure());
    EXPECT_TRUE(reduction.complete());
    return reduction.verify();
  }
};

TEST(RoundReduction, TakesAnHonestMean) {
  Workers workers;
  RoundReduction reduction = workers.start();
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_TRUE(reduction.awaits(workers.nodes[i]));
    workers.say(reduction, i, {0, 1, 2});
    EXPECT_FALSE(reduction.awaits(workers.nodes[i]));
    EXPECT_FALSE(reduction.complete());
  }
  for (size_t i = 0; i < 3; ++i) workers.show(reduction, i);
  ASSERT_TRUE(reduction.complete()) << reduction.failure();
  EXPECT_TRUE(reduction.verify().ok()) << reduction.verify().to_string();
  EXPECT_EQ(std::memcmp(reduction.mean().data(), workers.mean.data(), kCount * sizeof(float)), 0);
}

TEST(RoundReduction, GoesOnWithoutOneThatIsLost) {
  Workers workers;
  workers.add_up({0, 2});
  RoundReduction reduction = workers.start();
  reduction.gone(workers.nodes[1]);
  for (const size_t i : {0, 2}) workers.say(reduction, i, {0, 2});
  for (const size_t i : {0, 2}) workers.show(reduction, i);
  ASSERT_TRUE(reduction.complete()) << reduction.failure();
  EXPECT_TRUE(reduction.verify().ok()) << reduction.verify().to_string();
  EXPECT_EQ(reduction.contributors(), (std::vector<mesh::NodeId>{workers.nodes[0], workers.nodes[2]}));
}

TEST(RoundReduction, AContributorThatDiesBeforeItHasSaidAllEndsTheAttempt) {
  Workers workers;
  RoundReduction reduction = workers.start();
  workers.say(reduction, 0, {0, 1, 2});
  reduction.gone(workers.nodes[1]);
  EXPECT_FALSE(reduction.failure().empty());
  RoundReduction other = workers.start();
  other.gone(workers.nodes[1]);
  workers.say(other, 0, {0, 1, 2});
  EXPECT_FALSE(other.failure().empty());
}

TEST(RoundReduction, TooFewAreNoReduction) {
  Workers workers;
  RoundReduction reduction = workers.start();
  reduction.could_not(workers.nodes[0]);
  EXPECT_TRUE(reduction.failure().empty());
  reduction.gone(workers.nodes[1]);
  EXPECT_FALSE(reduction.failure().empty());
  RoundReduction alone = workers.start();
  workers.add_up({2});
  workers.say(alone, 2, {2});
  EXPECT_FALSE(alone.failure().empty());
}

TEST(RoundReduction, WorkersMustAgree) {
  Workers workers;
  RoundReduction reduction = workers.start();
  workers.say(reduction, 0, {0, 1, 2});
  workers.said[3] ^= std::byte{1};
  workers.say(reduction, 1, {0, 1, 2});
  EXPECT_NE(reduction.failure().find("agree"), std::string::npos) << reduction.failure();
}

TEST(RoundReduction, AMeanWithAChangedAuditedChunkIsRefused) {
  Workers workers;
  workers.mean[kCommitmentChunk + 5] = std::nextafter(workers.mean[kCommitmentChunk + 5], 2.0f);
  workers.said = sha256(std::as_bytes(std::span(workers.mean)));
  const Status status = workers.outcome();
  EXPECT_NE(status.message().find("chunk 1 of the mean"), std::string::npos) << status.to_string();
}

TEST(RoundReduction, SlicesMustMakeUpTheMean) {
  Workers workers;
  workers.mean[3] += 1;  // the hash is of the one before
  EXPECT_EQ(workers.outcome().code(), Code::corrupt_data);
}

TEST(RoundReduction, AnotherUpdateThanTheCommittedOneIsSeen) {
  Workers workers;
  workers.change_shown = [](size_t worker, std::vector<std::byte>& shown) {
    if (worker == 1) shown[2] ^= std::byte{1};
  };
  const Status status = workers.outcome();
  EXPECT_NE(status.message().find("another update"), std::string::npos) << status.to_string();
}

// A chunk that nobody audits, but whose spike its maker did not commit to.
TEST(RoundReduction, MoreThanWasCommittedToIsSeenInEveryChunk) {
  Workers workers;
  workers.change_commitment = [&](size_t worker, std::vector<std::byte>& commitment) {
    if (worker != 2) return;
    const auto honest = commit_to(workers.updates[2]);
    workers.updates[2][3 * kCommitmentChunk] = 1e4f;
    commitment = honest;
    workers.add_up({0, 1, 2});
  };
  const Status status = workers.outcome();
  EXPECT_NE(status.message().find("chunk 3 of the mean is longer"), std::string::npos) << status.to_string();
}

TEST(RoundReduction, SizesOfOthersAreRefused) {
  Workers workers;
  RoundReduction reduction = workers.start();
  reduction.reduced(workers.nodes[0], workers.said, workers.nodes, std::vector<std::byte>(8));
  EXPECT_FALSE(reduction.failure().empty());
  RoundReduction shown = workers.start();
  workers.say(shown, 0, {0, 1, 2});
  shown.shown(workers.nodes[0], std::vector<std::byte>(8));
  EXPECT_FALSE(shown.failure().empty());
}

TEST(Commitment, IsOfEveryChunk) {
  std::vector<float> values(2500);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 7) - 3;
  const auto commitment = commit_to(values);
  EXPECT_EQ(commitment.size(), 3 * kCommitmentEntryBytes);
  EXPECT_NEAR(*committed_norm(commitment, values.size()), train::l2_norm(values), 1e-3);
  for (size_t chunk = 0; chunk < 3; ++chunk)
    EXPECT_TRUE(is_committed(commitment, chunk, commitment_chunk(values, chunk)));
  values[2499] += 1;
  EXPECT_FALSE(is_committed(commitment, 2, commitment_chunk(values, 2)));
  EXPECT_EQ(committed_norm(commitment, 4000).status().code(), Code::corrupt_data);
  values[5] = INFINITY;
  EXPECT_EQ(committed_norm(commit_to(values), values.size()).status().code(), Code::corrupt_data);
}

}  // namespace
}  // namespace sporkle::run
