#include "train/config.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <limits>

#include "base/edit_distance.h"
#include "train/config_table.h"
#include "train/corpus.h"

namespace sporkle::train {
namespace {

constexpr int64_t kMany = int64_t{1} << 40;
constexpr int64_t kAny = std::numeric_limits<int64_t>::max();
// A step of more tokens than this would not fit in any machine's memory, and its buffers not in our arithmetic.
constexpr int64_t kMostTokensPerStep = int64_t{1} << 30;

// Shortest text that reads back to the same value; always with a point or an exponent.
std::string number_text(double value) {
  char text[32];
  const auto end = std::to_chars(text, text + sizeof text, value).ptr;
  std::string result(text, end);
  if (result.find_first_of(".en") == std::string::npos) result += ".0";
  return result;
}

std::string toml_string(std::string_view text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      result += '\\';
      result += c;
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04X", static_cast<unsigned>(c));
      result += escape;
    } else {
      result += c;
    }
  }
  return result + '"';
}

std::vector<std::string> section_names(const std::vector<Field>& fields) {
  std::vector<std::string> names;
  for (const Field& field : fields)
    if (names.empty() || names.back() != field.section) names.emplace_back(field.section);
  return names;
}

Status check_listen(const std::string& listen) {
  const size_t colon = listen.rfind(':');
  int port = -1;
  if (colon != std::string::npos && colon > 0) {
    const char* end = listen.data() + listen.size();
    const auto parsed = std::from_chars(listen.data() + colon + 1, end, port);
    if (parsed.ec != std::errc() || parsed.ptr != end) port = -1;
  }
  if (port >= 0 && port <= 65535) return {};
  return invalid_argument("[run] listen is " + toml_string(listen) +
                          "; an address, a colon and a port from 0 to 65535 were expected, as in \"0.0.0.0:7070\"");
}

Status check_data(const DataConfig& data) {
  if (data.path.empty() == data.corpus.empty())
    return invalid_argument(std::string("[data] needs either path (a text file or a folder of them) or corpus") +
                            (data.path.empty() ? "; neither is set" : "; both are set"));
  if (data.tokenizer.empty())
    return invalid_argument(
        "[data] tokenizer is empty; \"bytes\", \"bpe\" or the path of a tokenizer.json was expected");
  if (data.corpus.empty()) return {};
  std::string known;
  for (const NamedCorpus& corpus : named_corpora()) {
    if (corpus.name == data.corpus) return {};
    known += (known.empty() ? "" : ", ") + toml_string(corpus.name);
  }
  return invalid_argument("[data] corpus is " + toml_string(data.corpus) + "; one of these was expected: " + known);
}

}  // namespace

