#include "mesh/run_record.h"

#include <gtest/gtest.h>

#include <string>

#include "base/sha256.h"
#include "mesh/record.pb.h"
#include "mesh/test_identity.h"

namespace sporkle::mesh {
namespace {

// The vectors of docs/protocol.md, made with another implementation.
constexpr char signed_hex[] =
    "73706f726b6c652072756e207265636f7264203100d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a"
    "68f707511a000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f80401cc39a010000d0ef30"
    "6900000000040074696e7902000e003139322e302e322e373a3730303012005b323030313a6462383a3a375d3a373030"
    "30";
constexpr char signature_hex[] =
    "2dd9e800cda1644ebbc4c1d9b9d1057a2411b3e31ff4876f625ac9baf498190507008c46242f24a52ae85100357e0b75"
    "8244d70b1cd2ab6ee56f167b5f25a70e";
constexpr char encoded_hex[] =
    "0a20d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a1220000102030405060708090a0b"
    "0c0d0e0f101112131415161718191a1b1c1d1e1f188081f198ac3320d0dfc3c9062a0474696e79320e3139322e302e32"
    "2e373a3730303032125b323030313a6462383a3a375d3a373030303a402dd9e800cda1644ebbc4c1d9b9d1057a2411b3"
    "e31ff4876f625ac9baf498190507008c46242f24a52ae85100357e0b758244d70b1cd2ab6ee56f167b5f25a70e";

RunRecord unsigned_record() {
  RunRecord record;
  for (size_t i = 0; i < record.run_id.size(); ++i) record.run_id[i] = static_cast<std::byte>(i);
  record.sequence = 1'764'210'000'000;
  record.expires_unix_s = 1'764'814'800;
  record.name = "tiny";
  record.addresses = {{"192.0.2.7", 7000}, {"2001:db8::7", 7000}};
  return record;
}

RunRecord known_record() { return *RunRecord::sign(unsigned_record(), known_identity()); }

void expect_corrupt(const std::string& encoded, const std::string& part) {
  const auto result = RunRecord::parse(std::as_bytes(std::span(encoded)));
  ASSERT_FALSE(result.ok()) << part;
  EXPECT_EQ(result.status().code(), Code::corrupt_data);
  EXPECT_NE(result.status().message().find(part), std::string::npos) << result.status().message();
}

wire::RunRecord message_of(const RunRecord& record) {
  wire::RunRecord message;
  const auto bytes = record.encode();
  EXPECT_TRUE(message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())));
  return message;
}

