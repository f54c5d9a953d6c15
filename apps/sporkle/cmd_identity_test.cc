#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "apps/sporkle/cli.h"
#include "apps/sporkle/commands.h"

namespace sporkle::app {
namespace {

class IdentityCommandTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "sporkle-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    home_ = pattern;
    setenv("SPORKLE_HOME", home_.c_str(), 1);
  }
  void TearDown() override {
    unsetenv("SPORKLE_HOME");
    std::filesystem::remove_all(home_);
  }

  int run(std::initializer_list<const char*> options) {
    std::vector<const char*> arguments{"sporkle", "identity"};
    arguments.insert(arguments.end(), options);
    Cli cli;
    register_identity(cli);
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    const int exit_code = cli.run(static_cast<int>(arguments.size()), arguments.data());
    out_ = testing::internal::GetCapturedStdout();
    err_ = testing::internal::GetCapturedStderr();
    return exit_code;
  }

  std::filesystem::path home_;
  std::string out_, err_;
};

TEST_F(IdentityCommandTest, StaysTheSameAndShortensTheFullId) {
  ASSERT_EQ(run({}), kExitOk) << err_;
  const std::string first = out_;
  ASSERT_EQ(run({}), kExitOk) << err_;
  EXPECT_EQ(out_, first);
  ASSERT_TRUE(first.starts_with("short ID  ")) << first;
  const std::string short_id = first.substr(10, 8);
  EXPECT_NE(first.find("full ID   " + short_id), std::string::npos) << first;
  EXPECT_NE(first.find((home_ / "identity.pem").string()), std::string::npos) << first;

  ASSERT_EQ(run({"--json"}), kExitOk) << err_;
  EXPECT_TRUE(out_.starts_with("{\"short_id\":\"" + short_id + "\",\"id\":\"" + short_id)) << out_;
}

TEST_F(IdentityCommandTest, ADamagedKeyIsAnError) {
  ASSERT_EQ(run({}), kExitOk) << err_;
  std::ofstream(home_ / "identity.pem") << "not a key";
  EXPECT_EQ(run({}), kExitFailure);
  EXPECT_NE(err_.find("identity.pem"), std::string::npos) << err_;
  EXPECT_EQ(out_, "");
}

}  // namespace
}  // namespace sporkle::app
