#include "train/compression.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <string>

#include "train/compression_kernels.h"

namespace sporkle::train {
namespace {

static_assert(std::endian::native == std::endian::little, "the encoded forms are little-endian");

constexpr size_t kHeaderBytes = 16;
constexpr uint32_t kInt8Block = 256;
constexpr uint32_t kMostInt8Block = 1u << 20;
// Kernels take so many values at once, so that their copies stay small.
constexpr size_t kPieceValues = size_t{1} << 22;

struct Form {
  Compression compression;
  const char* name;
  char magic[4];
  uint32_t block;  // values that share a scale; 0: there are no scales
  float most;      // the largest code: a scale times it must be finite
};
constexpr Form kForms[] = {
    {Compression::int8, "int8", {'S', 'Q', '8', 1}, kInt8Block, 127.0f},
    {Compression::int4, "int4", {'S', 'Q', '4', 1}, kernels::kInt4Block, 7.0f},
    {Compression::sign, "sign", {'S', 'S', 'G', 1}, kernels::kSignBlock, 1.0f},
    {Compression::topk, "topk", {'S', 'T', 'K', 1}, kernels::kTopkBlock, 127.0f},
    {Compression::none, "none", {'S', 'F', '4', 1}, 0, 0.0f},
};

const Form& form_of(Compression compression) { return kForms[static_cast<size_t>(compression)]; }

size_t divide_up(size_t a, size_t b) { return a / b + (a % b != 0); }

// Where the parts of an encoded form lie. Whole pieces begin at whole bytes.
struct Layout {
  Compression compression;
  size_t count, block;

