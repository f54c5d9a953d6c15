// Checkpoint folders on disk: which one is meant, replacing one as a whole, removing old ones. For checkpoint*.cc only.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>

#include "base/status.h"

namespace sporkle::train {

inline constexpr const char* kModelFile = "model.safetensors";
inline constexpr const char* kConfigFile = "config.json";
inline constexpr const char* kTokenizerFile = "tokenizer.json";
inline constexpr const char* kInfoFile = "sporkle.json";
inline constexpr const char* kStateTensorsFile = "training_state.safetensors";
inline constexpr const char* kStateFile = "state.json";

// DIRECTORY/checkpoint-00000500
std::filesystem::path checkpoint_path(const std::filesystem::path& directory, int64_t step);

// Calls `fill` with a temporary folder beside `folder`, syncs it and puts it in the place of `folder`. Whatever fails,
// `folder` is as it was and the temporary one is gone. already_exists when there is a folder that holds anything but a
// checkpoint's files.
Status replace_folder(const std::filesystem::path& folder,
                      const std::function<Status(const std::filesystem::path& temporary)>& fill);

// Points DIRECTORY/latest at the checkpoint of `step`.
Status set_latest(const std::filesystem::path& directory, int64_t step);

// Of the checkpoints up to `step` keeps the newest `keep`. Those of later steps, of another run, stay.
void remove_old_checkpoints(const std::filesystem::path& directory, int64_t step, int64_t keep);
// Removes what processes that are gone left half-written.
void remove_leftovers(const std::filesystem::path& directory);

}  // namespace sporkle::train
