// RecordSigner: the coordinator's side of records. Signs a new one when the addresses have changed or the last one
// nears its end, with a sequence number above all earlier ones, also those of before a restart.
//
// Thread-safe.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "mesh/clock.h"
#include "mesh/identity.h"
#include "mesh/run_record.h"

namespace sporkle::mesh {

class RecordSigner {
 public:
  struct Options {
    RunId run_id{};
    std::string name;  // cut to what a record holds; an empty one becomes "run"
    // Where the coordinator can be reached; asked again every `address_interval_ms`.
    std::function<std::vector<Address>()> addresses;
    // Holds the last record, as a seed list of one; read for its sequence number, and written with every new record.
    // Empty: nowhere.
    std::filesystem::path file;
    uint64_t validity_s = 7 * 24 * 3600;
    int64_t address_interval_ms = 10'000;
  };

  // `clock` outlives the signer.
  RecordSigner(const Identity& identity, const Clock& clock, Options options);

  // The record that holds now. An error when there is no address that a record can hold. A file that cannot be written
  // is logged, once.
  Result<RunRecord> current();

 private:
  const Identity identity_;
  const Clock& clock_;
  const Options options_;
  std::mutex mutex_;
  std::optional<RunRecord> record_;
  uint64_t last_sequence_ = 0;
  int64_t addresses_known_at_ms_ = 0;
  bool file_failed_ = false;
};

}  // namespace sporkle::mesh
