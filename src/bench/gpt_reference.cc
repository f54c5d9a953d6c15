#include "bench/gpt_reference.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "bench/fma_chain.h"

namespace sporkle::bench {
namespace {

using Vector = std::vector<double>;

size_t at(int64_t i) { return static_cast<size_t>(i); }

class Forward {
 public:
  Forward(ThreadPool& pool, const GptProblem& problem, std::span<const double> parameters, int64_t positions)
      : pool_(pool), p_(problem), rest_(parameters), positions_(positions) {}

  double loss(std::span<const int32_t> tokens, std::span<const int32_t> targets) {
    const int64_t d = p_.width;
    const std::span<const double> wte = take(p_.vocab_size * d), wpe = take(p_.context * d);
    Vector x(at(positions_ * d));
    for (int64_t i = 0; i < positions_; ++i)
      for (int64_t c = 0; c < d; ++c)
        x[at(i * d + c)] = wte[at(tokens[at(i)] * d + c)] + wpe[at(i % p_.context * d + c)];
    for (int64_t layer = 0; layer < p_.layers; ++layer) {
      const Vector normal = norm(x);
      add(&x, linear(attention(linear(normal, 3 * d)), d));
      Vector inner = linear(norm(x), 4 * d);
      for (double& value : inner)
        value = 0.5 * value * (1 + std::tanh(std::sqrt(2 / M_PI) * (value + 0.044715 * value * value * value)));
      add(&x, linear(inner, d));
    }
    const Vector last = norm(x);
    Vector logits(at(positions_ * p_.vocab_size));
    ProductShape shape{positions_, p_.vocab_size, d};
    shape.transpose_b = true;
    fma_chain_product(pool_, shape, std::span<const double>(last), wte, std::span<double>(logits));
    double total = 0;
    for (int64_t i = 0; i < positions_; ++i) {
      const double* row = &logits[at(i * p_.vocab_size)];
      const double top = *std::max_element(row, row + p_.vocab_size);
      double sum = 0;
      for (int64_t c = 0; c < p_.vocab_size; ++c) sum += std::exp(row[c] - top);
      total += std::log(sum) + top - row[targets[at(i)]];
    }
    return total / static_cast<double>(positions_);
  }

 private:
  // Parameters are used in the order in which they lie.
  std::span<const double> take(int64_t count) {
    const std::span<const double> taken = rest_.first(at(count));
    rest_ = rest_.subspan(at(count));
    return taken;
  }

  static void add(Vector* to, const Vector& more) {
    for (size_t i = 0; i < to->size(); ++i) (*to)[i] += more[i];
  }

  Vector linear(const Vector& x, int64_t outputs) {
    const int64_t inputs = static_cast<int64_t>(x.size()) / positions_;
    const std::span<const double> weight = take(inputs * outputs), bias = take(outputs);
    Vector y(at(positions_ * outputs));
    fma_chain_product(pool_, {positions_, outputs, inputs}, std::span<const double>(x), weight, std::span<double>(y));
    for (size_t i = 0; i < y.size(); ++i) y[i] += bias[i % bias.size()];
    return y;
  }

  Vector norm(const Vector& x) {
    const int64_t d = p_.width;
    const std::span<const double> weight = take(d), bias = take(d);
    Vector y(x.size());
    for (int64_t i = 0; i < positions_; ++i) {
      const double* row = &x[at(i * d)];
      double mean = 0, variance = 0;
      for (int64_t c = 0; c < d; ++c) mean += row[c] / static_cast<double>(d);
      for (int64_t c = 0; c < d; ++c) variance += (row[c] - mean) * (row[c] - mean) / static_cast<double>(d);
      const double scale = 1 / std::sqrt(variance + p_.layer_norm_epsilon);
      for (int64_t c = 0; c < d; ++c) y[at(i * d + c)] = (row[c] - mean) * scale * weight[at(c)] + bias[at(c)];
    }
    return y;
  }

  // qkv: [positions, 3, heads, size] -> [positions, heads, size].
  Vector attention(const Vector& qkv) {
    const int64_t d = p_.width, size = d / p_.heads, length = p_.context;
    const double scale = 1 / std::sqrt(static_cast<double>(size));
    Vector y(at(positions_ * d));
    pool_.parallel_for(positions_ / length * p_.heads, [&](int64_t begin, int64_t end, int) {
      Vector weights(at(length));
      for (int64_t job = begin; job < end; ++job) {
        const int64_t first = job / p_.heads * length, head = job % p_.heads * size;
        const auto part = [&](int64_t t, int64_t which) { return &qkv[at(((first + t) * 3 + which) * d + head)]; };
        for (int64_t t = 0; t < length; ++t) {
          double top = -INFINITY, total = 0;
          for (int64_t u = 0; u <= t; ++u) {
            double dot = 0;
            for (int64_t i = 0; i < size; ++i) dot += part(t, 0)[i] * part(u, 1)[i];
            weights[at(u)] = dot * scale;
            top = std::max(top, weights[at(u)]);
          }
          for (int64_t u = 0; u <= t; ++u) total += weights[at(u)] = std::exp(weights[at(u)] - top);
          for (int64_t u = 0; u <= t; ++u)
            for (int64_t i = 0; i < size; ++i)
              y[at((first + t) * d + head + i)] += weights[at(u)] / total * part(u, 2)[i];
        }
      }
    });
    return y;
  }

  ThreadPool& pool_;
  const GptProblem& p_;
  std::span<const double> rest_;
  int64_t positions_;
};

}  // namespace

double gpt_loss(ThreadPool& pool, const GptProblem& problem, std::span<const double> parameters,
                std::span<const int32_t> tokens, std::span<const int32_t> targets) {
  return Forward(pool, problem, parameters, static_cast<int64_t>(tokens.size())).loss(tokens, targets);
}

}  // namespace sporkle::bench
