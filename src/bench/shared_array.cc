#include "bench/shared_array.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace sporkle::bench {

Result<SharedArray> SharedArray::map(int file, size_t size_bytes) {
  void* data = nullptr;
  if (size_bytes > 0) {
    data = ::mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (data == MAP_FAILED) {
      const int error = errno;
      ::close(file);
      return errno_status(error, "cannot map " + std::to_string(size_bytes) + " bytes of shared memory");
    }
  }
  return SharedArray(file, static_cast<std::byte*>(data), size_bytes);
}

Result<SharedArray> SharedArray::create(size_t size_bytes) {
  const int file = ::memfd_create("sporkle-bench", MFD_CLOEXEC);
  if (file < 0) return errno_status(errno, "cannot make shared memory");
  if (::ftruncate(file, static_cast<off_t>(size_bytes)) != 0) {
    const int error = errno;
    ::close(file);
    return errno_status(error, "cannot make " + std::to_string(size_bytes) + " bytes of shared memory");
  }
  return map(file, size_bytes);
}

Result<SharedArray> SharedArray::open(const std::string& path, size_t size_bytes) {
  const int file = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (file < 0) return errno_status(errno, "cannot open " + path);
  struct stat about {};
  if (::fstat(file, &about) != 0 || static_cast<size_t>(about.st_size) < size_bytes) {
    ::close(file);
    return invalid_argument(path + " holds " + std::to_string(about.st_size) + " bytes, not the " +
                            std::to_string(size_bytes) + " that were asked for");
  }
  return map(file, size_bytes);
}

SharedArray::SharedArray(SharedArray&& other) noexcept
    : file_(std::exchange(other.file_, -1)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

SharedArray& SharedArray::operator=(SharedArray&& other) noexcept {
  std::swap(file_, other.file_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

SharedArray::~SharedArray() {
  if (data_) ::munmap(data_, size_);
  if (file_ >= 0) ::close(file_);
}

std::string SharedArray::path() const { return "/proc/" + std::to_string(::getpid()) + "/fd/" + std::to_string(file_); }

}  // namespace sporkle::bench
