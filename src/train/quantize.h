// 8-bit block quantisation with error feedback: how pseudo-gradients travel up and parameter deltas travel down.
//
// Every block of `block_size` values shares one f32 scale, max|x| / 127; each value becomes round-half-even(x / scale),
// an integer in [-127, 127]. Only IEEE additions, divisions and multiplications in a stated order are used, so the same
// values give the same bytes, and the same bytes the same values, on every machine. About 1.016 bytes a value.
//
// The encoded form, little-endian: "SQ8" and the format number 1, u32 block size, u64 count, one f32 scale a block, one
// int8 code a value. Decoding trusts nothing: lengths, scales (finite, not negative) and codes are checked first.
//
// Free functions are thread-safe; an ErrorFeedback belongs to one thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"

namespace sporkle::train {

inline constexpr uint32_t kQuantizeBlockSize = 256;

// The size in bytes of `count` encoded values.
size_t quantized_size_bytes(size_t count, uint32_t block_size = kQuantizeBlockSize);

// Fails with invalid_argument when a value is not finite: such an update must not leave the machine that made it.
Result<std::vector<std::byte>> quantize(std::span<const float> values, uint32_t block_size = kQuantizeBlockSize);

// values[i] = scale * code. `values.size()` is the count that the caller expects; anything else is corrupt_data, and
// then `values` is untouched.
Status dequantize(std::span<const std::byte> encoded, std::span<float> values);

// values[i] += scale * code, each product rounded before it is added. On failure `values` is untouched.
Status dequantize_add(std::span<const std::byte> encoded, std::span<float> values);

// What quantisation dropped so far, added to the next message, so that nothing is lost over time (Seide et al. 2014,
// "1-bit stochastic gradient descent"; arXiv 1901.09847).
//
//   encode(update)  message = Q(residual + update); the new residual waits
//   commit()        the message was taken: residual = (residual + update) - dequantised message
//   fold()          the message came too late: residual = residual + update, all of it goes with the next one
//   discard()       the message was refused: as if encode had never been called
class ErrorFeedback {
 public:
  explicit ErrorFeedback(size_t count) : residual_(count, 0.0f) {}

  size_t size() const { return residual_.size(); }
  std::span<const float> residual() const { return residual_; }
  // Replaces the residual, for resuming; invalid_argument when the size differs.
  Status restore(std::span<const float> residual);
  void reset();

  Result<std::vector<std::byte>> encode(std::span<const float> update);
  // Each is called at most once after an encode(); without one they do nothing.
  void commit();
  void fold();
  void discard();

 private:
  std::vector<float> residual_;
  std::vector<float> sum_;          // residual + update of the message under way; empty when there is none
  std::vector<std::byte> message_;  // its encoded form
};

}  // namespace sporkle::train
