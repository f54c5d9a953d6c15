// Devices that are lost in the middle: training opens them again and comes to the bits of training without a break.
#include "train/trainer.h"

#include <gtest/gtest.h>

#include "base/file.h"
#include "base/temporary_folder.h"
#include "train/testing_lost_device.h"

namespace sporkle::train {
namespace {

class TrainerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string text;
    for (int i = 0; i < 200; ++i) text += "Line " + std::to_string(i) + ": " + std::to_string(i * i) + "\n";
    ASSERT_TRUE(write_file_atomically(folder_.path() / "text.txt", text).ok());
  }

  TrainConfig config(const std::string& directory) {
    TrainConfig config;
    config.data.path = (folder_.path() / "text.txt").string();
    config.data.tokenizer = "bytes";
    config.model.layers = 1;
    config.model.heads = 2;
    config.model.width = 16;
    config.model.context = 16;
    config.train.steps = 9;
    config.train.batch_size = 2;
    config.train.eval_every = 4;
    config.train.eval_batches = 1;
    config.train.checkpoint_every = 3;
    config.output.directory = (folder_.path() / directory).string();
    return config;
  }

  struct Trained {
    Status status;
    std::string sha256;
    std::vector<std::pair<int64_t, int64_t>> recovered;
  };
  Trained train(const TrainConfig& config, testing::Losing& device) {
    DeviceChoice choice;
    choice.device = "cpu";
    choice.open_context = [&device] { return device.open(); };
    Trained result;
    auto trainer = Trainer::create(config, choice, false);
    result.status = trainer.status();
    if (!trainer.ok()) return result;
    TrainCallbacks callbacks;
    callbacks.recovered = [&](int64_t step, int64_t resumes_at, const Status&) {
      result.recovered.emplace_back(step, resumes_at);
    };
    result.status = (*trainer)->train(callbacks);
    if (result.status.ok()) result.sha256 = *parameters_sha256_hex((*trainer)->model());
    return result;
  }

  TemporaryFolder folder_ = *TemporaryFolder::create("trainer_test");
};

// Its first step is recorded and the others are replayed; one that begins again records again.
TEST_F(TrainerTest, LlamasTrainAndGoOn) {
  const auto llama = [&](const std::string& directory) {
    TrainConfig made = config(directory);
    made.model.architecture = "llama";
    made.model.kv_heads = 1;
    return made;
  };
  testing::Losing faultless({});
  const Trained whole = train(llama("whole"), faultless);
  ASSERT_TRUE(whole.status.ok()) << whole.status.to_string();
  for (int64_t number = 3; number < faultless.submissions(); number += 7) {
    testing::Losing device({number});
    const Trained broken = train(llama("broken" + std::to_string(number)), device);
    ASSERT_TRUE(broken.status.ok()) << number << ": " << broken.status.to_string();
    EXPECT_EQ(broken.sha256, whole.sha256) << number;
  }
}

TEST_F(TrainerTest, GoesOnWhereverADeviceIsLost) {
  testing::Losing faultless({});
  const Trained whole = train(config("whole"), faultless);
  ASSERT_TRUE(whole.status.ok()) << whole.status.to_string();
  EXPECT_TRUE(whole.recovered.empty());
  int before_a_checkpoint = 0, after_one = 0;
  for (int64_t number = 2; number < faultless.submissions(); ++number) {
    testing::Losing device({number});
    const Trained broken = train(config("broken" + std::to_string(number)), device);
    ASSERT_TRUE(broken.status.ok()) << number << ": " << broken.status.to_string();
    EXPECT_EQ(broken.sha256, whole.sha256) << number;
    EXPECT_EQ(device.opened(), 2u);
    ASSERT_EQ(broken.recovered.size(), 1u);
    const auto [step, resumes_at] = broken.recovered[0];
    EXPECT_EQ(resumes_at, step / 3 * 3) << "lost after step " << step;
    ++(resumes_at == 0 ? before_a_checkpoint : after_one);
  }
  EXPECT_GT(before_a_checkpoint, 0);
  EXPECT_GT(after_one, 0);
}

TEST_F(TrainerTest, GivesUpOnADeviceThatIsLostEveryTime) {
  std::vector<int64_t> numbers(1000);
  for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<int64_t>(i) * 8 + 7;
  testing::Losing device(numbers);
  const Trained trained = train(config("never"), device);
  EXPECT_EQ(trained.status.code(), Code::device_lost);
  EXPECT_NE(trained.status.message().find("was lost 4 times before step"), std::string::npos)
      << trained.status.message();
}

}  // namespace
}  // namespace sporkle::train
