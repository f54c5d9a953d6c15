#include "mesh/content_store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <sstream>

#include "base/file.h"
#include "base/file_writer.h"
#include "base/format_units.h"
#include "mesh/printable.h"

namespace sporkle::mesh {
namespace {

namespace fs = std::filesystem;

constexpr size_t kLeastPrefix = 8;
constexpr size_t kMostSourcesBytes = size_t{64} << 10;

// A lock of the whole store or of an entry: goes with the descriptor, however the process ends.
class Lock {
 public:
  static Result<Lock> take(const fs::path& path) {
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0) return errno_status(errno, "cannot open " + path.string());
    Lock lock(fd);
    while (::flock(fd, LOCK_EX) != 0)
      if (errno != EINTR) return errno_status(errno, "cannot lock " + path.string());
    return lock;
  }
  Lock(Lock&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Lock& operator=(Lock&&) = delete;
  ~Lock() {
    if (fd_ >= 0) ::close(fd_);
  }

 private:
  explicit Lock(int fd) : fd_(fd) {}
  int fd_;
};

bool locked_by_others(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const bool locked = ::flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  ::close(fd);
  return locked;
}

uint64_t disk_bytes(const fs::path& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 ? static_cast<uint64_t>(info.st_blocks) * 512 : 0;
}

int64_t modified_unix_ms(const fs::path& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0
             ? static_cast<int64_t>(info.st_mtim.tv_sec) * 1000 + info.st_mtim.tv_nsec / 1'000'000
             : 0;
}

// Its time is when the entry was last used.
Status touch(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) return errno_status(errno, "cannot write " + path.string());
  const bool set = ::futimens(fd, nullptr) == 0;
  const int error = errno;
  ::close(fd);
  return set ? Status() : errno_status(error, "cannot write " + path.string());
}

std::optional<Digest> digest_in(const std::string& hex) {
  Digest digest{};
  if (hex.size() != 2 * digest.size() || hex.find_first_not_of("0123456789abcdef") != std::string::npos)
    return std::nullopt;
  for (size_t i = 0; i < digest.size(); ++i)
    digest[i] = static_cast<std::byte>(std::stoi(hex.substr(2 * i, 2), nullptr, 16));
  return digest;
}

}  // namespace

ContentUse::~ContentUse() {
  if (fd_ >= 0) ::close(fd_);
}

Result<ContentStore> ContentStore::open(const fs::path& folder, uint64_t quota_bytes) {
  std::error_code error;
  fs::create_directories(folder / "entries", error);
  if (error) return errno_status(error.value(), "cannot create the content store " + folder.string());
  return ContentStore(folder, quota_bytes);
}

fs::path ContentStore::entry_folder(const Digest& root) const { return folder_ / "entries" / to_hex(root); }

ContentStore::Entry ContentStore::read_entry(const fs::path& path) const {
  Entry entry;
  entry.root = *digest_in(path.filename().string());
  entry.complete = fs::exists(path / "data");
  entry.pinned = fs::exists(path / "pinned");
  entry.in_use = locked_by_others(path / "used");
  entry.used_unix_ms = modified_unix_ms(path / "used");
  for (const char* name : {"manifest", "data", "partial"}) entry.disk_bytes += disk_bytes(path / name);
  const auto encoded = read_file(path / "manifest");
  if (!encoded.ok()) {
    entry.fault = encoded.status().message();
  } else if (auto manifest = ContentManifest::parse(std::as_bytes(std::span(*encoded))); !manifest.ok()) {
    entry.fault = manifest.status().message();
  } else if (manifest->root != entry.root) {
    entry.fault = "the manifest is of other content";
  } else {
    entry.manifest = *std::move(manifest);
  }
  std::error_code error;
  if (entry.manifest && entry.complete && fs::file_size(path / "data", error) != entry.manifest->size_bytes)
    entry.fault = "the data is not of the manifest's size";
  if (fs::file_size(path / "sources", error) <= kMostSourcesBytes && !error)
    if (const auto sources = read_file(path / "sources"); sources.ok()) {
      std::istringstream text(*sources);
      for (std::string line; std::getline(text, line);)
        if (!line.empty()) entry.sources.push_back(line);
    }
  return entry;
}

Result<std::vector<ContentStore::Entry>> ContentStore::list() const {
  std::vector<Entry> entries;
  std::error_code error;
  fs::directory_iterator folders(folder_ / "entries", error);
  if (error) return errno_status(error.value(), "cannot read the content store " + folder_.string());
  for (const auto& entry : folders)
    if (digest_in(entry.path().filename().string())) entries.push_back(read_entry(entry.path()));
  std::ranges::sort(entries, [](const Entry& a, const Entry& b) {
    return std::pair(-a.used_unix_ms, a.root) < std::pair(-b.used_unix_ms, b.root);
  });
  return entries;
}

