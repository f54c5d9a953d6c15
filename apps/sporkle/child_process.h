// Running this program again as another node: a child process whose standard output is read line by line.
//
// A ChildProcess belongs to one thread at a time; a child that is still running when its owner goes is killed.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"

namespace sporkle::app {

// The program that is running now.
std::filesystem::path own_program();

class ChildProcess {
 public:
  // arguments: without the program's name. environment: set besides the parent's. Standard error goes to `error_log`.
  static Result<ChildProcess> start(const std::filesystem::path& program, const std::vector<std::string>& arguments,
                                    const std::vector<std::pair<std::string, std::string>>& environment,
                                    const std::filesystem::path& error_log);
  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&& other) noexcept;
  ~ChildProcess();

  pid_t pid() const { return pid_; }
  // The next whole line, without its end; waits for up to timeout_ms. Nothing when none came, or the output is over.
  std::optional<std::string> read_line(int timeout_ms);
  void send_signal(int signal) const;
  // Whether it is over; then exit_status() is its exit code, or 128 + the signal that ended it.
  bool finished();
  // Waits for its end; deadline_exceeded after timeout_ms.
  Result<int> wait(int timeout_ms);
  int exit_status() const { return exit_status_; }

 private:
  ChildProcess(pid_t pid, int output) : pid_(pid), output_(output) {}
  void end();

  pid_t pid_ = -1;
  int output_ = -1;
  bool reaped_ = false;
  int exit_status_ = -1;
  std::string buffer_;
};

}  // namespace sporkle::app
