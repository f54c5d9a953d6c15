// Any bytes are a run record or an error, and a record that verifies is encoded to bytes that verify again. Signatures
// cannot be guessed, so what parses before the signature is checked is reached by signing the input's fields anew.
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <span>
#include <string_view>

#include "mesh/lan_datagram.h"
#include "mesh/record.pb.h"
#include "mesh/run_record.h"

namespace {

using namespace sporkle::mesh;

const Identity& signer() {
  static const Identity identity = *Identity::generate();
  return identity;
}

void expect_round_trip(const RunRecord& record) {
  const auto again = RunRecord::parse(record.encode());
  if (!again.ok() || !(*again == record)) std::abort();
  const auto bytes = record_bytes_from_text(record_to_text(record));
  if (!bytes.ok() || *bytes != record.encode()) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  const auto record = RunRecord::parse(bytes);
  if (record.ok()) expect_round_trip(*record);
  const auto datagram = decode_lan_datagram(bytes);
  if (datagram.ok() && datagram->kind == LanDatagram::Kind::record && RunRecord::parse(datagram->record).ok() &&
      encode_lan_record(datagram->record) != std::vector<std::byte>(bytes.begin(), bytes.end()))
    std::abort();
  (void)record_bytes_from_text({reinterpret_cast<const char*>(data), size});

  wire::RunRecord message;
  if (!message.ParseFromArray(data, static_cast<int>(size))) return 0;
  RunRecord fields;
  fields.sequence = message.sequence();
  fields.expires_unix_s = message.expires_unix_s();
  fields.name = message.name();
  for (const auto& text : message.addresses())
    if (const auto address = Address::parse(text); address.ok()) fields.addresses.push_back(*address);
  if (const auto made = RunRecord::sign(fields, signer()); made.ok()) expect_round_trip(*made);
  return 0;
}
