#include "base/child_process.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>

#include "base/file.h"

namespace sporkle {
namespace {

namespace fs = std::filesystem;

constexpr int kPatience_ms = 20'000;

class ChildProcessTest : public ::testing::Test {
 protected:
  ChildProcessTest() {
    std::string pattern = (fs::temp_directory_path() / "sporkle-child-XXXXXX").string();
    if (::mkdtemp(pattern.data()) != nullptr) folder_ = pattern;
  }
  ~ChildProcessTest() override {
    std::error_code error;
    fs::remove_all(folder_, error);
  }
  ChildOptions shell(const std::string& script) const {
    ChildOptions options;
    options.program = "sh";
    options.arguments = {"-c", script};
    options.error_log = folder_ / "errors.log";
    return options;
  }
  fs::path folder_;
};

TEST_F(ChildProcessTest, SaysLinesErrorsAndHowItEnded) {
  Result<ChildProcess> child = ChildProcess::start(shell("echo one; echo two; echo bad >&2; exit 3"));
  ASSERT_TRUE(child.ok()) << child.status().to_string();
  EXPECT_EQ(child->read_line(kPatience_ms), "one");
  EXPECT_EQ(child->read_line(kPatience_ms), "two");
  EXPECT_EQ(child->read_line(kPatience_ms), std::nullopt);
  EXPECT_EQ(*child->wait(kPatience_ms), 3);
  EXPECT_EQ(*read_file(folder_ / "errors.log"), "bad\n");
}

TEST_F(ChildProcessTest, AnswersWhatItIsTold) {
  ChildOptions options = shell("while read line; do echo \"heard $line\"; done");
  options.talks = true;
  Result<ChildProcess> child = ChildProcess::start(options);
  ASSERT_TRUE(child.ok()) << child.status().to_string();
  for (const std::string word : {"a", "b c"}) {
    ASSERT_TRUE(child->write_line(word).ok());
    EXPECT_EQ(child->read_line(kPatience_ms), "heard " + word);
  }
  child->send_signal(SIGKILL);
  EXPECT_EQ(*child->wait(kPatience_ms), 128 + SIGKILL);
  EXPECT_EQ(child->write_line("anyone?").code(), Code::unavailable);
}

TEST_F(ChildProcessTest, ItsEnvironmentIsTheParentsButForWhatIsSaid) {
  ::setenv("SPORKLE_TEST_KEPT", "kept", 1);
  ::setenv("SPORKLE_TEST_CHANGED", "old", 1);
  ::setenv("SPORKLE_TEST_UNSET", "there", 1);
  ChildOptions options = shell("echo \"$SPORKLE_TEST_KEPT $SPORKLE_TEST_CHANGED ${SPORKLE_TEST_UNSET-none}\"");
  options.environment = {{"SPORKLE_TEST_CHANGED", "new"}};
  options.unset = {"SPORKLE_TEST_UNSET"};
  Result<ChildProcess> child = ChildProcess::start(options);
  ASSERT_TRUE(child.ok()) << child.status().to_string();
  EXPECT_EQ(child->read_line(kPatience_ms), "kept new none");
}

TEST_F(ChildProcessTest, AProgramThatIsNotThereIsSaid) {
  ChildOptions options = shell("");
  options.program = "no-such-program-anywhere";
  EXPECT_EQ(ChildProcess::start(options).status().code(), Code::not_found);
}

}  // namespace
}  // namespace sporkle
