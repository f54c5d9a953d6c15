// For tests: a new folder, deleted in the end, that is also the cache directory for as long as it lives.
#pragma once

#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>

#include "base/file.h"

namespace sporkle::train::testing {

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "sporkle-train-XXXXXX").string();
    if (::mkdtemp(pattern.data()) != nullptr) path_ = pattern;
    ::setenv("SPORKLE_CACHE", (path_ / "cache").c_str(), 1);
  }
  ~TemporaryFolder() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
    ::unsetenv("SPORKLE_CACHE");
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  // A file with this content; folders on the way to it are made.
  std::filesystem::path file(const std::string& name, std::string_view content) const {
    const std::filesystem::path path = path_ / name;
    std::filesystem::create_directories(path.parent_path());
    (void)write_file_atomically(path, content);
    return path;
  }

 private:
  std::filesystem::path path_;
};

}  // namespace sporkle::train::testing
