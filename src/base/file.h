// Files: whole reads, atomic writes, read-only memory maps, and the user's directories. Thread-safe.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/status.h"

namespace sporkle {

Result<std::string> read_file(const std::filesystem::path& path);

// Writes a temporary file beside `path`, syncs it, and renames it over `path`: a reader, or a crash at any moment, sees
// the old content or the new, never a part. On failure (a full disk, say) the temporary file is removed.
Status write_file_atomically(const std::filesystem::path& path, std::span<const std::byte> content);
Status write_file_atomically(const std::filesystem::path& path, std::string_view content);

// A read-only private map of a whole file. Movable; unmaps at destruction. An empty file gives an empty span.
class MappedFile {
 public:
  static Result<MappedFile> open(const std::filesystem::path& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();
  std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  MappedFile(const std::byte* data, size_t size) : data_(data), size_(size) {}
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// $SPORKLE_HOME, else $HOME/.sporkle: keys and node state. Not created here.
std::filesystem::path home_directory();
// $SPORKLE_CACHE, else $XDG_CACHE_HOME/sporkle, else $HOME/.cache/sporkle: may be deleted at any time. Not created
// here.
std::filesystem::path cache_directory();

}  // namespace sporkle
