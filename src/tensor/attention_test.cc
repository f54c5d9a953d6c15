// Attention against plain loops in f64, and the same bits however it runs.
#include "tensor/attention.h"

#include <array>

#include "tensor/autograd.h"
#include "tensor/testing.h"

namespace sporkle::tensor {
namespace {

using testing::context;
using testing::random_tensor;
using testing::read;
using testing::read_numbers;
using testing::same_bits;

struct Case {
  int64_t rows, heads, kv_heads, queries, keys, size;
};
const Case kCases[] = {{1, 1, 1, 1, 1, 1},   {2, 3, 3, 5, 5, 7},    {1, 2, 1, 17, 17, 16},  {1, 4, 2, 33, 40, 20},
                       {1, 2, 2, 64, 64, 8}, {1, 1, 1, 70, 200, 5}, {2, 2, 1, 100, 100, 64}};

struct Operands {
  Tensor q, k, v, dy;
};
template <typename T = float>
Operands operands(Context& c, const Case& s) {
  const Shape of_q{s.rows, s.heads, s.queries, s.size}, of_k{s.rows, s.kv_heads, s.keys, s.size};
  return {random_tensor<T>(c, of_q, 1), random_tensor<T>(c, of_k, 2), random_tensor<T>(c, of_k, 3),
          random_tensor<T>(c, of_q, 4)};
}

std::vector<Tensor> all_results(const Operands& x, const AttentionOptions& options) {
  const Tensor y = attention(x.q, x.k, x.v, options);
  const auto gradients = grad(sum(y * x.dy), std::array{x.q, x.k, x.v});
  EXPECT_TRUE(gradients.ok()) << gradients.status().to_string();
  return {y, (*gradients)[0], (*gradients)[1], (*gradients)[2]};
}

// The same from softmax and products in the graph, differentiated by the rules of those.
std::vector<Tensor> plain_results(const Operands& x, const Case& s, const AttentionOptions& options) {
  const Shape grouped{s.rows, s.kv_heads, s.heads / s.kv_heads, s.queries, s.size};
  const Tensor scores = matmul(x.q.reshape(grouped), x.k.unsqueeze(2).transpose(-1, -2)) * options.scale;
  Context& c = x.q.context();
  const Tensor seen = less_equal(index(c, scores.shape(), 4),
                                 index(c, scores.shape(), 3) + full(c, {}, double(s.keys - s.queries), DType::i32));
  const Tensor e = where(seen, exp(scores - max(where(seen, scores, full_like(scores, -1e30)), {-1}, true).detach()),
                         full_like(scores, 0));
  Tensor weights = e / sum(e, {-1}, true);
  weights = dropout(weights.reshape({s.rows, s.heads, s.queries, s.keys}), options.dropout, options.key)
                .reshape(scores.shape());
  const Tensor y = matmul(weights, x.v.unsqueeze(2)).reshape(x.q.shape());
  const auto gradients = grad(sum(y * x.dy), std::array{x.q, x.k, x.v});
  EXPECT_TRUE(gradients.ok()) << gradients.status().to_string();
  return {y, (*gradients)[0], (*gradients)[1], (*gradients)[2]};
}

TEST(AttentionTest, EqualsItsDefinitionInF64) {
  Context& c = context();
  for (const Case& s : kCases)
    for (const double dropped : {0.0, 0.25}) {
      const AttentionOptions options{0.4, dropped, {7, 8, 9}};
      const Operands x = operands<double>(c, s);
      const std::vector<Tensor> ours = all_results(x, options), plain = plain_results(x, s, options);
      for (size_t i = 0; i < ours.size(); ++i) {
        const std::vector<double> a = read_numbers(ours[i]), b = read_numbers(plain[i]);
        ASSERT_EQ(a.size(), b.size());
        for (size_t j = 0; j < a.size(); ++j)
          ASSERT_NEAR(a[j], b[j], 1e-12 * (1 + std::abs(b[j])))
              << "result " << i << ", element " << j << ", queries " << s.queries << ", keys " << s.keys;
      }
    }
}

TEST(AttentionTest, TheSameBitsOnOneAndTwoThreadsAndInTheInterpreter) {
  for (const Case& s : kCases) {
    if (s.rows * s.heads * s.queries * s.keys * s.size > 200000) continue;  // the interpreter is slow
    const AttentionOptions options{0.3, s.size == 7 ? 0.5 : 0.0, {1, 2, 3}};
    const std::vector<Tensor> two = all_results(operands(context("cpu", 2), s), options),
                              one = all_results(operands(context("cpu", 1), s), options),
                              defined = all_results(operands(context("reference", 1), s), options);
    for (size_t i = 0; i < two.size(); ++i) {
      EXPECT_TRUE(same_bits(read(one[i]), read(two[i]))) << i << ": " << s.queries;
      EXPECT_TRUE(same_bits(read(defined[i]), read(two[i]))) << i << ": " << s.queries;
    }
  }
}

TEST(AttentionTest, PackedIsTheSameBitsAsParts) {
  Context& c = context();
  for (const Case& s : kCases) {
    if (s.keys != s.queries) continue;
    const AttentionOptions options{0.3, 0.125, {1, 2, 3}};
    const int64_t width = (s.heads + 2 * s.kv_heads) * s.size;
    const Tensor qkv = random_tensor(c, {s.rows, s.queries, width}, 5);
    const auto part = [&](int64_t first, int64_t heads) {
      return qkv.slice(2, first * s.size, heads * s.size)
          .reshape({s.rows, s.queries, heads, s.size})
          .permute({0, 2, 1, 3});
    };
    const Tensor dy = random_tensor(c, {s.rows, s.queries, s.heads * s.size}, 6);
    const Tensor together = packed_attention(qkv, s.heads, s.kv_heads, options);
    const Tensor apart =
        attention(part(0, s.heads), part(s.heads, s.kv_heads), part(s.heads + s.kv_heads, s.kv_heads), options)
            .permute({0, 2, 1, 3})
            .reshape(dy.shape());
    EXPECT_TRUE(same_bits(read(together), read(apart)));
    const auto a = grad(sum(together * dy), std::array{qkv}), b = grad(sum(apart * dy), std::array{qkv});
    ASSERT_TRUE(a.ok() && b.ok());
    EXPECT_TRUE(same_bits(read((*a)[0]), read((*b)[0])));
  }
}

TEST(AttentionTest, KeysThatNobodySeesDoNotMatter) {
  Context& c = context();
  std::vector<float> values(8 * 4, 1.0f), poisoned = values;
  for (size_t i = 4 * 7; i < poisoned.size(); ++i) poisoned[i] = NAN;  // the last key
  const Tensor q = random_tensor(c, {1, 1, 8, 4}, 1), k = from_host<float>(c, poisoned, {1, 1, 8, 4});
  const std::vector<float> y = read(attention(q, k, from_host<float>(c, values, {1, 1, 8, 4}), {}));
  for (size_t i = 0; i < 7 * 4; ++i) EXPECT_EQ(y[i], 1.0f);
  EXPECT_TRUE(std::isnan(y.back()));
}

TEST(AttentionTest, ACacheGivesTheSameBits) {
  Context& c = context();
  const auto at = [&](int64_t position) {
    return from_host<int32_t>(c, std::vector<int32_t>{static_cast<int32_t>(position)}, {1});
  };
  for (const Case& s : {Case{2, 4, 2, 21, 21, 8}, Case{1, 3, 3, 70, 70, 20}}) {
    const Tensor qkv = random_tensor(c, {s.rows, s.queries, (s.heads + 2 * s.kv_heads) * s.size}, 7);
    const std::vector<float> whole = read(packed_attention(qkv, s.heads, s.kv_heads, {0.3}));
    const AttentionCache cache = attention_cache(c, s.rows, s.kv_heads, s.queries + 3, s.size);
    for (int64_t position = 0, length = 5; position < s.queries; position += length, length = 1 + position % 3) {
      length = std::min(length, s.queries - position);
      const std::vector<float> part =
          read(cached_attention(qkv.slice(1, position, length), s.heads, cache, at(position), 0.3));
      const int64_t width = s.heads * s.size;
      for (int64_t row = 0; row < s.rows; ++row)
        for (int64_t i = 0; i < length * width; ++i)
          ASSERT_EQ(part[static_cast<size_t>(row * length * width + i)],
                    whole[static_cast<size_t>((row * s.queries + position) * width + i)])
              << position;
    }
  }
}

TEST(AttentionTest, ErrorsSayWhatIsWrong) {
  Context& c = context();
  const auto message = [](const Tensor& t) { return t.status().to_string(); };
  const Tensor q = zeros(c, {1, 4, 3, 8}), k = zeros(c, {1, 3, 3, 8}), few = zeros(c, {1, 4, 2, 8});
  EXPECT_NE(message(attention(q, k, k, {})).find("divisor"), std::string::npos);
  EXPECT_NE(message(attention(q, few, few, {})).find("keys >= queries"), std::string::npos);
  EXPECT_NE(message(attention(q, q, q, {.dropout = 1})).find("less than 1"), std::string::npos);
  EXPECT_NE(message(packed_attention(zeros(c, {1, 2, 30}), 4, 2, {})).find("kv_heads"), std::string::npos);
  EXPECT_NE(message(packed_attention(zeros(c, {1, 2, 30}), 0, 0, {})).find("kv_heads"), std::string::npos);
  const AttentionCache cache = attention_cache(c, 1, 2, 3, 4);
  const Tensor place = full(c, {1}, 0, DType::i32);
  EXPECT_NE(message(cached_attention(zeros(c, {1, 4, 24}), 2, cache, place, 1)).find("has room"), std::string::npos);
  EXPECT_NE(message(cached_attention(zeros(c, {1, 2, 20}), 2, cache, place, 1)).find("made for"), std::string::npos);
  EXPECT_NE(message(cached_attention(zeros(c, {1, 2, 24}), 2, cache, zeros(c, {1}), 1)).find("i32 [1]"),
            std::string::npos);
}

}  // namespace
}  // namespace sporkle::tensor