Result<ContentStore::Entry> ContentStore::find(const std::string& name) const {
  SPORKLE_ASSIGN_OR_RETURN(std::vector<Entry> entries, list());
  std::erase_if(entries, [&](const Entry& entry) {
    const bool by_root = name.size() >= kLeastPrefix && to_hex(entry.root).starts_with(name);
    return !by_root && !(entry.manifest && entry.manifest->name == name);
  });
  if (entries.empty())
    return not_found("the content store has no '" + printable(name, 128) +
                     "'; `sporkle content list` shows names and roots (give eight digits at least)");
  if (entries.size() > 1)
    return invalid_argument("the content store has " + std::to_string(entries.size()) + " entries '" +
                            printable(name, 128) + "'; give one's root, as `sporkle content list` shows it");
  return std::move(entries.front());
}

Status ContentStore::make_room(const ContentManifest& for_this) const {
  // What a crash left of a removal.
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder_ / "entries", error))
    if (entry.path().filename().string().starts_with(".removed.")) fs::remove_all(entry.path(), error);
  if (for_this.size_bytes > quota_bytes_)
    return Status(Code::no_space, "'" + for_this.name + "' has " +
                                      format_bytes(static_cast<double>(for_this.size_bytes)) +
                                      ", more than the content store's quota of " +
                                      format_bytes(static_cast<double>(quota_bytes_)) + "; raise it with --quota");
  SPORKLE_ASSIGN_OR_RETURN(std::vector<Entry> entries, list());
  std::erase_if(entries, [&](const Entry& entry) { return entry.root == for_this.root; });
  uint64_t taken = 0;
  const auto size = [](const Entry& entry) {
    // A download under way will need all of it.
    return std::max(entry.disk_bytes, entry.manifest && entry.in_use ? entry.manifest->size_bytes : 0);
  };
  for (const Entry& entry : entries) taken += size(entry);
  // Only once it is certain that it helps: nothing is removed for what will not fit all the same.
  uint64_t kept = 0;
  for (const Entry& entry : entries)
    if (entry.pinned || entry.in_use) kept += size(entry);
  if (kept + for_this.size_bytes > quota_bytes_)
    return Status(Code::no_space,
                  "no room for '" + for_this.name + "' (" + format_bytes(static_cast<double>(for_this.size_bytes)) +
                      "): of the quota of " + format_bytes(static_cast<double>(quota_bytes_)) + ", " +
                      format_bytes(static_cast<double>(kept)) +
                      " are pinned or in use; unpin or remove something (`sporkle content list`), or raise --quota");
  for (size_t i = entries.size(); i-- > 0 && taken + for_this.size_bytes > quota_bytes_;) {
    const Entry& oldest = entries[i];
    if (oldest.pinned || oldest.in_use) continue;
    const Status removed = remove_locked(oldest.root);
    if (removed.code() == Code::unavailable) continue;  // somebody has just begun to use it
    SPORKLE_RETURN_IF_ERROR(removed);
    taken -= size(oldest);
  }
  if (taken + for_this.size_bytes <= quota_bytes_) return {};
  return Status(Code::no_space, "no room for '" + for_this.name + "': what could make room has come into use");
}

Status ContentStore::remove_locked(const Digest& root) const {
  const fs::path path = entry_folder(root);
  if (!fs::exists(path)) return not_found("the content store has no " + to_hex(root));
  const int fd = ::open((path / "used").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) return errno_status(errno, "cannot open " + (path / "used").string());
  const ContentUse lock(fd);
  if (::flock(fd, LOCK_EX | LOCK_NB) != 0)
    return unavailable(to_hex(root).substr(0, 16) + " is in use by another process; stop that first");
  // Out of the way first, at one stroke; what a crash leaves of it is no entry any more.
  const fs::path gone = folder_ / "entries" / (".removed." + to_hex(root));
  std::error_code error;
  fs::remove_all(gone, error);
  fs::rename(path, gone, error);
  if (error) return errno_status(error.value(), "cannot remove " + path.string());
  fs::remove_all(gone, error);
  if (error) return errno_status(error.value(), "cannot remove " + gone.string());
  return {};
}

Status ContentStore::remove(const Digest& root) const {
  SPORKLE_ASSIGN_OR_RETURN(const Lock lock, Lock::take(folder_ / "lock"));
  return remove_locked(root);
}

