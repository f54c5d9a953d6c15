// RunRecord: where a run's coordinator can be reached now, signed by the coordinator's key. Records come from anywhere
// (the LAN, a file, another node) and prove themselves: who holds one knows that the coordinator said this, though not
// that it is still so. Hence the sequence number, by which a newer record replaces an older one and never the reverse,
// and the time after which it counts no more. The addresses stay hints; the connection proves the key again.
//
// A plain value.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "mesh/identity.h"
#include "mesh/node_id.h"
#include "mesh/run_link.h"

namespace sporkle::mesh {

using RunId = std::array<std::byte, 32>;

struct RunRecord {
  static constexpr size_t max_encoded_bytes = 1024;  // so that a record fits into a datagram on any network
  static constexpr size_t max_name_bytes = 64;
  static constexpr size_t max_addresses = RunLink::max_addresses;

  PublicKey key{};  // the coordinator's
  RunId run_id{};   // the layer above's name of the run; tells runs of one coordinator apart
  uint64_t sequence = 0;
  uint64_t expires_unix_s = 0;
  std::string name;                // UTF-8 for people, from 1 byte; show it by way of printable()
  std::vector<Address> addresses;  // at least one, without IPv6 zones, which mean nothing elsewhere
  Signature signature{};

  NodeId coordinator() const { return NodeId::of(key); }

  // Fills in key and signature. invalid_argument names the field that is out of bounds; `addresses` that do not fit
  // into max_encoded_bytes together with the rest are an error, see fit_addresses().
  static Result<RunRecord> sign(RunRecord unsigned_record, const Identity& coordinator);
  // The reverse of encode(), for bytes from anywhere: sizes and fields are checked, and the signature. corrupt_data
  // says what is wrong.
  static Result<RunRecord> parse(std::span<const std::byte> encoded);
  // Who claims to have signed, and for which run, without checking the signature: to pick from many records the few
  // that are worth it. Nothing when the bytes are no record at all.
  static std::optional<NodeId> claimed_signer(std::span<const std::byte> encoded);

  std::vector<std::byte> encode() const;
  // What is signed: see docs/protocol.md.
  std::vector<std::byte> signed_bytes() const;

  bool expired(uint64_t now_unix_s) const { return now_unix_s >= expires_unix_s; }
  // ok, or deadline_exceeded, with both times, for a record that has expired.
  Status check_expiry(uint64_t now_unix_s) const;
  // Whether this record is of the run that `link` names: its coordinator, and its run ID where the link has one.
  bool belongs_to(const RunLink& link) const;
  // A link made of this record.
  RunLink link() const;

  bool operator==(const RunRecord&) const = default;
};

// The name of the link parameter that holds the first link_run_digits hexadecimal digits of the run ID.
inline constexpr std::string_view link_run_parameter = "run";
inline constexpr size_t link_run_digits = 16;
std::string link_run_value(const RunId& id);
// The value of that parameter, or "" for a link that has none.
std::string run_in_link(const RunLink& link);

// The name of the link parameter that holds the coordinator's public key in base32. The node ID, its hash, says which
// key is right; the key itself is what the DHT must be asked by.
inline constexpr std::string_view link_key_parameter = "key";
std::string link_key_value(const PublicKey& key);
// The key of the link's coordinator. not_found for a link that has none, invalid_argument for one whose key is damaged
// or another's.
Result<PublicKey> key_in_link(const RunLink& link);

// The first addresses that fit into a record, of a size that the DHT takes too, beside a name of any length; without
// repetitions and zones.
std::vector<Address> fit_addresses(const std::vector<Address>& addresses);

// Keeps the newer of two records of one run: puts `offered` into `held` unless that has a higher sequence number, which
// is an error (invalid_argument: an old record played again); the same record again is ok. Two different records of one
// number are an error too. A record of another run is a bug of the caller.
Status replace_if_newer(std::optional<RunRecord>& held, RunRecord offered);

// The text form for files and mails: "sporkle-record:" and base32, one line.
std::string record_to_text(const RunRecord& record);
std::string record_to_text(std::span<const std::byte> encoded);
// invalid_argument for what is no such line, otherwise as RunRecord::parse.
Result<std::vector<std::byte>> record_bytes_from_text(std::string_view line);

}  // namespace sporkle::mesh
