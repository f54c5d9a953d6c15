#include "tests/command.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <system_error>
#include <thread>
#include <utility>

#include "base/file.h"

namespace sporkle::testing {
namespace {

namespace fs = std::filesystem;

fs::path new_folder() {
  std::string pattern = (fs::temp_directory_path() / "sporkle-test-XXXXXX").string();
  return ::mkdtemp(pattern.data()) ? fs::path(pattern) : fs::path();
}

// Of this program, removed when it ends.
const fs::path& shared_cache() {
  struct Folder {
    fs::path path = new_folder();
    ~Folder() {
      std::error_code error;
      fs::remove_all(path, error);
    }
  };
  static const Folder folder;
  return folder.path;
}

std::string content(const fs::path& path) {
  auto text = read_file(path);
  return text.ok() ? *text : "";
}

}  // namespace

bool Running::ended() {
  if (!reaped_) reaped_ = ::waitpid(pid_, &status_, WNOHANG) == pid_;
  return reaped_;
}

Running::Running(Running&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      status_(other.status_),
      reaped_(other.reaped_),
      out_(std::move(other.out_)),
      err_(std::move(other.err_)) {}

Running::~Running() {
  if (pid_ <= 0 || ended()) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, &status_, 0);
}

bool Running::wait_for_output(std::string_view text, size_t times) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (occurrences(content(out_), text) < times) {
    if (ended() || std::chrono::steady_clock::now() > deadline) return occurrences(content(out_), text) >= times;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return true;
}

std::string Running::output() const { return content(out_); }
std::string Running::errors() const { return content(err_); }

void Running::send_signal(int signal) {
  if (!ended()) ::kill(pid_, signal);
}

Output Running::wait() {
  // Below the limit of a whole test: the longest command takes four minutes of two idle cores, and twice that of busy
  // ones.
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(9);
  while (!ended()) {
    if (std::chrono::steady_clock::now() > deadline) ::kill(pid_, SIGKILL);
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  const int code = WIFEXITED(status_) ? WEXITSTATUS(status_) : 128 + WTERMSIG(status_);
  return {code, content(out_), content(err_)};
}

void CommandTest::SetUp() {
  folder_ = new_folder();
  ASSERT_FALSE(folder_.empty());
}

void CommandTest::TearDown() {
  std::error_code error;
  fs::remove_all(folder_, error);
}

Running CommandTest::start(const Arguments& arguments, const Environment& environment) {
  const std::string number = std::to_string(started_++);
  const fs::path out = folder_ / (".out-" + number), err = folder_ / (".err-" + number);
  std::vector<std::string> words{SPORKLE_BINARY};
  words.insert(words.end(), arguments.begin(), arguments.end());
  Environment variables{{"SPORKLE_CACHE", shared_cache().string()}, {"SPORKLE_HOME", (folder_ / "home").string()}};
  for (const auto& [name, value] : environment) variables[name] = value;
  std::vector<std::string> settings;
  for (char** variable = ::environ; *variable; ++variable) {
    const std::string_view text = *variable;
    if (!variables.contains(std::string(text.substr(0, text.find('='))))) settings.emplace_back(text);
  }
  for (const auto& [name, value] : variables) settings.push_back(name + "=" + value);
  const auto pointers = [](std::vector<std::string>& texts) {
    std::vector<char*> result;
    for (std::string& text : texts) result.push_back(text.data());
    result.push_back(nullptr);
    return result;
  };
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_addopen(&actions, 1, out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  ::posix_spawn_file_actions_addopen(&actions, 2, err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  ::posix_spawn_file_actions_addchdir_np(&actions, folder_.c_str());
  int pid = -1;
  const int error =
      ::posix_spawn(&pid, SPORKLE_BINARY, &actions, nullptr, pointers(words).data(), pointers(settings).data());
  ::posix_spawn_file_actions_destroy(&actions);
  EXPECT_EQ(error, 0) << "cannot start " << SPORKLE_BINARY;
  return Running(pid, out, err);
}

Output CommandTest::run(const Arguments& arguments, const Environment& environment) {
  return start(arguments, environment).wait();
}

void CommandTest::expect_failure(const Arguments& arguments, const std::vector<std::string>& parts, int exit_code) {
  const Output output = run(arguments);
  std::string command = "sporkle";
  for (const std::string& word : arguments) command += " " + word;
  EXPECT_EQ(output.exit_code, exit_code) << command << "\n" << output.out << output.err;
  for (const std::string& part : parts)
    EXPECT_NE(output.err.find(part), std::string::npos) << command << ": no \"" << part << "\" in\n" << output.err;
}

fs::path CommandTest::write(const std::string& name, std::string_view text) const {
  const fs::path path = folder_ / name;
  std::error_code error;
  fs::create_directories(path.parent_path(), error);
  EXPECT_TRUE(write_file_atomically(path, text).ok()) << path;
  return path;
}

std::string CommandTest::read(const std::string& name) const { return content(folder_ / name); }

std::vector<std::string> lines(const std::string& text) {
  std::vector<std::string> result;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    result.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return result;
}

std::string last_line(const std::string& text) {
  const std::vector<std::string> all = lines(text);
  return all.empty() ? "" : all.back();
}

size_t occurrences(std::string_view text, std::string_view part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string_view::npos; at = text.find(part, at + part.size())) ++count;
  return count;
}

std::string field(const std::string& json, const std::string& name) {
  const std::string mark = "\"" + name + "\":";
  const size_t found = json.find(mark);
  if (found == std::string::npos) return "";
  const size_t begin = found + mark.size();
  if (json[begin] != '"') return json.substr(begin, json.find_first_of(",}", begin) - begin);
  std::string value;
  for (size_t i = begin + 1; i < json.size() && json[i] != '"'; ++i) {
    if (json[i] != '\\') {
      value += json[i];
    } else {
      ++i;
      value += json[i] == 'n' ? '\n' : json[i] == 't' ? '\t' : json[i];
    }
  }
  return value;
}

std::string sample_text(int words) {
  constexpr const char* kWords[] = {"the",   "river", "and",   "a",      "mountain", "slowly",
                                    "rises", "over",  "old",   "stones", "while",    "rain",
                                    "falls", "upon",  "green", "fields", "of",       "barley"};
  std::string text;
  uint32_t state = 1;
  for (int i = 0; i < words; ++i) {
    state = state * 1664525u + 1013904223u;
    text += kWords[(state >> 16) % std::size(kWords)];
    text += i % 12 == 11 ? ".\n" : " ";
  }
  return text;
}

}  // namespace sporkle::testing
