#include "run/parameter_fetch.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <optional>

#include "mesh/client.h"
#include "run/held_parameters.h"
#include "run/parameter_donor.h"
#include "run/protocol.h"
#include "run/run.pb.h"

namespace sporkle::run {
namespace {

using namespace std::chrono_literals;

std::shared_ptr<const std::vector<float>> values(size_t count, float first = 0) {
  auto result = std::make_shared<std::vector<float>>(count);
  for (size_t i = 0; i < count; ++i) (*result)[i] = first + static_cast<float>(i);
  return result;
}

Digest digest_of(const std::vector<float>& parameters) { return sha256(std::as_bytes(std::span(parameters))); }

class ParameterFetchTest : public ::testing::Test {
 protected:
  ParameterOffer offer_of(const std::vector<float>& parameters, size_t donors) const {
    ParameterOffer offer;
    offer.version = 7;
    offer.sha256 = digest_of(parameters);
    offer.manifest = *mesh::ContentManifest::of_bytes(std::as_bytes(std::span(parameters)), "parameters-7",
                                                      mesh::ContentKind::checkpoint, identity_);
    for (size_t i = 0; i < donors; ++i)
      offer.donors.push_back({mesh::Identity::generate()->id(), {{"127.0.0.1", static_cast<uint16_t>(i + 1)}}, {}});
    return offer;
  }

  // A donor of these over loopback, and a source that fetches from it.
  struct Served {
    mesh::Identity identity = *mesh::Identity::generate();
    std::unique_ptr<ParameterDonor> donor;
    std::unique_ptr<ParameterSource> source;
  };
  static std::unique_ptr<Served> serve(std::shared_ptr<const std::vector<float>> parameters, const Digest& sha256,
                                       uint64_t bytes_per_second = 0, std::optional<Digest> asked = std::nullopt) {
    auto served = std::make_unique<Served>();
    ParameterDonorOptions options;
    options.host = "127.0.0.1";
    options.bytes_per_second = bytes_per_second;
    served->donor = *ParameterDonor::start(served->identity, options);
    Digest held;
    EXPECT_FALSE(served->donor->held(held));
    served->donor->hold(sha256, std::move(parameters));
    EXPECT_TRUE(served->donor->held(held));
    EXPECT_EQ(held, sha256);
    served->source = std::make_unique<ParameterSource>(
        [s = served.get()]() -> Result<std::unique_ptr<mesh::Channel>> {
          const mesh::RunLink link{s->identity.id(), {{"127.0.0.1", s->donor->port()}}, {}};
          SPORKLE_ASSIGN_OR_RETURN(std::unique_ptr<mesh::Client> client,
                                   mesh::Client::connect(link, *mesh::Identity::generate()));
          return std::unique_ptr<mesh::Channel>(std::move(client));
        },
        asked.value_or(sha256), 10s);
    return served;
  }

