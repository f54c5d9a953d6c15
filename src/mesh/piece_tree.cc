#include "mesh/piece_tree.h"

#include <algorithm>
#include <bit>
#include <cassert>

namespace sporkle::mesh {
namespace {

Digest parent(const Digest& left, const Digest& right) {
  Sha256 hash;
  hash.update(left);
  hash.update(right);
  return hash.finish();
}

// The root of a row that is filled up to `width` nodes, a power of two, with `padding`.
Digest reduce(std::vector<Digest> row, size_t width, Digest padding) {
  for (; width > 1; width /= 2) {
    if (row.size() % 2 == 1) row.push_back(padding);
    for (size_t i = 0; i < row.size() / 2; ++i) row[i] = parent(row[2 * i], row[2 * i + 1]);
    row.resize(row.size() / 2);
    padding = parent(padding, padding);
  }
  return row[0];
}

}  // namespace

Digest piece_hash(std::span<const std::byte> piece, size_t piece_bytes, bool whole_file) {
  assert(!piece.empty() && piece.size() <= piece_bytes);
  std::vector<Digest> leaves;
  for (size_t begin = 0; begin < piece.size(); begin += tree_block_bytes)
    leaves.push_back(sha256(piece.subspan(begin, std::min(tree_block_bytes, piece.size() - begin))));
  const size_t width = whole_file ? std::bit_ceil(leaves.size()) : piece_bytes / tree_block_bytes;
  return reduce(std::move(leaves), width, Digest{});
}

Digest layer_root(std::span<const Digest> layer, size_t piece_bytes) {
  assert(!layer.empty());
  Digest padding{};
  for (size_t width = piece_bytes / tree_block_bytes; width > 1; width /= 2) padding = parent(padding, padding);
  return reduce({layer.begin(), layer.end()}, std::bit_ceil(layer.size()), padding);
}

}  // namespace sporkle::mesh
