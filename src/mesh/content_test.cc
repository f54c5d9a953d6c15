#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <thread>

#include "base/file.h"
#include "base/temporary_folder.h"
#include "mesh/content_fetch.h"
#include "mesh/content_manifest.h"
#include "mesh/piece_tree.h"
#include "mesh/test_identity.h"
#include "mesh/test_peer.h"

namespace sporkle::mesh {
namespace {

using namespace std::chrono_literals;

Bytes noise(size_t size) {
  Bytes bytes(size);
  uint64_t word = 1;
  for (std::byte& byte : bytes)
    byte = static_cast<std::byte>((word = word * 6364136223846793005u + 1442695040888963407u) >> 56);
  return bytes;
}

ContentManifest manifest_of(const Bytes& bytes) {
  return *ContentManifest::of_bytes(bytes, "weights.bin", ContentKind::model, known_identity());
}

TEST(PieceTree, ShortFilesAndPadding) {
  const Bytes bytes = noise(5 * tree_block_bytes + 100);
  const auto block = [&](size_t i) {
    return sha256(std::span(bytes).subspan(i * tree_block_bytes,
                                           std::min(tree_block_bytes, bytes.size() - i * tree_block_bytes)));
  };
  const auto pair = [](const Digest& a, const Digest& b) {
    Bytes both(a.begin(), a.end());
    both.insert(both.end(), b.begin(), b.end());
    return sha256(both);
  };
  const Digest zero{}, left = pair(pair(block(0), block(1)), pair(block(2), block(3)));
  const Digest right = pair(pair(block(4), block(5)), pair(zero, zero));
  EXPECT_EQ(piece_hash(bytes, size_t{1} << 20, true), pair(left, right));
  const Digest layer[] = {left, right};
  EXPECT_EQ(layer_root(layer, 4 * tree_block_bytes), pair(left, right));
  EXPECT_EQ(piece_hash(std::span(bytes).first(10), 4 * tree_block_bytes, true), sha256(std::span(bytes).first(10)));
  const Digest three[] = {left, right, left};
  EXPECT_EQ(layer_root(three, 4 * tree_block_bytes),
            pair(pair(left, right), pair(left, pair(pair(zero, zero), pair(zero, zero)))));
}

TEST(ContentManifest, RoundTripAndWhatIsRefused) {
  const Bytes bytes = noise(300'000);
  const ContentManifest m = manifest_of(bytes);
  EXPECT_EQ(m.piece_count(), 5u);
  EXPECT_EQ(m.size_of_piece(4), 300'000u - 4 * 65536);
  for (size_t i = 0; i < 5; ++i) EXPECT_TRUE(m.is_piece(i, std::span(bytes).subspan(i * 65536, m.size_of_piece(i))));
  EXPECT_FALSE(m.is_piece(1, std::span(bytes).first(65536)));
  EXPECT_FALSE(m.is_piece(5, {}));
  const Bytes encoded = m.encode();
  EXPECT_EQ(*ContentManifest::parse(encoded), m);
  // No single byte can change.
  for (size_t i = 0; i < encoded.size(); i += 3) {
    Bytes other = encoded;
    other[i] ^= std::byte{1};
    const auto parsed = ContentManifest::parse(other);
    EXPECT_TRUE(!parsed.ok() || *parsed == m) << "byte " << i;
  }
  for (const char* name : {"", "..", ".hidden", "a/b", "tab\t"})
    EXPECT_EQ(ContentManifest::of_bytes(bytes, name, ContentKind::model, known_identity()).status().code(),
              Code::invalid_argument)
        << name;
  EXPECT_FALSE(ContentManifest::of_bytes({}, "empty", ContentKind::model, known_identity()).ok());
  EXPECT_EQ(piece_bytes_for(1), 65536u);
  EXPECT_EQ(piece_bytes_for(500'000'000), 262144u);
}

// docs/protocol.md has these.
TEST(ContentManifest, MatchesTheVector) {
  const Bytes bytes(100'000, std::byte{0x5a});
  const auto m = ContentManifest::of_bytes(bytes, "vector.bin", ContentKind::checkpoint, known_identity());
  ASSERT_TRUE(m.ok());
  EXPECT_EQ(to_hex(m->root), "f170b2c243ccf7f3da7853b1f40216eabafcf0c4c6f21ea74eaa3fe74a41e594");
  EXPECT_EQ(to_hex(m->signed_bytes()),
            "73706f726b6c6520636f6e74656e74206d616e6966657374203100d75a980182b10ab7d54bfed3c964073a0ee172f3da"
            "a62325af021a68f707511af170b2c243ccf7f3da7853b1f40216eabafcf0c4c6f21ea74eaa3fe74a41e594a086010000"
            "00000000000100020000000a00766563746f722e62696e");
  EXPECT_EQ(to_hex(m->signature),
            "fad939a9b93a1d5b78dc66b5e3dd987d9664cad9647d357e7ab7ff1a4833412dcd8475d69839e1f129cb01e7c9912edb"
            "7f7234135bf1cac743872c121f8c7a0b");
}

// A donor in this process: how fast it is, and what becomes of it.
struct Donor : PieceSource {
  const Bytes& bytes;
  std::chrono::microseconds pause{0};
  size_t lies_from = SIZE_MAX, dies_at = SIZE_MAX, hangs_at = SIZE_MAX;
  size_t served = 0;
  std::mutex mutex;
  std::condition_variable changed;
  bool cancelled = false;
  explicit Donor(const Bytes& content) : bytes(content) {}

  Result<std::vector<std::byte>> fetch(const ContentManifest& m, size_t piece) override {
    std::this_thread::sleep_for(pause);
    const size_t now = served++;
    if (now >= dies_at) return unavailable("the donor died");
    if (now >= hangs_at) {
      std::unique_lock lock(mutex);
      changed.wait(lock, [this] { return cancelled; });
      return Status(Code::cancelled, "given up");
    }
    const auto part = std::span(bytes).subspan(piece * m.piece_bytes, m.size_of_piece(piece));
    std::vector<std::byte> result(part.begin(), part.end());
    if (now >= lies_from) result[result.size() / 2] ^= std::byte{1};
    return result;
  }
  void cancel() override {
    const std::lock_guard lock(mutex);
    cancelled = true;
    changed.notify_all();
  }
};

struct Fetched {
  Result<FetchReport> report;
  Bytes bytes;
  size_t stores = 0;
};

Fetched fetch(const ContentManifest& m, const std::vector<PieceSource*>& sources, const std::vector<bool>& have = {}) {
  Bytes bytes(m.size_bytes);
  size_t stores = 0;
  auto report = fetch_pieces(m, sources, have, [&](size_t piece, std::span<const std::byte> part) -> Status {
    std::ranges::copy(part, bytes.begin() + static_cast<std::ptrdiff_t>(piece * m.piece_bytes));
    ++stores;
    return {};
  });
  return {std::move(report), std::move(bytes), stores};
}

TEST(ContentFetch, FiveDonorsShareTheLoad) {
  const Bytes bytes = noise(10'000'000);
  const ContentManifest m = manifest_of(bytes);
  std::vector<std::unique_ptr<Donor>> donors;
  std::vector<PieceSource*> sources;
  for (int i = 0; i < 5; ++i) {
    donors.push_back(std::make_unique<Donor>(bytes));
    donors.back()->pause = i == 0 ? 0us : 2000us;  // one is much faster than the rest
    sources.push_back(donors.back().get());
  }
  const Fetched fetched = fetch(m, sources);
  ASSERT_TRUE(fetched.report.ok()) << fetched.report.status().to_string();
  EXPECT_EQ(fetched.bytes, bytes);
  uint64_t sum = 0;
  for (const auto& donor : fetched.report->donors) {
    EXPECT_LE(static_cast<double>(donor.bytes), 0.4 * static_cast<double>(bytes.size()));
    sum += donor.bytes;
  }
  EXPECT_EQ(sum, bytes.size());
  EXPECT_GT(fetched.report->donors[0].bytes, fetched.report->donors[1].bytes);
}

TEST(ContentFetch, DonorsThatDieLieOrHangCostTheirPieceOnly) {
  const Bytes bytes = noise(5'000'000);
  const ContentManifest m = manifest_of(bytes);
  std::vector<std::unique_ptr<Donor>> donors;
  std::vector<PieceSource*> sources;
  for (int i = 0; i < 5; ++i) {
    donors.push_back(std::make_unique<Donor>(bytes));
    donors.back()->pause = 500us;
    sources.push_back(donors.back().get());
  }
  donors[1]->dies_at = 3;
  donors[2]->lies_from = 2;
  donors[3]->hangs_at = 4;
  const Fetched fetched = fetch(m, sources);
  ASSERT_TRUE(fetched.report.ok()) << fetched.report.status().to_string();
  EXPECT_EQ(fetched.bytes, bytes);
  EXPECT_EQ(fetched.stores, m.piece_count()) << "every piece was stored once";
  const FetchReport& report = *fetched.report;
  EXPECT_EQ(report.donors[1].failure.code(), Code::unavailable);
  EXPECT_EQ(report.donors[1].bytes, 3u * 65536);
  EXPECT_EQ(report.donors[2].failure.code(), Code::corrupt_data);
  EXPECT_EQ(report.donors[2].bytes, 2u * 65536) << "what it gave before it lied was true";
  EXPECT_EQ(donors[2]->served, 3u) << "a liar is asked no more";
  EXPECT_TRUE(report.donors[0].failure.ok());
  EXPECT_LE(report.pieces_wasted, 3u);
}

TEST(ContentFetch, GoesOnWithWhatIsThere) {
  const Bytes bytes = noise(2'000'000);
  const ContentManifest m = manifest_of(bytes);
  Donor donor(bytes);
  std::vector<bool> have(m.piece_count(), true);
  have[3] = have[7] = false;
  const Fetched fetched = fetch(m, {&donor}, have);
  ASSERT_TRUE(fetched.report.ok());
  EXPECT_EQ(donor.served, 2u);
  EXPECT_EQ(fetched.stores, 2u);
}

TEST(ContentFetch, ReportsTheLastDonorsEndAndAFullDisk) {
  const Bytes bytes = noise(2'000'000);
  const ContentManifest m = manifest_of(bytes);
  Donor liar(bytes), mortal(bytes);
  liar.lies_from = 0;
  mortal.dies_at = 4;
  const Fetched fetched = fetch(m, {&liar, &mortal});
  EXPECT_EQ(fetched.report.status().code(), Code::unavailable);
  EXPECT_NE(fetched.report.status().message().find("weights.bin"), std::string::npos);
  EXPECT_EQ(fetch(m, {}).report.status().code(), Code::unavailable);
  Donor good(bytes);
  PieceSource* const source = &good;
  EXPECT_EQ(
      fetch_pieces(m, {&source, 1}, {}, [](size_t, auto) { return Status(Code::no_space, "full"); }).status().code(),
      Code::no_space);
}

// Over real connections: five servers, of which one is killed and one lies.
TEST(ContentFetch, OverTheMesh) {
  const Bytes bytes = noise(8'000'000);
  const ContentManifest m = manifest_of(bytes);
  Bytes false_bytes = bytes;
  for (size_t i = 0; i < false_bytes.size(); i += 65536) false_bytes[i] ^= std::byte{1};
  std::vector<std::unique_ptr<TestServer>> servers;
  std::vector<std::unique_ptr<ChannelSource>> sources;
  std::vector<PieceSource*> pointers;
  std::atomic<int> answered{0};
  for (int i = 0; i < 5; ++i) {
    ServerCallbacks callbacks;
    callbacks.handler = [&, i](const Peer& peer, std::string_view method, Message request, Responder respond) {
      EXPECT_EQ(method, "piece");
      ++answered;
      if (i == 0 && answered > 20) {
        servers[0]->server->disconnect(peer.id, unavailable("killed"));
        return;
      }
      respond(answer_piece_request(request, m, i == 1 ? false_bytes : bytes));
    };
    servers.push_back(std::make_unique<TestServer>(std::move(callbacks)));
    sources.push_back(std::make_unique<ChannelSource>(servers.back()->connect(), 10s));
    pointers.push_back(sources.back().get());
  }
  const Fetched fetched = fetch(m, pointers);
  ASSERT_TRUE(fetched.report.ok()) << fetched.report.status().to_string();
  EXPECT_EQ(fetched.bytes, bytes);
  EXPECT_EQ(fetched.report->donors[1].failure.code(), Code::corrupt_data);
  EXPECT_EQ(fetched.report->donors[1].bytes, 0u);
  EXPECT_FALSE(fetched.report->donors[0].failure.ok());
}

TEST(ContentFetch, RequestsThatMakeNoSense) {
  const Bytes bytes = noise(100'000);
  const ContentManifest m = manifest_of(bytes);
  EXPECT_EQ(answer_piece_request({"\xff", {}}, m, bytes).status().code(), Code::invalid_argument);
  EXPECT_EQ(answer_piece_request({"", {}}, m, bytes).status().code(), Code::invalid_argument);
  const std::string root(reinterpret_cast<const char*>(m.root.data()), 32);
  const std::string head = "\x0a\x20" + root;
  EXPECT_TRUE(answer_piece_request({head, {}}, m, bytes).ok());
  EXPECT_EQ(answer_piece_request({head + "\x10\x02", {}}, m, bytes).status().code(), Code::not_found);
  EXPECT_EQ(answer_piece_request({"\x0a\x20" + std::string(32, 'x'), {}}, m, bytes).status().code(), Code::not_found);
  EXPECT_EQ(answer_piece_request({head, {}}, m, {}).status().code(), Code::not_found);
}

}  // namespace
}  // namespace sporkle::mesh
