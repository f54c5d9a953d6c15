#include "mesh/seed_list.h"

#include <system_error>
#include <utility>

#include "base/file.h"
#include "mesh/printable.h"

namespace sporkle::mesh {
namespace {

constexpr size_t max_warnings = 5;

}  // namespace

Result<SeedList> SeedList::parse(std::string_view text, std::string_view source) {
  SeedList list;
  size_t bad_lines = 0;
  for (size_t number = 1; !text.empty(); ++number) {
    const size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty() || line.starts_with('#')) continue;
    std::string what = "it is no record";
    auto bytes = record_bytes_from_text(line);
    if (bytes.ok()) {
      if (const auto signer = RunRecord::claimed_signer(*bytes)) {
        if (list.entries_.size() == max_records)
          return invalid_argument(std::string(source) + " has more than " + std::to_string(max_records) + " records");
        list.entries_.push_back({*signer, *std::move(bytes)});
        continue;
      }
    } else {
      what = bytes.status().message();
    }
    if (++bad_lines <= max_warnings)
      list.warnings_.push_back(std::string(source) + ", line " + std::to_string(number) + ": " + what);
  }
  if (bad_lines > max_warnings)
    list.warnings_.push_back(std::string(source) + ": " + std::to_string(bad_lines) + " lines are no records");
  if (list.entries_.empty())
    return invalid_argument(std::string(source) + " has no record of a run; expected lines that begin with " +
                            "sporkle-record:" + (list.warnings_.empty() ? "" : " (" + list.warnings_.front() + ")"));
  return list;
}

Result<SeedList> SeedList::load(const std::filesystem::path& path) {
  std::error_code error;
  const auto size = std::filesystem::file_size(path, error);
  if (error) return errno_status(error.value(), "cannot read the seed list " + path.string());
  if (size > max_file_bytes)
    return invalid_argument("the seed list " + path.string() + " has " + std::to_string(size) + " bytes; at most " +
                            std::to_string(max_file_bytes) + " are read");
  SPORKLE_ASSIGN_OR_RETURN(const std::string text, read_file(path));
  return parse(text, path.string());
}

Status SeedList::append(SeedList other) {
  if (entries_.size() + other.entries_.size() > max_records)
    return invalid_argument("the seed lists have more than " + std::to_string(max_records) + " records together");
  for (Entry& entry : other.entries_) entries_.push_back(std::move(entry));
  for (std::string& warning : other.warnings_) warnings_.push_back(std::move(warning));
  return {};
}

Result<RunRecord> SeedList::find(const RunLink& link, uint64_t now_unix_s) const {
  std::optional<RunRecord> best;
  std::string why;
  for (const Entry& entry : entries_) {
    if (entry.signer != link.coordinator) continue;
    auto record = RunRecord::parse(entry.encoded);
    Status status = record.status();
    if (status.ok() && !record->belongs_to(link)) continue;
    if (status.ok()) status = record->check_expiry(now_unix_s);
    if (!status.ok()) {
      why = "; " + status.message();
    } else if (!best || record->sequence > best->sequence) {
      best = *std::move(record);
    }
  }
  if (!best)
    return not_found("the seed lists have no usable record of coordinator " + link.coordinator.short_id() + why);
  return *std::move(best);
}

}  // namespace sporkle::mesh
