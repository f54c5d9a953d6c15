// Store: a coordinator's state on disk, so that it goes on after kill -9 or a power cut.
//
// Small state is in <folder>/run.db (SQLite, WAL, synchronous = FULL); tensors are files in <folder>/blobs/, written
// atomically before the transaction that names them, with their SHA-256 in it. A file that no committed transaction
// names is swept when the store opens, one that is no longer named is deleted after the commit: whatever happens in
// between, the database and the files that it names fit together. One process at a time (a lock), one thread at a time.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "run/state.h"

namespace sporkle::run {

class Store {
 public:
  // Makes the folder and the database when they are not there. Errors: already_exists when another process has the
  // store open, corrupt_data or unsupported when the database is foreign or of another format.
  static Result<std::unique_ptr<Store>> open(const std::filesystem::path& folder);
  ~Store();

  // The manifest that the run was started with; empty for a new store.
  Result<std::string> manifest();
  Result<CoordinatorState> load();
  // not_found, or corrupt_data when the file is not what was written.
  Result<std::vector<std::byte>> read_blob(const std::string& name);

  // One transaction: everything from begin() to commit() or nothing. The first failure in between is kept, and
  // commit() returns it after rolling back.
  void begin();
  void put_manifest(std::string_view manifest);
  void put_round(const RoundState& round);
  void put_member(const Member& member);
  void put_lease(const LeaseRecord& lease);
  void clear_leases();
  void put_returned(const std::set<uint64_t>& units);
  void put_history(const RoundRecord& record);
  void put_blob(const std::string& name, std::span<const std::byte> content);
  void drop_blob(const std::string& name);
  Status commit();

 private:
  struct State;
  explicit Store(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace sporkle::run
