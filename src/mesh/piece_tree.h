// The SHA-256 tree of a file as BitTorrent v2 (BEP 52) has it: leaves are blocks of 16 KiB (the last one may be
// shorter), a node is the hash of its two children, and leaves that are missing to a power of two are zeros. The piece
// layer is the row of nodes that each cover one piece. Whoever trusts the root can check any piece by the layer.
// Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/sha256.h"

namespace sporkle::mesh {

inline constexpr size_t tree_block_bytes = size_t{16} << 10;

// The node above one piece of `piece_bytes`, a power of two from 16 KiB; the file's last piece may be shorter, and a
// file of less than a piece has a tree only as high as it needs (`whole_file`). Not of no bytes.
Digest piece_hash(std::span<const std::byte> piece, size_t piece_bytes, bool whole_file = false);

// The root above a piece layer; of a single piece that is the piece's own hash.
Digest layer_root(std::span<const Digest> layer, size_t piece_bytes);

}  // namespace sporkle::mesh
