#include "bench/fma_chain.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "bench/judge.h"

namespace sporkle::bench {
namespace {

template <typename From, typename To>
void expect_plain_loop(const ProductShape& s, int threads) {
  const auto size = [](int64_t a, int64_t b) { return static_cast<size_t>(a * b); };
  std::vector<From> a(size(s.m, s.k)), b(size(s.k, s.n));
  fill_random<From>(a, 3, -1, 1);
  fill_random<From>(b, 4, -1, 1);
  std::vector<To> c(size(s.m, s.n), To(7));
  ThreadPool pool(threads);
  fma_chain_product(pool, s, std::span<const From>(a), std::span<const From>(b), std::span<To>(c));
  for (int64_t i = 0; i < s.m; ++i)
    for (int64_t j = 0; j < s.n; ++j) {
      To chain = 0;
      for (int64_t k = 0; k < s.k; ++k)
        chain = std::fma(static_cast<To>(a[static_cast<size_t>(s.transpose_a ? k * s.m + i : i * s.k + k)]),
                         static_cast<To>(b[static_cast<size_t>(s.transpose_b ? j * s.k + k : k * s.n + j)]), chain);
      ASSERT_EQ(c[static_cast<size_t>(i * s.n + j)], chain) << i << ", " << j;
    }
}

TEST(FmaChain, EqualsThePlainLoop) {
  for (const int threads : {1, 2}) {
    for (const bool transpose_a : {false, true})
      for (const bool transpose_b : {false, true})
        for (const ProductShape& shape :
             {ProductShape{1, 1, 1}, {7, 5, 3}, {13, 33, 66}, {1, 40, 130}, {17, 1030, 5}}) {
          const ProductShape s{shape.m, shape.n, shape.k, transpose_a, transpose_b};
          expect_plain_loop<float, float>(s, threads);
          expect_plain_loop<double, double>(s, threads);
          expect_plain_loop<float, double>(s, threads);
        }
  }
}

}  // namespace
}  // namespace sporkle::bench
