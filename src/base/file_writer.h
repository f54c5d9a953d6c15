// Writing a file piece by piece that appears whole or not at all, for content too large to hold in memory. A FileWriter
// belongs to one thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "base/status.h"

namespace sporkle {

class FileWriter {
 public:
  // Creates a temporary file beside `path`.
  static Result<FileWriter> create(const std::filesystem::path& path);
  FileWriter(FileWriter&& other) noexcept;
  FileWriter& operator=(FileWriter&& other) noexcept;
  // Removes the temporary file unless it was committed.
  ~FileWriter();

  // Buffered; a failure may show in a later call.
  Status write(std::span<const std::byte> data);
  Status write(std::string_view text);
  // Writes over bytes that were written before: a header whose content is known only at the end.
  Status write_at(uint64_t offset, std::span<const std::byte> data);
  // Syncs and renames onto `path`.
  Status commit();

 private:
  FileWriter() = default;
  Status flush();
  std::filesystem::path path_;
  std::filesystem::path temporary_;
  std::string buffer_;
  int fd_ = -1;
};

// Makes renames and new names in `folder` durable.
Status sync_folder(const std::filesystem::path& folder);

}  // namespace sporkle