std::vector<Field> config_fields(TrainConfig& c) {
  return {
      {"data", "path", TextField{&c.data.path, {}}, "A UTF-8 text file, or a folder whose files are all read."},
      {"data", "corpus", TextField{&c.data.corpus, {}},
       "Instead of `path`: a text that a Debian package carries. `kjv` is the King James Bible of `bible-kjv-text`."},
      {"data", "tokenizer", TextField{&c.data.tokenizer, {}},
       "`bytes`; `bpe`, trained on the data; or the path of a Hugging Face `tokenizer.json`."},
      {"data", "vocab_size", IntegerField{&c.data.vocab_size, 257, 1 << 20}, "Tokens that `bpe` learns."},
      {"data", "validation_fraction", NumberField{&c.data.validation_fraction, 0.0, 1.0, true, true},
       "The part at the end of the text that is kept for validation."},

      {"model", "architecture", TextField{&c.model.architecture, {"gpt2", "llama"}},
       "`gpt2`: learned positions and a GELU MLP; `llama`: rotary positions, RMS norms and a SwiGLU MLP."},
      {"model", "layers", IntegerField{&c.model.layers, 1, 1024}, "Transformer blocks."},
      {"model", "heads", IntegerField{&c.model.heads, 1, 1024}, "Attention heads in a block; they divide `width`."},
      {"model", "width", IntegerField{&c.model.width, 1, 1 << 16},
       "Size of the embedding and of every block's output."},
      {"model", "context", IntegerField{&c.model.context, 1, 1 << 20},
       "Tokens in a training sequence, and the most that the model sees at once."},
      {"model", "dropout", NumberField{&c.model.dropout, 0.0, 1.0, false, true},
       "Share of activations dropped in training."},
      {"model", "kv_heads", IntegerField{&c.model.kv_heads, 0, 1024},
       "Of a Llama: heads of keys and values, shared by neighbouring heads; they divide `heads`. 0: as many as those."},
      {"model", "inner_width", IntegerField{&c.model.inner_width, 0, 1 << 18},
       "Of a Llama: size of the MLP. 0: 8/3 of `width`, rounded up to a multiple of 64."},
      {"model", "rotary_base", NumberField{&c.model.rotary_base, 0.0, 1e12, true, true},
       "Of a Llama: the base of the rotations' frequencies."},
      {"model", "head", TextField{&c.model.head, {"tied", "separate"}},
       "Whether the output projection is the embedding; `separate` is for a Llama."},

      {"train", "steps", IntegerField{&c.train.steps, 1, kMany}, "Optimiser steps."},
      {"train", "tokens", IntegerField{&c.train.tokens, 0, kAny},
       "Instead of `steps`: as many steps as see this many tokens. 0: not set."},
      {"train", "batch_size", IntegerField{&c.train.batch_size, 1, 1 << 20}, "Sequences in a forward pass."},
      {"train", "gradient_accumulation", IntegerField{&c.train.gradient_accumulation, 1, 1 << 20},
       "Forward and backward passes whose gradients are averaged in a step."},
      {"train", "learning_rate", NumberField{&c.train.learning_rate, 0.0, 100.0, true},
       "AdamW's learning rate after the warm-up."},
      {"train", "min_learning_rate", NumberField{&c.train.min_learning_rate, 0.0, 100.0},
       "Where the cosine schedule ends; at most `learning_rate`."},
      {"train", "warmup_steps", IntegerField{&c.train.warmup_steps, 0, kMany},
       "Steps in which the learning rate rises from 0."},
      {"train", "weight_decay", NumberField{&c.train.weight_decay, 0.0, 100.0},
       "AdamW's decoupled decay, on matrices and embeddings only."},
      {"train", "beta1", NumberField{&c.train.beta1, 0.0, 1.0, false, true}, "AdamW's decay of the first moment."},
      {"train", "beta2", NumberField{&c.train.beta2, 0.0, 1.0, false, true}, "AdamW's decay of the second moment."},
      {"train", "epsilon", NumberField{&c.train.epsilon, 0.0, 1.0, true}, "AdamW's addition to the denominator."},
      {"train", "gradient_clip", NumberField{&c.train.gradient_clip, 0.0, 1e9},
       "Largest norm of all gradients together; longer ones are scaled down. 0: no clipping."},
      {"train", "seed", IntegerField{&c.train.seed, 0, kAny}, "Decides initial parameters, batches and dropout."},
      {"train", "eval_every", IntegerField{&c.train.eval_every, 0, kMany},
       "Steps between validations. 0: only at the end."},
      {"train", "eval_batches", IntegerField{&c.train.eval_batches, 1, kMany}, "Batches in a validation."},
      {"train", "checkpoint_every", IntegerField{&c.train.checkpoint_every, 0, kMany},
       "Steps between checkpoints. 0: only at the end."},
      {"train", "threads", IntegerField{&c.train.threads, 0, 4096},
       "Threads that compute. 0: one for each core. Results do not depend on it."},
      {"train", "memory_cap_mb", IntegerField{&c.train.memory_cap_mb, 0, 1 << 30},
       "Most megabytes (10^6 bytes) that training may take; where it needs more, activations are computed again on the "
       "way back. Results do not depend on it. 0: no limit."},
      {"train", "numerics", TextField{&c.train.numerics, {"strict", "fast"}},
       "`strict`: the same bits on every machine. `fast`: close values, where `precision` asks for them."},
      {"train", "precision", TextField{&c.train.precision, {"f32", "bf16", "f16"}},
       "Type of the operands of matrix products; sums, parameters and everything else stay f32. `bf16` is faster on "
       "processors with AVX512_BF16 and on GPUs with matrix units for it (VK_KHR_cooperative_matrix). `f16` comes with "
       "dynamic loss scaling. Both need `numerics = \"fast\"`."},

      {"output", "directory", TextField{&c.output.directory, {}}, "Where checkpoints go."},
      {"output", "keep_checkpoints", IntegerField{&c.output.keep_checkpoints, 1, 1 << 20}, "Older ones are removed."},

      {"run", "inner_steps", TextField{&c.run.inner_steps, {}},
       "Steps between two exchanges: `100`, or growing as in `2x10,5x10,20`: 2 in each of the first 10 rounds, 5 in "
       "each of the next 10, then 20."},
      {"run", "outer_learning_rate", NumberField{&c.run.outer_learning_rate, 0.0, 100.0, true},
       "Learning rate of the step on averaged pseudo-gradients. 1 without momentum is plain averaging."},
      {"run", "outer_momentum", NumberField{&c.run.outer_momentum, 0.0, 1.0, false, true}, "Its Nesterov momentum."},
      {"run", "workers", IntegerField{&c.run.workers, 1, 1 << 20}, "The first round starts when so many have joined."},
      {"run", "quorum", IntegerField{&c.run.quorum, 1, 1 << 20},
       "A round does not close with fewer updates; at most `workers`."},
      {"run", "deadline_factor", NumberField{&c.run.deadline_factor, 1.0, 1000.0},
       "A round closes without those who need longer than this times the time expected of them, plus "
       "`minimum_deadline_s`."},
      {"run", "minimum_deadline_s", NumberField{&c.run.minimum_deadline_s, 0.0, 86400.0},
       "See `deadline_factor`; in seconds."},
      {"run", "heartbeat_timeout_s", NumberField{&c.run.heartbeat_timeout_s, 0.0, 86400.0, true},
       "A worker silent for so many seconds counts as lost."},
      {"run", "listen", TextField{&c.run.listen, {}}, "Address and port of the coordinator. Port 0: one that is free."},
      {"run", "compression", TextField{&c.run.compression, {"none", "int8", "int4", "sign", "topk", "auto"}},
       "How workers send their updates: 4, 1, 1/2, 1/7 or 1/25 bytes a parameter; all but `none` with error feedback. "
       "`auto`: each worker picks the one its link is fast enough for."},
      {"run", "reduction", TextField{&c.run.reduction, {"coordinator", "peers"}},
       "Who adds up the updates of a round. `peers`: the workers among themselves, over connections of their own, so "
       "that the coordinator sends and receives less; the result has the same bits. Rounds in which that does not work "
       "go by the coordinator."},
  };
}