TEST(RunRecord, MatchesTheVectorsByteByByte) {
  const RunRecord record = known_record();
  EXPECT_EQ(to_hex(record.key), "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
  EXPECT_EQ(to_hex(record.signed_bytes()), signed_hex);
  EXPECT_EQ(to_hex(record.signature), signature_hex);
  EXPECT_EQ(to_hex(record.encode()), encoded_hex);
  EXPECT_EQ(record.coordinator().to_string(), "eh7ddx5bksrgcytl7bkai36se4nxx3klnk7elksyq57pi74xeg4q");
  const auto parsed = RunRecord::parse(record.encode());
  ASSERT_TRUE(parsed.ok()) << parsed.status().to_string();
  EXPECT_EQ(*parsed, record);
}

TEST(RunRecord, EveryFieldIsSigned) {
  const RunRecord record = known_record();
  const auto forge = [&](auto change) {
    wire::RunRecord message = message_of(record);
    change(message);
    expect_corrupt(message.SerializeAsString(), "signature is not node");
  };
  forge([](wire::RunRecord& m) { m.set_sequence(m.sequence() + 1); });
  forge([](wire::RunRecord& m) { m.set_expires_unix_s(m.expires_unix_s() + 1); });
  forge([](wire::RunRecord& m) { m.set_name("tinx"); });
  forge([](wire::RunRecord& m) { m.set_addresses(0, "192.0.2.8:7000"); });
  forge([](wire::RunRecord& m) { m.mutable_addresses()->RemoveLast(); });
  forge([](wire::RunRecord& m) { m.add_addresses("192.0.2.9:1"); });
  forge([](wire::RunRecord& m) { m.set_run_id(std::string(32, 'x')); });
  forge([](wire::RunRecord& m) { (*m.mutable_signature())[63] ^= 1; });
  // Somebody else's key under the same content: the node ID is then another, and the signature is not its.
  forge([](wire::RunRecord& m) {
    const auto key = Identity::generate()->public_key();
    m.set_public_key(std::string(reinterpret_cast<const char*>(key.data()), key.size()));
  });
}

TEST(RunRecord, AnotherKeysRecordIsAnotherRuns) {
  const RunRecord own = known_record();
  const RunRecord others = *RunRecord::sign(unsigned_record(), *Identity::generate());
  EXPECT_TRUE(own.belongs_to(own.link()));
  EXPECT_FALSE(others.belongs_to(own.link()));
  RunLink link = own.link();
  link.parameters.clear();
  EXPECT_TRUE(own.belongs_to(link)) << "a link without a run ID names any run of its coordinator";
  link.parameters["run"] = "0011223344556677";
  EXPECT_FALSE(own.belongs_to(link));
  EXPECT_EQ(own.link().to_string(),
            "sporkle://eh7ddx5bksrgcytl7bkai36se4nxx3klnk7elksyq57pi74xeg4q@192.0.2.7:7000,[2001:db8::7]:7000/"
            "?key=25njqamcweflpvkl73j4szahhihoc4xt3ktcgjnpaingr5yhkena&run=0001020304050607");
}

TEST(RunRecord, ErrorsNameWhatIsWrong) {
  const auto with = [](auto change) {
    wire::RunRecord message = message_of(known_record());
    change(message);
    return message.SerializeAsString();
  };
  expect_corrupt("\xff\xff\xff", "not a protobuf message");
  expect_corrupt("", "public key has 0 bytes instead of 32");
  expect_corrupt(std::string(1025, '\0'), "1025 bytes; at most 1024");
  expect_corrupt(with([](wire::RunRecord& m) { m.set_run_id("x"); }), "run ID has 1 bytes instead of 32");
  expect_corrupt(with([](wire::RunRecord& m) { m.clear_signature(); }), "signature has 0 bytes instead of 64");
  expect_corrupt(with([](wire::RunRecord& m) { m.clear_name(); }), "name has 0 bytes");
  expect_corrupt(with([](wire::RunRecord& m) { m.set_name(std::string(65, 'n')); }), "name has 65 bytes");
  expect_corrupt(with([](wire::RunRecord& m) { m.clear_addresses(); }), "0 addresses");
  expect_corrupt(with([](wire::RunRecord& m) {
                   for (int i = 0; i < 15; ++i) m.add_addresses("h:1");
                 }),
                 "17 addresses");
  expect_corrupt(with([](wire::RunRecord& m) { m.set_addresses(0, "h"); }), "no port");
  expect_corrupt(with([](wire::RunRecord& m) { m.set_addresses(0, "h:007"); }), "plain form");
  expect_corrupt(with([](wire::RunRecord& m) { m.set_addresses(0, "[fe80::1%eth0]:7"); }), "zone");

  RunRecord nameless = unsigned_record();
  nameless.name.clear();
  EXPECT_EQ(RunRecord::sign(nameless, known_identity()).status().code(), Code::invalid_argument);
  RunRecord long_one = unsigned_record();
  long_one.addresses.assign(4, {std::string(250, 'h'), 1});
  const auto too_long = RunRecord::sign(long_one, known_identity());
  ASSERT_FALSE(too_long.ok());
  EXPECT_NE(too_long.status().message().find("at most 1024"), std::string::npos) << too_long.status().message();
}

TEST(RunRecord, Expires) {
  const RunRecord record = known_record();
  EXPECT_TRUE(record.check_expiry(record.expires_unix_s - 1).ok());
  const Status late = record.check_expiry(record.expires_unix_s + 5);
  EXPECT_EQ(late.code(), Code::deadline_exceeded);
  EXPECT_NE(late.message().find("expired 5 s ago"), std::string::npos) << late.message();
  EXPECT_TRUE(record.expired(record.expires_unix_s));
}

TEST(RunRecord, AnOlderSequenceNumberLoses) {
  std::optional<RunRecord> held;
  const auto numbered = [](uint64_t sequence, const std::string& name = "tiny") {
    RunRecord record = unsigned_record();
    record.sequence = sequence;
    record.name = name;
    return *RunRecord::sign(record, known_identity());
  };
  EXPECT_TRUE(replace_if_newer(held, numbered(5)).ok());
  EXPECT_TRUE(replace_if_newer(held, numbered(5)).ok()) << "the same again";
  const Status rollback = replace_if_newer(held, numbered(4));
  EXPECT_EQ(rollback.code(), Code::invalid_argument);
  EXPECT_NE(rollback.message().find("4 is older than the one known here, 5"), std::string::npos) << rollback.message();
  EXPECT_EQ(replace_if_newer(held, numbered(5, "other")).code(), Code::invalid_argument);
  EXPECT_EQ(held->sequence, 5u);
  EXPECT_EQ(held->name, "tiny");
  EXPECT_TRUE(replace_if_newer(held, numbered(6)).ok());
  EXPECT_EQ(held->sequence, 6u);
}

TEST(RunRecord, AddressesAreCutToWhatFits) {
  std::vector<Address> addresses{{"192.0.2.1", 7}, {"192.0.2.1", 7}, {"fe80::1%eth0", 7}};
  for (int i = 0; i < 4; ++i) addresses.push_back({std::string(222, 'h') + std::to_string(i), 65535});
  addresses.push_back({"192.0.2.2", 7});
  RunRecord record = unsigned_record();
  record.name = std::string(RunRecord::max_name_bytes, 'n');
  record.sequence = record.expires_unix_s = UINT64_MAX;
  record.addresses = fit_addresses(addresses);
  EXPECT_EQ(record.addresses.front().host, "192.0.2.1");
  EXPECT_EQ(record.addresses.back().host, "192.0.2.2");
  EXPECT_EQ(record.addresses.size(), 5u);
  EXPECT_TRUE(RunRecord::sign(record, known_identity()).ok());
  addresses.clear();
  for (uint16_t port = 1; port < 40; ++port) addresses.push_back({"h", port});
  EXPECT_EQ(fit_addresses(addresses).size(), RunRecord::max_addresses);
}

TEST(RunRecord, TextForm) {
  const RunRecord record = known_record();
  const std::string text = record_to_text(record);
  EXPECT_TRUE(text.starts_with("sporkle-record:biqnowuyagblccvx2vf7")) << text;
  EXPECT_TRUE(text.ends_with("4s2odq")) << text;
  const auto bytes = record_bytes_from_text(text);
  ASSERT_TRUE(bytes.ok()) << bytes.status().to_string();
  EXPECT_EQ(*RunRecord::parse(*bytes), record);
  EXPECT_EQ(RunRecord::claimed_signer(*bytes), record.coordinator());
  EXPECT_EQ(RunRecord::claimed_signer(std::vector<std::byte>(7, std::byte{255})), std::nullopt);
  for (const std::string& bad : {std::string("x"), std::string("sporkle-record:1"), text + "!",
                                 text.substr(0, text.size() - 1), "sporkle-record:" + std::string(2000, 'a')})
    EXPECT_EQ(record_bytes_from_text(bad).status().code(), Code::invalid_argument) << bad;
}

}  // namespace
}  // namespace sporkle::mesh
