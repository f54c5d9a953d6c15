#include "mesh/lan_datagram.h"

#include <algorithm>
#include <array>
#include <string>

namespace sporkle::mesh {
namespace {

constexpr std::array magic{std::byte{'S'}, std::byte{'P'}, std::byte{'L'}, std::byte{'N'}};
constexpr std::byte version{1};

std::vector<std::byte> with_header(LanDatagram::Kind kind) {
  std::vector<std::byte> datagram(magic.begin(), magic.end());
  datagram.push_back(version);
  datagram.push_back(static_cast<std::byte>(kind));
  datagram.resize(lan_header_bytes);
  return datagram;
}

}  // namespace

std::vector<std::byte> encode_lan_query() {
  std::vector<std::byte> datagram = with_header(LanDatagram::Kind::query);
  datagram.resize(lan_max_bytes);
  return datagram;
}

std::vector<std::byte> encode_lan_record(std::span<const std::byte> record) {
  std::vector<std::byte> datagram = with_header(LanDatagram::Kind::record);
  datagram.insert(datagram.end(), record.begin(), record.end());
  return datagram;
}

Result<LanDatagram> decode_lan_datagram(std::span<const std::byte> datagram) {
  if (datagram.size() < lan_header_bytes || datagram.size() > lan_max_bytes)
    return corrupt_data("a datagram of " + std::to_string(datagram.size()) + " bytes is not Sporkle's; " +
                        std::to_string(lan_header_bytes) + " to " + std::to_string(lan_max_bytes) + " are expected");
  if (!std::ranges::equal(datagram.first(magic.size()), magic)) return corrupt_data("a datagram of another program");
  if (datagram[4] != version)
    return unsupported("a datagram of version " + std::to_string(std::to_integer<int>(datagram[4])) +
                       "; this program understands version 1; another machine runs a newer one");
  if (datagram[6] != std::byte{0} || datagram[7] != std::byte{0})
    return corrupt_data("a datagram with bytes set that must be zero");
  const auto kind = static_cast<LanDatagram::Kind>(datagram[5]);
  const std::span<const std::byte> rest = datagram.subspan(lan_header_bytes);
  if (kind == LanDatagram::Kind::record) return LanDatagram{kind, rest};
  if (kind != LanDatagram::Kind::query)
    return corrupt_data("a datagram of the unknown kind " + std::to_string(std::to_integer<int>(datagram[5])));
  // A short query could make answers longer than itself.
  if (datagram.size() != lan_max_bytes)
    return corrupt_data("a query of " + std::to_string(datagram.size()) + " bytes instead of " +
                        std::to_string(lan_max_bytes));
  return LanDatagram{kind, {}};
}

}  // namespace sporkle::mesh
