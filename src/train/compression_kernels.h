// The kernels behind train/compression.h. All are `strict`: integers, and IEEE operations in an order that depends on
// the shapes alone, so the interpreter and every device give the same bits. Definitions are plain values; thread-safe.
//
// x: f32, `n` of them, cut into blocks of `block` values of which the last may be shorter. Scales of blocks that hold a
// value that is not finite come out infinite or NaN; the caller looks at them.
#pragma once

#include "train/kernel_runner.h"

namespace sporkle::train::kernels {

inline constexpr int64_t kInt4Block = 128;
inline constexpr int64_t kSignBlock = 256;
inline constexpr int64_t kTopkBlock = 4096;  // positions in it take 12 bits
inline constexpr int64_t kTopkSpacing = 64;  // of a block of c values, ceil(c / kTopkSpacing) are kept
inline constexpr int64_t kTopkKept = kTopkBlock / kTopkSpacing;

// (x f32[n]; scales f32[blocks], codes i8[n]; n, block, blocks): scale = max|x| / 127, code = round-half-even(x/scale).
const KernelRunner::Definition& encode_int8();
// (scales, codes; x; n, block): x = scale * code.
const KernelRunner::Definition& decode_int8();

// (x f32[n]; scales f32[blocks], codes u8[(n + 1) / 2]; n, blocks): scale = max|x| / 7; code + 8 in four bits, the even
// value in the low half; four zero bits fill the last byte.
const KernelRunner::Definition& encode_int4();
const KernelRunner::Definition& decode_int4();  // (scales, codes; x; n)

// (x f32[n]; scales f32[blocks], signs u8[(n + 7) / 8]; n, blocks): scale = mean |x|, summed in sixteen lanes joined by
// a tree; the bit of a negative value is 1, the first value has the lowest bit.
const KernelRunner::Definition& encode_sign();
const KernelRunner::Definition& decode_sign();  // (scales, signs; x; n)

// (x f32[n]; scales f32[blocks], positions i32[kept], codes i8[kept]; n, blocks): of each block the values of largest
// magnitude, of equal ones the first, in ascending order of position. The smallest magnitude kept is found in four
// digits of its bit pattern, each by a histogram of that digit, so the choice is exact.
const KernelRunner::Definition& encode_topk();
// (scales, positions, codes; x; n, blocks). Positions must lie in their blocks, each once.
const KernelRunner::Definition& decode_topk();
// (positions i32[kept]; packed u8[(3 * kept + 1) / 2]; kept): two positions of 12 bits in three bytes, little-endian.
const KernelRunner::Definition& pack_positions();
const KernelRunner::Definition& unpack_positions();  // (packed; positions; kept)

}  // namespace sporkle::train::kernels
