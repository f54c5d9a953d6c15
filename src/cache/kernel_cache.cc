#include "cache/kernel_cache.h"

#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <system_error>

#include "base/format_units.h"
#include "base/log.h"
#include "base/trace.h"
#include "hal/launch_trace.h"
#include "ir/text.h"

namespace sporkle::cache {
namespace {

namespace fs = std::filesystem;

// A file: this header, then the code.
struct FileHeader {
  std::array<char, 8> magic;
  Digest key;
  Digest code_hash;
  uint64_t code_bytes;
};
constexpr std::array<char, 8> kMagic = {'s', 'p', 'k', 'k', 'e', 'r', 'n', '1'};
static_assert(sizeof(FileHeader) == 80, "the header has no padding: it is written as it lies in memory");

// Each part is hashed with its length, so that no two lists of parts read the same.
Digest hash_parts(std::initializer_list<std::string_view> parts) {
  Sha256 hash;
  for (const std::string_view part : parts) {
    const uint64_t size = part.size();
    hash.update(std::as_bytes(std::span(&size, 1)));
    hash.update(part);
  }
  return hash.finish();
}

std::string_view as_text(const Digest& digest) { return {reinterpret_cast<const char*>(digest.data()), digest.size()}; }

// Writes beside `path` and renames. Not synced as write_file_atomically does, which takes longer than to compile: what
// a crash of the system leaves of the file does not pass its hash, and is written again.
Status place_file(const fs::path& path, std::string_view content) {
  static std::atomic<unsigned> counter{0};
  fs::path temporary = path;
  temporary += ".tmp." + std::to_string(::getpid()) + "." + std::to_string(counter++);
  std::FILE* file = std::fopen(temporary.c_str(), "wbx");
  if (!file) return errno_status(errno, "cannot create " + temporary.string());
  Status status;
  if (std::fwrite(content.data(), 1, content.size(), file) != content.size())
    status = errno_status(errno, "cannot write " + temporary.string());
  if (std::fclose(file) != 0 && status.ok()) status = errno_status(errno, "cannot write " + temporary.string());
  if (status.ok() && std::rename(temporary.c_str(), path.c_str()) != 0)
    status = errno_status(errno, "cannot rename onto " + path.string());
  if (!status.ok()) std::remove(temporary.c_str());
  return status;
}

fs::path path_of(const fs::path& directory, const Digest& key) {
  const std::string hex = to_hex(key);
  return directory / hex.substr(0, 2) / hex.substr(2);
}

}  // namespace

KernelCache::KernelCache(hal::Device& device, fs::path directory, std::string_view version)
    : device_(device), directory_(std::move(directory)), version_(version) {}

KernelCache::Entry& KernelCache::entry(EntryMap& map, std::string_view key) {
  std::lock_guard lock(mutex_);
  const auto found = map.find(key);
  Entry& entry = found != map.end() ? found->second : map.try_emplace(std::string(key)).first->second;
  if (entry.ready.load(std::memory_order_acquire)) ++counters_.memory_hits;
  return entry;
}

template <typename Make>
Result<hal::ExecutableRef> KernelCache::resolve(Entry& entry, const Make& make) {
  if (entry.ready.load(std::memory_order_acquire)) return entry.executable;
  std::lock_guard making(entry.making);
  if (entry.ready.load(std::memory_order_acquire)) return entry.executable;
  SPORKLE_ASSIGN_OR_RETURN(entry.executable, make());
  entry.ready.store(true, std::memory_order_release);
  return entry.executable;
}

Result<hal::ExecutableRef> KernelCache::get(const ir::Kernel& kernel, const lower::Schedule& schedule) {
  return get(kernel, schedule, {});
}

Result<hal::ExecutableRef> KernelCache::get(const ir::Kernel& kernel, const lower::Schedule& schedule,
                                            std::string_view structure) {
  const Digest key = hash_parts({ir::print(kernel), schedule.text(), device_.info().target, version_});
  return resolve(entry(by_content_, as_text(key)), [&]() -> Result<hal::ExecutableRef> {
    SPORKLE_ASSIGN_OR_RETURN(hal::ExecutableRef executable, load_or_compile(key, kernel, schedule));
    if (hal::launches_are_watched())
      executable->describe(std::make_shared<hal::KernelDescription>(kernel, std::string(structure), schedule.text(),
                                                                    to_hex(key).substr(0, 16)));
    return executable;
  });
}

Result<hal::ExecutableRef> KernelCache::get(std::string_view structural_key, const std::function<Source()>& make) {
  return resolve(entry(by_structure_, structural_key), [&] {
    const Source source = make();
    return get(source.first, source.second, structural_key);
  });
}

CacheCounters KernelCache::counters() const {
  std::lock_guard lock(mutex_);
  return counters_;
}

Result<hal::ExecutableRef> KernelCache::load_or_compile(const Digest& key, const ir::Kernel& kernel,
                                                        const lower::Schedule& schedule) {
  const fs::path path = path_of(directory_, key);
  const std::string label = kernel.name + " " + to_hex(key).substr(0, 8);
  if (debug_level() >= 3) log(LogLevel::info, "schedule", label + ": " + schedule.text());
  if (debug_level() >= 4) log(LogLevel::info, "ir", label + ", as traced:\n" + ir::print(kernel));

  // At SPORKLE_DEBUG=4 everything is compiled, so that its stages can be seen.
  const auto load_start = std::chrono::steady_clock::now();
  Result<hal::ExecutableRef> loaded =
      debug_level() >= 4 ? Result<hal::ExecutableRef>(not_found("not looked for")) : load_from_disk(path, key);
  if (loaded.ok()) {
    const std::chrono::duration<double, std::milli> taken = std::chrono::steady_clock::now() - load_start;
    if (debug_level() >= 2) log(LogLevel::info, "load", label + ": " + format_fixed(taken.count(), 3) + " ms");
    std::lock_guard lock(mutex_);
    ++counters_.disk_hits;
    return loaded;
  }
  const Code code_of_failure = loaded.status().code();
  if (code_of_failure == Code::corrupt_data || code_of_failure == Code::unsupported) {
    log(LogLevel::info, "cache", "compiling kernel " + kernel.name + " anew: " + loaded.status().message());
    std::lock_guard lock(mutex_);
    ++counters_.corrupt_files;
  }

  trace::Span span("compile", kernel.name);
  span.add("key", to_hex(key).substr(0, 16));
  span.add("schedule", schedule.text());
  const auto start = std::chrono::steady_clock::now();
  SPORKLE_ASSIGN_OR_RETURN(const std::vector<std::byte> code,
                           codegen::compile(kernel, schedule, device_.info().target));
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
  {
    std::lock_guard lock(mutex_);
    ++counters_.compiles;
    counters_.compile_seconds += taken.count();
  }
  if (debug_level() >= 2) {
    log(LogLevel::info, "compile",
        label + " for " + device_.info().target + ": " + format_fixed(taken.count() * 1e3, 3) + " ms, " +
            std::to_string(code.size()) + " bytes");
  }
  SPORKLE_ASSIGN_OR_RETURN(hal::ExecutableRef executable, device_.load(code));
  write_to_disk(path, key, code);
  return executable;
}

Result<hal::ExecutableRef> KernelCache::load_from_disk(const fs::path& path, const Digest& key) {
  SPORKLE_ASSIGN_OR_RETURN(const std::string file, read_file(path));
  FileHeader header;
  if (file.size() < sizeof header) return corrupt_data(path.string() + " is too short");
  std::memcpy(&header, file.data(), sizeof header);
  const auto code = std::as_bytes(std::span(file)).subspan(sizeof header);
  if (header.magic != kMagic || header.key != key || header.code_bytes != code.size() ||
      header.code_hash != sha256(code)) {
    return corrupt_data(path.string() + " is damaged");
  }
  return device_.load(code);
}

void KernelCache::write_to_disk(const fs::path& path, const Digest& key, std::span<const std::byte> code) {
  const FileHeader header{kMagic, key, sha256(code), code.size()};
  std::string file(sizeof header + code.size(), '\0');
  std::memcpy(file.data(), &header, sizeof header);
  if (!code.empty()) std::memcpy(file.data() + sizeof header, code.data(), code.size());

  std::error_code error;
  fs::create_directories(path.parent_path(), error);
  const Status status =
      error ? errno_status(error.value(), "cannot create " + path.parent_path().string()) : place_file(path, file);
  if (status.ok()) return;
  std::unique_lock lock(mutex_);
  const bool first = counters_.write_failures++ == 0;
  lock.unlock();
  if (first) {
    log(LogLevel::warning, "cache",
        status.message() +
            "; compiled kernels are not kept, and every start compiles them again (SPORKLE_CACHE names "
            "another folder)");
  }
}

}  // namespace sporkle::cache
