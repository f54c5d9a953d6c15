// The table of pointwise operations: for each its name, the types it takes, what it computes for one element, and its
// gradient. The operations themselves are declared in tensor/tensor.h. Internal; thread-safe.
#pragma once

#include <span>
#include <string_view>

#include "dsl/kernel.h"
#include "tensor/tensor.h"

namespace sporkle::tensor {

enum class Domain : uint8_t { any, number, real, boolean };

// How close the f32 result is to the exact one, for operands of any sign whose magnitude is in [lowest, highest] (and
// 0, where `lowest` is; negative ones only where `negative`). Special values give what IEEE 754 and the C library
// give.
struct Accuracy {
  double ulp_limit = 0;  // units in the last place; 0: correctly rounded
  double lowest = 0, highest = 0x1p100;
  bool negative = true;
  // What the limit's units are taken at where results cancel, from operands in f64. Null: the exact result.
  Tensor (*magnitude)(std::span<const Tensor> x) = nullptr;
};

struct PointwiseRow {
  Op op;
  std::string_view name;
  int arity;
  Domain domain;  // of the operands (of `where`: of the last two)
  bool compares;  // the result is boolean
  int cost;       // roughly, in instructions for one element; up to kCheap is recomputed rather than stored
  dsl::Expr (*compute)(dsl::KernelBuilder& k, const dsl::Expr* x, DType type);
  // Fills in the gradient of each operand that has one. Null: the gradient is zero everywhere.
  void (*gradient)(const Tensor& y, const Tensor& dy, std::span<const Tensor> x, std::span<Tensor> dx);
  Accuracy accuracy = {};
};

inline constexpr int kCheap = 2;

const PointwiseRow& pointwise_row(Op op);
std::span<const PointwiseRow> pointwise_table();

// The operation of any row but cast, uniform and normal, which need more than operands.
Tensor pointwise(Op op, std::span<const Tensor> x);

}  // namespace sporkle::tensor