std::string_view Field::type() const {
  static constexpr std::string_view kNames[] = {"string", "integer", "number"};
  return kNames[value.index()];
}

std::string Field::allowed() const {
  if (const auto* text = std::get_if<TextField>(&value)) {
    std::string list;
    for (const std::string& choice : text->choices) list += (list.empty() ? "" : ", ") + toml_string(choice);
    return list;
  }
  if (const auto* integer = std::get_if<IntegerField>(&value)) {
    if (integer->high >= kMany) return std::to_string(integer->low) + " or more";
    return std::to_string(integer->low) + " to " + std::to_string(integer->high);
  }
  const auto& number = std::get<NumberField>(value);
  const auto bound = [](double b) {
    std::string text = number_text(b);
    if (text.ends_with(".0")) text.resize(text.size() - 2);
    return text;
  };
  if (number.low_is_open)
    return "more than " + bound(number.low) + (number.high_is_open ? ", less than " : ", at most ") +
           bound(number.high);
  return number.high_is_open ? bound(number.low) + " or more, less than " + bound(number.high)
                             : bound(number.low) + " to " + bound(number.high);
}

std::string Field::expected() const {
  std::string text = type() == "integer" ? "an integer" : "a " + std::string(type());
  const std::string range = allowed();
  return range.empty() ? text : text + " (" + range + ")";
}

