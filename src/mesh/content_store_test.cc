#include "mesh/content_store.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <chrono>
#include <thread>

#include "base/file.h"
#include "base/temporary_folder.h"
#include "mesh/content_service.h"
#include "mesh/test_identity.h"
#include "mesh/test_peer.h"

namespace sporkle::mesh {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

class ContentStoreTest : public ::testing::Test {
 protected:
  static Bytes noise(size_t size, uint64_t word = 1) {
    Bytes bytes(size);
    for (std::byte& byte : bytes)
      byte = static_cast<std::byte>((word = word * 6364136223846793005u + 1442695040888963407u) >> 56);
    return bytes;
  }
  fs::path write(const std::string& name, const Bytes& bytes) const {
    EXPECT_TRUE(write_file_atomically(folder_.path() / name, bytes).ok());
    return folder_.path() / name;
  }
  ContentStore store(const std::string& name = "store", uint64_t quota = 1'000'000'000) const {
    return *ContentStore::open(folder_.path() / name, quota);
  }
  static Digest add(const ContentStore& store, const fs::path& file, bool pin = false) {
    const auto entry = store.add(file, ContentKind::model, known_identity(), pin);
    EXPECT_TRUE(entry.ok()) << entry.status().to_string();
    std::this_thread::sleep_for(5ms);  // the next one is used later
    return entry.ok() ? entry->root : Digest{};
  }
  static std::vector<std::string> names(const ContentStore& store) {
    std::vector<std::string> result;
    const auto entries = store.list();
    for (const auto& entry : *entries) result.push_back(entry.manifest ? entry.manifest->name : "?");
    std::ranges::sort(result);
    return result;
  }
  static void damage(const fs::path& path, long offset) {
    std::FILE* const file = std::fopen(path.c_str(), "r+b");
    ASSERT_NE(file, nullptr);
    std::fseek(file, offset, SEEK_SET);
    const int byte = std::fgetc(file);
    std::fseek(file, offset, SEEK_SET);
    std::fputc(byte ^ 1, file);
    std::fclose(file);
  }
  static std::unique_ptr<ContentService> serve(const ContentStore& store, const Digest& root,
                                               const Identity& identity) {
    auto service = ContentService::start(identity, store, {*store.find(to_hex(root))}, loopback_options());
    EXPECT_TRUE(service.ok()) << service.status().to_string();
    return *std::move(service);
  }

