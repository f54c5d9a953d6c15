// The model, its gradients and its optimiser against an independent implementation in f64: plain loops, the backward
// pass written by hand, nothing shared with the library but the initial parameters.
#include <map>

#include "nn/adamw.h"
#include "nn/gpt.h"
#include "nn/schedule.h"
#include "tensor/autograd.h"
#include "tensor/testing.h"

namespace sporkle::nn {
namespace {

using tensor::Tensor;
using Vector = std::vector<double>;

struct Reference {
  GptConfig c;
  AdamWConfig optimiser;
  struct Slot {
    Vector value, gradient, first, second;
    bool decay;
  };
  std::vector<std::string> order;
  std::map<std::string, Slot> slots;
  int steps = 0;

  Vector& value(const std::string& name) { return slots.at(name).value; }
  Vector& gradient(const std::string& name) { return slots.at(name).gradient; }

  // y [rows, outputs] = x [rows, inputs] w + b.
  Vector linear(const Vector& x, const std::string& name) {
    const Vector &w = value(name + ".weight"), &b = value(name + ".bias");
    const size_t outputs = b.size(), inputs = w.size() / outputs, rows = x.size() / inputs;
    Vector y(rows * outputs);
    for (size_t r = 0; r < rows; ++r)
      for (size_t o = 0; o < outputs; ++o) {
        double sum = b[o];
        for (size_t i = 0; i < inputs; ++i) sum += x[r * inputs + i] * w[i * outputs + o];
        y[r * outputs + o] = sum;
      }
    return y;
  }
  Vector linear_backward(const Vector& x, const Vector& dy, const std::string& name) {
    const Vector& w = value(name + ".weight");
    Vector &dw = gradient(name + ".weight"), &db = gradient(name + ".bias");
    const size_t outputs = db.size(), inputs = w.size() / outputs, rows = x.size() / inputs;
    Vector dx(x.size());
    for (size_t r = 0; r < rows; ++r)
      for (size_t o = 0; o < outputs; ++o) {
        const double g = dy[r * outputs + o];
        db[o] += g;
        for (size_t i = 0; i < inputs; ++i) {
          dx[r * inputs + i] += g * w[i * outputs + o];
          dw[i * outputs + o] += g * x[r * inputs + i];
        }
      }
    return dx;
  }

  // Of one row: mean and 1 / deviation.
  std::pair<double, double> moments(const double* x, size_t n) const {
    double mean = 0, variance = 0;
    for (size_t i = 0; i < n; ++i) mean += x[i];
    mean /= static_cast<double>(n);
    for (size_t i = 0; i < n; ++i) variance += (x[i] - mean) * (x[i] - mean);
    return {mean, 1 / std::sqrt(variance / static_cast<double>(n) + c.layer_norm_epsilon)};
  }
  Vector norm(const Vector& x, const std::string& name) {
    const Vector &w = value(name + ".weight"), &b = value(name + ".bias");
    const size_t n = w.size();
    Vector y(x.size());
    for (size_t r = 0; r < x.size() / n; ++r) {
      const auto [mean, scale] = moments(&x[r * n], n);
      for (size_t i = 0; i < n; ++i) y[r * n + i] = (x[r * n + i] - mean) * scale * w[i] + b[i];
    }
    return y;
  }
  Vector norm_backward(const Vector& x, const Vector& dy, const std::string& name) {
    const Vector& w = value(name + ".weight");
    Vector &dw = gradient(name + ".weight"), &db = gradient(name + ".bias");
    const size_t n = w.size();
    Vector dx(x.size());
    for (size_t r = 0; r < x.size() / n; ++r) {
      const auto [mean, scale] = moments(&x[r * n], n);
      double sum = 0, dot = 0;
      for (size_t i = 0; i < n; ++i) {
        const double normal = (x[r * n + i] - mean) * scale, g = dy[r * n + i];
        dw[i] += g * normal;
        db[i] += g;
        sum += g * w[i];
        dot += g * w[i] * normal;
      }
      for (size_t i = 0; i < n; ++i) {
        const double normal = (x[r * n + i] - mean) * scale;
        dx[r * n + i] = scale * (dy[r * n + i] * w[i] - (sum + normal * dot) / static_cast<double>(n));
      }
    }
    return dx;
  }

