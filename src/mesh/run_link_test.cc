#include "mesh/run_link.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "mesh/identity.h"

namespace sporkle::mesh {
namespace {

std::string id_text() { return std::string(51, 'b') + "a"; }
std::string link(const std::string& rest) { return "sporkle://" + id_text() + rest; }

TEST(RunLink, RoundTrip) {
  RunLink original;
  original.coordinator = Identity::generate()->id();
  original.addresses = {{"10.0.0.1", 7000}, {"::1", 65535}, {"node-1.example.org", 1}};
  original.parameters = {{"name", "King James & co. = 100 %"}, {"x", ""}};
  const std::string text = original.to_string();
  EXPECT_EQ(text.find(' '), std::string::npos);
  EXPECT_NE(text.find("@10.0.0.1:7000,[::1]:65535,node-1.example.org:1/?name=King%20James"), std::string::npos) << text;
  const auto parsed = RunLink::parse(text);
  ASSERT_TRUE(parsed.ok()) << parsed.status().to_string();
  EXPECT_EQ(*parsed, original);
}

TEST(RunLink, AcceptsTheShortForms) {
  for (const std::string& text : {link("@h:1"), link("@h:1/"), link("@h:1/?"), link("@h:1?a=b")})
    EXPECT_TRUE(RunLink::parse(text).ok()) << text;
  EXPECT_EQ(RunLink::parse(link("@[fe80::1%eth0]:9"))->addresses[0].host, "fe80::1%eth0");
}

TEST(RunLink, MayHaveNoAddress) {
  for (const std::string& text : {link(""), link("/"), link("/?run=ab")}) {
    const auto parsed = RunLink::parse(text);
    ASSERT_TRUE(parsed.ok()) << parsed.status().to_string();
    EXPECT_TRUE(parsed->addresses.empty());
    EXPECT_EQ(*RunLink::parse(parsed->to_string()), *parsed);
  }
  EXPECT_EQ(RunLink::parse(link(""))->to_string(), link("/"));
}

TEST(RunLink, ErrorsNameThePartAtFault) {
  const auto expect_error = [](const std::string& text, const std::string& part) {
    const auto result = RunLink::parse(text);
    ASSERT_FALSE(result.ok()) << text;
    EXPECT_EQ(result.status().code(), Code::invalid_argument) << text;
    EXPECT_NE(result.status().message().find(part), std::string::npos) << text << ": " << result.status().message();
  };
  expect_error("", "does not begin with sporkle://");
  expect_error("https://example.org", "does not begin with sporkle://");
  expect_error("sporkle://", "node ID");
  expect_error("sporkle://h:1", "node ID");
  expect_error("sporkle://abc@h:1", "node ID");
  expect_error(link("@"), "no port");
  expect_error(link("@host"), "no port");
  expect_error(link("@host:"), "no valid port");
  expect_error(link("@host:0"), "no valid port");
  expect_error(link("@host:65536"), "no valid port");
  expect_error(link("@host:99999999999999999999"), "no valid port");
  expect_error(link("@host:1x"), "no valid port");
  expect_error(link("@:1"), "no valid host");
  expect_error(link("@ho st:1"), "no valid host");
  expect_error(link("@h:1,,h:2"), "no port");
  expect_error(link("@::1:7000"), "brackets");
  expect_error(link("@[::g]:7000"), "IPv6");
  expect_error(link("@[::1]"), "no port");
  expect_error(link("@h:1/?novalue"), "name=value");
  expect_error(link("@h:1/?=v"), "name=value");
  expect_error(link("@h:1/?a=%4"), "hexadecimal");
  expect_error(link("@h:1/?a=%zz"), "hexadecimal");
  expect_error(link("@h:1/?a=1&a=2"), "twice");
  expect_error(link("@h:1/?a=" + std::string(5000, 'x')), "characters");
  std::string many = "@h:1";
  for (int i = 0; i < 16; ++i) many += ",h:1";
  expect_error(link(many), "more than 16");
  EXPECT_EQ(RunLink::parse(link("@h\x1b[2J:1")).status().message().find('\x1b'), std::string::npos)
      << "an error shows no control characters";
}

TEST(LocalAddresses, EndWithLoopback) {
  const auto addresses = local_addresses();
  ASSERT_FALSE(addresses.empty());
  EXPECT_NE(std::find(addresses.begin(), addresses.end(), "127.0.0.1"), addresses.end());
  for (const std::string& host : addresses) EXPECT_TRUE(Address::parse(Address{host, 1}.to_string()).ok()) << host;
}

}  // namespace
}  // namespace sporkle::mesh
