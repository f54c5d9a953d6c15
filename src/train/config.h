// What a training run is: the TOML file behind `sporkle train CONFIG.toml` and `sporkle run start CONFIG.toml`.
//
// One table (config_keys) holds every key's name, type, default, range and meaning; parsing, validation, the help text
// and the table in docs/config.md all come from it. Plain values; the functions are thread-safe.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace sporkle::train {

struct DataConfig {
  std::string path;                 // a UTF-8 file, or a folder of them; or empty
  std::string corpus;               // a name from corpus.h; exactly one of the two is set
  std::string tokenizer = "bytes";  // "bytes", "bpe", or the path of a tokenizer.json
  int64_t vocab_size = 4096;        // for "bpe"
  double validation_fraction = 0.05;
  bool operator==(const DataConfig&) const = default;
};

// "gpt2": pre-norm, learned positions, biases everywhere, embedding and output projection tied. "llama": RMS norms,
// rotary positions, SwiGLU, no biases.
struct ModelConfig {
  int64_t layers = 4;
  int64_t heads = 4;
  int64_t width = 128;    // n_embd, d_model
  int64_t context = 128;  // n_positions: the longest sequence
  double dropout = 0.0;
  std::string architecture = "gpt2";
  // Of a Llama alone.
  int64_t kv_heads = 0;     // 0: as many as heads
  int64_t inner_width = 0;  // of the MLP; 0: 8 / 3 of the width, rounded up to a multiple of 64
  double rotary_base = 10000.0;
  std::string head = "tied";  // or "separate"
  bool operator==(const ModelConfig&) const = default;
};

struct OptimizationConfig {
  int64_t steps = 1000;
  int64_t tokens = 0;       // where set, replaces `steps`
  int64_t batch_size = 32;  // sequences in one forward pass
  int64_t gradient_accumulation = 1;
  double learning_rate = 1e-3;
  double min_learning_rate = 1e-4;  // where the cosine ends
  int64_t warmup_steps = 50;
  double weight_decay = 0.1;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double gradient_clip = 1.0;  // 0: off
  int64_t seed = 1;
  int64_t eval_every = 100;  // steps; 0: only at the end
  int64_t eval_batches = 20;
  int64_t checkpoint_every = 500;  // steps; 0: only at the end
  int64_t threads = 0;             // 0: one for each core
  int64_t memory_cap_mb = 0;       // 0: no limit
  std::string numerics = "strict";
  std::string precision = "f32";  // in which products compute; other than f32 needs numerics = "fast"
  bool operator==(const OptimizationConfig&) const = default;
};

struct OutputConfig {
  std::string directory = "sporkle-out";
  int64_t keep_checkpoints = 3;
  bool operator==(const OutputConfig&) const = default;
};

// The mesh. The run layer turns these into its own, finer configuration.
struct RunConfig {
  std::string inner_steps = "100";  // a schedule; its syntax is the run layer's
  double outer_learning_rate = 0.7;
  double outer_momentum = 0.9;
  int64_t workers = 1;  // the first round waits for so many
  int64_t quorum = 1;   // a round closes with no fewer updates than this
  double deadline_factor = 2.5;
  double minimum_deadline_s = 2.0;
  double heartbeat_timeout_s = 6.0;
  std::string listen = "0.0.0.0:0";
  std::string compression = "int8";       // of workers' updates: see train/compression.h; or "auto"
  std::string reduction = "coordinator";  // who adds them up: that, or "peers"
  bool operator==(const RunConfig&) const = default;
};

struct TrainConfig {
  DataConfig data;
  ModelConfig model;
  OptimizationConfig train;
  OutputConfig output;
  RunConfig run;
  bool operator==(const TrainConfig&) const = default;

  // Tokens in one optimiser step: batch_size * gradient_accumulation * context.
  int64_t tokens_per_step() const;
  // `steps`, or where `tokens` is set the steps that see at least so many.
  int64_t total_steps() const;
};

// Paths in it stay as written: relative ones start at the current directory. A failure is invalid_argument and names
// file, line, what was found and what was expected.
Result<TrainConfig> parse_config(std::string_view toml, std::string_view file_name);
Result<TrainConfig> load_config(const std::filesystem::path& path);
// The checks that parsing ends with, for configs built or changed in code.
Status validate_config(const TrainConfig& config);
// TOML that parses back to an equal config.
std::string config_to_toml(const TrainConfig& config);

struct ConfigKey {
  std::string section;
  std::string name;
  std::string type;           // "string", "integer", "number"
  std::string default_value;  // as TOML; "" where there is none
  std::string allowed;        // "1 to 1024", "strict"; "" where anything goes
  std::string meaning;
};
const std::vector<ConfigKey>& config_keys();
// For `sporkle train --help-config`.
std::string config_help();
// The tables of docs/config.md.
std::string config_markdown();

}  // namespace sporkle::train