  // Causal attention over qkv [rows, length, 3 width]; with dy, adds the gradient of qkv to *dqkv.
  Vector attention(const Vector& qkv, size_t rows, size_t length, const Vector* dy, Vector* dqkv) const {
    const size_t d = static_cast<size_t>(c.width), heads = static_cast<size_t>(c.heads), size = d / heads;
    const double scale = 1 / std::sqrt(static_cast<double>(size));
    Vector y(rows * length * d);
    for (size_t b = 0; b < rows; ++b)
      for (size_t h = 0; h < heads; ++h)
        for (size_t t = 0; t < length; ++t) {
          const auto at = [&](size_t position, size_t which, size_t i) {
            return ((b * length + position) * 3 + which) * d + h * size + i;
          };
          Vector p(t + 1);
          double top = -1e300, total = 0;
          for (size_t s = 0; s <= t; ++s) {
            for (size_t i = 0; i < size; ++i) p[s] += qkv[at(t, 0, i)] * qkv[at(s, 1, i)] * scale;
            top = std::max(top, p[s]);
          }
          for (double& v : p) total += v = std::exp(v - top);
          for (double& v : p) v /= total;
          const size_t out = (b * length + t) * d + h * size;
          for (size_t s = 0; s <= t; ++s)
            for (size_t i = 0; i < size; ++i) y[out + i] += p[s] * qkv[at(s, 2, i)];
          if (!dy) continue;
          Vector dp(t + 1);
          double mean = 0;
          for (size_t s = 0; s <= t; ++s) {
            for (size_t i = 0; i < size; ++i) {
              dp[s] += (*dy)[out + i] * qkv[at(s, 2, i)];
              (*dqkv)[at(s, 2, i)] += p[s] * (*dy)[out + i];
            }
            mean += dp[s] * p[s];
          }
          for (size_t s = 0; s <= t; ++s) {
            const double ds = p[s] * (dp[s] - mean) * scale;
            for (size_t i = 0; i < size; ++i) {
              (*dqkv)[at(t, 0, i)] += ds * qkv[at(s, 1, i)];
              (*dqkv)[at(s, 1, i)] += ds * qkv[at(t, 0, i)];
            }
          }
        }
    return y;
  }

