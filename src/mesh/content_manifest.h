// ContentManifest: what a file is, signed by who vouches for it: its name, kind and size, and the root of its tree, by
// which every piece of it can be checked, whoever sends it. A plain value.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/sha256.h"
#include "base/status.h"
#include "mesh/identity.h"
#include "mesh/node_id.h"

namespace sporkle::mesh {

enum class ContentKind : uint32_t { dataset = 1, checkpoint = 2, model = 3 };
std::string_view content_kind_name(ContentKind kind);

struct ContentManifest {
  static constexpr size_t max_name_bytes = 128;
  static constexpr size_t max_pieces = size_t{1} << 16;
  static constexpr size_t max_encoded_bytes = 32 * max_pieces + 4096;
  static constexpr size_t least_piece_bytes = size_t{16} << 10, largest_piece_bytes = size_t{64} << 20;

  PublicKey key{};
  std::string name;  // of the file, without folders
  ContentKind kind = ContentKind::model;
  uint64_t size_bytes = 0;   // at least 1
  uint32_t piece_bytes = 0;  // a power of two
  Digest root{};
  Signature signature{};
  std::vector<Digest> layer;  // one hash a piece; checked against the root

  size_t piece_count() const { return layer.size(); }
  size_t size_of_piece(size_t piece) const;
  // Whether these are the bytes of that piece.
  bool is_piece(size_t piece, std::span<const std::byte> bytes) const;

  // Reads the file once. invalid_argument for an empty file or a name that is none; errors of the file system.
  static Result<ContentManifest> of_file(const std::filesystem::path& path, ContentKind kind, const Identity& signer);
  // The same of bytes in memory.
  static Result<ContentManifest> of_bytes(std::span<const std::byte> bytes, const std::string& name, ContentKind kind,
                                          const Identity& signer);
  // encode()'s reverse, for bytes from anywhere: bounds, the layer against the root, and the signature are checked.
  // corrupt_data says what is wrong.
  static Result<ContentManifest> parse(std::span<const std::byte> encoded);
  std::vector<std::byte> encode() const;
  // What is signed: see docs/protocol.md.
  std::vector<std::byte> signed_bytes() const;

  bool operator==(const ContentManifest&) const = default;
};

// The size of pieces for a file: 64 KiB for small ones, larger so that there are at most about 2000.
uint32_t piece_bytes_for(uint64_t size_bytes);

}  // namespace sporkle::mesh