std::string Field::to_toml() const {
  if (const auto* text = std::get_if<TextField>(&value)) return toml_string(*text->value);
  if (const auto* integer = std::get_if<IntegerField>(&value)) return std::to_string(*integer->value);
  return number_text(*std::get<NumberField>(value).value);
}

Status Field::check() const {
  bool fits = true;
  if (const auto* text = std::get_if<TextField>(&value)) {
    fits = text->choices.empty() || std::count(text->choices.begin(), text->choices.end(), *text->value) > 0;
  } else if (const auto* integer = std::get_if<IntegerField>(&value)) {
    fits = *integer->value >= integer->low && *integer->value <= integer->high;
  } else {
    const auto& number = std::get<NumberField>(value);
    const double v = *number.value;
    fits = (number.low_is_open ? v > number.low : v >= number.low) &&
           (number.high_is_open ? v < number.high : v <= number.high);
  }
  if (fits) return {};
  return invalid_argument(full_name() + " is " + to_toml() + "; " + expected() + " was expected");
}

const Field& nearest_field(const std::vector<Field>& fields, std::string_view section, std::string_view name) {
  const auto distance = [&](const Field& field) {
    return edit_distance(name, field.name) + (section == field.section ? 0 : 1);
  };
  return *std::min_element(fields.begin(), fields.end(),
                           [&](const Field& a, const Field& b) { return distance(a) < distance(b); });
}

std::string nearest_section(const std::vector<Field>& fields, std::string_view section) {
  const std::vector<std::string> names = section_names(fields);
  return *std::min_element(names.begin(), names.end(), [&](const std::string& a, const std::string& b) {
    return edit_distance(section, a) < edit_distance(section, b);
  });
}

int64_t TrainConfig::tokens_per_step() const { return train.batch_size * train.gradient_accumulation * model.context; }

int64_t TrainConfig::total_steps() const {
  if (train.tokens == 0) return train.steps;
  return (train.tokens - 1) / tokens_per_step() + 1;
}

Status validate_config(const TrainConfig& config) {
  TrainConfig copy = config;
  for (const Field& field : config_fields(copy)) SPORKLE_RETURN_IF_ERROR(field.check());
  SPORKLE_RETURN_IF_ERROR(check_data(config.data));
  const auto wrong = [](const std::string& what) { return invalid_argument(what); };
  if (config.model.width % config.model.heads != 0)
    return wrong("[model] width is " + std::to_string(config.model.width) + " and heads is " +
                 std::to_string(config.model.heads) + "; the heads must divide the width");
  if (config.model.architecture == "llama") {
    if (config.model.width % (2 * config.model.heads) != 0)
      return wrong("[model] width is " + std::to_string(config.model.width) + " and heads is " +
                   std::to_string(config.model.heads) + "; a Llama's heads must have an even size");
    if (config.model.kv_heads > 0 && config.model.heads % config.model.kv_heads != 0)
      return wrong("[model] kv_heads is " + std::to_string(config.model.kv_heads) + " and heads is " +
                   std::to_string(config.model.heads) + "; the kv_heads must divide the heads");
  } else if (config.model.kv_heads != 0 || config.model.inner_width != 0 || config.model.head != "tied") {
    return wrong("[model] kv_heads, inner_width and head = \"separate\" need architecture = \"llama\"");
  }
  if (config.train.min_learning_rate > config.train.learning_rate)
    return wrong("[train] min_learning_rate is " + number_text(config.train.min_learning_rate) +
                 ", more than learning_rate, which is " + number_text(config.train.learning_rate));
  if (config.train.precision != "f32" && config.train.numerics != "fast")
    return wrong("[train] precision is \"" + config.train.precision + "\" and numerics is \"" + config.train.numerics +
                 "\"; other products than f32 need numerics = \"fast\"");
  if (config.tokens_per_step() > kMostTokensPerStep)
    return wrong("batch_size x gradient_accumulation x context is " + std::to_string(config.tokens_per_step()) +
                 " tokens in one step; at most " + std::to_string(kMostTokensPerStep) + " are possible");
  if (config.output.directory.empty()) return wrong("[output] directory is empty");
  if (config.run.inner_steps.empty())
    return wrong("[run] inner_steps is empty; \"100\" or \"2x10,5x10,20\" was expected");
  if (config.run.quorum > config.run.workers)
    return wrong("[run] quorum is " + std::to_string(config.run.quorum) + ", more than workers, which is " +
                 std::to_string(config.run.workers));
  return check_listen(config.run.listen);
}

