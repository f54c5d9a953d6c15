#include "run/sum.h"

#include <algorithm>
#include <cstring>

namespace sporkle::run {
namespace {

// So many sums stay in the first-level cache while the inputs go by.
constexpr size_t kBlock = 2048;

}  // namespace

void sum_f32(std::span<const size_t>, std::span<const std::byte* const> inputs, std::span<std::byte> sum) {
  const size_t count = sum.size() / sizeof(float);
  float* const total = reinterpret_cast<float*>(sum.data());
  for (size_t begin = 0; begin < count; begin += kBlock) {
    const size_t end = std::min(count, begin + kBlock);
    const auto* first = reinterpret_cast<const float*>(inputs[0]);
    if (inputs.size() == 1) {
      std::memcpy(total + begin, first + begin, (end - begin) * sizeof(float));
      continue;
    }
    const auto* second = reinterpret_cast<const float*>(inputs[1]);
    for (size_t i = begin; i < end; ++i) total[i] = first[i] + second[i];
    for (size_t k = 2; k < inputs.size(); ++k) {
      const auto* next = reinterpret_cast<const float*>(inputs[k]);
      for (size_t i = begin; i < end; ++i) total[i] += next[i];
    }
  }
  std::fill(sum.begin() + static_cast<std::ptrdiff_t>(count * sizeof(float)), sum.end(), std::byte{0});
}

}  // namespace sporkle::run
