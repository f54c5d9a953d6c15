#include "train/quantize.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

namespace sporkle::train {
namespace {

static_assert(std::endian::native == std::endian::little, "the encoded form is little-endian");

constexpr char kMagic[4] = {'S', 'Q', '8', 1};
constexpr size_t kHeaderBytes = 16;
constexpr uint32_t kMaxBlockSize = 1u << 20;

// Round to nearest, ties to even, for |x| <= 2^22: the sum's last place is worth 1, so the addition itself rounds. Does
// not depend on a library, and vectorises.
float round_half_even(float x) {
  constexpr float kShift = 12582912.0f;  // 1.5 * 2^23
  return (x + kShift) - kShift;
}

size_t block_count(size_t count, uint32_t block_size) { return count / block_size + (count % block_size != 0); }

struct View {
  uint32_t block_size;
  const std::byte* scales;
  const int8_t* codes;
  float scale(size_t block) const {
    float value;
    std::memcpy(&value, scales + block * sizeof(float), sizeof value);
    return value;
  }
};

Result<View> parse(std::span<const std::byte> encoded, size_t count) {
  if (encoded.size() < kHeaderBytes || std::memcmp(encoded.data(), kMagic, sizeof kMagic) != 0)
    return corrupt_data("not an 8-bit quantised tensor of format 1");
  uint32_t block_size;
  uint64_t encoded_count;
  std::memcpy(&block_size, encoded.data() + 4, sizeof block_size);
  std::memcpy(&encoded_count, encoded.data() + 8, sizeof encoded_count);
  if (block_size == 0 || block_size > kMaxBlockSize)
    return corrupt_data("quantised tensor with a block size of " + std::to_string(block_size));
  if (encoded_count != count)
    return corrupt_data("quantised tensor of " + std::to_string(encoded_count) + " values where " +
                        std::to_string(count) + " belong");
  if (encoded.size() != quantized_size_bytes(count, block_size))
    return corrupt_data("quantised tensor of " + std::to_string(encoded.size()) + " bytes where " +
                        std::to_string(quantized_size_bytes(count, block_size)) + " belong");
  const size_t blocks = block_count(count, block_size);
  const std::byte* scales = encoded.data() + kHeaderBytes;
  const View view{block_size, scales, reinterpret_cast<const int8_t*>(scales + blocks * sizeof(float))};
  for (size_t b = 0; b < blocks; ++b) {
    const float scale = view.scale(b);
    // The largest scale is the one that the largest float gives: its products stay finite.
    if (!(scale >= 0.0f) || !std::isfinite(scale * 127.0f))
      return corrupt_data("quantised tensor with a scale that is negative or not finite in block " + std::to_string(b));
  }
  if (std::find(view.codes, view.codes + count, int8_t{-128}) != view.codes + count)
    return corrupt_data("quantised tensor with the code -128, which no encoder writes");
  return view;
}

template <typename Store>
Status for_each_value(std::span<const std::byte> encoded, size_t count, Store store) {
  SPORKLE_ASSIGN_OR_RETURN(const View view, parse(encoded, count));
  for (size_t begin = 0, b = 0; begin < count; begin += view.block_size, ++b) {
    const size_t end = std::min(count, begin + view.block_size);
    const float scale = view.scale(b);
    for (size_t i = begin; i < end; ++i) store(i, scale * static_cast<float>(view.codes[i]));
  }
  return {};
}

}  // namespace

size_t quantized_size_bytes(size_t count, uint32_t block_size) {
  return kHeaderBytes + block_count(count, block_size) * sizeof(float) + count;
}

Result<std::vector<std::byte>> quantize(std::span<const float> values, uint32_t block_size) {
  if (block_size == 0 || block_size > kMaxBlockSize)
    return invalid_argument("cannot quantise in blocks of " + std::to_string(block_size) + " values");
  std::vector<std::byte> encoded(quantized_size_bytes(values.size(), block_size));
  const uint64_t count = values.size();
  std::memcpy(encoded.data(), kMagic, sizeof kMagic);
  std::memcpy(encoded.data() + 4, &block_size, sizeof block_size);
  std::memcpy(encoded.data() + 8, &count, sizeof count);
  std::byte* scales = encoded.data() + kHeaderBytes;
  auto* codes = reinterpret_cast<int8_t*>(scales + block_count(values.size(), block_size) * sizeof(float));
  for (size_t begin = 0, b = 0; begin < values.size(); begin += block_size, ++b) {
    const size_t end = std::min<size_t>(values.size(), begin + block_size);
    float largest = 0.0f;
    bool finite = true;
    for (size_t i = begin; i < end; ++i) {
      const float magnitude = std::fabs(values[i]);
      finite &= std::isfinite(magnitude);
      largest = magnitude > largest ? magnitude : largest;
    }
    if (!finite)
      return invalid_argument("cannot quantise a value that is not finite, near index " + std::to_string(begin));
    const float scale = largest / 127.0f;
    std::memcpy(scales + b * sizeof(float), &scale, sizeof scale);
    // A subnormal scale is inexact, and may be 0: clamp, and send zeros; error feedback keeps what is left.
    for (size_t i = begin; i < end; ++i) {
      const float code = scale > 0.0f ? round_half_even(std::clamp(values[i] / scale, -127.0f, 127.0f)) : 0.0f;
      codes[i] = static_cast<int8_t>(code);
    }
  }
  return encoded;
}

Status dequantize(std::span<const std::byte> encoded, std::span<float> values) {
  return for_each_value(encoded, values.size(), [&](size_t i, float value) { values[i] = value; });
}

Status dequantize_add(std::span<const std::byte> encoded, std::span<float> values) {
  return for_each_value(encoded, values.size(), [&](size_t i, float value) { values[i] += value; });
}

Status ErrorFeedback::restore(std::span<const float> residual) {
  if (residual.size() != residual_.size())
    return invalid_argument("error feedback of " + std::to_string(residual.size()) + " values where " +
                            std::to_string(residual_.size()) + " belong");
  std::copy(residual.begin(), residual.end(), residual_.begin());
  discard();
  return {};
}

void ErrorFeedback::reset() {
  std::fill(residual_.begin(), residual_.end(), 0.0f);
  discard();
}

Result<std::vector<std::byte>> ErrorFeedback::encode(std::span<const float> update) {
  discard();
  if (update.size() != residual_.size())
    return invalid_argument("an update of " + std::to_string(update.size()) + " values where " +
                            std::to_string(residual_.size()) + " belong");
  std::vector<float> sum(update.size());
  for (size_t i = 0; i < sum.size(); ++i) sum[i] = residual_[i] + update[i];
  SPORKLE_ASSIGN_OR_RETURN(message_, quantize(sum));
  sum_ = std::move(sum);
  return message_;
}

void ErrorFeedback::commit() {
  if (sum_.empty()) return;
  std::vector<float> sent(sum_.size());
  // The message is this object's own, so it parses.
  if (dequantize(message_, sent).ok())
    for (size_t i = 0; i < sent.size(); ++i) residual_[i] = sum_[i] - sent[i];
  discard();
}

void ErrorFeedback::fold() {
  if (!sum_.empty()) residual_.swap(sum_);
  discard();
}

void ErrorFeedback::discard() {
  sum_ = {};
  message_ = {};
}

}  // namespace sporkle::train
