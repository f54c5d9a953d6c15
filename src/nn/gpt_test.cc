#include "nn/gpt.h"

#include "nn/adamw.h"
#include "tensor/autograd.h"
#include "tensor/testing.h"

namespace sporkle::nn {
namespace {

using tensor::Tensor;
using tensor::testing::context;
using tensor::testing::read;
using tensor::testing::same_bits;

constexpr GptConfig kTiny{.layers = 2, .heads = 2, .width = 16, .context = 24, .vocab_size = 19};

Tensor tokens_of(tensor::Context& c, int64_t rows, int64_t length, uint32_t seed) {
  std::mt19937 generator(seed);
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < rows * length; ++i) tokens.push_back(static_cast<int32_t>(generator() % 19));
  return tensor::from_host<int32_t>(c, tokens, {rows, length});
}

Gpt model(tensor::Context& c, const GptConfig& config = kTiny, uint64_t seed = 5) {
  auto gpt = Gpt::create(c, config, seed);
  EXPECT_TRUE(gpt.ok()) << gpt.status().to_string();
  return std::move(*gpt);
}

std::vector<float> flat(const Gpt& gpt) {
  std::vector<float> values(static_cast<size_t>(gpt.parameter_count()));
  EXPECT_TRUE(gpt.get_parameters(values).ok());
  return values;
}

// A few training steps; returns the parameters.
std::vector<float> train(tensor::Context& c, int steps, double dropout) {
  GptConfig config = kTiny;
  config.dropout = dropout;
  Gpt gpt = model(c, config);
  AdamW adamw(c, {}, gpt.parameters());
  for (int step = 0; step < steps; ++step) {
    const DropoutKey key{9, static_cast<uint64_t>(step)};
    const Tensor loss = gpt.loss(tokens_of(c, 3, 20, 2 * step), tokens_of(c, 3, 20, 2 * step + 1), &key);
    std::vector<Tensor> parameters;
    for (const Parameter& p : gpt.parameters()) parameters.push_back(p.value);
    const auto gradients = tensor::grad(loss, parameters);
    EXPECT_TRUE(gradients.ok()) << gradients.status().to_string();
    std::vector<Tensor> results{adamw.update(gpt.parameters(), *gradients, 1e-3)};
    for (const Parameter& p : gpt.parameters()) results.push_back(p.value);
    adamw.append_state(&results);
    const Status status = tensor::realize(results);
    EXPECT_TRUE(status.ok()) << status.to_string();
  }
  return flat(gpt);
}

TEST(GptTest, NamesParametersAsHuggingFaceDoes) {
  const Gpt gpt = model(context());
  std::vector<std::string> names;
  for (const Parameter& p : gpt.parameters()) {
    names.push_back(p.name);
    EXPECT_EQ(p.decay, p.value.rank() == 2) << p.name;
  }
  ASSERT_EQ(names.size(), 2u + 2 * 12 + 2);
  const std::vector<std::string> first = {"wte.weight",
                                          "wpe.weight",
                                          "h.0.ln_1.weight",
                                          "h.0.ln_1.bias",
                                          "h.0.attn.c_attn.weight",
                                          "h.0.attn.c_attn.bias",
                                          "h.0.attn.c_proj.weight",
                                          "h.0.attn.c_proj.bias",
                                          "h.0.ln_2.weight",
                                          "h.0.ln_2.bias",
                                          "h.0.mlp.c_fc.weight",
                                          "h.0.mlp.c_fc.bias",
                                          "h.0.mlp.c_proj.weight",
                                          "h.0.mlp.c_proj.bias",
                                          "h.1.ln_1.weight"};
  EXPECT_TRUE(std::equal(first.begin(), first.end(), names.begin()));
  EXPECT_EQ(names.back(), "ln_f.bias");
  EXPECT_EQ(gpt.parameters()[4].value.shape(), (tensor::Shape{16, 48}));
}

TEST(GptTest, StartsAsGpt2Does) {
  GptConfig config = kTiny;
  config.width = 128;
  const Gpt gpt = model(context(), config);
  for (const Parameter& p : gpt.parameters()) {
    const std::vector<float> values = read(p.value);
    double sum = 0, squares = 0;
    for (const float v : values) {
      sum += v;
      squares += v * v;
    }
    const double n = static_cast<double>(values.size());
    const bool residual = p.name.ends_with("c_proj.weight");
    if (p.decay) {
      EXPECT_NEAR(std::sqrt(squares / n), residual ? 0.02 / 2 : 0.02, 0.002) << p.name;  // sqrt(2 layers) = 2
      EXPECT_NEAR(sum / n, 0, 0.002) << p.name;
    } else {
      EXPECT_EQ(sum / n, p.name.ends_with(".bias") ? 0 : 1) << p.name;
    }
  }
  EXPECT_FALSE(same_bits(flat(gpt), flat(model(context(), config, 6))));
  EXPECT_TRUE(same_bits(flat(gpt), flat(model(context("cpu", 1), config))));
}

TEST(GptTest, KeepsParametersThatAreSet) {
  Gpt gpt = model(context());
  std::vector<float> values = flat(gpt);
  for (float& v : values) v += 1;
  ASSERT_TRUE(gpt.set_parameters(values).ok());
  EXPECT_EQ(flat(gpt), values);
  values.pop_back();
  EXPECT_EQ(gpt.set_parameters(values).code(), Code::invalid_argument);
  EXPECT_EQ(gpt.get_parameters(values).code(), Code::invalid_argument);
}

TEST(GptTest, GeneratesWithTheLogitsOfTheWholeForward) {
  tensor::Context& c = context();
  const Gpt gpt = model(c);
  constexpr int64_t kLength = 20;
  const Tensor tokens = tokens_of(c, 2, kLength, 1);
  const std::vector<float> all = read(gpt.logits(tokens));
  const auto expect_row = [&](const std::vector<float>& logits, int64_t position) {
    ASSERT_EQ(logits.size(), 2u * 19);
    for (int64_t row = 0; row < 2; ++row)
      for (int64_t v = 0; v < 19; ++v)
        ASSERT_EQ(logits[static_cast<size_t>(row * 19 + v)],
                  all[static_cast<size_t>((row * kLength + position) * 19 + v)])
            << "position " << position;
  };
  Gpt laid_out = model(c);
  ASSERT_TRUE(laid_out.lay_out_for_generation().ok());
  std::vector<float> values(static_cast<size_t>(gpt.parameter_count())), others = values;
  ASSERT_TRUE(gpt.get_parameters(values).ok() && laid_out.get_parameters(others).ok());
  EXPECT_EQ(values, others);
  Gpt::Cache cache;
  for (const Gpt* from : {&gpt, static_cast<const Gpt*>(&laid_out)}) {
    cache = {};
    expect_row(read(from->extend(tokens.slice(1, 0, 7), cache)), 6);
    for (int64_t t = 7; t < kLength; ++t) expect_row(read(from->extend(tokens.slice(1, t, 1), cache)), t);
    EXPECT_EQ(cache.length, kLength);
  }
  EXPECT_EQ(gpt.extend(tokens.slice(1, 0, 5), cache).status().code(), Code::invalid_argument) << "beyond the context";
}

TEST(GptTest, GenerationTakesTheSameTimeAtEveryStep) {
  tensor::Context& c = context();
  const Gpt gpt = model(c);
  const Tensor tokens = tokens_of(c, 1, 24, 1);
  Gpt::Cache cache;
  const auto launches = [&](int64_t position) {
    const uint64_t before = c.counters().launches;
    (void)read(gpt.extend(tokens.slice(1, position, 1), cache));
    return c.counters().launches - before;
  };
  (void)launches(0);
  const uint64_t second = launches(1);
  for (int64_t t = 2; t < 24; ++t) EXPECT_EQ(launches(t), second) << "nothing is computed again";
}

TEST(GptTest, FutureTokensChangeNothing) {
  tensor::Context& c = context();
  const Gpt gpt = model(c);
  const Tensor tokens = tokens_of(c, 1, 10, 1), other = concatenate(tokens.slice(1, 0, 6), tokens_of(c, 1, 4, 2), 1);
  const std::vector<float> a = read(gpt.logits(tokens).slice(1, 0, 6)), b = read(gpt.logits(other).slice(1, 0, 6));
  EXPECT_TRUE(same_bits(a, b));
}

TEST(GptTest, TrainingHasTheSameBitsOnEveryDevice) {
  const std::vector<float> expected = train(context("cpu", 1), 3, 0.1);
  EXPECT_TRUE(same_bits(train(context("cpu", 2), 3, 0.1), expected));
  EXPECT_TRUE(same_bits(train(context("cpu", 2, false), 3, 0.1), expected)) << "without fusion";
  EXPECT_FALSE(same_bits(train(context("cpu", 1), 3, 0.0), expected)) << "dropout does something";
}

TEST(GptTest, TrainingHasTheSameBitsOnTheReference) {
  EXPECT_TRUE(same_bits(train(context("reference"), 1, 0.1), train(context("cpu"), 1, 0.1)));
}

TEST(GptTest, DropoutDependsOnItsKeyAlone) {
  tensor::Context& c = context();
  GptConfig config = kTiny;
  config.dropout = 0.2;
  const Gpt gpt = model(c, config);
  const Tensor tokens = tokens_of(c, 2, 10, 1);
  const auto logits = [&](DropoutKey key) { return read(gpt.logits(tokens, &key)); };
  const std::vector<float> first = logits({1, 7});
  (void)logits({1, 8});
  EXPECT_TRUE(same_bits(logits({1, 7}), first));
  EXPECT_FALSE(same_bits(logits({1, 8}), first));
  EXPECT_FALSE(same_bits(logits({2, 7}), first));
  EXPECT_FALSE(same_bits(read(gpt.logits(tokens)), first));
}

TEST(GptTest, RefusesShapesThatMakeNoModel) {
  const auto code = [](GptConfig config) { return Gpt::create(context(), config, 0).status().code(); };
  GptConfig config = kTiny;
  config.heads = 3;
  EXPECT_EQ(code(config), Code::invalid_argument);
  config = kTiny;
  config.layers = 0;
  EXPECT_EQ(code(config), Code::invalid_argument);
  const Gpt gpt = model(context());
  EXPECT_EQ(gpt.logits(tokens_of(context(), 1, 25, 1)).status().code(), Code::invalid_argument);
  EXPECT_EQ(gpt.logits(tensor::full(context(), {5}, 0, ir::DType::i32)).status().code(), Code::invalid_argument);
}

}  // namespace
}  // namespace sporkle::nn