  static double gelu(double x) { return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))); }
  static double gelu_slope(double x) {
    const double t = std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x));
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * std::sqrt(2 / M_PI) * (1 + 3 * 0.044715 * x * x);
  }

  // The mean loss; fills in the gradients.
  double loss(const std::vector<int32_t>& tokens, const std::vector<int32_t>& targets, size_t rows) {
    const size_t d = static_cast<size_t>(c.width), length = tokens.size() / rows, count = tokens.size();
    const size_t vocabulary = static_cast<size_t>(c.vocab_size);
    for (auto& [name, slot] : slots) slot.gradient.assign(slot.value.size(), 0);
    struct Layer {
      Vector x, normed, qkv, mixed, middle, normed2, inner, activated;
    };
    std::vector<Layer> layers(static_cast<size_t>(c.layers));

    Vector x(count * d);
    const Vector &wte = value("wte.weight"), &wpe = value("wpe.weight");
    for (size_t t = 0; t < count; ++t)
      for (size_t i = 0; i < d; ++i)
        x[t * d + i] = wte[static_cast<size_t>(tokens[t]) * d + i] + wpe[t % length * d + i];
    const auto name = [](size_t l, const char* part) { return "h." + std::to_string(l) + "." + part; };
    const auto add = [](Vector a, const Vector& b) {
      for (size_t i = 0; i < a.size(); ++i) a[i] += b[i];
      return a;
    };
    for (size_t l = 0; l < layers.size(); ++l) {
      Layer& layer = layers[l];
      layer.x = x;
      layer.normed = norm(x, name(l, "ln_1"));
      layer.qkv = linear(layer.normed, name(l, "attn.c_attn"));
      layer.mixed = attention(layer.qkv, rows, length, nullptr, nullptr);
      layer.middle = add(x, linear(layer.mixed, name(l, "attn.c_proj")));
      layer.normed2 = norm(layer.middle, name(l, "ln_2"));
      layer.inner = linear(layer.normed2, name(l, "mlp.c_fc"));
      for (const double v : layer.inner) layer.activated.push_back(gelu(v));
      x = add(layer.middle, linear(layer.activated, name(l, "mlp.c_proj")));
    }
    const Vector normed = norm(x, "ln_f");

    double total = 0;
    Vector dnormed(normed.size());
    Vector& dwte = gradient("wte.weight");
    for (size_t t = 0; t < count; ++t) {
      Vector p(vocabulary);
      double top = -1e300, sum = 0;
      for (size_t v = 0; v < vocabulary; ++v) {
        for (size_t i = 0; i < d; ++i) p[v] += normed[t * d + i] * wte[v * d + i];
        top = std::max(top, p[v]);
      }
      const size_t target = static_cast<size_t>(targets[t]);
      const double hit = p[target];
      for (double& v : p) sum += v = std::exp(v - top);
      total += std::log(sum) + top - hit;
      for (size_t v = 0; v < vocabulary; ++v) {
        const double g = (p[v] / sum - (v == target)) / static_cast<double>(count);
        for (size_t i = 0; i < d; ++i) {
          dnormed[t * d + i] += g * wte[v * d + i];
          dwte[v * d + i] += g * normed[t * d + i];
        }
      }
    }

    Vector dx = norm_backward(x, dnormed, "ln_f");
    for (size_t l = layers.size(); l-- > 0;) {
      const Layer& layer = layers[l];
      Vector dinner = linear_backward(layer.activated, dx, name(l, "mlp.c_proj"));
      for (size_t i = 0; i < dinner.size(); ++i) dinner[i] *= gelu_slope(layer.inner[i]);
      const Vector dnormed2 = linear_backward(layer.normed2, dinner, name(l, "mlp.c_fc"));
      dx = add(dx, norm_backward(layer.middle, dnormed2, name(l, "ln_2")));
      const Vector dmixed = linear_backward(layer.mixed, dx, name(l, "attn.c_proj"));
      Vector dqkv(layer.qkv.size());
      attention(layer.qkv, rows, length, &dmixed, &dqkv);
      const Vector dnormed1 = linear_backward(layer.normed, dqkv, name(l, "attn.c_attn"));
      dx = add(dx, norm_backward(layer.x, dnormed1, name(l, "ln_1")));
    }
    Vector& dwpe = gradient("wpe.weight");
    for (size_t t = 0; t < count; ++t)
      for (size_t i = 0; i < d; ++i) {
        dwte[static_cast<size_t>(tokens[t]) * d + i] += dx[t * d + i];
        dwpe[t % length * d + i] += dx[t * d + i];
      }
    return total / static_cast<double>(count);
  }

  double gradient_norm() const {
    double sum = 0;
    for (const auto& [name, slot] : slots)
      for (const double g : slot.gradient) sum += g * g;
    return std::sqrt(sum);
  }

  void update(double rate) {
    ++steps;
    const double clip = std::min(1.0, optimiser.gradient_clip / (gradient_norm() + 1e-6));
    const double correction1 = 1 - std::pow(optimiser.beta1, steps), correction2 = 1 - std::pow(optimiser.beta2, steps);
    for (auto& [name, slot] : slots)
      for (size_t i = 0; i < slot.value.size(); ++i) {
        const double g = slot.gradient[i] * clip;
        slot.first[i] = optimiser.beta1 * slot.first[i] + (1 - optimiser.beta1) * g;
        slot.second[i] = optimiser.beta2 * slot.second[i] + (1 - optimiser.beta2) * g * g;
        if (slot.decay) slot.value[i] *= 1 - rate * optimiser.weight_decay;
        slot.value[i] -=
            rate * (slot.first[i] / correction1) / (std::sqrt(slot.second[i] / correction2) + optimiser.epsilon);
      }
  }
};

Reference reference_of(const Gpt& gpt, const AdamWConfig& optimiser) {
  Reference reference{gpt.config(), optimiser};
  std::vector<float> flat(static_cast<size_t>(gpt.parameter_count()));
  EXPECT_TRUE(gpt.get_parameters(flat).ok());
  auto next = flat.begin();
  for (const Parameter& p : gpt.parameters()) {
    const auto end = next + p.value.size();
    Vector values(next, end);
    next = end;
    const size_t count = values.size();
    // Weight matrices decay; biases and norms do not.
    reference.slots[p.name] = {std::move(values), Vector(count), Vector(count), Vector(count), p.value.rank() == 2};
    reference.order.push_back(p.name);
  }
  return reference;
}

constexpr GptConfig kTiny{.layers = 2, .heads = 2, .width = 16, .context = 12, .vocab_size = 19};
constexpr size_t kRows = 3, kLength = 11;

