// ResNet-18 that reads handwritten digits, enlarged to 32 x 32: minutes, kept in a file from which it goes on when it
// is started again. Usage: example_05_resnet18 [STEPS [FILE]]
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "base/progress.h"
#include "train/image_classifier.h"

using namespace sporkle;
constexpr char kData[] = SPORKLE_SOURCE_DIR "/build/data/digits.csv";  // 64 pixels of 0 to 16, then the digit
constexpr size_t kTraining = 1500, kRows = 50, kSize = 32;
std::vector<float> images;
std::vector<int32_t> digits;

train::ImageBatch batch(size_t first) {
  const size_t rows = std::min(kRows, digits.size() - first), size = kSize * kSize;
  return {std::span(images).subspan(first * size, rows * size), std::span(digits).subspan(first, rows),
          static_cast<int64_t>(rows), kSize, kSize};
}

// The share of unseen images that are named rightly.
Result<double> run(int64_t steps, const std::filesystem::path& file) {
  SPORKLE_ASSIGN_OR_RETURN(const auto net, train::ImageClassifier::create({.channels = 1}, {}, {}));
  if (std::filesystem::exists(file)) SPORKLE_RETURN_IF_ERROR(net->load(file));
  const int64_t begin = net->optimizer().step();
  Terminal terminal(STDOUT_FILENO);
  Progress progress(&terminal, "training", static_cast<double>(steps - begin));
  for (int64_t step = begin; step < steps; ++step) {
    const double rate = 2e-3 * (1 - static_cast<double>(step) / static_cast<double>(steps));
    SPORKLE_ASSIGN_OR_RETURN(const auto result, net->step(batch(static_cast<size_t>(step) * kRows % kTraining), rate));
    progress.update(static_cast<double>(step + 1 - begin), "loss " + std::to_string(result.loss));
    if (!file.empty() && (step + 1) % 30 == 0) SPORKLE_RETURN_IF_ERROR(net->save(file));
  }
  progress.finish(std::to_string(net->optimizer().step()) + " steps");
  double right = 0;
  for (size_t first = kTraining; first < digits.size(); first += kRows) {
    SPORKLE_ASSIGN_OR_RETURN(const auto scores, net->scores(batch(first)));
    for (auto row = scores.begin(); row != scores.end(); row += 10)
      right += std::max_element(row, row + 10) - row == digits[first + static_cast<size_t>(row - scores.begin()) / 10];
  }
  return right / static_cast<double>(digits.size() - kTraining);
}

int main(int argc, char** argv) {
  std::ifstream csv(kData);
  std::vector<float> line;
  for (float value; csv >> value; csv.ignore(1)) {
    if (line.size() < 64) {
      line.push_back(value / 16);
      continue;
    }
    digits.push_back(static_cast<int32_t>(value));
    for (size_t p = 0; p < kSize * kSize; ++p) images.push_back(line[p / kSize / 4 * 8 + p % kSize / 4]);
    line.clear();
  }
  if (digits.size() <= kTraining) return std::fprintf(stderr, "%s is missing: run `make setup`\n", kData), 77;
  int64_t steps = 240;
  const std::string_view word = argc > 1 ? argv[1] : "240";
  const auto [rest, error] = std::from_chars(word.data(), word.data() + word.size(), steps);
  if (argc > 3 || error != std::errc() || rest != word.data() + word.size() || steps < 1)
    return std::fprintf(stderr, "usage: %s [STEPS [FILE]], of 1 step at least\n", argv[0]), 2;
  const Result<double> share = run(steps, argc > 2 ? argv[2] : "");
  if (!share.ok()) return std::fprintf(stderr, "%s\n", share.status().to_string().c_str()), 1;
  std::printf("named %.1f%% of the unseen digits\n", *share * 100);
  return steps < 60 || *share > 0.8 ? 0 : 1;
}
