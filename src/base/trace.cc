#include "base/trace.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <unordered_set>

#include "base/file.h"
#include "base/log.h"

namespace sporkle::trace {
namespace {

constexpr size_t kMostHeldBytes = 64 << 10;
constexpr int64_t kLongestHeld_ns = 100'000'000;

// "sporkle train shakespeare.toml": the program's own name and its first words.
std::string process_name() {
  const Result<std::string> command = read_file("/proc/self/cmdline");
  std::string name;
  for (size_t at = 0, words = 0; command.ok() && at < command->size() && words < 3; ++words) {
    const std::string word = command->c_str() + at;
    at += word.size() + 1;
    name += words == 0 ? word.substr(word.rfind('/') + 1) : " " + word;
  }
  return name.empty() ? "process" : name;
}

// Microseconds with three decimals: exact, where a double of a long-running machine's clock would not be.
std::string microseconds(int64_t ns) {
  char text[32];
  std::snprintf(text, sizeof text, "%lld.%03d", static_cast<long long>(ns / 1000), static_cast<int>(ns % 1000));
  return text;
}

class Writer {
 public:
  // Opens the file that $SPORKLE_TRACE names, or gives nullptr. What it gives lives for ever: threads may still report
  // events while the process ends.
  static Writer* open() {
    const char* variable = std::getenv("SPORKLE_TRACE");
    if (!variable || !*variable) return nullptr;
    std::string path = variable;
    const std::string process = std::to_string(::getpid());
    for (size_t at = 0; (at = path.find("%p", at)) != std::string::npos; at += process.size())
      path.replace(at, 2, process);
    int file = open_alone(path);
    if (file < 0 && errno == EWOULDBLOCK) {
      log(LogLevel::info, "trace", "another process writes " + path + "; this one writes " + path + "." + process);
      path += "." + process;
      file = open_alone(path);
    }
    if (file < 0) {
      log(LogLevel::error, "trace",
          "SPORKLE_TRACE=" + std::string(variable) + ": cannot write " + path + ": " + std::strerror(errno) +
              "; no trace is written");
      return nullptr;
    }
    auto* writer = new Writer(file);
    std::atexit([] { Writer::get()->close(); });
    return writer;
  }

  static Writer* get() {
    static Writer* const writer = open();
    return writer;
  }

  void event(std::string_view category, std::string_view name, int64_t start_ns, int64_t end_ns,
             const JsonObject& arguments, int64_t thread) {
    std::string line = ",\n{\"name\":" + json_quote(name) + ",\"cat\":" + json_quote(category);
    line += ",\"ph\":\"X\",\"ts\":" + microseconds(start_ns) + ",\"dur\":" + microseconds(end_ns - start_ns);
    line += ",\"pid\":" + std::to_string(process_) + ",\"tid\":" + std::to_string(thread);
    line += ",\"args\":" + arguments.text() + "}";
    const std::lock_guard lock(mutex_);
    append(line);
    if (held_.size() >= kMostHeldBytes || end_ns - flushed_ns_ >= kLongestHeld_ns) flush_held();
  }

  void name_thread(std::string_view name, int64_t thread) {
    const std::lock_guard lock(mutex_);
    if (named_.insert(thread).second) append(",\n" + metadata("thread_name", name, thread));
  }

  void flush() {
    const std::lock_guard lock(mutex_);
    flush_held();
  }

 private:
  explicit Writer(int file) : file_(file), process_(::getpid()), flushed_ns_(now_ns()) {
    held_ = "[\n" + metadata("process_name", process_name(), process_);
    held_ += ",\n" + metadata("thread_name", "main", process_);
    named_.insert(process_);
    flush_held();
  }

  // -1 with errno EWOULDBLOCK when another process holds the file.
  static int open_alone(const std::string& path) {
    const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    if (file < 0) return -1;
    if (::flock(file, LOCK_EX | LOCK_NB) != 0 || ::ftruncate(file, 0) != 0) {
      const int error = errno;
      ::close(file);
      errno = error;
      return -1;
    }
    return file;
  }

  std::string metadata(std::string_view what, std::string_view name, int64_t thread) const {
    return "{\"name\":" + json_quote(what) + ",\"ph\":\"M\",\"pid\":" + std::to_string(process_) +
           ",\"tid\":" + std::to_string(thread) + ",\"args\":" + JsonObject().add("name", name).text() + "}";
  }

  void append(const std::string& line) {
    if (file_ >= 0) held_ += line;
  }

  void flush_held() {
    // A forked child holds a copy of what its parent writes.
    if (::getpid() != process_) file_ = -1;
    for (size_t written = 0; file_ >= 0 && written < held_.size();) {
      const ssize_t count = ::write(file_, held_.data() + written, held_.size() - written);
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) {
        log(LogLevel::error, "trace", std::string("the trace ends here: ") + std::strerror(errno));
        file_ = -1;
        break;
      }
      written += static_cast<size_t>(count);
    }
    held_.clear();
    flushed_ns_ = now_ns();
  }

  void close() {
    const std::lock_guard lock(mutex_);
    append("\n]\n");
    flush_held();
    if (file_ >= 0) ::close(std::exchange(file_, -1));
  }

  std::mutex mutex_;
  int file_;  // -1: closed
  const int process_;
  int64_t flushed_ns_;
  std::string held_;
  std::unordered_set<int64_t> named_;
};

}  // namespace

bool on() {
  static const bool is_on = Writer::get() != nullptr;
  return is_on;
}

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

int64_t this_thread() {
  thread_local const int64_t number = ::syscall(SYS_gettid);
  return number;
}

void event(std::string_view category, std::string_view name, int64_t start_ns, int64_t end_ns,
           const JsonObject& arguments, int64_t thread) {
  if (Writer* writer = Writer::get()) writer->event(category, name, start_ns, end_ns, arguments, thread);
}

void name_thread(std::string_view name, int64_t thread) {
  if (Writer* writer = Writer::get()) writer->name_thread(name, thread);
}

void flush() {
  if (Writer* writer = Writer::get()) writer->flush();
}

}  // namespace sporkle::trace
