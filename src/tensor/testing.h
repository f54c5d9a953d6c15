// What the tests of this layer and of nn share.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "tensor/context.h"
#include "tensor/tensor.h"

namespace sporkle::tensor::testing {

// One context for each configuration, kept for the whole test program.
inline Context& context(const std::string& device = "cpu", int threads = 2, bool fuse = true) {
  static std::map<std::string, std::unique_ptr<Context>> contexts;
  std::unique_ptr<Context>& slot = contexts[device + std::to_string(threads) + (fuse ? "f" : "u")];
  if (!slot) {
    auto opened = Context::open(device, {.threads = threads}, {.fuse = fuse});
    if (!opened.ok()) {
      ADD_FAILURE() << opened.status().to_string();
      std::abort();
    }
    slot = std::move(*opened);
  }
  return *slot;
}

template <typename T = float>
std::vector<T> random_values(int64_t count, uint32_t seed, double low = -2, double high = 2) {
  std::mt19937 generator(seed);
  std::vector<T> values;
  for (int64_t i = 0; i < count; ++i)
    values.push_back(static_cast<T>(low + (high - low) * (generator() / 4294967296.0)));
  return values;
}

template <typename T = float>
Tensor random_tensor(Context& c, const Shape& shape, uint32_t seed, double low = -2, double high = 2) {
  return from_host<T>(c, random_values<T>(element_count(shape), seed, low, high), shape);
}

template <typename T = float>
std::vector<T> read(const Tensor& tensor) {
  auto values = tensor.to_host<T>();
  EXPECT_TRUE(values.ok()) << values.status().to_string();
  return values.ok() ? *values : std::vector<T>(static_cast<size_t>(tensor.size()));
}

// Of all elements together, the difference's magnitude beside the values'.
inline double difference(const std::vector<float>& found, const std::vector<float>& expected) {
  double apart = 0, magnitude = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    apart += std::pow(found[i] - expected[i], 2);
    magnitude += std::pow(expected[i], 2);
  }
  return std::sqrt(apart / magnitude);
}

// The elements as f64, whatever their type.
inline std::vector<double> read_numbers(const Tensor& tensor) {
  const auto widen = [](const auto& values) { return std::vector<double>(values.begin(), values.end()); };
  switch (tensor.dtype()) {
    case DType::f32:
      return widen(read<float>(tensor));
    case DType::f64:
      return widen(read<double>(tensor));
    case DType::i32:
      return widen(read<int32_t>(tensor));
    default:
      return widen(read<uint8_t>(tensor));
  }
}

template <typename T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

}  // namespace sporkle::tensor::testing
