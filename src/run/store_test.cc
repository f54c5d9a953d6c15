#include "run/store.h"

#include <gtest/gtest.h>
#include <sqlite3.h>

#include <fstream>

#include "base/file.h"
#include "run/simulation_testing.h"

namespace sporkle::run {
namespace {

using testing::TemporaryFolder;

std::vector<std::byte> bytes(std::string_view text) {
  const auto view = std::as_bytes(std::span(text));
  return {view.begin(), view.end()};
}

size_t blob_files(const std::filesystem::path& folder) {
  size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder / "blobs")) ++count;
  return count;
}

TEST(Store, KeepsEverything) {
  TemporaryFolder folder;
  Member member;
  member.id = testing::node_id(1);
  member.name = "näme";
  member.session = UINT64_MAX;
  member.ready = member.present = true;
  member.tokens_per_second = 1.5;
  member.last_accepted = std::string("\0x", 2);
  member.bytes_out = 1ull << 60;
  LeaseRecord lease;
  lease.id = "lease";
  lease.node = member.id;
  lease.round = 3;
  lease.units = {5, 1ull << 50};
  lease.steps = 7;
  lease.schedule_stride = 0.1;
  lease.state = LeaseState::reported;
  lease.reported_norm = 2.5;
  lease.blob = "update-1";
  lease.compression = train::Compression::topk;
  lease.any_compression = true;
  lease.update_bytes = 77;
  RoundRecord record;
  record.round = 2;
  record.train_loss = 1.25;
  record.validation_loss = 0.5;
  record.compression = "2 int8, 1 topk";
  record.update_bytes = 1234;
  RoundState round;
  round.number = 3;
  round.next_unit = 99;
  round.norms = {1.5, 2.5};
  {
    auto store = Store::open(folder.path());
    ASSERT_TRUE(store.ok()) << store.status().to_string();
    EXPECT_EQ(*(*store)->manifest(), "");
    (*store)->begin();
    (*store)->put_manifest("manifest");
    (*store)->put_round(round);
    (*store)->put_member(member);
    (*store)->put_lease(lease);
    (*store)->put_returned({4, 9});
    (*store)->put_history(record);
    (*store)->put_blob("update-1", bytes("tensor"));
    ASSERT_TRUE((*store)->commit().ok());
  }
  auto store = Store::open(folder.path());
  ASSERT_TRUE(store.ok()) << store.status().to_string();
  EXPECT_EQ(*(*store)->manifest(), "manifest");
  const auto state = (*store)->load();
  ASSERT_TRUE(state.ok()) << state.status().to_string();
  EXPECT_EQ(state->round.number, 3u);
  EXPECT_EQ(state->round.next_unit, 99u);
  EXPECT_EQ(state->round.norms, round.norms);
  ASSERT_EQ(state->members.size(), 1u);
  EXPECT_EQ(state->members[0].id, member.id);
  EXPECT_EQ(state->members[0].name, "näme");
  EXPECT_EQ(state->members[0].session, UINT64_MAX);
  EXPECT_TRUE(state->members[0].present && state->members[0].ready && !state->members[0].left);
  EXPECT_EQ(state->members[0].tokens_per_second, 1.5);
  EXPECT_EQ(state->members[0].last_accepted, member.last_accepted);
  EXPECT_EQ(state->members[0].bytes_out, 1ull << 60);
  ASSERT_EQ(state->leases.size(), 1u);
  EXPECT_EQ(state->leases[0].units, lease.units);
  EXPECT_EQ(state->leases[0].state, LeaseState::reported);
  EXPECT_EQ(state->leases[0].schedule_stride, 0.1);
  EXPECT_EQ(state->leases[0].reported_norm, 2.5);
  EXPECT_EQ(state->returned_units, (std::set<uint64_t>{4, 9}));
  ASSERT_EQ(state->history.size(), 1u);
  EXPECT_EQ(state->history[0].validation_loss, 0.5);
  EXPECT_EQ(state->history[0].compression, "2 int8, 1 topk");
  EXPECT_EQ(state->history[0].update_bytes, 1234u);
  ASSERT_EQ(state->leases.size(), 1u);
  EXPECT_EQ(state->leases[0].compression, train::Compression::topk);
  EXPECT_TRUE(state->leases[0].any_compression);
  EXPECT_EQ(state->leases[0].update_bytes, 77u);
  EXPECT_EQ(*(*store)->read_blob("update-1"), bytes("tensor"));
}

