// A residual network of convolutions that reads handwritten digits: the images of 03_mlp.cc, in batches of 100.
#include <algorithm>
#include <cstdio>
#include <fstream>

#include "nn/adamw.h"
#include "nn/resnet.h"
#include "tensor/autograd.h"
#include "tensor/context.h"
#include "tensor/layers.h"

using namespace sporkle;
using tensor::Tensor;
constexpr char kData[] = SPORKLE_SOURCE_DIR "/build/data/digits.csv";  // 64 pixels of 0 to 16, then the digit
constexpr int64_t kTraining = 1500, kBatch = 100, kPixels = 64;

// The share of unseen images that are named rightly.
Result<double> train(std::span<const float> pixels, std::span<const int32_t> digits) {
  SPORKLE_ASSIGN_OR_RETURN(const auto context, tensor::Context::open());
  const int64_t count = static_cast<int64_t>(digits.size());
  const Tensor images = tensor::from_host<float>(*context, pixels, {count, 1, 8, 8});
  const Tensor named = tensor::from_host<int32_t>(*context, digits, {count});
  const nn::ResNetConfig config{.channels = 1, .width = 16, .blocks = {1, 1, 1}};
  SPORKLE_ASSIGN_OR_RETURN(nn::ResNet net, nn::ResNet::create(*context, config, /*seed=*/1));
  nn::AdamW optimizer(*context, {}, net.parameters());
  for (int64_t step = 0; step < 120; ++step) {
    const int64_t first = step * kBatch % kTraining;
    const Tensor logits = net.training_logits(images.slice(0, first, kBatch));
    const Tensor loss = tensor::cross_entropy(logits, named.slice(0, first, kBatch));
    SPORKLE_ASSIGN_OR_RETURN(const auto gradients, tensor::grad(loss, nn::values(net.parameters())));
    optimizer.update(net.parameters(), gradients, 0.002);
    std::vector<Tensor> results = nn::values(net.parameters());
    optimizer.append_state(&results);
    net.append_state(&results);  // the norms' running statistics
    results.push_back(loss);
    SPORKLE_RETURN_IF_ERROR(tensor::realize(results));
    SPORKLE_ASSIGN_OR_RETURN(const double value, loss.item());
    if (step % 20 == 0) std::printf("step %3lld: loss %.4f\n", static_cast<long long>(step), value);
  }
  const Tensor unseen = images.slice(0, kTraining, count - kTraining);
  SPORKLE_ASSIGN_OR_RETURN(const auto scores, net.logits(unseen).to_host<float>());
  double right = 0;
  for (auto row = scores.begin(); row != scores.end(); row += 10)
    right += std::max_element(row, row + 10) - row == digits[kTraining + (row - scores.begin()) / 10];
  return right / static_cast<double>(count - kTraining);
}

int main() {
  std::vector<float> pixels;
  std::vector<int32_t> digits;
  std::ifstream file(kData);
  for (float value; file >> value; file.ignore(1))
    pixels.size() == (digits.size() + 1) * kPixels ? digits.push_back(static_cast<int32_t>(value))
                                                   : pixels.push_back(value / 16);
  if (digits.size() <= kTraining) return std::fprintf(stderr, "%s is missing: run `make setup`\n", kData), 77;
  const Result<double> share = train(pixels, digits);
  if (!share.ok()) return std::fprintf(stderr, "%s\n", share.status().to_string().c_str()), 1;
  std::printf("named %.1f%% of the unseen digits\n", *share * 100);
  return *share > 0.9 ? 0 : 1;
}