  TemporaryFolder folder_ = *TemporaryFolder::create("sporkle-store");
};

TEST_F(ContentStoreTest, AddListFindRemove) {
  const ContentStore s = store();
  const Bytes bytes = noise(300'000);
  const Digest root = add(s, write("weights.bin", bytes));
  EXPECT_EQ(add(s, write("weights.bin", bytes)), root) << "the same again is the same entry";
  const auto entries = s.list();
  ASSERT_EQ(entries->size(), 1u);
  const ContentStore::Entry& entry = entries->front();
  EXPECT_TRUE(entry.complete);
  EXPECT_FALSE(entry.pinned || entry.in_use);
  EXPECT_EQ(entry.manifest->name, "weights.bin");
  EXPECT_GE(entry.disk_bytes, bytes.size());
  EXPECT_EQ(*read_file(s.data_path(root)), std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
  EXPECT_EQ(s.find("weights.bin")->root, root);
  EXPECT_EQ(s.find(to_hex(root).substr(0, 8))->root, root);
  EXPECT_EQ(s.find("other").status().code(), Code::not_found);
  EXPECT_EQ(s.find(to_hex(root).substr(0, 7)).status().code(), Code::not_found);
  {
    const auto use = s.use(root);
    ASSERT_TRUE(use.ok());
    EXPECT_TRUE(s.list()->front().in_use);
    EXPECT_EQ(s.remove(root).code(), Code::unavailable);
  }
  EXPECT_TRUE(s.remove(root).ok());
  EXPECT_TRUE(s.list()->empty());
  EXPECT_EQ(s.remove(root).code(), Code::not_found);
  EXPECT_EQ(s.add(folder_.path() / "nothing", ContentKind::model, known_identity(), false).status().code(),
            Code::not_found);
  EXPECT_EQ(s.add(write("empty", {}), ContentKind::model, known_identity(), false).status().code(),
            Code::invalid_argument);
}

TEST_F(ContentStoreTest, TheOldestMakesRoomButNeverWhatIsPinnedOrInUse) {
  const ContentStore s = store("store", 1'200'000);  // three of 300 kB each, with their manifests
  const auto file = [&](int i) { return write("file" + std::to_string(i), noise(300'000, static_cast<uint64_t>(i))); };
  const Digest pinned = add(s, file(1), true);
  const Digest second = add(s, file(2));
  add(s, file(3));
  EXPECT_TRUE(s.use(second).ok());  // now the third is the oldest that may go
  std::this_thread::sleep_for(5ms);
  add(s, file(4));
  EXPECT_EQ(names(s), (std::vector<std::string>{"file1", "file2", "file4"}));
  const auto use = s.use(second);
  std::this_thread::sleep_for(5ms);
  const auto fourth = s.find("file4");
  const auto other = s.use(fourth->root);
  const auto full = s.add(file(5), ContentKind::model, known_identity(), false);
  EXPECT_EQ(full.status().code(), Code::no_space);
  EXPECT_NE(full.status().message().find("pinned or in use"), std::string::npos) << full.status().message();
  EXPECT_EQ(names(s), (std::vector<std::string>{"file1", "file2", "file4"})) << "nothing went in vain";
  EXPECT_TRUE(s.set_pinned(pinned, false).ok());
  add(s, file(5));
  EXPECT_EQ(names(s), (std::vector<std::string>{"file2", "file4", "file5"}));
  const auto larger = s.add(write("larger", noise(1'300'000)), ContentKind::model, known_identity(), false);
  EXPECT_EQ(larger.status().code(), Code::no_space);
  EXPECT_NE(larger.status().message().find("--quota"), std::string::npos);
}

TEST_F(ContentStoreTest, GetFromTwoNodesAndGoOn) {
  const ContentStore a = store("a"), b = store("b"), here = store("here");
  const Bytes bytes = noise(3'000'000);
  const fs::path file = write("data.bin", bytes);
  const Digest root = add(a, file);
  EXPECT_EQ(add(b, file), root);
  const Identity first = *Identity::generate(), second = *Identity::generate();
  auto service_a = serve(a, root, first), service_b = serve(b, root, second);
  EXPECT_EQ(a.remove(root).code(), Code::unavailable) << "it is being served";
  const std::vector<RunLink> links{content_link(first.id(), {{"127.0.0.1", service_a->port()}}, root),
                                   content_link(second.id(), {{"127.0.0.1", service_b->port()}}, root)};
  EXPECT_EQ(content_in_link(*RunLink::parse(links[0].to_string())), root);
  ContentFetchOptions options;
  options.on_bytes = [](uint64_t bytes_here, uint64_t) { return bytes_here < 1'000'000; };
  EXPECT_EQ(fetch_content(here, links, known_identity(), options).status().code(), Code::cancelled);
  ASSERT_EQ(here.list()->size(), 1u);
  EXPECT_FALSE(here.list()->front().complete);
  // One of the pieces that are there is damaged meanwhile; a process that died leaves no lock behind.
  damage(folder_.path() / "here" / "entries" / to_hex(root) / "partial", 10);
  const auto fetched = fetch_content(here, links, known_identity());
  ASSERT_TRUE(fetched.ok()) << fetched.status().to_string();
  EXPECT_GE(fetched->resumed_bytes, 900'000u);
  EXPECT_LT(fetched->resumed_bytes, 1'100'000u);
  uint64_t sum = 0;
  for (const auto& donor : fetched->report.donors) {
    EXPECT_GT(donor.bytes, 0u);
    sum += donor.bytes;
  }
  EXPECT_EQ(sum, bytes.size() - fetched->resumed_bytes);
  EXPECT_EQ(*read_file(here.data_path(root)), std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
  EXPECT_EQ(fetched->entry.sources, (std::vector<std::string>{links[0].to_string(), links[1].to_string()}));
  EXPECT_EQ(fetch_content(here, links, known_identity())->resumed_bytes, bytes.size()) << "nothing is fetched twice";
  const RunLink other = content_link(first.id(), links[0].addresses, Digest{});
  EXPECT_EQ(fetch_content(here, {&other, 1}, known_identity()).status().code(), Code::unavailable);
}

TEST_F(ContentStoreTest, CorruptEntriesAreFoundAndOnlyTheirPiecesComeAgain) {
  const ContentStore a = store("a"), here = store("here");
  const fs::path file = write("data.bin", noise(2'000'000));
  const Digest root = add(a, file);
  add(here, file);
  EXPECT_TRUE(here.verify(*here.find("data.bin"))->empty());
  damage(here.data_path(root), 70'000);
  damage(here.data_path(root), 1'999'999);
  const auto bad = here.verify(*here.find("data.bin"));
  ASSERT_TRUE(bad.ok()) << bad.status().to_string();
  EXPECT_EQ(*bad, (std::vector<size_t>{1, 30}));
  EXPECT_FALSE(here.find("data.bin")->complete);
  const Identity node = *Identity::generate();
  const auto service = serve(a, root, node);
  const RunLink link = content_link(node.id(), {{"127.0.0.1", service->port()}}, root);
  const auto fetched = fetch_content(here, {&link, 1}, known_identity());
  ASSERT_TRUE(fetched.ok()) << fetched.status().to_string();
  EXPECT_EQ(fetched->resumed_bytes, 2'000'000u - 65'536 - (2'000'000 - 30 * 65'536));
  EXPECT_TRUE(here.verify(fetched->entry)->empty());

  // A cut file, and a manifest that is none.
  fs::resize_file(here.data_path(root), 100'000);
  EXPECT_NE(here.find("data.bin")->fault, "");
  EXPECT_EQ(here.verify(*here.find("data.bin"))->size(), 30u);
  ASSERT_TRUE(write_file_atomically(here.data_path(root).parent_path() / "manifest", "rubbish").ok());
  const auto broken = here.find(to_hex(root));
  ASSERT_TRUE(broken.ok());
  EXPECT_FALSE(broken->manifest);
  EXPECT_EQ(here.verify(*broken).status().code(), Code::corrupt_data);
  EXPECT_TRUE(fetch_content(here, {&link, 1}, known_identity()).ok()) << "getting it anew mends that, too";
}

TEST_F(ContentStoreTest, TwoProcessesDoNotFetchTheSame) {
  const ContentStore s = store();
  const Bytes bytes = noise(200'000);
  const auto manifest = ContentManifest::of_bytes(bytes, "x", ContentKind::dataset, known_identity());
  auto download = s.begin(*manifest);
  ASSERT_TRUE(download.ok()) << download.status().to_string();
  EXPECT_EQ(s.begin(*manifest).status().code(), Code::unavailable);
  EXPECT_EQ(s.finish(*manifest, *download).code(), Code::internal) << "it is not complete";
  EXPECT_FALSE(s.find("x")->complete);
}

}  // namespace
}  // namespace sporkle::mesh
