#include "mesh/dht.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <thread>

#include "base/file.h"
#include "base/sha256.h"
#include "base/temporary_folder.h"
#include "mesh/dht_publisher.h"
#include "mesh/test_identity.h"

namespace sporkle::mesh {
namespace {

using namespace std::chrono_literals;
using std::chrono::steady_clock;

RunRecord record(const Identity& identity, uint64_t sequence = 1, std::byte run = std::byte{1},
                 uint64_t expires = 4'000'000'000) {
  RunRecord fields;
  fields.run_id.fill(run);
  fields.sequence = sequence;
  fields.expires_unix_s = expires;
  fields.name = "dht run";
  fields.addresses = {{"192.0.2.7", 7000}};
  return *RunRecord::sign(fields, identity);
}

template <size_t N>
std::array<std::byte, N> from_hex(const std::string& text) {
  std::array<std::byte, N> bytes;
  for (size_t i = 0; i < N; ++i) bytes[i] = static_cast<std::byte>(std::stoi(text.substr(2 * i, 2), nullptr, 16));
  return bytes;
}

DhtOptions node_options(int host, std::vector<Address> bootstrap) {
  DhtOptions options;
  // Far from each other, as nodes are: of one network a table takes few.
  options.host = "127." + std::to_string(1 + host * 17 % 250) + "." + std::to_string(host * 29 % 250) + ".2";
  options.bootstrap = std::move(bootstrap);
  return options;
}

std::unique_ptr<Dht> start(const DhtOptions& options) {
  auto dht = Dht::start(options);
  EXPECT_TRUE(dht.ok()) << dht.status().to_string();
  return dht.ok() ? *std::move(dht) : nullptr;
}

// A table of some honest nodes, of which the first is the way in.
struct Table {
  std::vector<std::unique_ptr<Dht>> nodes;
  std::vector<Address> entry;
  explicit Table(int count) {
    for (int i = 0; i < count; ++i) {
      nodes.push_back(start(node_options(i, entry)));
      if (i == 0) entry = {{"127.1.0.2", nodes[0]->port()}};
    }
  }
};

// docs/protocol.md has these.
TEST(Dht, BytesSignedMatchTheVector) {
  RunRecord fields;
  for (size_t i = 0; i < fields.run_id.size(); ++i) fields.run_id[i] = static_cast<std::byte>(i);
  fields.sequence = 1764210000000;
  fields.expires_unix_s = 1764814800;
  fields.name = "tiny";
  fields.addresses = {{"192.0.2.7", 7000}, {"2001:db8::7", 7000}};
  const RunRecord known = *RunRecord::sign(fields, known_identity());
  const std::vector<std::byte> value = known.encode();
  const std::string salt = dht_salt(link_run_value(known.run_id));
  EXPECT_EQ(salt, "sporkle run 0001020304050607");
  const std::vector<std::byte> bytes = dht_signed_bytes(salt, known.sequence, value);
  const std::string head =
      "343a73616c7432383a73706f726b6c652072756e2030303031303230333034303530363037333a736571693137"
      "363432313030303030303065313a763138393a";
  EXPECT_EQ(to_hex(bytes), head + to_hex(value));
  EXPECT_EQ(to_hex(known_identity().sign(bytes)),
            "e5dd113c343225b00c79716411bc856e017ba31e44d947e698886721f92b8d1e"
            "d655ec9dd578d1b741bb7c80879557cdafb250fcd41b5923a32b56dc3a8f330e");
  EXPECT_EQ(known.link().parameters.at("key"), "25njqamcweflpvkl73j4szahhihoc4xt3ktcgjnpaingr5yhkena");
}

// The signature of BEP 44's own example with salt.
TEST(Dht, BytesSignedAreThoseOfBep44) {
  const std::string value = "Hello World!";
  const auto bytes = dht_signed_bytes("foobar", 1, std::as_bytes(std::span(value)));
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()),
            "4:salt6:foobar3:seqi1e1:v12:Hello World!");
  const auto key = from_hex<32>("77ff84905a91936367c01360803104f92432fcd904a43511876df5cdf3e7e548");
  const auto signature = from_hex<64>(
      "6834284b6b24c3204eb2fea824d82f88883a3d95e8b4a21b8c0ded553d17d17d"
      "df9a8a7104b1258f30bed3787e6cb896fca78c58f8e03b5f18f14951a87d9a08");
  EXPECT_TRUE(verify_signature(key, bytes, signature));
}

