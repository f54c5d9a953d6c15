#include "bench/fma_chain.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace sporkle::bench {
namespace {

constexpr int64_t kColumns = 1024, kDepth = 64;  // of a block of b, which stays in a core's cache

// Rows [begin, end) of c, which start at zero. Row-major operands. Four steps of the chain pass over a row of c at
// once.
template <typename T>
[[gnu::always_inline]] inline void chain_rows(int64_t begin, int64_t end, int64_t n, int64_t k, const T* a, const T* b,
                                              T* c) {
  for (int64_t first_column = 0; first_column < n; first_column += kColumns) {
    const int64_t columns = std::min(kColumns, n - first_column);
    for (int64_t first = 0; first < k; first += kDepth) {
      const int64_t last = std::min(first + kDepth, k);
      for (int64_t i = begin; i < end; ++i) {
        T* __restrict row = c + i * n + first_column;
        int64_t step = first;
        for (; step + 4 <= last; step += 4) {
          const T* factor = a + i * k + step;
          const T a0 = factor[0], a1 = factor[1], a2 = factor[2], a3 = factor[3];
          const T* b0 = b + step * n + first_column;
          const T *b1 = b0 + n, *b2 = b1 + n, *b3 = b2 + n;
          for (int64_t j = 0; j < columns; ++j)
            row[j] = std::fma(a3, b3[j], std::fma(a2, b2[j], std::fma(a1, b1[j], std::fma(a0, b0[j], row[j]))));
        }
        for (; step < last; ++step) {
          const T factor = a[i * k + step];
          const T* b0 = b + step * n + first_column;
          for (int64_t j = 0; j < columns; ++j) row[j] = std::fma(factor, b0[j], row[j]);
        }
      }
    }
  }
}

template <typename T>
using RowsFunction = void (*)(int64_t, int64_t, int64_t, int64_t, const T*, const T*, T*);

template <typename T>
void rows_plain(int64_t begin, int64_t end, int64_t n, int64_t k, const T* a, const T* b, T* c) {
  chain_rows(begin, end, n, k, a, b, c);
}

#if defined(__x86_64__)
// The same source for processors with a fused multiply-add; without one, the C library's function gives the same bits.
template <typename T>
[[gnu::target("avx512f,avx2,fma")]] void rows_avx512(int64_t begin, int64_t end, int64_t n, int64_t k, const T* a,
                                                     const T* b, T* c) {
  chain_rows(begin, end, n, k, a, b, c);
}
template <typename T>
[[gnu::target("avx2,fma")]] void rows_avx2(int64_t begin, int64_t end, int64_t n, int64_t k, const T* a, const T* b,
                                           T* c) {
  chain_rows(begin, end, n, k, a, b, c);
}
#endif

template <typename T>
RowsFunction<T> choose_rows() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return rows_avx512<T>;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return rows_avx2<T>;
#endif
  return rows_plain<T>;
}

// Row-major, in the type of the result.
template <typename To, typename From>
std::vector<To> straightened(std::span<const From> matrix, int64_t rows, int64_t columns, bool transposed) {
  std::vector<To> result(matrix.size());
  if (!transposed) {
    std::ranges::copy(matrix, result.begin());
    return result;
  }
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j)
      result[static_cast<size_t>(i * columns + j)] = matrix[static_cast<size_t>(j * rows + i)];
  return result;
}

template <typename To, typename From>
void product(ThreadPool& pool, const ProductShape& s, std::span<const From> a, std::span<const From> b,
             std::span<To> c) {
  const std::vector<To> rows = straightened<To>(a, s.m, s.k, s.transpose_a);
  const std::vector<To> columns = straightened<To>(b, s.k, s.n, s.transpose_b);
  std::ranges::fill(c, To(0));
  const RowsFunction<To> function = choose_rows<To>();
  if (s.m >= 4 * pool.threads()) {
    pool.parallel_for(s.m, [&](int64_t begin, int64_t end, int) {
      function(begin, end, s.n, s.k, rows.data(), columns.data(), c.data());
    });
  } else {
    function(0, s.m, s.n, s.k, rows.data(), columns.data(), c.data());
  }
}

}  // namespace

void fma_chain_product(ThreadPool& pool, const ProductShape& shape, std::span<const float> a, std::span<const float> b,
                       std::span<float> c) {
  product(pool, shape, a, b, c);
}
void fma_chain_product(ThreadPool& pool, const ProductShape& shape, std::span<const double> a,
                       std::span<const double> b, std::span<double> c) {
  product(pool, shape, a, b, c);
}
void fma_chain_product(ThreadPool& pool, const ProductShape& shape, std::span<const float> a, std::span<const float> b,
                       std::span<double> c) {
  product(pool, shape, a, b, c);
}

}  // namespace sporkle::bench