  size_t blocks(size_t values) const { return block == 0 ? 0 : divide_up(values, block); }
  size_t scales_at(size_t value = 0) const { return kHeaderBytes + blocks(value) * sizeof(float); }
  // Bytes of positions, and of codes, for a number of values.
  size_t position_bytes(size_t values) const {
    return compression == Compression::topk ? (3 * kept(values) + 1) / 2 : 0;
  }
  size_t code_bytes(size_t values) const {
    switch (compression) {
      case Compression::none:
        return values * sizeof(float);
      case Compression::int8:
        return values;
      case Compression::int4:
        return divide_up(values, 2);
      case Compression::sign:
        return divide_up(values, 8);
      case Compression::topk:
        return kept(values);
    }
    return 0;
  }
  // In each block one of kTopkSpacing values, the last rounded up; blocks are whole multiples of it.
  size_t kept(size_t values) const { return divide_up(values, kernels::kTopkSpacing); }
  size_t positions_at(size_t value = 0) const { return scales_at(count) + position_bytes(value); }
  size_t codes_at(size_t value = 0) const { return positions_at(count) + code_bytes(value); }
  size_t size_bytes() const { return codes_at(count); }
  size_t piece() const { return block == 0 ? kPieceValues : block * std::max<size_t>(1, kPieceValues / block); }
};

float scale_at(std::span<const std::byte> encoded, const Layout& layout, size_t block) {
  float scale;
  std::memcpy(&scale, encoded.data() + layout.scales_at() + block * sizeof scale, sizeof scale);
  return scale;
}

// A stretch of values, and the parts of the encoded form that belong to it.
template <typename Bytes>
struct Piece {
  size_t first, count, blocks;
  Bytes scales, positions, codes;
};

template <typename Bytes, typename Body>
Status for_each_piece(const Layout& layout, Bytes encoded, Body body) {
  for (size_t first = 0; first < layout.count; first += layout.piece()) {
    const size_t count = std::min(layout.piece(), layout.count - first), blocks = layout.blocks(count);
    SPORKLE_RETURN_IF_ERROR(
        body(Piece<Bytes>{first, count, blocks, encoded.subspan(layout.scales_at(first), blocks * sizeof(float)),
                          encoded.subspan(layout.positions_at(first), layout.position_bytes(count)),
                          encoded.subspan(layout.codes_at(first), layout.code_bytes(count))}));
  }
  return {};
}

Status encode(const Layout& layout, const Piece<std::span<std::byte>>& p, std::span<const float> values,
              KernelRunner& runner) {
  const KernelRunner::Argument x = kernel_input(values), scales{{}, p.scales}, codes{{}, p.codes};
  switch (layout.compression) {
    case Compression::none:
      std::memcpy(p.codes.data(), values.data(), p.codes.size());
      return {};
    case Compression::int8:
      return runner.run(kernels::encode_int8(), std::array{x, scales, codes},
                        std::array<uint64_t, 3>{p.count, layout.block, p.blocks});
    case Compression::int4:
      return runner.run(kernels::encode_int4(), std::array{x, scales, codes},
                        std::array<uint64_t, 2>{p.count, p.blocks});
    case Compression::sign:
      return runner.run(kernels::encode_sign(), std::array{x, scales, codes},
                        std::array<uint64_t, 2>{p.count, p.blocks});
    case Compression::topk: {
      std::vector<int32_t> positions(layout.kept(p.count));
      SPORKLE_RETURN_IF_ERROR(runner.run(kernels::encode_topk(),
                                         std::array{x, scales, kernel_output(std::span(positions)), codes},
                                         std::array<uint64_t, 2>{p.count, p.blocks}));
      const KernelRunner::Argument packed{{}, p.positions};
      return runner.run(kernels::pack_positions(),
                        std::array{kernel_input(std::span<const int32_t>(positions)), packed},
                        std::array<uint64_t, 1>{positions.size()});
    }
  }
  return internal_error("an unknown compression");
}

Status wrong(const Layout& layout, const std::string& what) {
  return corrupt_data("a tensor compressed as " + std::string(compression_name(layout.compression)) + " " + what);
}

Result<Layout> parse(std::span<const std::byte> encoded, size_t count) {
  SPORKLE_ASSIGN_OR_RETURN(const Compression compression, compression_of(encoded));
  const Form& form = form_of(compression);
  uint32_t block;
  uint64_t encoded_count;
  std::memcpy(&block, encoded.data() + 4, sizeof block);
  std::memcpy(&encoded_count, encoded.data() + 8, sizeof encoded_count);
  const Layout layout{compression, count, block};
  const bool fits = compression == Compression::int8 ? block > 0 && block <= kMostInt8Block : block == form.block;
  if (!fits) return wrong(layout, "has blocks of " + std::to_string(block) + " values");
  if (encoded_count != count)
    return wrong(layout, "has " + std::to_string(encoded_count) + " values where " + std::to_string(count) + " belong");
  if (encoded.size() != layout.size_bytes())
    return wrong(layout, "has " + std::to_string(encoded.size()) + " bytes where " +
                             std::to_string(layout.size_bytes()) + " belong");
  for (size_t b = 0; b < layout.blocks(count); ++b) {
    const float scale = scale_at(encoded, layout, b);
    // Its products must be finite.
    if (std::signbit(scale) || !std::isfinite(scale * form.most))
      return wrong(layout, "has a scale that is negative or not finite in block " + std::to_string(b));
  }
  return layout;
}

// What only some forms have: codes that no encoder writes, and bits that fill the last byte.
Status check_codes(const Layout& layout, std::span<const std::byte> codes) {
  const auto byte = [&](size_t i) { return std::to_integer<unsigned>(codes[i]); };
  switch (layout.compression) {
    case Compression::none:
      for (size_t i = 0; i < layout.count; ++i) {
        float value;
        std::memcpy(&value, codes.data() + i * sizeof value, sizeof value);
        if (!std::isfinite(value)) return wrong(layout, "has a value that is not finite at " + std::to_string(i));
      }
      return {};
    case Compression::int8:
    case Compression::topk:
      if (std::ranges::count(codes, std::byte{0x80}) != 0)
        return wrong(layout, "has the code -128, which no encoder writes");
      return {};
    case Compression::int4:
      for (size_t i = 0; i < codes.size(); ++i) {
        const bool filled = 2 * i + 1 == layout.count;
        if ((byte(i) & 15) == 0 || ((byte(i) >> 4) == 0) != filled)
          return wrong(layout, "has a code that no encoder writes in byte " + std::to_string(i));
      }
      return {};
    case Compression::sign:
      if (layout.count % 8 != 0 && byte(codes.size() - 1) >> (layout.count % 8) != 0)
        return wrong(layout, "has bits set after its last value");
      return {};
  }
  return {};
}

// The positions of a piece must rise within each block, and stay in it.
Status check_positions(const Layout& layout, const Piece<std::span<const std::byte>>& p,
                       std::span<const int32_t> positions) {
  if (positions.size() % 2 != 0 && std::to_integer<unsigned>(p.positions.back()) >> 4 != 0)
    return wrong(layout, "has bits set after its last position");
  for (size_t i = 0; i < positions.size(); ++i) {
    const size_t in_block = i % kernels::kTopkKept, block = i / kernels::kTopkKept;
    const size_t length = std::min<size_t>(kernels::kTopkBlock, p.count - block * kernels::kTopkBlock);
    const std::string where = " in block " + std::to_string(p.first / kernels::kTopkBlock + block);
    if (static_cast<size_t>(positions[i]) >= length)
      return wrong(layout, "has the position " + std::to_string(positions[i]) + where + " of " +
                               std::to_string(length) + " values");
    if (in_block > 0 && positions[i] <= positions[i - 1])
      return wrong(layout, "has positions that are repeated or out of order" + where);
  }
  return {};
}

Status decode(const Layout& layout, const Piece<std::span<const std::byte>>& p, std::span<float> values,
              std::span<const int32_t> positions, KernelRunner& runner) {
  const KernelRunner::Argument scales{p.scales, {}}, codes{p.codes, {}}, x = kernel_output(values);
  switch (layout.compression) {
    case Compression::none:
      std::memcpy(values.data(), p.codes.data(), p.codes.size());
      return {};
    case Compression::int8:
      return runner.run(kernels::decode_int8(), std::array{scales, codes, x},
                        std::array<uint64_t, 3>{p.count, layout.block, p.blocks});
    case Compression::int4:
      return runner.run(kernels::decode_int4(), std::array{scales, codes, x},
                        std::array<uint64_t, 2>{p.count, p.blocks});
    case Compression::sign:
      return runner.run(kernels::decode_sign(), std::array{scales, codes, x},
                        std::array<uint64_t, 2>{p.count, p.blocks});
    case Compression::topk:
      return runner.run(kernels::decode_topk(), std::array{scales, kernel_input(positions), codes, x},
                        std::array<uint64_t, 2>{p.count, p.blocks});
  }
  return internal_error("an unknown compression");
}

Result<KernelRunner*> runner_or_shared(KernelRunner* runner) {
  if (runner) return runner;
  return KernelRunner::shared();
}

}  // namespace

std::string_view compression_name(Compression compression) { return form_of(compression).name; }

Result<Compression> parse_compression(std::string_view name) {
  std::string known;
  for (const Compression compression : kCompressions) {
    if (name == compression_name(compression)) return compression;
    known += (known.empty() ? "" : ", ") + std::string(compression_name(compression));
  }
  return invalid_argument("unknown compression \"" + std::string(name) + "\"; one of these was expected: " + known);
}

size_t compressed_size_bytes(Compression compression, size_t count) {
  return Layout{compression, count, form_of(compression).block}.size_bytes();
}

Result<std::vector<std::byte>> compress(Compression compression, std::span<const float> values, KernelRunner* runner) {
  SPORKLE_ASSIGN_OR_RETURN(KernelRunner * on, runner_or_shared(runner));
  const Form& form = form_of(compression);
  const Layout layout{compression, values.size(), form.block};
  std::vector<std::byte> encoded(layout.size_bytes());
  const uint64_t count = values.size();
  std::memcpy(encoded.data(), form.magic, sizeof form.magic);
  std::memcpy(encoded.data() + 4, &form.block, sizeof form.block);
  std::memcpy(encoded.data() + 8, &count, sizeof count);
  const auto encode_piece = [&](const Piece<std::span<std::byte>>& piece) {
    return encode(layout, piece, values.subspan(piece.first, piece.count), *on);
  };
  SPORKLE_RETURN_IF_ERROR(for_each_piece(layout, std::span(encoded), encode_piece));
  const auto not_finite = [](size_t index) {
    return invalid_argument("cannot compress a value that is not finite, or among the largest, near index " +
                            std::to_string(index));
  };
  for (size_t b = 0; b < layout.blocks(count); ++b)
    if (!std::isfinite(scale_at(encoded, layout, b) * form.most)) return not_finite(b * layout.block);
  if (compression == Compression::none)
    for (size_t i = 0; i < values.size(); ++i)
      if (!std::isfinite(values[i])) return not_finite(i);
  return encoded;
}

Result<Compression> compression_of(std::span<const std::byte> encoded) {
  if (encoded.size() >= kHeaderBytes)
    for (const Form& form : kForms)
      if (std::memcmp(encoded.data(), form.magic, sizeof form.magic) == 0) return form.compression;
  return corrupt_data("not a compressed tensor of a known form");
}

Status decompress(std::span<const std::byte> encoded, std::span<float> values, KernelRunner* runner) {
  SPORKLE_ASSIGN_OR_RETURN(KernelRunner * on, runner_or_shared(runner));
  SPORKLE_ASSIGN_OR_RETURN(const Layout layout, parse(encoded, values.size()));
  SPORKLE_RETURN_IF_ERROR(check_codes(layout, encoded.subspan(layout.codes_at())));
  std::vector<int32_t> positions;  // of all pieces: everything is checked before `values` changes
  if (layout.compression == Compression::topk) {
    positions.resize(layout.kept(layout.count));
    const auto unpack = [&](const Piece<std::span<const std::byte>>& piece) {
      const auto part = std::span(positions).subspan(layout.kept(piece.first), layout.kept(piece.count));
      const Status unpacked = on->run(kernels::unpack_positions(),
                                      std::array{KernelRunner::Argument{piece.positions, {}}, kernel_output(part)},
                                      std::array<uint64_t, 1>{part.size()});
      return unpacked.ok() ? check_positions(layout, piece, part) : unpacked;
    };
    SPORKLE_RETURN_IF_ERROR(for_each_piece(layout, encoded, unpack));
  }
  return for_each_piece(layout, encoded, [&](const Piece<std::span<const std::byte>>& piece) {
    const std::span<const int32_t> part = positions;
    return decode(layout, piece, values.subspan(piece.first, piece.count),
                  part.empty() ? part : part.subspan(layout.kept(piece.first), layout.kept(piece.count)), *on);
  });
}

Status decompress_add(std::span<const std::byte> encoded, std::span<float> values, KernelRunner* runner) {
  std::vector<float> decoded(values.size());
  SPORKLE_RETURN_IF_ERROR(decompress(encoded, decoded, runner));
  for (size_t i = 0; i < values.size(); ++i) values[i] += decoded[i];
  return {};
}

}  // namespace sporkle::train
