#include "mesh/torrent.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <libtorrent/create_torrent.hpp>
#include <libtorrent/torrent_info.hpp>

#include "base/file.h"
#include "base/temporary_folder.h"
#include "mesh/test_identity.h"

namespace sporkle::mesh {
namespace {

using namespace std::chrono_literals;
namespace lt = libtorrent;

std::string noise(size_t size) {
  std::string bytes(size, 0);
  uint64_t word = 1;
  for (char& byte : bytes) byte = static_cast<char>((word = word * 6364136223846793005u + 1442695040888963407u) >> 56);
  return bytes;
}

struct Published {
  TemporaryFolder folder = *TemporaryFolder::create("sporkle-test");
  std::string bytes;
  ContentManifest manifest;
  explicit Published(size_t size) : bytes(noise(size)) {
    EXPECT_TRUE(write_file_atomically(folder.path() / "weights.bin", bytes).ok());
    auto made = ContentManifest::of_file(folder.path() / "weights.bin", ContentKind::model, known_identity());
    EXPECT_TRUE(made.ok()) << made.status().to_string();
    manifest = *made;
  }
};

SwarmOptions loopback() {
  SwarmOptions options;
  options.host = "127.0.0.1";
  return options;
}

// Our tree is BitTorrent's: its own way of hashing the file leads to the same root and infohash.
TEST(Torrent, IsWhatBitTorrentMakesOfTheFile) {
  for (const size_t size : {size_t{10}, size_t{16384}, size_t{65536}, size_t{65537}, size_t{1'000'003}}) {
    const Published published(size);
    lt::file_storage files;
    files.add_file("weights.bin", static_cast<int64_t>(size));
    lt::create_torrent theirs(files, static_cast<int>(published.manifest.piece_bytes), lt::create_torrent::v2_only);
    lt::set_piece_hashes(theirs, published.folder.path().string());
    std::vector<char> bytes;
    lt::bencode(std::back_inserter(bytes), theirs.generate());
    const lt::torrent_info expected(bytes, lt::from_span), ours(torrent_of(published.manifest), lt::from_span);
    EXPECT_TRUE(ours.info_hashes().v2 == expected.info_hashes().v2) << size;
    EXPECT_TRUE(ours.v2()) << size;
    EXPECT_FALSE(ours.v1()) << size;
    EXPECT_EQ(to_hex(published.manifest.root),
              to_hex(std::as_bytes(std::span(expected.files().root(lt::file_index_t{0}).data(), 32))));
  }
}

TEST(Swarm, SpreadsAndPassesOn) {
  const Published published(6'000'000);
  const auto seed = *Swarm::start(loopback());
  ASSERT_TRUE(seed->add(published.manifest, published.folder.path(), true).ok());
  EXPECT_EQ(seed->add(published.manifest, published.folder.path(), true).code(), Code::already_exists);
  // The second knows the first alone, and the third the second alone.
  const auto second_folder = *TemporaryFolder::create("sporkle-test"),
             third_folder = *TemporaryFolder::create("sporkle-test");
  const auto second = *Swarm::start(loopback()), third = *Swarm::start(loopback());
  ASSERT_TRUE(second->add(published.manifest, second_folder.path(), false).ok());
  ASSERT_TRUE(third->add(published.manifest, third_folder.path(), false).ok());
  ASSERT_TRUE(third->add_peer(published.manifest, {"127.0.0.1", second->port()}).ok());
  ASSERT_TRUE(second->add_peer(published.manifest, {"127.0.0.1", seed->port()}).ok());
  const Status done = third->wait(published.manifest, 30s);
  ASSERT_TRUE(done.ok()) << done.to_string();
  ASSERT_TRUE(second->wait(published.manifest, 30s).ok());
  EXPECT_EQ(third->progress(published.manifest)->bytes_done, published.bytes.size());
  EXPECT_EQ(*read_file(third_folder.path() / "weights.bin"), published.bytes);
}

TEST(Swarm, GoesOnFromWhatIsThere) {
  const Published published(4'000'000);
  const auto folder = *TemporaryFolder::create("sporkle-test");
  std::string partial = published.bytes;
  std::fill(partial.begin() + 3'000'000, partial.end(), 0);
  ASSERT_TRUE(write_file_atomically(folder.path() / "weights.bin", partial).ok());
  const auto seed = *Swarm::start(loopback()), taker = *Swarm::start(loopback());
  ASSERT_TRUE(seed->add(published.manifest, published.folder.path(), true).ok());
  ASSERT_TRUE(taker->add(published.manifest, folder.path(), false).ok());
  ASSERT_TRUE(taker->add_peer(published.manifest, {"127.0.0.1", seed->port()}).ok());
  ASSERT_TRUE(taker->wait(published.manifest, 30s).ok());
  EXPECT_EQ(*read_file(folder.path() / "weights.bin"), published.bytes);
  EXPECT_LT(seed->progress(published.manifest)->bytes_uploaded, 1'300'000u) << "what was there was not sent again";
}

TEST(Swarm, AFalseSeedIsNotBelieved) {
  const Published published(1'000'000);
  const auto folder = *TemporaryFolder::create("sporkle-test"), false_folder = *TemporaryFolder::create("sporkle-test");
  ASSERT_TRUE(write_file_atomically(false_folder.path() / "weights.bin", std::string(1'000'000, 'x')).ok());
  const auto seed = *Swarm::start(loopback()), taker = *Swarm::start(loopback());
  ASSERT_TRUE(seed->add(published.manifest, false_folder.path(), true).ok());
  ASSERT_TRUE(taker->add(published.manifest, folder.path(), false).ok());
  ASSERT_TRUE(taker->add_peer(published.manifest, {"127.0.0.1", seed->port()}).ok());
  EXPECT_EQ(taker->wait(published.manifest, 1500ms).code(), Code::deadline_exceeded);
  EXPECT_EQ(taker->progress(published.manifest)->bytes_done, 0u);
}

TEST(Swarm, TheUplinksLimitHoldsOnTheLocalNetworkToo) {
  const Published published(3'000'000);
  const auto folder = *TemporaryFolder::create("sporkle-test");
  SwarmOptions limited = loopback();
  limited.upload_bytes_per_second = 1'000'000;
  const auto seed = *Swarm::start(limited), taker = *Swarm::start(loopback());
  ASSERT_TRUE(seed->add(published.manifest, published.folder.path(), true).ok());
  ASSERT_TRUE(taker->add(published.manifest, folder.path(), false).ok());
  const auto start = std::chrono::steady_clock::now();
  ASSERT_TRUE(taker->add_peer(published.manifest, {"127.0.0.1", seed->port()}).ok());
  ASSERT_TRUE(taker->wait(published.manifest, 60s).ok());
  EXPECT_GT(std::chrono::steady_clock::now() - start, 2s) << "3 MB at 1 MB/s, less a burst";
}

TEST(Swarm, Errors) {
  const Published published(1'000);
  const auto swarm = *Swarm::start(loopback());
  EXPECT_EQ(swarm->wait(published.manifest, 1s).code(), Code::not_found);
  EXPECT_EQ(swarm->progress(published.manifest).status().code(), Code::not_found);
  ASSERT_TRUE(swarm->add(published.manifest, published.folder.path(), false).ok());
  EXPECT_EQ(swarm->add_peer(published.manifest, {"host.example", 1}).code(), Code::invalid_argument);
  SwarmOptions taken = loopback();
  taken.port = swarm->port();
  EXPECT_EQ(Swarm::start(taken).status().code(), Code::unavailable);
}

}  // namespace
}  // namespace sporkle::mesh
