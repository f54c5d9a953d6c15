// Running another program, often this one again as another node: a child process with which one talks line by line.
//
// A ChildProcess belongs to one thread at a time; a child that is still running when its owner goes is killed.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"

namespace sporkle {

// The program that is running now.
std::filesystem::path own_program();

struct ChildOptions {
  std::filesystem::path program;                                 // without a slash: looked up in $PATH
  std::vector<std::string> arguments;                            // without the program's name
  std::vector<std::pair<std::string, std::string>> environment;  // set besides the parent's
  std::vector<std::string> unset;                                // variables of the parent's that it does not get
  std::filesystem::path error_log;                               // standard error is appended here
  bool talks = false;                                            // false: its standard input is empty
};

class ChildProcess {
 public:
  static Result<ChildProcess> start(const ChildOptions& options);
  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&& other) noexcept;
  ~ChildProcess();

  pid_t pid() const { return pid_; }
  // The next whole line, without its end; waits for up to timeout_ms. Nothing when none came, or the output is over.
  std::optional<std::string> read_line(int timeout_ms);
  // To its standard input. unavailable when it does not read any more.
  Status write_line(std::string_view line);
  void send_signal(int signal) const;
  // Whether it is over; then exit_status() is its exit code, or 128 + the signal that ended it.
  bool finished();
  // Waits for its end; deadline_exceeded after timeout_ms.
  Result<int> wait(int timeout_ms);
  int exit_status() const { return exit_status_; }

 private:
  ChildProcess(pid_t pid, int input, int output) : pid_(pid), input_(input), output_(output) {}
  void end();

  pid_t pid_ = -1;
  int input_ = -1;  // our ends
  int output_ = -1;
  bool reaped_ = false;
  int exit_status_ = -1;
  std::string buffer_;
};

}  // namespace sporkle
