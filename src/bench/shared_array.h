// An array in memory that another process maps too, for rivals that run in a process of their own. It has no name in
// the file system and goes away with its last map. Movable; belongs to one thread.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "base/status.h"

namespace sporkle::bench {

class SharedArray {
 public:
  static Result<SharedArray> create(size_t size_bytes);
  // Maps what path() of another process's array names; invalid_argument when it is smaller than `size_bytes`.
  static Result<SharedArray> open(const std::string& path, size_t size_bytes);
  SharedArray(SharedArray&& other) noexcept;
  SharedArray& operator=(SharedArray&& other) noexcept;
  ~SharedArray();

  std::span<std::byte> bytes() const { return {data_, size_}; }
  // Where a process of the same user can open it while this one lives.
  std::string path() const;

 private:
  SharedArray(int file, std::byte* data, size_t size) : file_(file), data_(data), size_(size) {}
  static Result<SharedArray> map(int file, size_t size_bytes);

  int file_ = -1;
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace sporkle::bench
