// Compiled kernels, in memory and on disk: a warm start compiles nothing.
//
// A kernel's key is a hash of everything that shapes its code: its text, its schedule, the device's target and the code
// generator's version. The file DIRECTORY/ab/cdef...  holds the code for the key abcdef... with hashes of both; a file
// that does not check out is ignored and rewritten. The directory may be deleted at any time, and shared by any number
// of processes. Without a writable one everything works, compiling at every start.
//
// Thread-safe; a kernel that several threads ask for is compiled once while the others wait. The device must outlive
// the cache.
#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "base/file.h"
#include "base/sha256.h"
#include "codegen/compile.h"
#include "hal/device.h"

namespace sporkle::cache {

struct CacheCounters {
  uint64_t memory_hits = 0;
  uint64_t disk_hits = 0;
  uint64_t compiles = 0;
  uint64_t corrupt_files = 0;   // found on disk and ignored
  uint64_t write_failures = 0;  // only the first is logged
  double compile_seconds = 0;
};

class KernelCache {
 public:
  // `version` stands for the code generator; tests change it.
  explicit KernelCache(hal::Device& device, std::filesystem::path directory = cache_directory() / "kernels",
                       std::string_view version = codegen::version());
  KernelCache(const KernelCache&) = delete;
  KernelCache& operator=(const KernelCache&) = delete;

  // Prints and hashes the kernel at every call; for launches that repeat, keep the result or use the second form.
  Result<hal::ExecutableRef> get(const ir::Kernel& kernel, const lower::Schedule& schedule);

  // `structural_key` says all that `make` depends on, so that within this process equal keys mean equal kernels and
  // schedules; `make` is called for the first of them. The files on disk go by what `make` returned: a program that
  // makes another kernel under the same key does not get an old one.
  using Source = std::pair<ir::Kernel, lower::Schedule>;
  Result<hal::ExecutableRef> get(std::string_view structural_key, const std::function<Source()>& make);

  CacheCounters counters() const;

 private:
  // One kernel; `executable` is empty until it is there. Entries never go away, so that pointers to them stay good.
  struct Entry {
    std::mutex making;  // held by the thread that loads or compiles
    std::atomic<bool> ready{false};
    hal::ExecutableRef executable;  // written once, before `ready`
  };
  struct StringHash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };
  using EntryMap = std::unordered_map<std::string, Entry, StringHash, std::equal_to<>>;

  Entry& entry(EntryMap& map, std::string_view key);
  // The entry's executable, made by `make` if there is none yet.
  template <typename Make>
  Result<hal::ExecutableRef> resolve(Entry& entry, const Make& make);
  Result<hal::ExecutableRef> get(const ir::Kernel& kernel, const lower::Schedule& schedule, std::string_view structure);
  Result<hal::ExecutableRef> load_or_compile(const Digest& key, const ir::Kernel& kernel,
                                             const lower::Schedule& schedule);
  Result<hal::ExecutableRef> load_from_disk(const std::filesystem::path& path, const Digest& key);
  void write_to_disk(const std::filesystem::path& path, const Digest& key, std::span<const std::byte> code);

  hal::Device& device_;
  const std::filesystem::path directory_;
  const std::string version_;

  mutable std::mutex mutex_;  // guards what follows
  EntryMap by_content_;       // by the key's bytes
  EntryMap by_structure_;
  CacheCounters counters_;
};

}  // namespace sporkle::cache
