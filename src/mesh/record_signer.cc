#include "mesh/record_signer.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "base/file.h"
#include "base/log.h"
#include "mesh/printable.h"
#include "mesh/seed_list.h"

namespace sporkle::mesh {

RecordSigner::RecordSigner(const Identity& identity, const Clock& clock, Options options)
    : identity_(identity), clock_(clock), options_(std::move(options)) {
  if (options_.file.empty() || !std::filesystem::exists(options_.file)) return;
  // A damaged file costs nothing as long as the clock goes forward: numbers are times.
  const auto list = SeedList::load(options_.file);
  if (!list.ok()) return;
  if (const auto before = list->find({identity_.id(), {}, {}}, 0); before.ok()) last_sequence_ = before->sequence;
}

Result<RunRecord> RecordSigner::current() {
  const std::lock_guard lock(mutex_);
  const int64_t now_ms = clock_.unix_ms();
  const uint64_t now_s = static_cast<uint64_t>(std::max<int64_t>(now_ms, 0)) / 1000;
  if (record_ && std::abs(now_ms - addresses_known_at_ms_) < options_.address_interval_ms) return *record_;
  std::vector<Address> addresses = fit_addresses(options_.addresses());
  addresses_known_at_ms_ = now_ms;
  const bool fresh = record_ && record_->expires_unix_s > now_s + options_.validity_s / 2 &&
                     record_->expires_unix_s <= now_s + options_.validity_s;
  if (fresh && record_->addresses == addresses) return *record_;

  RunRecord next;
  next.run_id = options_.run_id;
  next.sequence = std::max(last_sequence_ + 1, static_cast<uint64_t>(std::max<int64_t>(now_ms, 1)));
  next.expires_unix_s = now_s + options_.validity_s;
  next.name = printable(options_.name.empty() ? "run" : options_.name, RunRecord::max_name_bytes);
  next.addresses = std::move(addresses);
  SPORKLE_ASSIGN_OR_RETURN(record_, RunRecord::sign(std::move(next), identity_));
  last_sequence_ = record_->sequence;
  if (!options_.file.empty()) {
    const Status written = write_file_atomically(
        options_.file,
        "# Where this run is to be found: for `sporkle join --seeds FILE LINK`.\n" + record_to_text(*record_) + "\n");
    if (!written.ok() && !std::exchange(file_failed_, true))
      log(LogLevel::warning, "mesh", "the run's record is not kept: " + written.message());
  }
  return *record_;
}

}  // namespace sporkle::mesh