  const mesh::Identity identity_ = *mesh::Identity::generate();
};

TEST_F(ParameterFetchTest, FromDonorsOfWhomOneLiesAndOneHasGoneOn) {
  const auto right = values(1'000'000), wrong = values(1'000'000, 1);
  const ParameterOffer offer = offer_of(*right, 4);
  const auto first = serve(right, offer.sha256), second = serve(right, offer.sha256);
  const auto liar = serve(wrong, offer.sha256);                         // says that these are they
  const auto later = serve(wrong, digest_of(*wrong), 0, offer.sha256);  // and this one is at the next version
  FetchedParameters fetched;
  uint64_t told = 0;
  const Status status = fetch_from_donors(
      offer, {first->source.get(), second->source.get(), liar->source.get(), later->source.get()},
      [&told](uint64_t bytes) {
        EXPECT_GT(bytes, told);
        told = bytes;
        return true;
      },
      fetched);
  ASSERT_TRUE(status.ok()) << status.to_string();
  EXPECT_EQ(fetched.values, *right);
  EXPECT_EQ(told, 4'000'000u);
  EXPECT_EQ(fetched.report.donors[2].failure.code(), Code::corrupt_data);
  EXPECT_EQ(fetched.report.donors[3].failure.code(), Code::not_found);
  const std::string said = describe_fetch(offer, fetched);
  EXPECT_NE(said.find("from 2: coordinator "), std::string::npos) << said;
  EXPECT_NE(said.find(offer.donors[1].coordinator.short_id() + " failed: piece "), std::string::npos) << said;
}

TEST_F(ParameterFetchTest, KeepsWhatTheProbeBroughtAndMayBeGivenUp) {
  const auto right = values(500'000);
  const ParameterOffer offer = offer_of(*right, 2);
  const auto donor = serve(right, offer.sha256);
  auto channel = mesh::Client::connect({donor->identity.id(), {{"127.0.0.1", donor->donor->port()}}, {}}, identity_);
  ASSERT_TRUE(channel.ok());
  FetchedParameters fetched;
  const auto rate = probe_coordinator(**channel, offer, 10s, fetched);
  ASSERT_TRUE(rate.ok()) << rate.status().to_string();
  EXPECT_GT(*rate, 0);
  EXPECT_EQ(fetched.bytes, 262'144u);
  EXPECT_EQ(fetch_from_donors(
                offer, {donor->source.get()}, [](uint64_t bytes) { return bytes < 1'000'000; }, fetched)
                .code(),
            Code::cancelled);
  const auto again = serve(right, offer.sha256);
  ASSERT_TRUE(fetch_from_donors(
                  offer, {again->source.get()}, [](uint64_t) { return true; }, fetched)
                  .ok());
  EXPECT_EQ(fetched.values, *right);
  EXPECT_LE(fetched.report.donors[0].bytes, 1'000'000u + 65'536) << "only what was lacking";
}

TEST_F(ParameterFetchTest, ADonorSendsNoFasterThanItsBound) {
  const auto right = values(500'000);
  const ParameterOffer offer = offer_of(*right, 2);
  const auto donor = serve(right, offer.sha256, 4'000'000);
  FetchedParameters fetched;
  const auto start = std::chrono::steady_clock::now();
  ASSERT_TRUE(fetch_from_donors(
                  offer, {donor->source.get()}, [](uint64_t) { return true; }, fetched)
                  .ok());
  EXPECT_GE(std::chrono::steady_clock::now() - start, 450ms) << "2 MB at 4 MB/s";
  EXPECT_EQ(fetched.values, *right);
}

TEST_F(ParameterFetchTest, TheOfferIsCheckedWhenItIsRead) {
  const auto parameters = values(100'000);
  const ParameterOffer offer = offer_of(*parameters, 3);
  const auto read = ParameterOffer::parse(offer.encode(), 400'000, identity_.id());
  ASSERT_TRUE(read.ok()) << read.status().to_string();
  ASSERT_TRUE(*read);
  EXPECT_EQ((*read)->version, 7u);
  EXPECT_EQ((*read)->sha256, offer.sha256);
  EXPECT_EQ((*read)->manifest, offer.manifest);
  EXPECT_EQ((*read)->donors, offer.donors);
  const auto refused = [&](const mesh::Message& message, const std::string& why) {
    const auto result = ParameterOffer::parse(message, 400'000, identity_.id());
    EXPECT_EQ(result.status().code(), Code::corrupt_data);
    EXPECT_NE(result.status().message().find(why), std::string::npos) << result.status().message();
  };
  EXPECT_FALSE(*ParameterOffer::parse({"", {}}, 400'000, std::nullopt)) << "nobody has them";
  EXPECT_FALSE(*ParameterOffer::parse(offer_of(*parameters, 1).encode(), 400'000, std::nullopt)) << "too few";
  EXPECT_EQ(ParameterOffer::parse(offer.encode(), 400'004, std::nullopt).status().code(), Code::corrupt_data);
  EXPECT_EQ(ParameterOffer::parse(offer.encode(), 400'000, mesh::Identity::generate()->id()).status().code(),
            Code::corrupt_data)
      << "signed by another";
  refused({"\xff", {}}, "cannot be read");
  refused(offer_of(*parameters, kMostDonors + 1).encode(), "more than 16");
  mesh::Message tampered = offer.encode();
  tampered.payload[tampered.payload.size() / 2] ^= std::byte{1};
  EXPECT_FALSE(ParameterOffer::parse(tampered, 400'000, identity_.id()).ok());
  proto::DonorsReply reply;
  ASSERT_TRUE(reply.ParseFromString(offer.encode().body));
  reply.mutable_donors(0)->set_port(65536);
  refused({reply.SerializeAsString(), offer.encode().payload}, "no address");
  reply.mutable_donors(0)->set_node("short");
  refused({reply.SerializeAsString(), offer.encode().payload}, "ID");
}

TEST_F(ParameterFetchTest, HeldVersionsAndRequestsThatMakeNoSense) {
  HeldParameters held;
  const auto first = values(1000), second = values(1000, 1), third = values(1000, 2);
  const auto ask = [&](const std::vector<float>& of, uint64_t offset, uint32_t size) {
    proto::ParameterPieceRequest request;
    const Digest digest = digest_of(of);
    request.set_parameters_sha256(std::string(reinterpret_cast<const char*>(digest.data()), digest.size()));
    request.set_offset(offset);
    request.set_size_bytes(size);
    return held.answer({request.SerializeAsString(), {}});
  };
  EXPECT_EQ(ask(*first, 0, 4).status().code(), Code::not_found);
  held.hold(digest_of(*first), first);
  const auto piece = ask(*first, 400, 40);
  ASSERT_TRUE(piece.ok());
  EXPECT_EQ(std::memcmp(piece->payload.data(), first->data() + 100, 40), 0);
  held.hold(digest_of(*second), second);
  EXPECT_TRUE(ask(*first, 0, 4).ok()) << "somebody is at it";
  held.hold(digest_of(*third), third);
  EXPECT_EQ(ask(*first, 0, 4).status().code(), Code::not_found) << "two versions at most";
  EXPECT_EQ(ask(*second, 0, 4).status().code(), Code::not_found) << "nobody had asked for that one";
  EXPECT_TRUE(ask(*third, 3996, 4).ok());
  for (const auto& [offset, size] :
       {std::pair<uint64_t, uint32_t>{3996, 8}, {4001, 1}, {UINT64_MAX, 4}, {0, 0}, {0, UINT32_MAX}})
    EXPECT_EQ(ask(*third, offset, size).status().code(), Code::invalid_argument) << offset << " " << size;
  EXPECT_EQ(held.answer({"\xff", {}}).status().code(), Code::invalid_argument);
}

}  // namespace
}  // namespace sporkle::run
