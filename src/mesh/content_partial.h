// PartialContent: a file that is being fetched, piece by piece, into one that already has its full size. Which pieces
// are there is read from the bytes themselves each time it is opened, by the manifest: after a crash, or a false write
// of the disk, nothing is believed that is not so. Belongs to one thread at a time; one process at a time may have it.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "base/status.h"
#include "mesh/content_manifest.h"

namespace sporkle::mesh {

class PartialContent {
 public:
  // Opens or creates it. `on_checked` hears how many bytes of what was there have been looked at. unavailable while
  // another process has it; errors of the file system.
  static Result<PartialContent> open(const ContentManifest& manifest, const std::filesystem::path& path,
                                     const std::function<void(uint64_t bytes)>& on_checked = {});
  PartialContent(PartialContent&& other) noexcept
      : manifest_(std::move(other.manifest_)),
        path_(std::move(other.path_)),
        have_(std::move(other.have_)),
        have_bytes_(other.have_bytes_),
        fd_(std::exchange(other.fd_, -1)) {}
  PartialContent& operator=(PartialContent&&) = delete;
  ~PartialContent();

  const std::vector<bool>& have() const { return have_; }
  uint64_t have_bytes() const { return have_bytes_; }
  // Bytes that are the piece's: whoever calls has checked.
  Status store(size_t piece, std::span<const std::byte> bytes);
  // With every piece there: syncs it and renames it to `path`, whole or not at all.
  Status commit(const std::filesystem::path& path);

 private:
  PartialContent(const ContentManifest& manifest, std::filesystem::path path, int fd)
      : manifest_(manifest), path_(std::move(path)), have_(manifest.piece_count(), false), fd_(fd) {}
  Status check(const std::function<void(uint64_t)>& on_checked);
  ContentManifest manifest_;
  std::filesystem::path path_;
  std::vector<bool> have_;
  uint64_t have_bytes_ = 0;
  int fd_ = -1;
};

}  // namespace sporkle::mesh
