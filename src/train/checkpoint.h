// Checkpoints: folders that Hugging Face's GPT2LMHeadModel or LlamaForCausalLM loads, with Sporkle's training state
// beside the model.
//
//   DIRECTORY/checkpoint-00000500/model.safetensors           parameters, f32, Hugging Face's names
//                                 config.json                 the model's shape, Hugging Face's fields
//                                 tokenizer.json              for a BPE tokenizer
//                                 sporkle.json                tokenizer kind, SHA-256 of all parameters
//                                 training_state.safetensors  optimiser state; only where training can resume
//                                 state.json                  step, tokens, seed, config; likewise
//   DIRECTORY/latest -> checkpoint-00000500
//
// A checkpoint is written under a temporary name, synced, renamed, and only then named by `latest`: a crash or a full
// disk at any moment leaves the one before readable. Plain values; one thread at a time for each directory.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/sha256.h"
#include "base/status.h"
#include "train/config.h"
#include "train/tokenizer.h"

namespace sporkle::train {

enum class Architecture : uint8_t {
  gpt2,   // nn/gpt.h
  llama,  // nn/llama.h
};
std::string_view architecture_name(Architecture architecture);  // "GPT-2"

// The shape of a model, as in config.json.
struct ModelShape {
  int64_t layers = 0;
  int64_t heads = 0;
  int64_t width = 0;
  int64_t context = 0;
  int64_t vocab_size = 0;
  double layer_norm_epsilon = 1e-5;  // or of RMS norms
  double dropout = 0.0;
  Architecture architecture = Architecture::gpt2;
  // Of a Llama alone.
  int64_t kv_heads = 0;
  int64_t inner_width = 0;
  double rotary_base = 10000.0;
  bool tied = true;  // whether the head is the embedding
  bool operator==(const ModelShape&) const = default;
};

// A tensor that somebody else owns.
struct NamedTensor {
  std::string name;
  std::vector<int64_t> shape;
  std::span<const float> values;
};

struct OwnedTensor {
  std::string name;
  std::vector<int64_t> shape;
  std::vector<float> values;
};
std::vector<NamedTensor> views(std::span<const OwnedTensor> tensors);

struct TensorShape {
  std::string name;
  std::vector<int64_t> shape;
};
// Every parameter of such a model in Hugging Face's naming. Of a GPT-2, without the prefix "transformer.": wte.weight
// [vocab_size, width], wpe.weight [context, width], h.0.ln_1.weight [width], ... The weights of its linear layers
// (c_attn, c_proj, c_fc) are [inputs, outputs]; lm_head is wte. Of a Llama: model.embed_tokens.weight,
// model.layers.0.self_attn.q_proj.weight [outputs, inputs], ...
std::vector<TensorShape> model_parameters(const ModelShape& shape);

// What a run needs to go on to the same bits, beside the parameters. Random numbers and batches are counter-based: seed
// and step say where they stand.
struct TrainingState {
  int64_t step = 0;  // optimiser steps done
  int64_t tokens = 0;
  int64_t seed = 0;
  std::map<std::string, double> values;  // further scalars, kept exactly; must be finite
  std::string config_toml;
  std::vector<NamedTensor> tensors;  // "first_moment/NAME", "second_moment/NAME"; any names will do
};

struct LoadedTrainingState {
  int64_t step = 0;
  int64_t tokens = 0;
  int64_t seed = 0;
  std::map<std::string, double> values;
  std::string config_toml;
  std::vector<OwnedTensor> tensors;  // sorted by name
};

struct CheckpointContents {
  ModelShape shape;
  std::vector<NamedTensor> parameters;  // exactly those of model_parameters(shape), in any order
  TokenizerPtr tokenizer;
  std::optional<TrainingState> state;
};

// Writes DIRECTORY/checkpoint-<step>, points `latest` at it and removes all but the newest `keep`. Gives its path.
// invalid_argument when the parameters are not those of the shape; no_space or io_error when writing fails.
Result<std::filesystem::path> save_checkpoint(const std::filesystem::path& directory, int64_t step,
                                              const CheckpointContents& contents, int64_t keep);
// Writes one checkpoint folder at exactly `folder`, replacing an older one as a whole.
Status write_checkpoint(const std::filesystem::path& folder, const CheckpointContents& contents);

struct Checkpoint {
  std::filesystem::path folder;
  ModelShape shape;
  std::vector<OwnedTensor> parameters;  // in the order of model_parameters
  Digest parameters_sha256{};
};

// `path` is a checkpoint folder or a DIRECTORY of them, of which the latest is meant. A GPT-2 or Llama checkpoint from
// Hugging Face loads too, the former with or without the prefix "transformer.", in F32, F16, BF16 or F64. Failures name
// the file and the tensor: not_found, corrupt_data, or unsupported for another architecture.
Result<Checkpoint> load_checkpoint(const std::filesystem::path& path);
Result<TokenizerPtr> load_checkpoint_tokenizer(const std::filesystem::path& path);
// not_found when the checkpoint holds no training state.
Result<LoadedTrainingState> load_training_state(const std::filesystem::path& path);
// The folder that `path` means.
Result<std::filesystem::path> find_checkpoint(const std::filesystem::path& path);

// SHA-256 over every tensor in order of name: the name, a zero byte, the number of dimensions and the dimensions (u64),
// the values' f32 bits, all little-endian, every NaN as 0x7fc00000. Equal digests, equal models.
Digest parameters_sha256(std::span<const NamedTensor> parameters);

// For `sporkle checkpoint show`.
struct CheckpointRow {
  std::string name;
  std::string type;  // "F32"
  std::vector<int64_t> shape;
  uint64_t size_bytes = 0;
};
struct CheckpointSummary {
  std::filesystem::path folder;
  ModelShape shape;
  std::string tokenizer;  // "bytes", "bpe", or "none"
  std::optional<int64_t> step;
  std::vector<CheckpointRow> tensors;  // as stored, sorted by name
  uint64_t parameter_count = 0;
  uint64_t size_bytes = 0;
  Digest parameters_sha256{};
};
Result<CheckpointSummary> describe_checkpoint(const std::filesystem::path& path);

}  // namespace sporkle::train
