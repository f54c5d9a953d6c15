#include "mesh/seed_list.h"

#include <gtest/gtest.h>

#include "base/file.h"
#include "base/temporary_folder.h"
#include "mesh/record_signer.h"
#include "mesh/test_identity.h"

namespace sporkle::mesh {
namespace {

constexpr uint64_t now_s = 1'700'000'000;

RunRecord record(const Identity& identity, uint64_t sequence, std::byte run = std::byte{1}) {
  RunRecord fields;
  fields.run_id.fill(run);
  fields.sequence = sequence;
  fields.expires_unix_s = now_s + 100;
  fields.name = "seeded";
  fields.addresses = {{"192.0.2.7", static_cast<uint16_t>(7000 + sequence)}};
  return *RunRecord::sign(fields, identity);
}

RunLink link_to(const Identity& identity) { return {identity.id(), {}, {}}; }

TEST(SeedList, FindsTheNewestRecordOfARun) {
  const Identity ours = known_identity(), other = *Identity::generate();
  const std::string text = "# seeds\r\n\n" + record_to_text(record(ours, 2)) + "\r\n" +
                           record_to_text(record(other, 9)) + "\n" + record_to_text(record(ours, 3)) + "\n" +
                           record_to_text(record(ours, 1)) + "\n" + record_to_text(record(ours, 8, std::byte{2}));
  const auto list = SeedList::parse(text, "seeds.txt");
  ASSERT_TRUE(list.ok()) << list.status().to_string();
  EXPECT_EQ(list->size(), 5u);
  EXPECT_TRUE(list->warnings().empty());
  EXPECT_EQ(list->find(record(ours, 1).link(), now_s)->sequence, 3u) << "of the link's run only";
  EXPECT_EQ(list->find(link_to(ours), now_s)->sequence, 8u) << "of any run";
  const auto unknown = list->find(link_to(*Identity::generate()), now_s);
  EXPECT_EQ(unknown.status().code(), Code::not_found);
  const auto late = list->find(link_to(ours), now_s + 100);
  EXPECT_EQ(late.status().code(), Code::not_found);
  EXPECT_NE(late.status().message().find("expired"), std::string::npos) << late.status().message();
}

TEST(SeedList, AForgedRecordIsNotFound) {
  const Identity ours = known_identity();
  RunRecord forged = record(*Identity::generate(), 9);
  forged.key = ours.public_key();
  const auto list = SeedList::parse(record_to_text(forged), "seeds.txt");
  ASSERT_TRUE(list.ok());
  const auto found = list->find(link_to(ours), now_s);
  EXPECT_EQ(found.status().code(), Code::not_found);
  EXPECT_NE(found.status().message().find("forged"), std::string::npos) << found.status().message();
}

TEST(SeedList, BadLinesAreNamedAndLeftOut) {
  const std::string good = record_to_text(record(known_identity(), 1));
  const auto list = SeedList::parse(good + "\nnonsense\nsporkle-record:aaaa\n", "seeds.txt");
  ASSERT_TRUE(list.ok());
  ASSERT_EQ(list->warnings().size(), 2u);
  EXPECT_TRUE(list->warnings()[0].starts_with("seeds.txt, line 2: ")) << list->warnings()[0];
  EXPECT_TRUE(list->warnings()[1].starts_with("seeds.txt, line 3: ")) << list->warnings()[1];
  std::string many = good;
  for (int i = 0; i < 1000; ++i) many += "\nx";
  EXPECT_EQ(SeedList::parse(many, "s")->warnings().size(), 6u);
  EXPECT_EQ(SeedList::parse("# nothing\n", "s").status().code(), Code::invalid_argument);
  EXPECT_EQ(SeedList::load("/nonexistent/seeds").status().code(), Code::not_found);
}

TEST(SeedList, ListsAreJoined) {
  const Identity ours = known_identity(), other = *Identity::generate();
  SeedList list = *SeedList::parse(record_to_text(record(ours, 1)), "a");
  ASSERT_TRUE(list.append(*SeedList::parse(record_to_text(record(other, 2)), "b")).ok());
  EXPECT_TRUE(list.find(link_to(ours), now_s).ok());
  EXPECT_TRUE(list.find(link_to(other), now_s).ok());
}

TEST(RecordSigner, NumbersGrowAcrossChangesAndRestarts) {
  const auto folder = TemporaryFolder::create("sporkle-test");
  ManualClock clock;
  std::vector<Address> addresses{{"192.0.2.1", 7000}};
  const Identity identity = known_identity();
  RecordSigner::Options options;
  options.name = "my run";
  options.addresses = [&] { return addresses; };
  options.file = folder->path() / "record.txt";
  uint64_t last = 0;
  {
    RecordSigner signer(identity, clock, options);
    const RunRecord first = *signer.current();
    EXPECT_EQ(first.name, "my run");
    EXPECT_EQ(*signer.current(), first);
    addresses = {{"192.0.2.2", 7000}};
    EXPECT_EQ(*signer.current(), first) << "not asked again within the interval";
    clock.advance(std::chrono::seconds(11));
    const RunRecord second = *signer.current();
    EXPECT_EQ(second.addresses, addresses);
    EXPECT_GT(second.sequence, first.sequence);
    clock.advance(std::chrono::hours(24 * 4));
    const RunRecord third = *signer.current();
    EXPECT_GT(third.expires_unix_s, second.expires_unix_s) << "renewed before it expires";
    EXPECT_GT(third.sequence, second.sequence);
    last = third.sequence;
    EXPECT_EQ(SeedList::load(options.file)->find(link_to(identity), 0)->sequence, last);
  }
  // The clock of this machine has gone back; the numbers do not.
  ManualClock earlier(1'000'000);
  EXPECT_EQ(RecordSigner(identity, earlier, options).current()->sequence, last + 1);
  // A damaged file is replaced.
  ASSERT_TRUE(write_file_atomically(options.file, "rubbish").ok());
  EXPECT_TRUE(RecordSigner(identity, clock, options).current().ok());
  EXPECT_TRUE(SeedList::load(options.file).ok());
  addresses.clear();
  EXPECT_FALSE(RecordSigner(identity, clock, options).current().ok());
}

}  // namespace
}  // namespace sporkle::mesh