// Text with something to learn: each token follows from the one before, with some noise.
std::vector<int32_t> batch_text(int step) {
  std::mt19937 generator(static_cast<uint32_t>(step));
  std::vector<int32_t> tokens;
  for (size_t row = 0; row < kRows; ++row) {
    int32_t token = static_cast<int32_t>(generator() % 19);
    for (size_t t = 0; t <= kLength; ++t) {
      tokens.push_back(token);
      token = generator() % 8 == 0 ? static_cast<int32_t>(generator() % 19) : (token * 5 + 3) % 19;
    }
  }
  return tokens;
}

void split_batch(const std::vector<int32_t>& text, std::vector<int32_t>* tokens, std::vector<int32_t>* targets) {
  for (size_t row = 0; row < kRows; ++row)
    for (size_t t = 0; t < kLength; ++t) {
      tokens->push_back(text[row * (kLength + 1) + t]);
      targets->push_back(text[row * (kLength + 1) + t + 1]);
    }
}

TEST(GptReferenceTest, GradientsAreEqual) {
  tensor::Context& context = tensor::testing::context();
  auto gpt = Gpt::create(context, kTiny, 3);
  ASSERT_TRUE(gpt.ok());
  Reference reference = reference_of(*gpt, {});
  std::vector<int32_t> tokens, targets;
  split_batch(batch_text(0), &tokens, &targets);
  const tensor::Shape shape{kRows, kLength};
  const Tensor loss = gpt->loss(tensor::from_host<int32_t>(context, tokens, shape),
                                tensor::from_host<int32_t>(context, targets, shape));
  std::vector<Tensor> parameters;
  for (const Parameter& p : gpt->parameters()) parameters.push_back(p.value);
  const auto gradients = tensor::grad(loss, parameters);
  ASSERT_TRUE(gradients.ok()) << gradients.status().to_string();
  const double expected = reference.loss(tokens, targets, kRows);
  EXPECT_NEAR(*loss.item(), expected, 1e-6 * expected);
  const double scale = reference.gradient_norm();
  for (size_t i = 0; i < parameters.size(); ++i) {
    const std::string& name = gpt->parameters()[i].name;
    const std::vector<float> gradient = tensor::testing::read((*gradients)[i]);
    const Vector& exact = reference.gradient(name);
    ASSERT_EQ(gradient.size(), exact.size()) << name;
    for (size_t j = 0; j < exact.size(); ++j) ASSERT_NEAR(gradient[j], exact[j], 1e-6 * scale) << name << " " << j;
  }
}

TEST(GptReferenceTest, FiftyStepsHaveTheSameLosses) {
  tensor::Context& context = tensor::testing::context();
  const AdamWConfig optimiser{.weight_decay = 0.1, .gradient_clip = 0.5};
  const LearningRateSchedule schedule{.peak = 3e-3, .minimum = 3e-4, .warmup_steps = 5, .total_steps = 50};
  auto gpt = Gpt::create(context, kTiny, 3);
  ASSERT_TRUE(gpt.ok());
  AdamW adamw(context, optimiser, gpt->parameters());
  Reference reference = reference_of(*gpt, optimiser);
  double first = 0, last = 0;
  for (int step = 0; step < 50; ++step) {
    std::vector<int32_t> tokens, targets;
    split_batch(batch_text(step), &tokens, &targets);
    const tensor::Shape shape{kRows, kLength};
    const Tensor loss = gpt->loss(tensor::from_host<int32_t>(context, tokens, shape),
                                  tensor::from_host<int32_t>(context, targets, shape));
    std::vector<Tensor> parameters;
    for (const Parameter& p : gpt->parameters()) parameters.push_back(p.value);
    const auto gradients = tensor::grad(loss, parameters);
    ASSERT_TRUE(gradients.ok()) << gradients.status().to_string();
    const Tensor norm = adamw.update(gpt->parameters(), *gradients, schedule.at(step));
    std::vector<Tensor> results{loss, norm};
    for (const Parameter& p : gpt->parameters()) results.push_back(p.value);
    adamw.append_state(&results);
    const Status status = tensor::realize(results);
    ASSERT_TRUE(status.ok()) << status.to_string();

    const double expected = reference.loss(tokens, targets, kRows);
    ASSERT_NEAR(*loss.item(), expected, 1e-5 * expected) << "step " << step;
    ASSERT_NEAR(*norm.item(), reference.gradient_norm(), 1e-4 * reference.gradient_norm()) << "step " << step;
    reference.update(schedule.at(step));
    (step == 0 ? first : last) = expected;
  }
  EXPECT_LT(last, first - 0.5) << "the model learns";
}

}  // namespace
}  // namespace sporkle::nn
