// The image classifier: training that is saved, loaded and goes on gives the bits of training that was never
// interrupted, running statistics among them; and nothing that does not fit changes a network.
#include "train/image_classifier.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>

#include "tensor/autograd.h"
#include "tensor/layers.h"
#include "train/safetensors.h"
#include "train/temporary_folder.h"

namespace sporkle::train {
namespace {

constexpr int64_t kImages = 6, kSize = 9, kChannels = 2, kClasses = 3;
constexpr double kLearningRate = 3e-3;

nn::ResNetConfig small() { return {.channels = kChannels, .classes = kClasses, .width = 4, .blocks = {1, 2}}; }

std::unique_ptr<ImageClassifier> make(int threads, int64_t seed = 1, const nn::ResNetConfig& config = small()) {
  OptimizationConfig optimization;
  optimization.seed = seed;
  auto made = ImageClassifier::create(config, optimization, {.device = "cpu", .threads = threads});
  EXPECT_TRUE(made.ok()) << made.status().to_string();
  return made.ok() ? std::move(*made) : nullptr;
}

struct Images {
  std::vector<float> pixels;
  std::vector<int32_t> classes;
  ImageBatch batch() const { return {pixels, classes, kImages, kSize, kSize}; }
};

// Each step's batch is another one.
Images images_of(uint32_t step) {
  Images images;
  uint32_t state = step * 2654435761U + 1;
  const auto next = [&state] { return (state = state * 1664525 + 1013904223) >> 8; };
  for (int64_t i = 0; i < kImages; ++i) {
    const auto name = static_cast<int32_t>(next() % kClasses);
    images.classes.push_back(name);
    for (int64_t p = 0; p < kChannels * kSize * kSize; ++p)
      images.pixels.push_back(static_cast<float>(next()) / 16777216.0F + static_cast<float>(name));
  }
  return images;
}

void train(ImageClassifier& model, uint32_t first, uint32_t end) {
  for (uint32_t step = first; step < end; ++step) {
    const Result<StepResult> result = model.step(images_of(step).batch(), kLearningRate);
    ASSERT_TRUE(result.ok()) << "step " << step << ": " << result.status().to_string();
  }
}

std::vector<float> read(const Result<std::vector<float>>& values) {
  EXPECT_TRUE(values.ok()) << values.status().to_string();
  return values.ok() ? *values : std::vector<float>();
}

// The bits of everything that a network is trained to.
std::vector<uint32_t> bits_of(ImageClassifier& model) {
  std::vector<tensor::Tensor> all = nn::values(model.net().parameters());
  for (const auto& part :
       {model.optimizer().first_moments(), model.optimizer().second_moments(), model.net().statistics_values()})
    all.insert(all.end(), part.begin(), part.end());
  std::vector<uint32_t> bits;
  for (const tensor::Tensor& tensor : all) {
    const std::vector<float> values = read(tensor.to_host<float>());
    const size_t at = bits.size();
    bits.resize(at + values.size());
    std::memcpy(bits.data() + at, values.data(), values.size() * sizeof(float));
  }
  return bits;
}

std::vector<float> statistics_of(ImageClassifier& model) {
  std::vector<float> all;
  for (const tensor::Tensor& tensor : model.net().statistics_values())
    for (const float value : read(tensor.to_host<float>())) all.push_back(value);
  return all;
}

TEST(ImageClassifierTest, GoesOnToTheSameBitsAfterALoad) {
  testing::TemporaryFolder folder;
  const std::filesystem::path path = folder.path() / "resnet.safetensors";
  const auto whole = make(2), first = make(2);
  train(*whole, 0, 7);
  train(*first, 0, 3);
  ASSERT_TRUE(first->save(path).ok());
  // Another seed, another number of threads, and steps of its own: none of them may leave a trace.
  const auto second = make(1, /*seed=*/9);
  train(*second, 20, 22);
  ASSERT_NE(bits_of(*second), bits_of(*first));
  const Status loaded = second->load(path);
  ASSERT_TRUE(loaded.ok()) << loaded.to_string();
  EXPECT_EQ(bits_of(*second), bits_of(*first));
  EXPECT_EQ(second->optimizer().step(), 3);
  train(*second, 3, 7);
  EXPECT_EQ(bits_of(*second), bits_of(*whole));
  EXPECT_EQ(second->optimizer().step(), 7);
  // Inference reads the running statistics.
  const Images unseen = images_of(30);
  EXPECT_EQ(read(second->scores(unseen.batch())), read(whole->scores(unseen.batch())));
}

TEST(ImageClassifierTest, ReplaysGiveTheBitsOfStepsThatAreBuiltAnew) {
  constexpr uint32_t kSteps = 4;
  const auto model = make(1);
  train(*model, 0, kSteps);
  auto context = tensor::Context::open("cpu");
  ASSERT_TRUE(context.ok()) << context.status().to_string();
  auto net = nn::ResNet::create(**context, small(), 1);
  ASSERT_TRUE(net.ok()) << net.status().to_string();
  const OptimizationConfig o;
  nn::AdamW adamw(**context, {o.beta1, o.beta2, o.epsilon, o.weight_decay, o.gradient_clip}, net->parameters());
  for (uint32_t step = 0; step < kSteps; ++step) {
    const Images images = images_of(step);
    const auto pixels = tensor::from_host<float>(**context, images.pixels, {kImages, kChannels, kSize, kSize});
    const auto classes = tensor::from_host<int32_t>(**context, images.classes, {kImages});
    const tensor::Tensor loss = tensor::cross_entropy(net->training_logits(pixels), classes);
    const auto gradients = tensor::grad(loss, nn::values(net->parameters()));
    ASSERT_TRUE(gradients.ok()) << gradients.status().to_string();
    std::vector<tensor::Tensor> results{loss, adamw.update(net->parameters(), *gradients, kLearningRate, loss)};
    adamw.append_state(&results);
    net->append_state(&results);
    ASSERT_TRUE(tensor::realize(results).ok());
  }
  for (size_t i = 0; i < net->statistics().size(); ++i)
    EXPECT_EQ(read(model->net().statistics()[i].value.to_host<float>()),
              read(net->statistics()[i].value.to_host<float>()))
        << net->statistics()[i].name;
  for (size_t i = 0; i < net->parameters().size(); ++i)
    EXPECT_EQ(read(model->net().parameters()[i].value.to_host<float>()),
              read(net->parameters()[i].value.to_host<float>()))
        << net->parameters()[i].name;
}

TEST(ImageClassifierTest, SavesRunningStatisticsUnderTheirNames) {
  testing::TemporaryFolder folder;
  const std::filesystem::path path = folder.path() / "resnet.safetensors";
  const auto model = make(1);
  train(*model, 0, 2);
  ASSERT_TRUE(model->save(path).ok());
  const auto file = SafetensorsFile::open(path);
  ASSERT_TRUE(file.ok()) << file.status().to_string();
  const StoredTensor *mean = file->find("bn1.running_mean"), *variance = file->find("layer2.1.bn2.running_var");
  ASSERT_TRUE(mean && variance);
  EXPECT_EQ(read(to_f32(*mean)), read(model->net().statistics()[0].value.to_host<float>()));
  for (const float value : read(to_f32(*mean))) EXPECT_NE(value, 0);
  for (const float value : read(to_f32(*variance))) EXPECT_NE(value, 1);
}

TEST(ImageClassifierTest, RefusesAFileThatDoesNotFitAndChangesNothing) {
  testing::TemporaryFolder folder;
  const std::filesystem::path path = folder.path() / "resnet.safetensors";
  const auto model = make(1);
  train(*model, 0, 1);
  const std::vector<uint32_t> before = bits_of(*model);
  const auto refused = [&](Code code, const std::string& part) {
    const Status status = model->load(path);
    EXPECT_EQ(status.code(), code) << status.to_string();
    EXPECT_NE(status.message().find(part), std::string::npos) << status.message() << "\nlacks: " << part;
    EXPECT_EQ(bits_of(*model), before);
    EXPECT_EQ(model->optimizer().step(), 1);
  };
  EXPECT_EQ(model->load(path).code(), Code::not_found);
  nn::ResNetConfig other = small();
  other.classes = 5;
  ASSERT_TRUE(make(1, 1, other)->save(path).ok());
  refused(Code::invalid_argument, "fc.weight has the shape [5, 8], not [3, 8]");
  other = small();
  other.blocks = {1, 1};
  ASSERT_TRUE(make(1, 1, other)->save(path).ok());
  refused(Code::invalid_argument, "it has no tensor layer2.1.conv1.weight");

  // A file that lacks the statistics, and one that does not count its steps.
  ASSERT_TRUE(model->save(path).ok());
  const auto rewritten = [&](const std::string& without, const std::string& steps) {
    const auto file = SafetensorsFile::open(path);
    ASSERT_TRUE(file.ok());
    std::vector<StoredTensor> tensors;
    for (const StoredTensor& tensor : file->tensors())
      if (tensor.name != without) tensors.push_back(tensor);
    ASSERT_TRUE(write_safetensors(path, tensors, {{"steps", steps}}).ok());
  };
  for (const char* steps : {"", "-1", "3x", "99999999999999999999"}) {
    rewritten("", steps);
    refused(Code::corrupt_data, "how many steps were done");
  }
  rewritten("bn1.running_var", "1");
  refused(Code::invalid_argument, "it has no tensor bn1.running_var");
  std::ofstream(path, std::ios::trunc) << "not a checkpoint";
  refused(Code::corrupt_data, "resnet.safetensors");
}

TEST(ImageClassifierTest, AStepThatIsNotFiniteLeavesEverythingAsItWas) {
  // In a step that is recorded and in one that is replayed.
  for (const uint32_t done : {0U, 3U}) {
    const auto model = make(1);
    train(*model, 0, done);
    const std::vector<float> statistics = statistics_of(*model);
    Images broken = images_of(done);
    broken.pixels[5] = std::numeric_limits<float>::infinity();
    const Status status = model->step(broken.batch(), kLearningRate).status();
    EXPECT_EQ(status.code(), Code::unavailable) << status.to_string();
    EXPECT_EQ(statistics_of(*model), statistics);
    EXPECT_EQ(model->optimizer().step(), done);
    train(*model, done, 4);
    const auto other = make(1);
    train(*other, 0, 4);
    EXPECT_EQ(bits_of(*model), bits_of(*other)) << "after " << done;
  }
}

TEST(ImageClassifierTest, RefusesBatchesThatDoNotFit) {
  const auto model = make(1);
  Images images = images_of(0);
  const auto refused = [&](const ImageBatch& batch, const std::string& part) {
    const Status status = model->step(batch, kLearningRate).status();
    EXPECT_EQ(status.code(), Code::invalid_argument) << status.to_string();
    EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
  };
  ImageBatch batch = images.batch();
  batch.width = kSize - 1;
  refused(batch, "972 numbers are no 6 images of 2 x 9 x 8");
  batch = images.batch();
  batch.classes = batch.classes.first(5);
  refused(batch, "there are 6 images and 5 classes");
  images.classes[2] = kClasses;
  refused(images.batch(), "class 3 is not among the network's 3");
}

}  // namespace
}  // namespace sporkle::train
