// The forms in which pseudo-gradients travel up and parameter deltas travel down. docs/protocol.md has their bytes.
//
//   none   f32 as they are                                                      4 bytes a value
//   int8   blocks of 256 values with one f32 scale, max|x| / 127; codes of 8 bits  1.016
//   int4   blocks of 128 with the scale max|x| / 7; codes of 4 bits             0.531
//   sign   blocks of 256 with their mean |x|; one bit a value                   0.141
//   topk   of each 4096 values the 64 largest: 12 bits of position, 8 of code   0.041
//
// All but `none` lose something; ErrorFeedback (train/error_feedback.h) sends it later. The work is done by kernels
// (train/compression_kernels.h) in `strict`: the same values give the same bytes, and the same bytes the same values,
// on every machine. Decoding trusts nothing: lengths, scales, codes and positions are checked first, and one form
// only is accepted for each content.
//
// The functions are thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "train/kernel_runner.h"

namespace sporkle::train {

// The numbers are on the wire and on disk. `int8` is what a peer means that says nothing.
enum class Compression : uint32_t { int8 = 0, int4 = 1, sign = 2, topk = 3, none = 4 };
inline constexpr Compression kCompressions[] = {Compression::none, Compression::int8, Compression::int4,
                                                Compression::sign, Compression::topk};

std::string_view compression_name(Compression compression);
// invalid_argument lists the names.
Result<Compression> parse_compression(std::string_view name);

// The size in bytes of `count` values in this form.
size_t compressed_size_bytes(Compression compression, size_t count);

// invalid_argument when a value is not finite, or so large that what is decoded, or a block's sum, would not be: such
// an update must not leave the machine that made it. `runner`: where the kernels run; null: KernelRunner::shared().
Result<std::vector<std::byte>> compress(Compression compression, std::span<const float> values,
                                        KernelRunner* runner = nullptr);

// Which form it is, by its first bytes; corrupt_data for none.
Result<Compression> compression_of(std::span<const std::byte> encoded);

// `values.size()` is the count that the caller expects; anything that compress() does not write is corrupt_data, and
// then `values` is untouched. (`int8` is read with any size of blocks from 1 to 2^20.)
Status decompress(std::span<const std::byte> encoded, std::span<float> values, KernelRunner* runner = nullptr);
// values[i] += decompressed[i]; on failure `values` is untouched.
Status decompress_add(std::span<const std::byte> encoded, std::span<float> values, KernelRunner* runner = nullptr);

}  // namespace sporkle::train
