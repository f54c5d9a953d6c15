#include "mesh/known_runs.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <thread>

#include "base/file.h"
#include "base/temporary_folder.h"
#include "mesh/test_identity.h"

namespace sporkle::mesh {
namespace {

RunRecord record(const Identity& identity, uint64_t sequence, std::byte run = std::byte{1}) {
  RunRecord fields;
  fields.run_id.fill(run);
  fields.sequence = sequence;
  fields.expires_unix_s = 2'000'000'000;
  fields.name = "known";
  fields.addresses = {{"192.0.2.7", 7000}};
  return *RunRecord::sign(fields, identity);
}

TEST(KnownRuns, RemembersAddressesTheLatestFirst) {
  KnownRuns known;
  const RunLink link{Identity::generate()->id(), {}, {}};
  EXPECT_EQ(known.find(link), nullptr);
  for (uint16_t port = 1; port <= 10; ++port) known.worked(link, {"h", port}, port);
  known.worked(link, {"h", 5}, 11);
  const KnownRun* run = known.find(link);
  ASSERT_NE(run, nullptr);
  EXPECT_EQ(run->addresses.size(), KnownRuns::max_addresses);
  EXPECT_EQ(run->addresses[0], (Address{"h", 5}));
  EXPECT_EQ(run->addresses[1], (Address{"h", 10}));
  EXPECT_EQ(run->last_used_unix_s, 11u);
}

TEST(KnownRuns, ForgetsTheRunUsedLongestAgo) {
  KnownRuns known;
  std::vector<RunLink> links;
  for (size_t i = 0; i < KnownRuns::max_runs + 1; ++i) {
    links.push_back({Identity::generate()->id(), {}, {}});
    known.worked(links[i], {"h", 1}, i == 0 ? 500 : i);
  }
  EXPECT_EQ(known.runs().size(), KnownRuns::max_runs);
  EXPECT_NE(known.find(links[0]), nullptr);
  EXPECT_EQ(known.find(links[1]), nullptr);
  EXPECT_NE(known.find(links.back()), nullptr);
}

TEST(KnownRuns, TellsRunsOfOneCoordinatorApart) {
  KnownRuns known;
  const Identity identity = known_identity();
  const RunLink one = record(identity, 1, std::byte{1}).link(), two = record(identity, 1, std::byte{2}).link();
  known.worked(one, {"one", 1}, 10);
  EXPECT_EQ(known.find(two), nullptr) << "another run's addresses are no help";
  known.worked(two, {"two", 1}, 20);
  EXPECT_EQ(known.find(one)->addresses[0].host, "one");
  EXPECT_EQ(known.find({identity.id(), {}, {}})->addresses[0].host, "two") << "the latest";
}

TEST(KnownRuns, AnOlderRecordDoesNotReplaceANewerOne) {
  KnownRuns known;
  const Identity identity = known_identity();
  EXPECT_TRUE(known.learned(record(identity, 5), 1).ok());
  EXPECT_EQ(known.learned(record(identity, 4), 2).code(), Code::invalid_argument);
  EXPECT_EQ(known.find(record(identity, 5).link())->verified()->sequence, 5u);
  EXPECT_TRUE(known.learned(record(identity, 6), 3).ok());
  EXPECT_EQ(known.find(record(identity, 5).link())->verified()->sequence, 6u);
}

TEST(KnownRuns, TextRoundTripAndItsErrors) {
  KnownRuns known;
  const Identity identity = known_identity();
  ASSERT_TRUE(known.learned(record(identity, 5), 7).ok());
  known.worked(record(identity, 5).link(), {"::1", 7000}, 8);
  known.worked({Identity::generate()->id(), {}, {}}, {"fe80::1%eth0", 7000}, 9);
  const std::string text = known.text();
  const auto again = KnownRuns::parse(text);
  ASSERT_TRUE(again.ok()) << again.status().to_string();
  EXPECT_EQ(again->text(), text);
  EXPECT_EQ(again->find(record(identity, 5).link())->verified(), record(identity, 5));

  const std::string id = identity.id().to_string(), head = "sporkle known runs 1\n";
  for (const auto& [bad, part] : std::vector<std::pair<std::string, std::string>>{
           {"", "line 1: expected"},
           {"x\n", "line 1: expected"},
           {head + "address h:1\n", "line 2: it belongs to no run"},
           {head + "run x - 1\n", "line 2: not a node ID"},
           {head + "run " + id + " xyz 1\n", "line 2: it has no valid run ID"},
           {head + "run " + id + " - soon\n", "line 2: it does not end with a time"},
           {head + "run " + id + " - 1 2\n", "line 2: it does not end with a time"},
           {head + "run " + id + " - 1\naddress h\n", "line 3: address 'h' has no port"},
           {head + "run " + id + " - 1\nrecord h\n", "line 3: not a run record"},
           {head + "run " + id + " - 1\nwhat\n", "line 3: 'what' is none of"}}) {
    const auto result = KnownRuns::parse(bad);
    ASSERT_FALSE(result.ok()) << bad;
    EXPECT_EQ(result.status().code(), Code::corrupt_data);
    EXPECT_NE(result.status().message().find(part), std::string::npos) << result.status().message();
  }
}

TEST(KnownRuns, AForgedRecordInTheFileDoesNotCount) {
  const Identity identity = known_identity();
  RunRecord forged = record(*Identity::generate(), 9);
  forged.key = identity.public_key();
  KnownRun run{identity.id(), "", 0, {}, forged.encode()};
  EXPECT_EQ(run.verified(), std::nullopt);
  run.record = record(*Identity::generate(), 9).encode();
  EXPECT_EQ(run.verified(), std::nullopt) << "a good record, of somebody else";
}

TEST(KnownRunsFile, ADamagedFileIsReplaced) {
  const auto folder = TemporaryFolder::create("sporkle-test");
  const auto path = folder->path() / "known_runs";
  const KnownRunsFile file(path);
  EXPECT_TRUE(file.load().runs().empty());
  const RunRecord first = record(known_identity(), 5);
  const RunLink bare{first.coordinator(), {}, {}};
  for (const char* content : {"rubbish", "", "sporkle known runs 1\nrun\n"}) {
    ASSERT_TRUE(write_file_atomically(path, std::string_view(content)).ok());
    EXPECT_TRUE(file.load().runs().empty());
    ASSERT_TRUE(file.remember(bare, {"h", 1}, first, 1).ok());
    const KnownRuns known = file.load();
    ASSERT_EQ(known.runs().size(), 1u) << "address and record are of the same run";
    EXPECT_EQ(known.find(first.link())->addresses[0].host, "h");
    EXPECT_EQ(known.find(bare)->verified(), first);
  }
  const Status old = file.remember(bare, {"new", 1}, record(known_identity(), 4), 2);
  EXPECT_EQ(old.code(), Code::invalid_argument) << "rolled back";
  EXPECT_EQ(file.load().find(bare)->verified()->sequence, 5u);
  EXPECT_EQ(file.load().find(bare)->addresses[0].host, "new");
}

TEST(KnownRunsFile, SeveralAtOnceLoseNothing) {
  const auto folder = TemporaryFolder::create("sporkle-test");
  const auto path = folder->path() / "known_runs";
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&path] {
      for (int i = 0; i < 5; ++i)
        EXPECT_TRUE(KnownRunsFile(path).remember({Identity::generate()->id(), {}, {}}, {"h", 1}, std::nullopt, 1).ok());
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(KnownRunsFile(path).load().runs().size(), 20u);
}

}  // namespace
}  // namespace sporkle::mesh
