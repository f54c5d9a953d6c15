// A new folder under the system's folder for temporary files that goes, with all in it, when its object does. Movable;
// belongs to one thread at a time.
#pragma once

#include <filesystem>
#include <string_view>
#include <utility>

#include "base/status.h"

namespace sporkle {

class TemporaryFolder {
 public:
  // `name` begins the folder's name, for people who find it after a crash.
  static Result<TemporaryFolder> create(std::string_view name);
  TemporaryFolder(TemporaryFolder&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  TemporaryFolder& operator=(TemporaryFolder&& other) noexcept {
    std::swap(path_, other.path_);
    return *this;
  }
  ~TemporaryFolder();
  const std::filesystem::path& path() const { return path_; }

 private:
  explicit TemporaryFolder(std::filesystem::path path) : path_(std::move(path)) {}
  std::filesystem::path path_;
};

}  // namespace sporkle