std::string config_to_toml(const TrainConfig& config) {
  TrainConfig copy = config;
  std::string text;
  std::string section;
  for (const Field& field : config_fields(copy)) {
    const std::string_view name = field.name;
    // The alternative that is not in use stays out.
    if ((name == "path" || name == "corpus") && std::get<TextField>(field.value).value->empty()) continue;
    if (name == "tokens" && config.train.tokens == 0) continue;
    if (name == "steps" && config.train.tokens != 0) continue;
    // The default stays out, too: a run's manifest, and with it its ID, is what it was before there was a choice.
    if (name == "compression" && config.run.compression == RunConfig().compression) continue;
    if (name == "reduction" && config.run.reduction == RunConfig().reduction) continue;
    if (section != field.section) {
      section = field.section;
      text += (text.empty() ? "[" : "\n[") + section + "]\n";
    }
    text += std::string(name) + " = " + field.to_toml() + "\n";
  }
  return text;
}

const std::vector<ConfigKey>& config_keys() {
  static const std::vector<ConfigKey> keys = [] {
    TrainConfig defaults;
    std::vector<ConfigKey> list;
    for (const Field& field : config_fields(defaults)) {
      std::string value = field.to_toml();
      if (value == "\"\"") value.clear();
      list.push_back({field.section, field.name, std::string(field.type()), value, field.allowed(), field.meaning});
    }
    return list;
  }();
  return keys;
}

std::string config_help() {
  std::string text = "Keys of CONFIG.toml and their defaults. Exactly one of [data] path and corpus must be set.\n";
  std::string section;
  for (const ConfigKey& key : config_keys()) {
    if (section != key.section) {
      section = key.section;
      text += "\n[" + section + "]\n";
    }
    std::string line = "  " + key.name + (key.default_value.empty() ? "" : " = " + key.default_value);
    line.append(line.size() < 36 ? 36 - line.size() : 2, ' ');
    std::string meaning = key.meaning;
    std::erase(meaning, '`');
    text += line + key.type + (key.allowed.empty() ? "" : ", " + key.allowed) + ". " + meaning + "\n";
  }
  return text;
}

std::string config_markdown() {
  std::string text;
  std::string section;
  for (const ConfigKey& key : config_keys()) {
    if (section != key.section) {
      text += (section.empty() ? "### `[" : "\n### `[") + key.section +
              "]`\n\n| key | type | default | allowed | meaning |\n" + "|---|---|---|---|---|\n";
      section = key.section;
    }
    const std::string value = key.default_value.empty() ? "" : "`" + key.default_value + "`";
    text += "| `" + key.name + "` | " + key.type + " | " + value + " | " + key.allowed + " | " + key.meaning + " |\n";
  }
  return text;
}

}  // namespace sporkle::train
