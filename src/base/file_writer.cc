#include "base/file_writer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <utility>

namespace sporkle {
namespace {

constexpr size_t kBufferBytes = 1 << 18;

Status write_all(int fd, std::string_view content, const std::filesystem::path& path) {
  while (!content.empty()) {
    const ssize_t written = ::write(fd, content.data(), content.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      return errno_status(errno, "cannot write " + path.string());
    }
    content.remove_prefix(static_cast<size_t>(written));
  }
  return {};
}

}  // namespace

Result<FileWriter> FileWriter::create(const std::filesystem::path& path) {
  // The counter keeps two threads of one process apart, the process ID two processes.
  static std::atomic<unsigned> counter{0};
  FileWriter writer;
  writer.path_ = path;
  writer.temporary_ = path;
  writer.temporary_ += ".part." + std::to_string(::getpid()) + "." + std::to_string(counter++);
  writer.fd_ = ::open(writer.temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (writer.fd_ < 0) return errno_status(errno, "cannot create " + path.string());
  return writer;
}

FileWriter::FileWriter(FileWriter&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::move(other.temporary_)),
      buffer_(std::move(other.buffer_)),
      fd_(std::exchange(other.fd_, -1)) {}

FileWriter& FileWriter::operator=(FileWriter&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(temporary_, other.temporary_);
  std::swap(buffer_, other.buffer_);
  std::swap(fd_, other.fd_);
  return *this;
}

FileWriter::~FileWriter() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(temporary_.c_str());
}

Status FileWriter::flush() {
  Status status = write_all(fd_, buffer_, path_);
  buffer_.clear();
  return status;
}

Status FileWriter::write(std::string_view text) {
  if (buffer_.size() + text.size() > kBufferBytes) SPORKLE_RETURN_IF_ERROR(flush());
  if (text.size() > kBufferBytes) return write_all(fd_, text, path_);
  buffer_.append(text);
  return {};
}

Status FileWriter::write(std::span<const std::byte> data) {
  return write(std::string_view(reinterpret_cast<const char*>(data.data()), data.size()));
}

Status FileWriter::write_at(uint64_t offset, std::span<const std::byte> data) {
  SPORKLE_RETURN_IF_ERROR(flush());
  while (!data.empty()) {
    const ssize_t written = ::pwrite(fd_, data.data(), data.size(), static_cast<off_t>(offset));
    if (written < 0) {
      if (errno == EINTR) continue;
      return errno_status(errno, "cannot write " + path_.string());
    }
    offset += static_cast<uint64_t>(written);
    data = data.subspan(static_cast<size_t>(written));
  }
  return {};
}

Status FileWriter::commit() {
  SPORKLE_RETURN_IF_ERROR(flush());
  if (::fsync(fd_) != 0) return errno_status(errno, "cannot sync " + path_.string());
  if (::rename(temporary_.c_str(), path_.c_str()) != 0)
    return errno_status(errno, "cannot rename onto " + path_.string());
  ::close(std::exchange(fd_, -1));
  return sync_folder(path_.has_parent_path() ? path_.parent_path() : std::filesystem::path("."));
}

Status sync_folder(const std::filesystem::path& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return errno_status(errno, "cannot open folder " + folder.string());
  // A file system that cannot sync a folder (EINVAL) has nothing to be waited for.
  const bool failed = ::fsync(fd) != 0 && errno != EINVAL;
  const int error = errno;
  ::close(fd);
  if (failed) return errno_status(error, "cannot sync folder " + folder.string());
  return {};
}

}  // namespace sporkle
