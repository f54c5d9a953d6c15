#include "mesh/content_partial.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>

#include "base/file_writer.h"

namespace sporkle::mesh {

Result<PartialContent> PartialContent::open(const ContentManifest& manifest, const std::filesystem::path& path,
                                            const std::function<void(uint64_t)>& on_checked) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) return errno_status(errno, "cannot write " + path.string());
  PartialContent partial(manifest, path, fd);
  if (::flock(fd, LOCK_EX | LOCK_NB) != 0)
    return unavailable("another process is fetching '" + manifest.name + "' into " + path.string());
  SPORKLE_RETURN_IF_ERROR(partial.check(on_checked));
  return partial;
}

PartialContent::~PartialContent() {
  if (fd_ >= 0) ::close(fd_);
}

Status PartialContent::check(const std::function<void(uint64_t)>& on_checked) {
  struct stat info {};
  if (::fstat(fd_, &info) != 0) return errno_status(errno, "cannot examine " + path_.string());
  const auto size = static_cast<off_t>(manifest_.size_bytes);
  if (info.st_size == 0 || info.st_size > size) {
    if (::ftruncate(fd_, 0) != 0 || ::ftruncate(fd_, size) != 0)
      return errno_status(errno, "cannot write " + path_.string());
    return {};
  }
  std::vector<std::byte> piece(manifest_.piece_bytes);
  for (size_t i = 0; i < have_.size(); ++i) {
    const size_t wanted = manifest_.size_of_piece(i);
    size_t read = 0;
    while (read < wanted) {
      const ssize_t count =
          ::pread(fd_, piece.data() + read, wanted - read, static_cast<off_t>(i * manifest_.piece_bytes + read));
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) break;  // what cannot be read is fetched again
      read += static_cast<size_t>(count);
    }
    const auto bytes = std::span<const std::byte>(piece).first(wanted);
    have_[i] = read == wanted && manifest_.is_piece(i, bytes);
    if (have_[i]) have_bytes_ += wanted;
    if (on_checked) on_checked(uint64_t{i} * manifest_.piece_bytes + wanted);
  }
  if (info.st_size < size && ::ftruncate(fd_, size) != 0) return errno_status(errno, "cannot write " + path_.string());
  return {};
}

Status PartialContent::store(size_t piece, std::span<const std::byte> bytes) {
  const size_t size = bytes.size();
  auto offset = static_cast<off_t>(uint64_t{piece} * manifest_.piece_bytes);
  while (!bytes.empty()) {
    const ssize_t written = ::pwrite(fd_, bytes.data(), bytes.size(), offset);
    if (written < 0) {
      if (errno == EINTR) continue;
      return errno_status(errno, "cannot write " + path_.string());
    }
    offset += written;
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
  if (!have_[piece]) have_bytes_ += size;
  have_[piece] = true;
  return {};
}

Status PartialContent::commit(const std::filesystem::path& path) {
  if (have_bytes_ != manifest_.size_bytes)
    return internal_error("'" + manifest_.name + "' is not complete: " + std::to_string(have_bytes_) + " of " +
                          std::to_string(manifest_.size_bytes) + " bytes");
  if (::fsync(fd_) != 0) return errno_status(errno, "cannot sync " + path_.string());
  if (::rename(path_.c_str(), path.c_str()) != 0) return errno_status(errno, "cannot rename onto " + path.string());
  ::close(std::exchange(fd_, -1));
  return sync_folder(path.parent_path());
}

}  // namespace sporkle::mesh
