// A small network that reads handwritten digits: 1,797 images of 8 x 8 pixels (E. Alpaydin and C. Kaynak, UCI), which
// `make setup` puts into build/data. It trains on 1,500 of them, then names the digits in the others.
#include <algorithm>
#include <cstdio>
#include <fstream>

#include "nn/adamw.h"
#include "tensor/autograd.h"
#include "tensor/context.h"
#include "tensor/layers.h"
#include "tensor/random.h"

using namespace sporkle;
using tensor::Tensor;

constexpr char kData[] = SPORKLE_SOURCE_DIR "/build/data/digits.csv";  // 64 pixels of 0 to 16, then the digit
constexpr int64_t kTraining = 1500, kPixels = 64, kHidden = 48;

int fail(const Status& status) { return std::fprintf(stderr, "%s\n", status.to_string().c_str()), 1; }

int main() {
  std::vector<float> images;
  std::vector<int32_t> digits;
  std::ifstream file(kData);
  for (float value; file >> value; file.ignore(1)) {
    if (images.size() == (digits.size() + 1) * kPixels)
      digits.push_back(static_cast<int32_t>(value));
    else
      images.push_back(value / 16);
  }
  const int64_t count = static_cast<int64_t>(digits.size());
  if (count <= kTraining) return std::fprintf(stderr, "%s is missing: run `make setup`\n", kData), 77;

  const auto opened = tensor::Context::open();
  if (!opened.ok()) return fail(opened.status());
  tensor::Context& context = **opened;
  const Tensor all = tensor::from_host<float>(context, images, {count, kPixels});
  const Tensor targets = tensor::from_host<int32_t>(context, std::span(digits).first(kTraining), {kTraining});
  std::vector<nn::Parameter> p = {{"w1", tensor::normal(context, {kPixels, kHidden}, {1, 1}) * 0.15, true},
                                  {"b1", tensor::zeros(context, {kHidden})},
                                  {"w2", tensor::normal(context, {kHidden, 10}, {1, 2}) * 0.15, true},
                                  {"b2", tensor::zeros(context, {10})}};
  const auto logits = [&](const Tensor& x) {
    return matmul(gelu(matmul(x, p[0].value) + p[1].value), p[2].value) + p[3].value;
  };

  nn::AdamW optimizer(context, {.weight_decay = 0.01}, p);
  for (int step = 0; step < 200; ++step) {
    const Tensor loss = tensor::cross_entropy(logits(all.slice(0, 0, kTraining)), targets);
    const auto gradients = tensor::grad(loss, nn::values(p));
    if (!gradients.ok()) return fail(gradients.status());
    optimizer.update(p, *gradients, 0.01);
    std::vector<Tensor> results = nn::values(p);
    optimizer.append_state(&results);
    results.push_back(loss);
    if (Status status = tensor::realize(results); !status.ok()) return fail(status);
    if (step % 40 == 0) std::printf("step %3d: loss %.4f\n", step, *loss.item());
  }

  const auto scores = logits(all.slice(0, kTraining, count - kTraining)).to_host<float>();
  if (!scores.ok()) return fail(scores.status());
  int64_t right = 0;
  for (int64_t i = 0; i < count - kTraining; ++i) {
    const auto row = scores->begin() + i * 10;
    right += std::max_element(row, row + 10) - row == digits[static_cast<size_t>(kTraining + i)];
  }
  std::printf("named %ld of %ld unseen digits\n", right, count - kTraining);
  return right * 10 > (count - kTraining) * 9 ? 0 : 1;
}
