// The model, its gradients and its optimiser against an independent implementation in f64: plain loops, the backward
// pass written by hand, nothing shared with the library but the initial parameters.
#include <map>

#include "nn/adamw.h"
#include "nn/llama.h"
#include "nn/schedule.h"
#include "tensor/autograd.h"
#include "tensor/testing.h"

namespace sporkle::nn {
namespace {

using tensor::Tensor;
using Vector = std::vector<double>;

Vector plus(Vector a, const Vector& b) {
  for (size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}

struct Reference {
  LlamaConfig c;
  AdamWConfig optimiser;
  struct Slot {
    Vector value, gradient, first, second;
    bool decay;
  };
  std::map<std::string, Slot> slots;
  int steps = 0;

  const Vector& value(const std::string& name) { return slots.at(name + ".weight").value; }
  Vector& gradient(const std::string& name) { return slots.at(name + ".weight").gradient; }
  size_t size_of_head() const { return static_cast<size_t>(c.width / c.heads); }

  // y [rows, outputs] = x [rows, inputs] w^T, w [outputs, inputs].
  Vector linear(const Vector& x, size_t inputs, const std::string& name) {
    const Vector& w = value(name);
    const size_t outputs = w.size() / inputs, rows = x.size() / inputs;
    Vector y(rows * outputs);
    for (size_t r = 0; r < rows; ++r)
      for (size_t o = 0; o < outputs; ++o)
        for (size_t i = 0; i < inputs; ++i) y[r * outputs + o] += x[r * inputs + i] * w[o * inputs + i];
    return y;
  }
  Vector linear_backward(const Vector& x, size_t inputs, const Vector& dy, const std::string& name) {
    const Vector& w = value(name);
    Vector& dw = gradient(name);
    const size_t outputs = w.size() / inputs, rows = x.size() / inputs;
    Vector dx(x.size());
    for (size_t r = 0; r < rows; ++r)
      for (size_t o = 0; o < outputs; ++o)
        for (size_t i = 0; i < inputs; ++i) {
          dx[r * inputs + i] += dy[r * outputs + o] * w[o * inputs + i];
          dw[o * inputs + i] += dy[r * outputs + o] * x[r * inputs + i];
        }
    return dx;
  }

  // Of one row: 1 / root mean square.
  double scale_of(const double* x, size_t n) const {
    double square = 0;
    for (size_t i = 0; i < n; ++i) square += x[i] * x[i];
    return 1 / std::sqrt(square / static_cast<double>(n) + c.rms_norm_epsilon);
  }
  Vector norm(const Vector& x, const std::string& name) {
    const Vector& w = value(name);
    const size_t n = w.size();
    Vector y(x.size());
    for (size_t at = 0; at < x.size(); at += n) {
      const double scale = scale_of(&x[at], n);
      for (size_t i = 0; i < n; ++i) y[at + i] = x[at + i] * scale * w[i];
    }
    return y;
  }
  Vector norm_backward(const Vector& x, const Vector& dy, const std::string& name) {
    const Vector& w = value(name);
    Vector& dw = gradient(name);
    const size_t n = w.size();
    Vector dx(x.size());
    for (size_t at = 0; at < x.size(); at += n) {
      const double scale = scale_of(&x[at], n);
      double dot = 0;
      for (size_t i = 0; i < n; ++i) {
        dw[i] += dy[at + i] * x[at + i] * scale;
        dot += dy[at + i] * w[i] * x[at + i];
      }
      for (size_t i = 0; i < n; ++i)
        dx[at + i] = scale * (dy[at + i] * w[i] - x[at + i] * dot * scale * scale / static_cast<double>(n));
    }
    return dx;
  }

  // x [rows * length, heads * size], each pair turned by the angle of its position, or back.
  Vector rotate(const Vector& x, size_t heads, size_t length, double direction) const {
    const size_t size = size_of_head(), half = size / 2;
    Vector y(x.size());
    for (size_t at = 0; at < x.size() / size; ++at)
      for (size_t i = 0; i < half; ++i) {
        const double position = static_cast<double>(at / heads % length);
        const double angle =
            direction * position * std::pow(c.rotary_base, -2.0 * static_cast<double>(i) / static_cast<double>(size));
        const double a = x[at * size + i], b = x[at * size + half + i];
        y[at * size + i] = a * std::cos(angle) - b * std::sin(angle);
        y[at * size + half + i] = b * std::cos(angle) + a * std::sin(angle);
      }
    return y;
  }

  struct Projections {
    Vector q, k, v;
  };
  // With dy, adds the gradients of q, k and v to *d.
  Vector attention(const Projections& x, size_t rows, size_t length, const Vector* dy, Projections* d) const {
    const size_t heads = static_cast<size_t>(c.heads), kv_heads = static_cast<size_t>(c.kv_heads);
    const size_t size = size_of_head();
    const double scale = 1 / std::sqrt(static_cast<double>(size));
    Vector y(x.q.size());
    for (size_t b = 0; b < rows; ++b)
      for (size_t h = 0; h < heads; ++h)
        for (size_t t = 0; t < length; ++t) {
          const size_t at = ((b * length + t) * heads + h) * size;
          const auto other = [&](size_t s) { return ((b * length + s) * kv_heads + h * kv_heads / heads) * size; };
          Vector p(t + 1), dp(t + 1);
          double top = -1e300, total = 0, mean = 0;
          for (size_t s = 0; s <= t; ++s) {
            for (size_t i = 0; i < size; ++i) p[s] += x.q[at + i] * x.k[other(s) + i] * scale;
            top = std::max(top, p[s]);
          }
          for (double& v : p) total += v = std::exp(v - top);
          for (double& v : p) v /= total;
          for (size_t s = 0; s <= t; ++s)
            for (size_t i = 0; i < size; ++i) y[at + i] += p[s] * x.v[other(s) + i];
          if (!dy) continue;
          for (size_t s = 0; s <= t; ++s) {
            for (size_t i = 0; i < size; ++i) {
              dp[s] += (*dy)[at + i] * x.v[other(s) + i];
              d->v[other(s) + i] += p[s] * (*dy)[at + i];
            }
            mean += dp[s] * p[s];
          }
          for (size_t s = 0; s <= t; ++s)
            for (size_t i = 0; i < size; ++i) {
              d->q[at + i] += p[s] * (dp[s] - mean) * scale * x.k[other(s) + i];
              d->k[other(s) + i] += p[s] * (dp[s] - mean) * scale * x.q[at + i];
            }
        }
    return y;
  }

  // The mean loss; fills in the gradients.
  double loss(const std::vector<int32_t>& tokens, const std::vector<int32_t>& targets, size_t rows) {
    const size_t d = static_cast<size_t>(c.width), length = tokens.size() / rows, count = tokens.size();
    const size_t vocabulary = static_cast<size_t>(c.vocab_size), inner = static_cast<size_t>(c.inner_width);
    const size_t heads = static_cast<size_t>(c.heads), kv_heads = static_cast<size_t>(c.kv_heads);
    for (auto& [name, slot] : slots) slot.gradient.assign(slot.value.size(), 0);
    struct Layer {
      Vector x, normed, mixed, middle, normed2, gate, up, activated;
      Projections turned;
    };
    std::vector<Layer> layers(static_cast<size_t>(c.layers));
    const std::string embedding = "model.embed_tokens", head = c.tied ? embedding : "lm_head";
    const auto name = [](size_t l, const char* part) { return "model.layers." + std::to_string(l) + "." + part; };

    Vector x(count * d);
    for (size_t t = 0; t < count; ++t)
      for (size_t i = 0; i < d; ++i) x[t * d + i] = value(embedding)[static_cast<size_t>(tokens[t]) * d + i];
    for (size_t l = 0; l < layers.size(); ++l) {
      Layer& layer = layers[l];
      layer.x = x;
      layer.normed = norm(x, name(l, "input_layernorm"));
      layer.turned = {rotate(linear(layer.normed, d, name(l, "self_attn.q_proj")), heads, length, 1),
                      rotate(linear(layer.normed, d, name(l, "self_attn.k_proj")), kv_heads, length, 1),
                      linear(layer.normed, d, name(l, "self_attn.v_proj"))};
      layer.mixed = attention(layer.turned, rows, length, nullptr, nullptr);
      layer.middle = plus(x, linear(layer.mixed, d, name(l, "self_attn.o_proj")));
      layer.normed2 = norm(layer.middle, name(l, "post_attention_layernorm"));
      layer.gate = linear(layer.normed2, d, name(l, "mlp.gate_proj"));
      layer.up = linear(layer.normed2, d, name(l, "mlp.up_proj"));
      for (size_t i = 0; i < layer.up.size(); ++i)
        layer.activated.push_back(layer.gate[i] / (1 + std::exp(-layer.gate[i])) * layer.up[i]);
      x = plus(layer.middle, linear(layer.activated, inner, name(l, "mlp.down_proj")));
    }
    const Vector normed = norm(x, "model.norm");
    Vector dlogits = linear(normed, d, head);
    double total = 0;
    for (size_t t = 0; t < count; ++t) {
      double* const row = &dlogits[t * vocabulary];
      const size_t target = static_cast<size_t>(targets[t]);
      const double top = *std::max_element(row, row + vocabulary), hit = row[target];
      double sum = 0;
      for (size_t v = 0; v < vocabulary; ++v) sum += row[v] = std::exp(row[v] - top);
      total += std::log(sum) + top - hit;
      for (size_t v = 0; v < vocabulary; ++v) row[v] = (row[v] / sum - (v == target)) / static_cast<double>(count);
    }

    Vector dx = norm_backward(x, linear_backward(normed, d, dlogits, head), "model.norm");
    for (size_t l = layers.size(); l-- > 0;) {
      const Layer& layer = layers[l];
      Vector dgate = linear_backward(layer.activated, inner, dx, name(l, "mlp.down_proj")), dup = dgate;
      for (size_t i = 0; i < dgate.size(); ++i) {
        const double share = 1 / (1 + std::exp(-layer.gate[i]));
        dup[i] *= layer.gate[i] * share;
        dgate[i] *= layer.up[i] * share * (1 + layer.gate[i] * (1 - share));
      }
      const Vector dnormed2 = plus(linear_backward(layer.normed2, d, dgate, name(l, "mlp.gate_proj")),
                                   linear_backward(layer.normed2, d, dup, name(l, "mlp.up_proj")));
      dx = plus(dx, norm_backward(layer.middle, dnormed2, name(l, "post_attention_layernorm")));
      const Vector dmixed = linear_backward(layer.mixed, d, dx, name(l, "self_attn.o_proj"));
      Projections dturned{Vector(layer.turned.q.size()), Vector(layer.turned.k.size()), Vector(layer.turned.v.size())};
      attention(layer.turned, rows, length, &dmixed, &dturned);
      const Vector dq = rotate(dturned.q, heads, length, -1), dk = rotate(dturned.k, kv_heads, length, -1);
      Vector dnormed = linear_backward(layer.normed, d, dq, name(l, "self_attn.q_proj"));
      dnormed = plus(dnormed, linear_backward(layer.normed, d, dk, name(l, "self_attn.k_proj")));
      dnormed = plus(dnormed, linear_backward(layer.normed, d, dturned.v, name(l, "self_attn.v_proj")));
      dx = plus(dx, norm_backward(layer.x, dnormed, name(l, "input_layernorm")));
    }
    for (size_t t = 0; t < count; ++t)
      for (size_t i = 0; i < d; ++i) gradient(embedding)[static_cast<size_t>(tokens[t]) * d + i] += dx[t * d + i];
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

Reference reference_of(const Llama& llama, const AdamWConfig& optimiser) {
  Reference reference{llama.config(), optimiser};
  std::vector<float> flat(static_cast<size_t>(llama.parameter_count()));
  EXPECT_TRUE(llama.get_parameters(flat).ok());
  auto next = flat.begin();
  for (const Parameter& p : llama.parameters()) {
    const auto end = next + p.value.size();
    Vector values(next, end);
    next = end;
    const size_t count = values.size();
    reference.slots[p.name] = {std::move(values), Vector(count), Vector(count), Vector(count), p.value.rank() == 2};
  }
  return reference;
}

constexpr LlamaConfig kTiny{.layers = 2,
                            .heads = 4,
                            .kv_heads = 2,
                            .width = 16,
                            .inner_width = 24,
                            .context = 12,
                            .vocab_size = 19,
                            .rotary_base = 100};
constexpr size_t kRows = 3, kLength = 11;

// Text with something to learn: each token follows from the one before, with some noise.
void make_batch(int step, std::vector<int32_t>* tokens, std::vector<int32_t>* targets) {
  std::mt19937 generator(static_cast<uint32_t>(step));
  for (size_t row = 0; row < kRows; ++row) {
    int32_t token = static_cast<int32_t>(generator() % 19);
    for (size_t t = 0; t < kLength; ++t) {
      tokens->push_back(token);
      token = generator() % 8 == 0 ? static_cast<int32_t>(generator() % 19) : (token * 5 + 3) % 19;
      targets->push_back(token);
    }
  }
}

Tensor loss_of(const Llama& llama, const std::vector<int32_t>& tokens, const std::vector<int32_t>& targets) {
  const tensor::Shape shape{kRows, kLength};
  return llama.loss(tensor::from_host<int32_t>(llama.context(), tokens, shape),
                    tensor::from_host<int32_t>(llama.context(), targets, shape));
}

TEST(LlamaReferenceTest, GradientsAreEqual) {
  tensor::Context& context = tensor::testing::context();
  for (const bool tied : {false, true}) {
    LlamaConfig config = kTiny;
    config.tied = tied;
    auto llama = Llama::create(context, config, 3);
    ASSERT_TRUE(llama.ok());
    Reference reference = reference_of(*llama, {});
    std::vector<int32_t> tokens, targets;
    make_batch(0, &tokens, &targets);
    const Tensor loss = loss_of(*llama, tokens, targets);
    const auto gradients = tensor::grad(loss, values(llama->parameters()));
    ASSERT_TRUE(gradients.ok()) << gradients.status().to_string();
    const double expected = reference.loss(tokens, targets, kRows);
    EXPECT_NEAR(*loss.item(), expected, 1e-6 * expected);
    const double scale = reference.gradient_norm();
    for (size_t i = 0; i < gradients->size(); ++i) {
      const std::string& name = llama->parameters()[i].name;
      const std::vector<float> gradient = tensor::testing::read((*gradients)[i]);
      const Vector& exact = reference.slots.at(name).gradient;
      ASSERT_EQ(gradient.size(), exact.size()) << name;
      for (size_t j = 0; j < exact.size(); ++j) ASSERT_NEAR(gradient[j], exact[j], 1e-6 * scale) << name << " " << j;
    }
  }
}

TEST(LlamaReferenceTest, FiftyStepsHaveTheSameLosses) {
  tensor::Context& context = tensor::testing::context();
  const AdamWConfig optimiser{.weight_decay = 0.1, .gradient_clip = 0.5};
  const LearningRateSchedule schedule{.peak = 3e-3, .minimum = 3e-4, .warmup_steps = 5, .total_steps = 50};
  auto llama = Llama::create(context, kTiny, 3);
  ASSERT_TRUE(llama.ok());
  AdamW adamw(context, optimiser, llama->parameters());
  Reference reference = reference_of(*llama, optimiser);
  double first = 0, last = 0;
  for (int step = 0; step < 50; ++step) {
    std::vector<int32_t> tokens, targets;
    make_batch(step, &tokens, &targets);
    const Tensor loss = loss_of(*llama, tokens, targets);
    const auto gradients = tensor::grad(loss, values(llama->parameters()));
    ASSERT_TRUE(gradients.ok()) << gradients.status().to_string();
    const Tensor norm = adamw.update(llama->parameters(), *gradients, schedule.at(step));
    std::vector<Tensor> results{loss, norm};
    for (const Parameter& p : llama->parameters()) results.push_back(p.value);
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

TEST(LlamaTest, TheCacheGivesTheLogitsOfTheWholeSequence) {
  tensor::Context& context = tensor::testing::context();
  auto llama = Llama::create(context, kTiny, 5);
  ASSERT_TRUE(llama.ok());
  std::vector<int32_t> tokens, targets;
  make_batch(1, &tokens, &targets);
  const Tensor all = tensor::from_host<int32_t>(context, tokens, {kRows, kLength});
  const std::vector<float> whole = tensor::testing::read(llama->logits(all));
  Decoder::Cache cache;
  for (const auto& [start, length] : {std::pair<int64_t, int64_t>{0, 4}, {4, 1}, {5, 6}}) {
    const std::vector<float> part = tensor::testing::read(llama->extend(all.slice(1, start, length), cache));
    for (size_t row = 0; row < kRows; ++row)
      for (size_t v = 0; v < 19; ++v)
        ASSERT_EQ(part[row * 19 + v], whole[(row * kLength + static_cast<size_t>(start + length) - 1) * 19 + v]);
  }
  EXPECT_FALSE(llama->extend(all.slice(1, 0, 2), cache).ok()) << "13 positions in a context of 12";
}

TEST(LlamaTest, DropoutFollowsItsKey) {
  tensor::Context& context = tensor::testing::context();
  LlamaConfig config = kTiny;
  config.dropout = 0.2;
  auto llama = Llama::create(context, config, 5);
  ASSERT_TRUE(llama.ok());
  std::vector<int32_t> tokens, targets;
  make_batch(1, &tokens, &targets);
  const Tensor all = tensor::from_host<int32_t>(context, tokens, {kRows, kLength});
  const auto logits = [&](DropoutKey key) { return tensor::testing::read(llama->logits(all, &key)); };
  EXPECT_TRUE(tensor::testing::same_bits(logits({1, 2}), logits({1, 2})));
  EXPECT_FALSE(tensor::testing::same_bits(logits({1, 2}), logits({1, 3})));
}

TEST(LlamaTest, WrongShapesAreErrors) {
  tensor::Context& context = tensor::testing::context();
  const auto message = [&](auto change) {
    LlamaConfig config = kTiny;
    change(config);
    const auto llama = Llama::create(context, config, 1);
    return llama.ok() ? std::string() : llama.status().to_string();
  };
  EXPECT_NE(message([](LlamaConfig& c) { c.kv_heads = 3; }).find("kv_heads"), std::string::npos);
  EXPECT_NE(message([](LlamaConfig& c) { c.heads = 16; }).find("even"), std::string::npos);
  EXPECT_NE(message([](LlamaConfig& c) { c.inner_width = 0; }).find("above 0"), std::string::npos);
}

}  // namespace
}  // namespace sporkle::nn
