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

// The share of unseen images that are named rightly.
Result<double> train(std::span<const float> images, std::span<const int32_t> digits) {
  SPORKLE_ASSIGN_OR_RETURN(const auto context, tensor::Context::open());
  const int64_t count = static_cast<int64_t>(digits.size()), unseen = count - kTraining;
  const Tensor all = tensor::from_host<float>(*context, images, {count, kPixels});
  const Tensor named = tensor::from_host<int32_t>(*context, digits.first(kTraining), {kTraining});
  std::vector<nn::Parameter> p = {{"w1", tensor::normal(*context, {kPixels, kHidden}, {1, 1}) * 0.15, true},
                                  {"b1", tensor::zeros(*context, {kHidden})},
                                  {"w2", tensor::normal(*context, {kHidden, 10}, {1, 2}) * 0.15, true},
                                  {"b2", tensor::zeros(*context, {10})}};
  const auto net = [&](Tensor x) { return matmul(gelu(matmul(x, p[0].value) + p[1].value), p[2].value) + p[3].value; };
  nn::AdamW optimizer(*context, {.weight_decay = 0.01}, p);
  for (int step = 0; step < 200; ++step) {
    const Tensor loss = tensor::cross_entropy(net(all.slice(0, 0, kTraining)), named);
    SPORKLE_ASSIGN_OR_RETURN(const auto gradients, tensor::grad(loss, nn::values(p)));
    optimizer.update(p, gradients, 0.01);
    std::vector<Tensor> results = nn::values(p);
    optimizer.append_state(&results);
    results.push_back(loss);
    SPORKLE_RETURN_IF_ERROR(tensor::realize(results));
    SPORKLE_ASSIGN_OR_RETURN(const double value, loss.item());
    if (step % 40 == 0) std::printf("step %3d: loss %.4f\n", step, value);
  }
  SPORKLE_ASSIGN_OR_RETURN(const auto scores, net(all.slice(0, kTraining, unseen)).to_host<float>());
  double right = 0;
  for (auto row = scores.begin(); row != scores.end(); row += 10)
    right += std::max_element(row, row + 10) - row == digits[kTraining + (row - scores.begin()) / 10];
  return right / static_cast<double>(unseen);
}

int main() {
  std::vector<float> images;
  std::vector<int32_t> digits;
  std::ifstream file(kData);
  for (float value; file >> value; file.ignore(1))
    images.size() == (digits.size() + 1) * kPixels ? digits.push_back(static_cast<int32_t>(value))
                                                   : images.push_back(value / 16);
  if (digits.size() <= kTraining) return std::fprintf(stderr, "%s is missing: run `make setup`\n", kData), 77;
  const Result<double> share = train(images, digits);
  if (!share.ok()) return std::fprintf(stderr, "%s\n", share.status().to_string().c_str()), 1;
  std::printf("named %.1f%% of the unseen digits\n", *share * 100);
  return *share > 0.9 ? 0 : 1;
}
