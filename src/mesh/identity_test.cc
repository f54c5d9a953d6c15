#include "mesh/identity.h"

#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "mesh/base32.h"
#include "mesh/printable.h"

namespace sporkle::mesh {
namespace {

namespace fs = std::filesystem;

std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

// A valid private key that cannot sign.
std::string x25519_pem() {
  EVP_PKEY* key = EVP_PKEY_Q_keygen(nullptr, nullptr, "X25519");
  BIO* bio = BIO_new(BIO_s_mem());
  PEM_write_bio_PrivateKey(bio, key, nullptr, nullptr, 0, nullptr, nullptr);
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio, &data);
  const std::string pem(data, static_cast<size_t>(size));
  BIO_free(bio);
  EVP_PKEY_free(key);
  return pem;
}

class IdentityFile : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = fs::temp_directory_path() / ("sporkle_identity_test." + std::to_string(::getpid()));
    fs::remove_all(directory_);
  }
  void TearDown() override { fs::remove_all(directory_); }
  fs::path file() const { return directory_ / "identity.pem"; }
  fs::path directory_;
};

TEST(Base32, KnownAnswersAndRoundTrip) {
  // RFC 4648, section 10, without the padding.
  EXPECT_EQ(to_base32(bytes_of("foobar")), "mzxw6ytboi");
  EXPECT_EQ(to_base32(bytes_of("fo")), "mzxq");
  EXPECT_EQ(to_base32({}), "");
  std::array<std::byte, 2> two{};
  EXPECT_TRUE(from_base32("MZXQ", two));
  EXPECT_EQ(std::to_integer<char>(two[0]), 'f');
  EXPECT_FALSE(from_base32("mzxr", two)) << "bits beyond the last byte";
  EXPECT_FALSE(from_base32("mzx", two));
  EXPECT_FALSE(from_base32("mzx1", two));
}

TEST(Printable, KeepsTextAndDefusesTheRest) {
  EXPECT_EQ(printable("caf\xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80", 100), "caf\xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80");
  EXPECT_EQ(printable("a\x1b[31mb\nc\x7f", 100), "a?[31mb c?");
  EXPECT_EQ(printable("\xC2\x9B"
                      "31m",
                      100),
            "?31m")
      << "an 8-bit control sequence";
  EXPECT_EQ(printable("\xFF\xC3", 100), "??");
  EXPECT_EQ(printable("\xED\xA0\x80", 100), "???") << "a surrogate";
  EXPECT_EQ(printable("\xC0\x80", 100), "??") << "an overlong form";
  EXPECT_EQ(printable("ab\xC3\xA9", 3), "ab") << "no half characters";
}

TEST(NodeId, TextRoundTrip) {
  const Identity identity = *Identity::generate();
  const std::string text = identity.id().to_string();
  EXPECT_EQ(text.size(), 52u);
  EXPECT_EQ(identity.id().short_id(), text.substr(0, 8));
  EXPECT_EQ(*NodeId::parse(text), identity.id());
  EXPECT_EQ(NodeId::of(identity.public_key()), identity.id());
  EXPECT_EQ(NodeId::parse(text.substr(1)).status().code(), Code::invalid_argument);
  EXPECT_EQ(NodeId::parse(text.substr(1) + "!").status().code(), Code::invalid_argument);
}

TEST(Identity, SignsAndVerifies) {
  const Identity identity = *Identity::generate();
  const Identity other = *Identity::generate();
  EXPECT_NE(identity.id(), other.id());
  Signature signature = identity.sign(bytes_of("hello"));
  EXPECT_TRUE(verify_signature(identity.public_key(), bytes_of("hello"), signature));
  EXPECT_FALSE(verify_signature(identity.public_key(), bytes_of("hellp"), signature));
  EXPECT_FALSE(verify_signature(other.public_key(), bytes_of("hello"), signature));
  signature[5] ^= std::byte{1};
  EXPECT_FALSE(verify_signature(identity.public_key(), bytes_of("hello"), signature));
}

TEST_F(IdentityFile, IsMadeOnceAndPrivate) {
  const auto first = Identity::load_or_create(directory_ / "deep");
  ASSERT_TRUE(first.ok()) << first.status().to_string();
  const auto again = Identity::load_or_create(directory_ / "deep");
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(first->id(), again->id());
  EXPECT_TRUE(verify_signature(first->public_key(), bytes_of("x"), again->sign(bytes_of("x"))));
  struct stat info {};
  ASSERT_EQ(::stat((directory_ / "deep" / "identity.pem").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  EXPECT_EQ(std::distance(fs::directory_iterator(directory_ / "deep"), fs::directory_iterator()), 1)
      << "no temporary file stays";
}

TEST_F(IdentityFile, ProcessesThatComeFirstTogetherGetOneKey) {
  constexpr int processes = 8;
  int pipe_ends[2];
  ASSERT_EQ(::pipe(pipe_ends), 0);
  std::vector<pid_t> children;
  for (int i = 0; i < processes; ++i) {
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      const auto identity = Identity::load_or_create(directory_);
      const std::string text = identity.ok() ? identity->id().to_string() : std::string(52, '-');
      const bool sent = ::write(pipe_ends[1], text.data(), text.size()) == 52;
      ::_exit(sent ? 0 : 1);
    }
    children.push_back(child);
  }
  std::set<std::string> ids;
  for (int i = 0; i < processes; ++i) {
    char text[52];
    ASSERT_EQ(::read(pipe_ends[0], text, sizeof text), 52);
    ids.insert(std::string(text, sizeof text));
  }
  for (const pid_t child : children) ::waitpid(child, nullptr, 0);
  ::close(pipe_ends[0]);
  ::close(pipe_ends[1]);
  EXPECT_EQ(ids.size(), 1u);
  EXPECT_EQ(*ids.begin(), Identity::load_or_create(directory_)->id().to_string());
}

TEST_F(IdentityFile, RefusesAKeyThatOthersMayRead) {
  ASSERT_TRUE(Identity::load_or_create(directory_).ok());
  ASSERT_EQ(::chmod(file().c_str(), 0644), 0);
  const Status status = Identity::load_or_create(directory_).status();
  EXPECT_EQ(status.code(), Code::permission_denied);
  EXPECT_NE(status.message().find("chmod 600"), std::string::npos);
}

TEST_F(IdentityFile, CorruptAndForeignKeysAreErrors) {
  fs::create_directories(directory_);
  const auto status_for = [&](std::string_view content) {
    EXPECT_TRUE(write_file_atomically(file(), content).ok());
    EXPECT_EQ(::chmod(file().c_str(), 0600), 0);
    return Identity::load_or_create(directory_).status();
  };
  EXPECT_EQ(status_for("").code(), Code::corrupt_data);
  EXPECT_EQ(status_for("not a key").code(), Code::corrupt_data);
  const Status foreign = status_for(x25519_pem());
  EXPECT_EQ(foreign.code(), Code::corrupt_data);
  EXPECT_NE(foreign.message().find("another kind"), std::string::npos) << foreign.message();
  fs::remove(file());
  fs::create_directories(file());
  EXPECT_EQ(Identity::load_or_create(directory_).status().code(), Code::corrupt_data);
}

TEST_F(IdentityFile, AFileInPlaceOfTheFolderIsAnError) {
  ASSERT_TRUE(write_file_atomically(directory_, "a file").ok());
  EXPECT_FALSE(Identity::load_or_create(directory_).ok());
}

}  // namespace
}  // namespace sporkle::mesh
