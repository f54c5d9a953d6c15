// LanDatagram: what is sent by UDP on a local network so that runs are found without any configuration. Two kinds: a
// query, "which runs are here?", and a record, sent in answer and now and then unasked.
//
// A query is as long as the longest record, so an answer is never longer than what asked for it: nobody can make a
// coordinator send more than he sends himself. Thread-safe functions; byte-exact in docs/protocol.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "mesh/run_record.h"

namespace sporkle::mesh {

inline constexpr size_t lan_header_bytes = 8;
inline constexpr size_t lan_max_bytes = lan_header_bytes + RunRecord::max_encoded_bytes;  // a query has exactly these

inline constexpr uint16_t lan_port = 37747;
// In the IPv4 local scope (RFC 2365), and the IPv6 link-local scope, not assigned by IANA (RFC 4291's T flag).
inline constexpr char lan_group_v4[] = "239.255.83.80";
inline constexpr char lan_group_v6[] = "ff12::5350:4c4b";

struct LanDatagram {
  enum class Kind : uint8_t { query = 1, record = 2 };
  Kind kind = Kind::query;
  std::span<const std::byte> record;  // of a record: RunRecord::encode()'s bytes, not verified; into the datagram
};

std::vector<std::byte> encode_lan_query();
// `record` is RunRecord::encode()'s.
std::vector<std::byte> encode_lan_record(std::span<const std::byte> record);
// corrupt_data for what is neither, unsupported for another version.
Result<LanDatagram> decode_lan_datagram(std::span<const std::byte> datagram);

}  // namespace sporkle::mesh
