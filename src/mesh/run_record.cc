#include "mesh/run_record.h"

#include <algorithm>
#include <cassert>

#include "base/sha256.h"
#include "mesh/base32.h"
#include "mesh/little_endian.h"
#include "mesh/printable.h"
#include "mesh/record.pb.h"

namespace sporkle::mesh {
namespace {

constexpr std::string_view domain = "sporkle run record 1";  // a zero byte follows: no other text signed begins so
constexpr std::string_view text_prefix = "sporkle-record:";

void append(std::vector<std::byte>& out, std::span<const std::byte> bytes) {
  out.insert(out.end(), bytes.begin(), bytes.end());
}

void append(std::vector<std::byte>& out, std::string_view text) { append(out, std::as_bytes(std::span(text))); }

template <size_t N>
std::string to_string(const std::array<std::byte, N>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), N};
}

template <size_t N>
Status copy_exactly(const std::string& from, std::array<std::byte, N>& to, const char* what) {
  if (from.size() != N)
    return corrupt_data(std::string("bad run record: its ") + what + " has " + std::to_string(from.size()) +
                        " bytes instead of " + std::to_string(N));
  std::ranges::copy(std::as_bytes(std::span(from)), to.begin());
  return {};
}

// Empty when the fields are as they should be, otherwise what is wrong.
std::string fault(const RunRecord& record) {
  if (record.name.empty() || record.name.size() > RunRecord::max_name_bytes)
    return "its name has " + std::to_string(record.name.size()) + " bytes; 1 to " +
           std::to_string(RunRecord::max_name_bytes) + " are allowed";
  if (record.addresses.empty() || record.addresses.size() > RunRecord::max_addresses)
    return "it has " + std::to_string(record.addresses.size()) + " addresses; 1 to " +
           std::to_string(RunRecord::max_addresses) + " are allowed";
  for (const Address& address : record.addresses) {
    const auto parsed = Address::parse(address.to_string());
    if (!parsed.ok()) return parsed.status().message();
    if (*parsed != address) return "address '" + printable(address.to_string(), 300) + "' is not host:port";
    if (address.host.find('%') != std::string::npos)
      return "address '" + address.to_string() + "' has a zone, which means nothing on another machine";
  }
  return "";
}

bool read(std::span<const std::byte> encoded, wire::RunRecord& message) {
  return message.ParseFromArray(encoded.data(), static_cast<int>(encoded.size()));
}

}  // namespace

Result<RunRecord> RunRecord::sign(RunRecord record, const Identity& coordinator) {
  if (const std::string what = fault(record); !what.empty())
    return invalid_argument("cannot sign a run record: " + what);
  record.key = coordinator.public_key();
  record.signature = coordinator.sign(record.signed_bytes());
  if (const size_t size = record.encode().size(); size > max_encoded_bytes)
    return invalid_argument("cannot sign a run record: it would take " + std::to_string(size) + " bytes; at most " +
                            std::to_string(max_encoded_bytes) + " are allowed; give fewer or shorter addresses");
  return record;
}

Result<RunRecord> RunRecord::parse(std::span<const std::byte> encoded) {
  if (encoded.size() > max_encoded_bytes)
    return corrupt_data("bad run record: it has " + std::to_string(encoded.size()) + " bytes; at most " +
                        std::to_string(max_encoded_bytes) + " are allowed");
  wire::RunRecord message;
  if (!read(encoded, message)) return corrupt_data("bad run record: it is not a protobuf message");
  RunRecord record;
  SPORKLE_RETURN_IF_ERROR(copy_exactly(message.public_key(), record.key, "public key"));
  SPORKLE_RETURN_IF_ERROR(copy_exactly(message.run_id(), record.run_id, "run ID"));
  SPORKLE_RETURN_IF_ERROR(copy_exactly(message.signature(), record.signature, "signature"));
  record.sequence = message.sequence();
  record.expires_unix_s = message.expires_unix_s();
  record.name = message.name();
  if (message.addresses_size() > static_cast<int>(max_addresses))
    return corrupt_data("bad run record: it has " + std::to_string(message.addresses_size()) + " addresses; at most " +
                        std::to_string(max_addresses) + " are allowed");
  for (const std::string& text : message.addresses()) {
    auto address = Address::parse(text);
    if (!address.ok()) return corrupt_data("bad run record: " + address.status().message());
    // The signature is over the text: "host:007" would sign and read as "host:7".
    if (address->to_string() != text)
      return corrupt_data("bad run record: address '" + printable(text, 300) + "' is not in its plain form");
    record.addresses.push_back(*std::move(address));
  }
  if (const std::string what = fault(record); !what.empty()) return corrupt_data("bad run record: " + what);
  if (!verify_signature(record.key, record.signed_bytes(), record.signature))
    return corrupt_data("bad run record: the signature is not node " + record.coordinator().short_id() +
                        "'s; it was changed on the way, or forged");
  return record;
}

std::optional<NodeId> RunRecord::claimed_signer(std::span<const std::byte> encoded) {
  wire::RunRecord message;
  PublicKey key{};
  if (encoded.size() > max_encoded_bytes || !read(encoded, message) ||
      !copy_exactly(message.public_key(), key, "").ok())
    return std::nullopt;
  return NodeId::of(key);
}

