// Runs the sporkle command in tests, as a user would: arguments and environment in; exit code and output out.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace sporkle::testing {

using Arguments = std::vector<std::string>;
using Environment = std::map<std::string, std::string>;  // on top of this process's

struct Output {
  int exit_code = -1;  // 128 + signal when one ended it
  std::string out, err;
};

// A started command; one that is still running when its object goes is killed.
class Running {
 public:
  Running(int pid, std::filesystem::path out, std::filesystem::path err) : pid_(pid), out_(out), err_(err) {}
  Running(Running&& other) noexcept;
  Running& operator=(Running&&) = delete;
  ~Running();
  // Waits until standard output holds `text`, `times` times; false when the command ends or a minute passes without it.
  bool wait_for_output(std::string_view text, size_t times = 1);
  // What it has said so far.
  std::string output() const;
  std::string errors() const;
  void send_signal(int signal);
  // Waits for its end; kills it after five minutes.
  Output wait();

 private:
  bool ended();
  int pid_;
  int status_ = -1;
  bool reaped_ = false;
  std::filesystem::path out_, err_;
};

// A test with a folder of its own, which is also the commands' current directory. The kernel cache is shared by the
// tests of a program, so that only the first one compiles; SPORKLE_CACHE in the environment of a call overrides it.
class CommandTest : public ::testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  Running start(const Arguments& arguments, const Environment& environment = {});
  Output run(const Arguments& arguments, const Environment& environment = {});
  // Expects failure with `exit_code` and every one of `parts` on standard error.
  void expect_failure(const Arguments& arguments, const std::vector<std::string>& parts, int exit_code = 1);

  std::filesystem::path folder_;
  // A file in the folder.
  std::filesystem::path write(const std::string& name, std::string_view content) const;
  std::string read(const std::string& name) const;

 private:
  int started_ = 0;
};

std::vector<std::string> lines(const std::string& text);
std::string last_line(const std::string& text);
size_t occurrences(std::string_view text, std::string_view part);
// The value of a member of a flat JSON object: a string without its quotes and escapes undone, or a number's text; ""
// where there is no such member.
std::string field(const std::string& json, const std::string& name);

// English-looking text of `words` words, the same at every call.
std::string sample_text(int words);

}  // namespace sporkle::testing