Result<ContentUse> ContentStore::use(const Digest& root) const {
  const fs::path used = entry_folder(root) / "used";
  if (!fs::exists(entry_folder(root))) return not_found("the content store has no " + to_hex(root));
  SPORKLE_RETURN_IF_ERROR(touch(used));
  const int fd = ::open(used.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return errno_status(errno, "cannot open " + used.string());
  ContentUse use(fd);
  if (::flock(fd, LOCK_SH | LOCK_NB) != 0) return unavailable(to_hex(root).substr(0, 16) + " is just being removed");
  return use;
}

Status ContentStore::set_pinned(const Digest& root, bool pinned) const {
  const fs::path path = entry_folder(root) / "pinned";
  if (pinned) return write_file_atomically(path, std::string_view());
  std::error_code error;
  fs::remove(path, error);
  return error ? errno_status(error.value(), "cannot remove " + path.string()) : Status();
}

Status ContentStore::set_sources(const Digest& root, const std::vector<std::string>& links) const {
  std::string text;
  for (const std::string& link : links)
    if (text.size() + link.size() < kMostSourcesBytes) text += link + "\n";
  return write_file_atomically(entry_folder(root) / "sources", text);
}

Result<ContentStore::Download> ContentStore::begin(const ContentManifest& manifest, const OnBytes& on_checked) const {
  const fs::path path = entry_folder(manifest.root);
  // Room is made, and the entry there and in use, before another process makes room.
  Result<ContentUse> use = Status(Code::internal, "");
  {
    SPORKLE_ASSIGN_OR_RETURN(const Lock lock, Lock::take(folder_ / "lock"));
    SPORKLE_RETURN_IF_ERROR(make_room(manifest));
    std::error_code error;
    fs::create_directories(path, error);
    if (error) return errno_status(error.value(), "cannot create " + path.string());
    use = this->use(manifest.root);
    if (!use.ok()) return use.status();
    SPORKLE_RETURN_IF_ERROR(write_file_atomically(path / "manifest", manifest.encode()));
  }
  SPORKLE_ASSIGN_OR_RETURN(PartialContent partial, PartialContent::open(manifest, path / "partial", on_checked));
  return Download{*std::move(use), std::move(partial)};
}

Status ContentStore::finish(const ContentManifest& manifest, Download& download) const {
  return download.partial.commit(data_path(manifest.root));
}

Result<ContentStore::Entry> ContentStore::add(const fs::path& file, ContentKind kind, const Identity& signer, bool pin,
                                              const OnBytes& on_bytes) const {
  SPORKLE_ASSIGN_OR_RETURN(const MappedFile mapped, MappedFile::open(file));
  SPORKLE_ASSIGN_OR_RETURN(const ContentManifest manifest,
                           ContentManifest::of_bytes(mapped.bytes(), file.filename().string(), kind, signer));
  const fs::path path = entry_folder(manifest.root);
  if (!fs::exists(path / "data")) {
    SPORKLE_ASSIGN_OR_RETURN(Download download, begin(manifest));
    for (size_t piece = 0; piece < manifest.piece_count(); ++piece) {
      if (download.partial.have()[piece]) continue;
      const auto bytes = mapped.bytes().subspan(piece * manifest.piece_bytes, manifest.size_of_piece(piece));
      if (!manifest.is_piece(piece, bytes))
        return corrupt_data(file.string() + " changed while it was being added; add it once it is complete");
      SPORKLE_RETURN_IF_ERROR(download.partial.store(piece, bytes));
      if (on_bytes) on_bytes(download.partial.have_bytes());
    }
    SPORKLE_RETURN_IF_ERROR(finish(manifest, download));
  } else {
    SPORKLE_ASSIGN_OR_RETURN(const ContentUse used, use(manifest.root));
    SPORKLE_RETURN_IF_ERROR(write_file_atomically(path / "manifest", manifest.encode()));
  }
  if (pin) SPORKLE_RETURN_IF_ERROR(set_pinned(manifest.root, true));
  return read_entry(path);
}

Result<std::vector<size_t>> ContentStore::verify(const Entry& entry, const OnBytes& on_bytes) const {
  if (!entry.manifest) return corrupt_data(to_hex(entry.root).substr(0, 16) + ": " + entry.fault);
  const ContentManifest& manifest = *entry.manifest;
  const fs::path path = entry_folder(entry.root);
  std::vector<size_t> bad;
  {
    SPORKLE_ASSIGN_OR_RETURN(const ContentUse used, use(entry.root));
    SPORKLE_ASSIGN_OR_RETURN(const MappedFile data, MappedFile::open(path / "data"));
    for (size_t piece = 0; piece < manifest.piece_count(); ++piece) {
      const size_t begin = piece * manifest.piece_bytes, size = manifest.size_of_piece(piece);
      const bool there = begin + size <= data.bytes().size();
      if (!there || !manifest.is_piece(piece, data.bytes().subspan(begin, size))) bad.push_back(piece);
      if (on_bytes) on_bytes(begin + size);
    }
  }
  if (bad.empty()) return bad;
  std::error_code error;
  fs::rename(path / "data", path / "partial", error);
  if (error) return errno_status(error.value(), "cannot set " + (path / "data").string() + " aside");
  SPORKLE_RETURN_IF_ERROR(sync_folder(path));
  return bad;
}

}  // namespace sporkle::mesh
