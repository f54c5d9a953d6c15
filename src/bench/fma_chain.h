// The matrix product's definition, computed by plain C++ that shares nothing with the kernels under test.
//
// c[i, j] = fma(a[i, K-1], b[K-1, j], ... fma(a[i, 0], b[0, j], 0)): one chain over k for each element, rounded once a
// step, so the bits do not depend on blocking, vectors or threads. Fast enough to judge products of 2048 x 2048.
#pragma once

#include <cstdint>
#include <span>

#include "base/thread_pool.h"

namespace sporkle::bench {

struct ProductShape {
  int64_t m = 1, n = 1, k = 1;
  bool transpose_a = false;  // a is [k, m]
  bool transpose_b = false;  // b is [n, k]
};

// In the operands' own type.
void fma_chain_product(ThreadPool& pool, const ProductShape& shape, std::span<const float> a, std::span<const float> b,
                       std::span<float> c);
void fma_chain_product(ThreadPool& pool, const ProductShape& shape, std::span<const double> a,
                       std::span<const double> b, std::span<double> c);
// In float64, from float32 operands.
void fma_chain_product(ThreadPool& pool, const ProductShape& shape, std::span<const float> a, std::span<const float> b,
                       std::span<double> c);

}  // namespace sporkle::bench
