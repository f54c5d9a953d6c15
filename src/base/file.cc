#include "base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <utility>

namespace sporkle {
namespace {

namespace fs = std::filesystem;

class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  ~FileDescriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

Status write_all(int fd, std::span<const std::byte> content, const std::string& name) {
  while (!content.empty()) {
    const ssize_t written = ::write(fd, content.data(), content.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      return errno_status(errno, "cannot write " + name);
    }
    content = content.subspan(static_cast<size_t>(written));
  }
  return {};
}

fs::path environment_path(const char* name) {
  const char* value = std::getenv(name);
  return value && *value ? fs::path(value) : fs::path();
}

fs::path user_home() {
  fs::path home = environment_path("HOME");
  return home.empty() ? fs::path("/tmp") : home;
}

}  // namespace

Result<std::string> read_file(const fs::path& path) {
  FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) return errno_status(errno, "cannot open " + path.string());
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return errno_status(errno, "cannot examine " + path.string());
  if (S_ISDIR(info.st_mode)) return invalid_argument("cannot read " + path.string() + ": it is a folder");
  std::string content;
  content.reserve(static_cast<size_t>(info.st_size));
  char chunk[1 << 16];
  for (;;) {
    const ssize_t count = ::read(fd.get(), chunk, sizeof chunk);
    if (count == 0) return content;
    if (count < 0) {
      if (errno == EINTR) continue;
      return errno_status(errno, "cannot read " + path.string());
    }
    content.append(chunk, static_cast<size_t>(count));
  }
}

Status write_file_atomically(const fs::path& path, std::span<const std::byte> content) {
  // The counter keeps two threads of one process apart, the process ID two processes.
  static std::atomic<unsigned> counter{0};
  fs::path temporary = path;
  temporary += ".tmp." + std::to_string(::getpid()) + "." + std::to_string(counter++);
  FileDescriptor fd(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (fd.get() < 0) return errno_status(errno, "cannot create " + temporary.string());
  Status status = write_all(fd.get(), content, path.string());
  if (status.ok() && ::fsync(fd.get()) != 0) status = errno_status(errno, "cannot sync " + path.string());
  if (::close(fd.release()) != 0 && status.ok()) status = errno_status(errno, "cannot close " + path.string());
  if (status.ok() && ::rename(temporary.c_str(), path.c_str()) != 0)
    status = errno_status(errno, "cannot rename onto " + path.string());
  if (!status.ok()) {
    ::unlink(temporary.c_str());
    return status;
  }
  // The rename itself is durable only once the folder is synced.
  const fs::path folder = path.has_parent_path() ? path.parent_path() : fs::path(".");
  FileDescriptor folder_fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder_fd.get() >= 0) ::fsync(folder_fd.get());
  return {};
}

Status write_file_atomically(const fs::path& path, std::string_view content) {
  return write_file_atomically(path, std::as_bytes(std::span(content.data(), content.size())));
}

Result<MappedFile> MappedFile::open(const fs::path& path) {
  FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) return errno_status(errno, "cannot open " + path.string());
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return errno_status(errno, "cannot examine " + path.string());
  if (S_ISDIR(info.st_mode)) return invalid_argument("cannot map " + path.string() + ": it is a folder");
  const size_t size = static_cast<size_t>(info.st_size);
  if (size == 0) return MappedFile(nullptr, 0);
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (data == MAP_FAILED) return errno_status(errno, "cannot map " + path.string());
  return MappedFile(static_cast<const std::byte*>(data), size);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
}

fs::path home_directory() {
  fs::path home = environment_path("SPORKLE_HOME");
  return home.empty() ? user_home() / ".sporkle" : home;
}

fs::path cache_directory() {
  fs::path cache = environment_path("SPORKLE_CACHE");
  if (!cache.empty()) return cache;
  cache = environment_path("XDG_CACHE_HOME");
  return (cache.empty() ? user_home() / ".cache" : cache) / "sporkle";
}

}  // namespace sporkle
