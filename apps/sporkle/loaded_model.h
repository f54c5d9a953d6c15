// A checkpoint ready to use, as `sporkle generate` and `sporkle eval` need it, and tokenizers by what a user calls
// them. One thread at a time.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "base/status.h"
#include "train/language_model.h"
#include "train/tokenizer.h"

namespace sporkle::app {

struct LoadedModel {
  std::filesystem::path folder;  // of the checkpoint
  train::TokenizerPtr tokenizer;
  std::unique_ptr<train::LanguageModel> model;
};

// `path` is a checkpoint, or a folder of them, of which the latest is meant. `quantize`: kNoQuantization or kInt8, with
// which linear layers compute in 8 bits.
inline constexpr char kNoQuantization[] = "none", kInt8[] = "int8";
Result<LoadedModel> load_model(const std::string& path, const std::string& device, int64_t threads,
                               const std::string& quantize = kNoQuantization);

// "bytes", a tokenizer.json, a checkpoint, or a folder of checkpoints.
Result<train::TokenizerPtr> load_any_tokenizer(const std::string& name);

// "GPT, 860k parameters".
std::string model_text(size_t parameter_count);

}  // namespace sporkle::app
