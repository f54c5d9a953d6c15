// GPT models in a run: the one place where the run layer and the training stack meet.
//
// The manifest's `model` is a text: "sporkle-model 1", the vocabulary's size, and the researcher's configuration as
// TOML. A worker takes from it what the model and the inner optimiser are; paths in it mean nothing to a worker.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "run/config.h"
#include "run/replica.h"
#include "train/config.h"
#include "train/dataset.h"
#include "train/evaluate.h"
#include "train/language_model.h"

namespace sporkle::run {

struct ModelDescription {
  train::TrainConfig config;
  int32_t vocab_size = 0;
};
std::string encode_model(const ModelDescription& description);
// invalid_argument for another version, or a configuration that does not pass train::validate_config.
Result<ModelDescription> decode_model(std::string_view text);

// How a run for this configuration is conducted. In a run, train.batch_size is what each worker has, and one of
// train.steps is a step of all run.workers together.
Result<RunConfig> run_config(const train::TrainConfig& config, const train::Dataset& dataset);

// The training part of a data set as the coordinator hands it out: token IDs, little-endian, manifest.token_bytes each.
std::vector<std::byte> training_tokens(const train::Dataset& dataset, uint32_t token_bytes);

// Builds a worker's replica of a manifest's model on a device.
ReplicaFactory gpt_replica_factory(train::DeviceChoice choice);

// The coordinator's side: initial parameters, validation loss, checkpoints. Belongs to one thread at a time; the data
// set must outlive it.
class GptHost : public ModelHost {
 public:
  // `evaluation_windows`: how many validation windows evaluate() looks at; 0: all.
  static Result<std::unique_ptr<GptHost>> create(const train::TrainConfig& config, const train::Dataset& dataset,
                                                 train::DeviceChoice choice, int64_t evaluation_windows);

  Result<std::vector<float>> initial_parameters() override;
  Result<double> evaluate(std::span<const float> parameters) override;
  Result<std::string> save_checkpoint(std::span<const float> parameters, const CheckpointInfo& info) override;

 private:
  GptHost(const train::TrainConfig& config, const train::Dataset& dataset, int64_t evaluation_windows)
      : config_(config), dataset_(&dataset), evaluation_windows_(evaluation_windows) {}

  train::TrainConfig config_;
  const train::Dataset* dataset_;
  int64_t evaluation_windows_;
  std::unique_ptr<train::LanguageModel> model_;
};

}  // namespace sporkle::run
