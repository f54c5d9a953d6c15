#include "base/child_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <thread>

extern char** environ;

namespace sporkle {

std::filesystem::path own_program() {
  std::error_code error;
  std::filesystem::path path = std::filesystem::read_symlink("/proc/self/exe", error);
  return error ? std::filesystem::path("sporkle") : path;
}

Result<ChildProcess> ChildProcess::start(const ChildOptions& options) {
  int output[2], input[2] = {-1, -1};  // the first end is ours
  if (::pipe2(output, O_CLOEXEC) != 0) return errno_status(errno, "cannot make a pipe");
  // A socket, so that writing to a child that has gone is an error and no signal.
  if (options.talks && ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, input) != 0) {
    const int error = errno;
    ::close(output[0]);
    ::close(output[1]);
    return errno_status(error, "cannot make a pair of sockets");
  }
  std::vector<std::string> argument_texts{options.program.string()}, environment_texts;
  argument_texts.insert(argument_texts.end(), options.arguments.begin(), options.arguments.end());
  for (char** entry = environ; *entry; ++entry) {
    const std::string text = *entry;
    bool replaced = false;
    for (const auto& [name, value] : options.environment) replaced |= text.starts_with(name + "=");
    for (const std::string& name : options.unset) replaced |= text.starts_with(name + "=");
    if (!replaced) environment_texts.push_back(text);
  }
  for (const auto& [name, value] : options.environment) environment_texts.push_back(name + "=" + value);
  const auto pointers = [](std::vector<std::string>& texts) {
    std::vector<char*> result;
    for (std::string& text : texts) result.push_back(text.data());
    result.push_back(nullptr);
    return result;
  };
  const std::vector<char*> argv = pointers(argument_texts), envp = pointers(environment_texts);

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  if (options.talks)
    posix_spawn_file_actions_adddup2(&actions, input[1], 0);
  else
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, output[1], 1);
  posix_spawn_file_actions_addopen(&actions, 2, options.error_log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
  // A group of its own: Ctrl-C at the terminal is for the parent, which ends its children itself.
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
  pid_t pid = -1;
  const int error = ::posix_spawnp(&pid, options.program.c_str(), &actions, &attributes, argv.data(), envp.data());
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  ::close(output[1]);
  if (options.talks) ::close(input[1]);
  if (error != 0) {
    ::close(output[0]);
    if (options.talks) ::close(input[0]);
    return errno_status(error, "cannot start " + options.program.string());
  }
  ::fcntl(output[0], F_SETFL, O_NONBLOCK);
  return ChildProcess(pid, input[0], output[0]);
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      input_(std::exchange(other.input_, -1)),
      output_(std::exchange(other.output_, -1)),
      reaped_(other.reaped_),
      exit_status_(other.exit_status_),
      buffer_(std::move(other.buffer_)) {}

ChildProcess& ChildProcess::operator=(ChildProcess&& other) noexcept {
  if (this != &other) {
    end();
    pid_ = std::exchange(other.pid_, -1);
    input_ = std::exchange(other.input_, -1);
    output_ = std::exchange(other.output_, -1);
    reaped_ = other.reaped_;
    exit_status_ = other.exit_status_;
    buffer_ = std::move(other.buffer_);
  }
  return *this;
}

ChildProcess::~ChildProcess() { end(); }

void ChildProcess::end() {
  if (pid_ > 0 && !finished()) {
    ::kill(pid_, SIGKILL);
    int status = 0;
    while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    reaped_ = true;
  }
  for (int* end : {&input_, &output_}) {
    if (*end >= 0) ::close(*end);
    *end = -1;
  }
}

Status ChildProcess::write_line(std::string_view line) {
  std::string text(line);
  text += '\n';
  for (size_t sent = 0; sent < text.size();) {
    const ssize_t count = ::send(input_, text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return unavailable("process " + std::to_string(pid_) + " does not read its input any more");
    sent += static_cast<size_t>(count);
  }
  return {};
}

std::optional<std::string> ChildProcess::read_line(int timeout_ms) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
  for (;;) {
    if (const size_t end = buffer_.find('\n'); end != std::string::npos) {
      std::string line = buffer_.substr(0, end);
      buffer_.erase(0, end + 1);
      return line;
    }
    if (output_ < 0) return std::nullopt;
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
    pollfd wait{output_, POLLIN, 0};
    if (::poll(&wait, 1, static_cast<int>(std::max<int64_t>(left, 0))) <= 0) return std::nullopt;
    char chunk[4096];
    const ssize_t count = ::read(output_, chunk, sizeof chunk);
    if (count > 0) {
      buffer_.append(chunk, static_cast<size_t>(count));
    } else if (count == 0) {
      ::close(output_);
      output_ = -1;
      return std::nullopt;
    }
  }
}

void ChildProcess::send_signal(int signal) const {
  if (pid_ > 0 && !reaped_) ::kill(pid_, signal);
}

bool ChildProcess::finished() {
  if (reaped_ || pid_ <= 0) return true;
  int status = 0;
  if (::waitpid(pid_, &status, WNOHANG) != pid_) return false;
  reaped_ = true;
  exit_status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return true;
}

Result<int> ChildProcess::wait(int timeout_ms) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
  while (!finished()) {
    if (std::chrono::steady_clock::now() >= deadline)
      return Status(Code::deadline_exceeded,
                    "process " + std::to_string(pid_) + " did not end in " + std::to_string(timeout_ms) + " ms");
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return exit_status_;
}

}  // namespace sporkle
