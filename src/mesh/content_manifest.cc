#include "mesh/content_manifest.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "base/file.h"
#include "mesh/content.pb.h"
#include "mesh/little_endian.h"
#include "mesh/piece_tree.h"
#include "mesh/printable.h"

namespace sporkle::mesh {
namespace {

constexpr std::string_view domain = "sporkle content manifest 1";
constexpr uint64_t pieces_wanted = 2000;

std::string text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

template <size_t N>
bool copy_exactly(const std::string& from, std::array<std::byte, N>& to) {
  if (from.size() != N) return false;
  std::ranges::copy(std::as_bytes(std::span(from)), to.begin());
  return true;
}

// Empty when the fields are as they should be. A name becomes a file's name on the machines of others.
std::string fault(const ContentManifest& m) {
  if (m.name.empty() || m.name.size() > ContentManifest::max_name_bytes || m.name[0] == '.' ||
      m.name.find('/') != std::string::npos || printable(m.name, ContentManifest::max_name_bytes) != m.name)
    return "its name '" + printable(m.name, ContentManifest::max_name_bytes) +
           "' is not 1 to 128 printable bytes without '/', and not beginning with '.'";
  if (content_kind_name(m.kind).empty())
    return "its kind " + std::to_string(static_cast<uint32_t>(m.kind)) + " is unknown";
  if (!std::has_single_bit(m.piece_bytes) || m.piece_bytes < ContentManifest::least_piece_bytes ||
      m.piece_bytes > ContentManifest::largest_piece_bytes)
    return "its pieces of " + std::to_string(m.piece_bytes) + " bytes are not a power of two from 16 KiB to 64 MiB";
  if (m.size_bytes == 0) return "it is empty";
  if ((m.size_bytes - 1) / m.piece_bytes + 1 > ContentManifest::max_pieces)
    return "its " + std::to_string(m.size_bytes) + " bytes are more than 65536 pieces";
  return "";
}

}  // namespace

std::string_view content_kind_name(ContentKind kind) {
  switch (kind) {
    case ContentKind::dataset:
      return "dataset";
    case ContentKind::checkpoint:
      return "checkpoint";
    case ContentKind::model:
      return "model";
  }
  return "";
}

uint32_t piece_bytes_for(uint64_t size_bytes) {
  uint32_t bytes = uint32_t{64} << 10;
  while (size_bytes / bytes > pieces_wanted && bytes < ContentManifest::largest_piece_bytes) bytes *= 2;
  return bytes;
}

size_t ContentManifest::size_of_piece(size_t piece) const {
  const uint64_t begin = uint64_t{piece} * piece_bytes;
  return begin >= size_bytes ? 0 : static_cast<size_t>(std::min<uint64_t>(piece_bytes, size_bytes - begin));
}

bool ContentManifest::is_piece(size_t piece, std::span<const std::byte> bytes) const {
  return piece < layer.size() && bytes.size() == size_of_piece(piece) &&
         piece_hash(bytes, piece_bytes, layer.size() == 1) == layer[piece];
}

Result<ContentManifest> ContentManifest::of_bytes(std::span<const std::byte> bytes, const std::string& name,
                                                  ContentKind kind, const Identity& signer) {
  ContentManifest m;
  m.key = signer.public_key();
  m.name = name;
  m.kind = kind;
  m.size_bytes = bytes.size();
  m.piece_bytes = piece_bytes_for(bytes.size());
  if (const std::string what = fault(m); !what.empty()) return invalid_argument("this cannot be published: " + what);
  const bool whole = bytes.size() <= m.piece_bytes;
  for (size_t begin = 0; begin < bytes.size(); begin += m.piece_bytes)
    m.layer.push_back(
        piece_hash(bytes.subspan(begin, std::min<size_t>(m.piece_bytes, bytes.size() - begin)), m.piece_bytes, whole));
  m.root = layer_root(m.layer, m.piece_bytes);
  m.signature = signer.sign(m.signed_bytes());
  return m;
}

Result<ContentManifest> ContentManifest::of_file(const std::filesystem::path& path, ContentKind kind,
                                                 const Identity& signer) {
  SPORKLE_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::open(path));
  return of_bytes(file.bytes(), path.filename().string(), kind, signer);
}

Result<ContentManifest> ContentManifest::parse(std::span<const std::byte> encoded) {
  const auto bad = [](const std::string& what) { return corrupt_data("bad manifest: " + what); };
  if (encoded.size() > max_encoded_bytes) return bad("it has " + std::to_string(encoded.size()) + " bytes");
  wire::ContentManifest message;
  if (!message.ParseFromArray(encoded.data(), static_cast<int>(encoded.size())))
    return bad("it is no protobuf message");
  ContentManifest m;
  if (!copy_exactly(message.public_key(), m.key) || !copy_exactly(message.root(), m.root) ||
      !copy_exactly(message.signature(), m.signature))
    return bad("its key, root or signature is not of its size");
  m.name = message.name();
  m.kind = static_cast<ContentKind>(message.kind());
  m.size_bytes = message.size_bytes();
  m.piece_bytes = message.piece_bytes();
  if (const std::string what = fault(m); !what.empty()) return bad(what);
  const size_t pieces = static_cast<size_t>((m.size_bytes - 1) / m.piece_bytes + 1);
  if (message.layer().size() != pieces * sizeof(Digest)) return bad("it does not have one hash for each piece");
  m.layer.resize(pieces);
  for (size_t i = 0; i < pieces; ++i)
    std::ranges::copy(std::as_bytes(std::span(message.layer())).subspan(i * sizeof(Digest), sizeof(Digest)),
                      m.layer[i].begin());
  if (layer_root(m.layer, m.piece_bytes) != m.root) return bad("the hashes of its pieces do not lead to its root");
  if (!verify_signature(m.key, m.signed_bytes(), m.signature)) return bad("the signature is not its key's");
  return m;
}

std::vector<std::byte> ContentManifest::encode() const {
  wire::ContentManifest message;
  message.set_public_key(text(key));
  message.set_name(name);
  message.set_kind(static_cast<uint32_t>(kind));
  message.set_size_bytes(size_bytes);
  message.set_piece_bytes(piece_bytes);
  message.set_root(text(root));
  message.set_signature(text(signature));
  message.set_layer(text(std::as_bytes(std::span(layer))));
  std::vector<std::byte> out(message.ByteSizeLong());
  message.SerializeToArray(out.data(), static_cast<int>(out.size()));
  return out;
}

std::vector<std::byte> ContentManifest::signed_bytes() const {
  std::vector<std::byte> out;
  const auto append = [&out](std::span<const std::byte> bytes) { out.insert(out.end(), bytes.begin(), bytes.end()); };
  append(std::as_bytes(std::span(domain)));
  out.push_back(std::byte{0});
  append(key);
  append(root);
  append_integer(out, size_bytes, 8);
  append_integer(out, piece_bytes, 4);
  append_integer(out, static_cast<uint32_t>(kind), 4);
  append_integer(out, name.size(), 2);
  append(std::as_bytes(std::span(name)));
  return out;
}

}  // namespace sporkle::mesh
