// Shapes, strides, and the arithmetic of views. Plain values; thread-safe.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

#include "base/status.h"

namespace sporkle::tensor {

inline constexpr int kMaxRank = 8;
inline constexpr int64_t kMaxElements = int64_t{1} << 40;

// Up to kMaxRank whole numbers without an allocation. More may be put in, which check_shape() then refuses.
class Dims {
 public:
  Dims() = default;
  Dims(std::initializer_list<int64_t> values) {
    for (const int64_t v : values) push_back(v);
  }
  explicit Dims(std::span<const int64_t> values) {
    for (const int64_t v : values) push_back(v);
  }
  static Dims filled(int rank, int64_t value) {
    Dims result;
    for (int i = 0; i < rank; ++i) result.push_back(value);
    return result;
  }

  int rank() const { return rank_; }
  void push_back(int64_t value) {
    if (rank_ < kMaxRank) values_[static_cast<size_t>(rank_)] = value;
    ++rank_;
  }
  int64_t& operator[](int i) { return values_[static_cast<size_t>(i)]; }
  int64_t operator[](int i) const { return values_[static_cast<size_t>(i)]; }
  const int64_t* begin() const { return values_.data(); }
  const int64_t* end() const { return values_.data() + std::min(rank_, kMaxRank); }
  friend bool operator==(const Dims& a, const Dims& b) {
    return a.rank_ == b.rank_ && std::equal(a.begin(), a.end(), b.begin());
  }

 private:
  std::array<int64_t, kMaxRank> values_{};
  int rank_ = 0;
};

using Shape = Dims;
using Strides = Dims;  // in elements

// "[2, 3]".
std::string to_string(const Dims& dims);
// The number of elements; 1 for rank 0.
int64_t element_count(const Shape& shape);
// invalid_argument for more than kMaxRank dimensions, a negative one, or more than kMaxElements.
Status check_shape(const Shape& shape);
// Row-major.
Strides contiguous_strides(const Shape& shape);
// The shape both broadcast to (aligned at the last axis, an extent of 1 stretches).
Result<Shape> broadcast_shapes(const Shape& a, const Shape& b);

// Strides that show the elements of a strided view of shape `from` as shape `to` (same number of elements), in
// row-major order and without moving them. False when there are none.
bool reshape_strides(const Shape& from, const Strides& strides, const Shape& to, Strides* result);

}  // namespace sporkle::tensor
