// SeedList: records of runs from files. One record a line ("sporkle-record:..."), empty lines and those that begin with
// '#' mean nothing, so lists can be written together, commented and mailed. Nobody has to trust where a list comes
// from.
//
// A value; const calls are thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "mesh/run_record.h"

namespace sporkle::mesh {

class SeedList {
 public:
  static constexpr size_t max_file_bytes = size_t{16} << 20;
  static constexpr size_t max_records = 20'000;

  // Reads lines; one that is no record becomes a warning that names `source` and its number, and is left out.
  // invalid_argument when there is no record at all, or too many.
  static Result<SeedList> parse(std::string_view text, std::string_view source);
  // The same from a file.
  static Result<SeedList> load(const std::filesystem::path& path);
  // Adds the records of another list. invalid_argument when they become too many.
  Status append(SeedList other);

  size_t size() const { return entries_.size(); }
  // The first few lines that were no records, ready to show.
  const std::vector<std::string>& warnings() const { return warnings_; }

  // The record of the run that `link` names: of several, the one with the highest sequence number (only for those of
  // the link's coordinator are signatures checked). not_found says, too, if there were forged or expired ones.
  Result<RunRecord> find(const RunLink& link, uint64_t now_unix_s) const;

 private:
  struct Entry {
    NodeId signer;  // as it claims
    std::vector<std::byte> encoded;
  };
  std::vector<Entry> entries_;
  std::vector<std::string> warnings_;
};

}  // namespace sporkle::mesh