// As an earlier version left it, without the table of how updates came.
TEST(Store, HistoryOfEarlierVersionsIsRead) {
  TemporaryFolder folder;
  {
    auto store = Store::open(folder.path());
    ASSERT_TRUE(store.ok()) << store.status().to_string();
    (*store)->begin();
    (*store)->put_round({});
    (*store)->put_history({.round = 0, .train_loss = 1.5, .compression = "int8", .update_bytes = 9});
    ASSERT_TRUE((*store)->commit().ok());
  }
  sqlite3* database = nullptr;
  ASSERT_EQ(sqlite3_open((folder.path() / "run.db").c_str(), &database), SQLITE_OK);
  EXPECT_EQ(sqlite3_exec(database, "DROP TABLE round_updates", nullptr, nullptr, nullptr), SQLITE_OK);
  sqlite3_close(database);
  auto store = Store::open(folder.path());
  ASSERT_TRUE(store.ok()) << store.status().to_string();
  const auto state = (*store)->load();
  ASSERT_TRUE(state.ok()) << state.status().to_string();
  ASSERT_EQ(state->history.size(), 1u);
  EXPECT_EQ(state->history[0].train_loss, 1.5);
  EXPECT_EQ(state->history[0].compression, "");
  EXPECT_EQ(state->history[0].update_bytes, 0u);
}

TEST(Store, AnUncommittedTransactionLeavesNothing) {
  TemporaryFolder folder;
  {
    auto store = Store::open(folder.path());
    (*store)->begin();
    (*store)->put_manifest("m");
    (*store)->put_blob("kept", bytes("old"));
    ASSERT_TRUE((*store)->commit().ok());
    (*store)->begin();
    (*store)->put_blob("orphan", bytes("new"));
    (*store)->drop_blob("kept");
    EXPECT_EQ(blob_files(folder.path()), 2u);
    // Dies here.
  }
  auto store = Store::open(folder.path());
  ASSERT_TRUE(store.ok());
  EXPECT_EQ(*(*store)->read_blob("kept"), bytes("old"));
  EXPECT_EQ((*store)->read_blob("orphan").status().code(), Code::not_found);
  EXPECT_EQ(blob_files(folder.path()), 1u);
  (*store)->begin();
  (*store)->drop_blob("kept");
  ASSERT_TRUE((*store)->commit().ok());
  EXPECT_EQ(blob_files(folder.path()), 0u);
}

TEST(Store, NoticesADamagedBlob) {
  TemporaryFolder folder;
  auto store = Store::open(folder.path());
  (*store)->begin();
  (*store)->put_blob("tensor", bytes("abc"));
  ASSERT_TRUE((*store)->commit().ok());
  ASSERT_TRUE(write_file_atomically(folder.path() / "blobs" / "tensor", std::string_view("abd")).ok());
  EXPECT_EQ((*store)->read_blob("tensor").status().code(), Code::corrupt_data);
}

TEST(Store, OneProcessAtATime) {
  TemporaryFolder folder;
  auto store = Store::open(folder.path());
  ASSERT_TRUE(store.ok());
  const auto second = Store::open(folder.path());
  EXPECT_EQ(second.status().code(), Code::already_exists) << second.status().to_string();
}

TEST(Store, AForeignFileIsRefused) {
  TemporaryFolder folder;
  std::ofstream(folder.path() / "run.db") << std::string(5000, 'x');
  const auto store = Store::open(folder.path());
  EXPECT_EQ(store.status().code(), Code::corrupt_data) << store.status().to_string();
}

TEST(Store, ABlobThatCannotBeWrittenFailsTheTransaction) {
  TemporaryFolder folder;
  auto store = Store::open(folder.path());
  (*store)->begin();
  (*store)->put_manifest("m");
  (*store)->put_blob("no/such/folder", bytes("abc"));
  EXPECT_EQ((*store)->commit().code(), Code::not_found);
  EXPECT_EQ(*(*store)->manifest(), "");
}

}  // namespace
}  // namespace sporkle::run