std::vector<std::byte> RunRecord::encode() const {
  wire::RunRecord message;
  message.set_public_key(to_string(key));
  message.set_run_id(to_string(run_id));
  message.set_sequence(sequence);
  message.set_expires_unix_s(expires_unix_s);
  message.set_name(name);
  for (const Address& address : addresses) message.add_addresses(address.to_string());
  message.set_signature(to_string(signature));
  std::vector<std::byte> out(message.ByteSizeLong());
  message.SerializeToArray(out.data(), static_cast<int>(out.size()));
  return out;
}

std::vector<std::byte> RunRecord::signed_bytes() const {
  std::vector<std::byte> out;
  append(out, domain);
  out.push_back(std::byte{0});
  append(out, key);
  append(out, run_id);
  append_integer(out, sequence, 8);
  append_integer(out, expires_unix_s, 8);
  append_integer(out, name.size(), 2);
  append(out, name);
  append_integer(out, addresses.size(), 2);
  for (const Address& address : addresses) {
    const std::string text = address.to_string();
    append_integer(out, text.size(), 2);
    append(out, text);
  }
  return out;
}

Status RunRecord::check_expiry(uint64_t now_unix_s) const {
  if (!expired(now_unix_s)) return {};
  return Status(Code::deadline_exceeded, "the record of run '" + printable(name, max_name_bytes) + "' expired " +
                                             std::to_string(now_unix_s - expires_unix_s) +
                                             " s ago; get a newer one, or see whether this machine's clock is right");
}

bool RunRecord::belongs_to(const RunLink& link) const {
  if (link.coordinator != coordinator()) return false;
  const std::string run = run_in_link(link);
  return run.empty() || run == link_run_value(run_id);
}

RunLink RunRecord::link() const {
  return {coordinator(),
          addresses,
          {{std::string(link_run_parameter), link_run_value(run_id)},
           {std::string(link_key_parameter), link_key_value(key)}}};
}

std::string link_run_value(const RunId& id) { return to_hex(id).substr(0, link_run_digits); }

std::string run_in_link(const RunLink& link) {
  const auto found = link.parameters.find(std::string(link_run_parameter));
  return found == link.parameters.end() ? "" : found->second;
}

std::string link_key_value(const PublicKey& key) { return to_base32(key); }

Result<PublicKey> key_in_link(const RunLink& link) {
  const auto found = link.parameters.find(std::string(link_key_parameter));
  if (found == link.parameters.end()) return not_found("the link has no key, so the DHT cannot be asked for its run");
  PublicKey key;
  if (!from_base32(found->second, key) || NodeId::of(key) != link.coordinator)
    return invalid_argument("the link's key '" + printable(found->second, 60) + "' is not its coordinator's");
  return key;
}

std::vector<Address> fit_addresses(const std::vector<Address>& addresses) {
  // Keys, tags, numbers and the longest name take less than this.
  constexpr size_t fixed_bytes = 256;
  constexpr size_t max_bytes = 996;  // what an item of the DHT holds, less than max_encoded_bytes
  constexpr size_t field_bytes = 3;  // a tag and a length of up to two bytes
  std::vector<Address> fitting;
  size_t size = fixed_bytes;
  for (const Address& address : addresses) {
    const size_t bytes = address.to_string().size() + field_bytes;
    if (fitting.size() == RunRecord::max_addresses || size + bytes > max_bytes ||
        address.host.find('%') != std::string::npos || std::ranges::find(fitting, address) != fitting.end())
      continue;
    size += bytes;
    fitting.push_back(address);
  }
  return fitting;
}

Status replace_if_newer(std::optional<RunRecord>& held, RunRecord offered) {
  if (held) {
    assert(held->key == offered.key && held->run_id == offered.run_id);
    if (*held == offered) return {};
    if (held->sequence >= offered.sequence)
      return invalid_argument("a record of run '" + printable(offered.name, RunRecord::max_name_bytes) +
                              "' with sequence number " + std::to_string(offered.sequence) +
                              (held->sequence > offered.sequence
                                   ? " is older than the one known here, " + std::to_string(held->sequence)
                                   : " is not the one known by that number; the coordinator signed both"));
  }
  held = std::move(offered);
  return {};
}

std::string record_to_text(const RunRecord& record) { return record_to_text(record.encode()); }
std::string record_to_text(std::span<const std::byte> encoded) { return std::string(text_prefix) + to_base32(encoded); }

Result<std::vector<std::byte>> record_bytes_from_text(std::string_view line) {
  if (!line.starts_with(text_prefix))
    return invalid_argument("not a run record: '" + printable(line, 40) + "' does not begin with " +
                            std::string(text_prefix));
  line.remove_prefix(text_prefix.size());
  std::vector<std::byte> bytes(line.size() * 5 / 8);
  if (bytes.size() > RunRecord::max_encoded_bytes)
    return invalid_argument("not a run record: it has " + std::to_string(bytes.size()) + " bytes; at most " +
                            std::to_string(RunRecord::max_encoded_bytes) + " are allowed");
  if (!from_base32(line, bytes))
    return invalid_argument("not a run record: what follows " + std::string(text_prefix) + " is not base32");
  return bytes;
}

}  // namespace sporkle::mesh
