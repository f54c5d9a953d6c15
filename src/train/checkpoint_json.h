// The JSON files of a checkpoint. For checkpoint*.cc only; `name` is the file's name for messages.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/status.h"
#include "train/checkpoint.h"

namespace sporkle::train {

// config.json
std::string model_config_to_json(const ModelShape& shape, std::optional<int32_t> end_of_text);
Result<ModelShape> model_config_from_json(std::string_view text, std::string_view name);

// sporkle.json
struct CheckpointInfo {
  std::string tokenizer;  // "bytes" or "bpe"
  std::optional<int64_t> step;
  std::string parameters_sha256;  // hexadecimal
};
std::string info_to_json(const CheckpointInfo& info);
Result<CheckpointInfo> info_from_json(std::string_view text, std::string_view name);

// state.json; the tensors are in training_state.safetensors, only their digest is here.
std::string state_to_json(const TrainingState& state, const std::string& tensors_sha256);
struct StateJson {
  LoadedTrainingState state;  // without tensors
  std::string tensors_sha256;
};
Result<StateJson> state_from_json(std::string_view text, std::string_view name);

}  // namespace sporkle::train