TEST(Dht, ARecordIsFoundByItsLink) {
  Table table(30);
  const Identity identity = *Identity::generate();
  const auto coordinator = start(node_options(40, table.entry));
  size_t stored = 0;
  for (int i = 0; i < 20 && stored < 3; ++i) {  // until the new table has found itself
    if (i > 0) std::this_thread::sleep_for(300ms);
    const auto put = coordinator->put(record(identity, 7), identity, 20s);
    ASSERT_TRUE(put.ok()) << put.status().to_string();
    stored = *put;
  }
  EXPECT_GE(stored, 3u);
  const auto joiner = start(node_options(41, table.entry));
  RunLink link = record(identity).link();
  link.addresses.clear();
  const auto before = steady_clock::now();
  const auto found = joiner->find(link, 20s);
  ASSERT_TRUE(found.ok()) << found.status().to_string();
  EXPECT_EQ(*found, record(identity, 7));
  EXPECT_LT(steady_clock::now() - before, 10s);

  // Once there is a newer one, the old one cannot take its place, not even by its owner's mistake.
  ASSERT_TRUE(coordinator->put(record(identity, 9), identity, 20s).ok());
  EXPECT_EQ(coordinator->put(record(identity, 8), identity, 20s).status().code(), Code::already_exists);
  EXPECT_EQ(joiner->find(link, 20s)->sequence, 9u);

  // Other runs of the key, and other keys, have their own places.
  EXPECT_EQ(joiner->find(record(identity, 1, std::byte{2}).link(), 1s).status().code(), Code::not_found);
  EXPECT_EQ(joiner->find(record(*Identity::generate()).link(), 1s).status().code(), Code::not_found);
  // An expired one is none.
  const Identity late = *Identity::generate();
  ASSERT_TRUE(coordinator->put(record(late, 1, std::byte{1}, 1'000), late, 20s).ok());
  const auto expired = joiner->find(record(late).link(), 2s);
  EXPECT_EQ(expired.status().code(), Code::not_found);
  EXPECT_NE(expired.status().message().find("expired"), std::string::npos) << expired.status().message();
}

TEST(Dht, WhatCannotBeAskedOrPut) {
  const auto dht = start(node_options(0, {}));
  const Identity identity = *Identity::generate(), other = *Identity::generate();
  EXPECT_EQ(dht->find({identity.id(), {}, {}}, 1s).status().code(), Code::not_found);
  RunLink wrong = record(identity).link();
  wrong.parameters["key"] = link_key_value(other.public_key());
  EXPECT_EQ(dht->find(wrong, 1s).status().code(), Code::invalid_argument);
  wrong.parameters["key"] = "x";
  EXPECT_EQ(dht->find(wrong, 1s).status().code(), Code::invalid_argument);
  RunLink no_run = record(identity).link();
  no_run.parameters.erase("run");
  EXPECT_EQ(dht->find(no_run, 1s).status().code(), Code::invalid_argument);
  EXPECT_EQ(dht->put(record(identity), other, 1s).status().code(), Code::invalid_argument);
  EXPECT_EQ(dht->put(record(identity, uint64_t{1} << 63), identity, 1s).status().code(), Code::invalid_argument);
  RunRecord large = record(identity);
  for (int i = 0; i < 9; ++i) large.addresses.push_back({std::string(80, 'a' + i) + ".example", 7000});
  EXPECT_EQ(dht->put(*RunRecord::sign(large, identity), identity, 1s).status().code(), Code::invalid_argument);
  EXPECT_EQ(dht->put(record(identity), identity, 300ms).status().code(), Code::deadline_exceeded) << "there is nobody";
  std::stop_source stop;
  stop.request_stop();
  EXPECT_EQ(dht->find(record(identity).link(), 60s, stop.get_token()).status().code(), Code::cancelled);
}

TEST(Dht, AnAddressInUseIsAnError) {
  const auto first = start(node_options(0, {}));
  DhtOptions options = node_options(0, {});
  options.port = first->port();
  const auto second = Dht::start(options);
  EXPECT_EQ(second.status().code(), Code::unavailable);
  EXPECT_NE(second.status().message().find("cannot listen"), std::string::npos) << second.status().message();
}

TEST(Dht, RemembersNodesWithoutAList) {
  const auto folder = TemporaryFolder::create("sporkle-test");
  Table table(12);
  const Identity identity = *Identity::generate();
  ASSERT_TRUE(table.nodes[3]->put(record(identity, 5), identity, 20s).ok());
  DhtOptions options = node_options(50, table.entry);
  options.nodes_file = folder->path() / "nodes";
  {
    const auto first = start(options);
    ASSERT_TRUE(first->find(record(identity).link(), 20s).ok());
    for (int i = 0; i < 200 && first->node_count() == 0; ++i) std::this_thread::sleep_for(20ms);
  }
  ASSERT_TRUE(std::filesystem::exists(options.nodes_file));
  options.bootstrap.clear();
  const auto found = start(options)->find(record(identity).link(), 20s);
  EXPECT_TRUE(found.ok()) << found.status().to_string();
  ASSERT_TRUE(write_file_atomically(options.nodes_file, std::string_view("no list")).ok());
  EXPECT_NE(start(options), nullptr) << "a damaged file counts as none";
}

TEST(DhtPublisher, PublishesAgainWhenTheRecordChanges) {
  Table table(8);
  const Identity identity = *Identity::generate();
  std::atomic<uint64_t> sequence{3};
  DhtPublisherOptions options;
  options.look_interval = 20ms;
  const DhtPublisher publisher(
      *table.nodes[1], identity, [&]() -> Result<RunRecord> { return record(identity, sequence); }, options);
  const auto sees = [&](uint64_t expected) {
    for (int i = 0; i < 40; ++i) {
      const auto found = table.nodes[5]->find(record(identity).link(), 1s);
      if (found.ok() && found->sequence == expected) return true;
      std::this_thread::sleep_for(50ms);
    }
    return false;
  };
  EXPECT_TRUE(sees(3));
  sequence = 4;
  EXPECT_TRUE(sees(4));
}

// What a lying node says stands at the place that it is asked for.
struct Lie {
  PublicKey key{};
  uint64_t sequence = 0;
  Signature signature{};
  std::vector<std::byte> value;
};

Lie item_of(const RunRecord& what, const Identity& signer, uint64_t sequence) {
  Lie lie{signer.public_key(), sequence, {}, what.encode()};
  lie.signature = signer.sign(dht_signed_bytes(dht_salt(link_run_value(what.run_id)), sequence, lie.value));
  return lie;
}

template <typename Range>
std::string text_of(const Range& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// A node that speaks the DHT's protocol by hand, claims to stand next to whatever it is asked for, and says that an
// innocent machine does, too.
class Liar {
 public:
  Liar(int host, uint16_t innocent_port, std::optional<Lie> lie)
      : lie_(std::move(lie)), host_(host), innocent_port_(innocent_port), fd_(udp_socket(host, &port_)) {
    thread_ = std::jthread([this](const std::stop_token& stop) { serve(stop); });
  }
  ~Liar() {
    thread_.request_stop();
    thread_.join();
    ::close(fd_);
  }
  Address address() const { return {"127.0.9." + std::to_string(host_), port_}; }
  int gets() const { return gets_; }

  static int udp_socket(int host, uint16_t* port) {
    const int fd = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(0x7f000900u + static_cast<uint32_t>(host));
    EXPECT_EQ(::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    socklen_t size = sizeof address;
    ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
    *port = ntohs(address.sin_port);
    return fd;
  }

 private:
  std::string answer(const std::string& target, const std::string& transaction, bool get) const {
    std::string id = target.empty() ? std::string(20, 'x') : target;
    id[18] = static_cast<char>(host_);
    std::string nodes = id.substr(0, 19) + "y";
    for (const int part : {127, 0, 9, 250, innocent_port_ >> 8, innocent_port_ & 255}) nodes += static_cast<char>(part);
    std::string text = "d1:rd2:id20:" + id;
    if (get && lie_) text += "1:k32:" + text_of(lie_->key);
    text += "5:nodes" + std::to_string(nodes.size()) + ":" + nodes;
    if (get && lie_) text += "3:seqi" + std::to_string(lie_->sequence) + "e3:sig64:" + text_of(lie_->signature);
    text += "5:token4:abcd";
    if (get && lie_) text += "1:v" + std::to_string(lie_->value.size()) + ":" + text_of(lie_->value);
    return text + "e1:t2:" + transaction + "1:y1:re";
  }

  void serve(const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      pollfd poll{fd_, POLLIN, 0};
      if (::poll(&poll, 1, 20) <= 0) continue;
      char buffer[2048];
      sockaddr_in from{};
      socklen_t size = sizeof from;
      const ssize_t count = ::recvfrom(fd_, buffer, sizeof buffer, 0, reinterpret_cast<sockaddr*>(&from), &size);
      const std::string query(buffer, static_cast<size_t>(std::max<ssize_t>(count, 0)));
      const auto field = [&query](const std::string& name, size_t length) {
        const size_t at = query.find(name);
        return at == std::string::npos ? std::string() : query.substr(at + name.size(), length);
      };
      const std::string transaction = field("1:t2:", 2), target = field("6:target20:", 20);
      if (query.find("1:y1:q") == std::string::npos || transaction.size() != 2) continue;
      const bool get = query.find("1:q3:get") != std::string::npos;
      gets_ += get;
      const std::string reply = answer(target, transaction, get);
      ::sendto(fd_, reply.data(), reply.size(), 0, reinterpret_cast<const sockaddr*>(&from), size);
    }
  }

  const std::optional<Lie> lie_;
  const int host_;
  const uint16_t innocent_port_;
  uint16_t port_ = 0;
  int fd_;
  std::atomic<int> gets_{0};
  std::jthread thread_;
};

// Every way to lie, among them and beside honest nodes: nothing but the coordinator's newest record is believed.
TEST(Dht, AFullOfLiesTricksNobody) {
  const Identity identity = *Identity::generate(), stranger = *Identity::generate();
  const RunRecord honest = record(identity, 50), old = record(identity, 40);
  uint16_t innocent_port = 0;
  const int innocent = Liar::udp_socket(250, &innocent_port);

  std::vector<std::optional<Lie>> lies;
  lies.push_back(item_of(record(stranger, 90), stranger, 90));  // another key's
  Lie forged = item_of(record(stranger, 90), stranger, 90);
  forged.key = identity.public_key();  // the key claimed, the signature a stranger's
  lies.push_back(forged);
  Lie renumbered = item_of(old, identity, 40);
  renumbered.sequence = 99;  // an old record as the newest
  lies.push_back(renumbered);
  lies.push_back(item_of(old, identity, 40));                                 // an old one, played again
  lies.push_back(item_of(record(identity, 60, std::byte{7}), identity, 60));  // of another run, by its salt
  Lie damaged = item_of(honest, identity, 50);
  damaged.value[30] ^= std::byte{1};
  lies.push_back(damaged);
  lies.push_back(std::nullopt);  // none
  std::vector<std::unique_ptr<Liar>> liars;
  std::vector<Address> entry;
  for (size_t i = 0; i < 21; ++i) {
    liars.push_back(std::make_unique<Liar>(static_cast<int>(i + 1), innocent_port, lies[i % lies.size()]));
    entry.push_back(liars.back()->address());
  }

  RunLink link = honest.link();
  {
    // Among liars alone: the old record at most, which the coordinator once signed.
    const auto joiner = start(node_options(61, entry));
    const auto found = joiner->find(link, 4s);
    EXPECT_TRUE(!found.ok() || *found == old) << found->sequence;
    EXPECT_EQ(joiner->find(record(stranger, 1, std::byte{9}).link(), 1s).status().code(), Code::not_found);
  }
  {
    // The coordinator itself must not be made to sign or take back anything by what stands there.
    Table table(10);
    std::vector<Address> both = entry;
    both.push_back(table.entry[0]);
    const auto coordinator = start(node_options(62, both));
    const auto put = coordinator->put(honest, identity, 60s);
    ASSERT_TRUE(put.ok()) << put.status().to_string();
    std::vector<Address> honest_first = table.entry;
    honest_first.insert(honest_first.end(), entry.begin(), entry.end());
    const auto joiner = start(node_options(63, honest_first));
    const auto found = joiner->find(link, 60s);
    ASSERT_TRUE(found.ok()) << found.status().to_string();
    EXPECT_TRUE(*found == honest || *found == old);
  }
  int gets = 0;
  for (const auto& liar : liars) gets += liar->gets();
  EXPECT_GT(gets, 0) << "nobody was lied to";
  // An address that liars name gets a few packets from each who looks, and no more.
  int packets = 0;
  char buffer[2048];
  while (::recv(innocent, buffer, sizeof buffer, MSG_DONTWAIT) > 0) ++packets;
  EXPECT_LT(packets, 60);
  ::close(innocent);
}

}  // namespace
}  // namespace sporkle::mesh
