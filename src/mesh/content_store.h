// ContentStore: datasets, checkpoints and models in a folder, each under its root, with the manifest that vouches for
// it. docs/content.md has the folder's format. It keeps to a quota: room for something new is made by removing what was
// used longest ago, but never what is pinned or in use.
//
// A plain handle: every call reads the folder anew, and calls of several processes at once do not harm each other.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/sha256.h"
#include "base/status.h"
#include "mesh/content_manifest.h"
#include "mesh/content_partial.h"
#include "mesh/identity.h"

namespace sporkle::mesh {

// While there is one, its entry is not removed, by whatever process. Movable.
class ContentUse {
 public:
  ContentUse(ContentUse&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  ContentUse& operator=(ContentUse&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~ContentUse();

 private:
  friend class ContentStore;
  explicit ContentUse(int fd) : fd_(fd) {}
  int fd_ = -1;
};

class ContentStore {
 public:
  static constexpr uint64_t default_quota_bytes = 50'000'000'000;

  using OnBytes = std::function<void(uint64_t bytes)>;

  struct Entry {
    Digest root{};
    std::optional<ContentManifest> manifest;  // none: it cannot be read; `fault` says why
    std::string fault;
    bool complete = false;    // false: part of it is there
    bool pinned = false;      // by --pin
    bool in_use = false;      // by some process, now
    uint64_t disk_bytes = 0;  // that it takes
    int64_t used_unix_ms = 0;
    std::vector<std::string> sources;  // links that it came from
  };

  // Creates the folder where there is none.
  static Result<ContentStore> open(const std::filesystem::path& folder, uint64_t quota_bytes = default_quota_bytes);

  const std::filesystem::path& folder() const { return folder_; }
  // All entries, the one used last first.
  Result<std::vector<Entry>> list() const;
  // The entry of which `name` is the root's first (eight at least) hexadecimal digits, or the name. not_found;
  // invalid_argument when several are.
  Result<Entry> find(const std::string& name) const;
  std::filesystem::path data_path(const Digest& root) const { return entry_folder(root) / "data"; }

  // Signs a manifest for the file and copies it. no_space when the quota leaves no room, and what else the file system
  // says; invalid_argument for what cannot be published.
  Result<Entry> add(const std::filesystem::path& file, ContentKind kind, const Identity& signer, bool pin,
                    const OnBytes& on_bytes = {}) const;

  // To fetch content: makes room and an entry for it. What is there of it already is found. `finish` makes it whole.
  struct Download {
    ContentUse use;
    PartialContent partial;
  };
  Result<Download> begin(const ContentManifest& manifest, const OnBytes& on_checked = {}) const;
  Status finish(const ContentManifest& manifest, Download& download) const;

  // Marks the entry as used now, and keeps it while the result is there.
  Result<ContentUse> use(const Digest& root) const;
  Status set_pinned(const Digest& root, bool pinned) const;
  Status set_sources(const Digest& root, const std::vector<std::string>& links) const;
  // unavailable when it is in use.
  Status remove(const Digest& root) const;

  // Reads all of a complete entry. Gives the pieces that are not what the manifest says; with any, the entry counts as
  // incomplete from now on, and fetching it again takes these pieces only.
  Result<std::vector<size_t>> verify(const Entry& entry, const OnBytes& on_bytes = {}) const;

 private:
  ContentStore(std::filesystem::path folder, uint64_t quota_bytes)
      : folder_(std::move(folder)), quota_bytes_(quota_bytes) {}
  std::filesystem::path entry_folder(const Digest& root) const;
  Entry read_entry(const std::filesystem::path& path) const;
  Status make_room(const ContentManifest& for_this) const;
  Status remove_locked(const Digest& root) const;

  std::filesystem::path folder_;
  uint64_t quota_bytes_;
};

}  // namespace sporkle::mesh
