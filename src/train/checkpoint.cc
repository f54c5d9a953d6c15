#include "train/checkpoint.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <system_error>
#include <unordered_map>
#include <utility>

#include "base/file.h"
#include "train/checkpoint_folder.h"
#include "train/checkpoint_json.h"
#include "train/safetensors.h"

namespace sporkle::train {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kHuggingFacePrefix = "transformer.";

std::string canonical_name(std::string_view name) {
  if (name.starts_with(kHuggingFacePrefix)) name.remove_prefix(kHuggingFacePrefix.size());
  return std::string(name);
}

// "h.3.attn.bias" and "h.3.attn.masked_bias": the causal mask, which old checkpoints carry as if it were a parameter.
bool is_attention_mask(std::string_view name) {
  return name.starts_with("h.") && (name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias"));
}

// What old Llama checkpoints carry of the rotation, which follows from config.json.
bool is_rotary_table(std::string_view name) { return name.ends_with(".rotary_emb.inv_freq"); }

StoredTensor stored(const NamedTensor& tensor) {
  return {tensor.name, StoredType::f32, tensor.shape, std::as_bytes(tensor.values)};
}

Status write_tensors(const fs::path& path, std::span<const NamedTensor> tensors) {
  std::vector<StoredTensor> rows;
  for (const NamedTensor& tensor : tensors) rows.push_back(stored(tensor));
  return write_safetensors(path, std::move(rows), {{"format", "pt"}});
}

Status check_parameters(const CheckpointContents& contents) {
  std::unordered_map<std::string_view, const NamedTensor*> given;
  for (const NamedTensor& tensor : contents.parameters) given[tensor.name] = &tensor;
  const std::vector<TensorShape> expected = model_parameters(contents.shape);
  for (const TensorShape& wanted : expected) {
    const auto found = given.find(wanted.name);
    if (found == given.end()) return invalid_argument("a checkpoint without the parameter " + wanted.name);
    if (found->second->shape != wanted.shape)
      return invalid_argument("parameter " + wanted.name + " has shape " + shape_text(found->second->shape) + ", not " +
                              shape_text(wanted.shape));
  }
  if (contents.parameters.size() != expected.size())
    return invalid_argument("a checkpoint with " + std::to_string(contents.parameters.size()) +
                            " parameters where this " + std::string(architecture_name(contents.shape.architecture)) +
                            " has " + std::to_string(expected.size()));
  if (!contents.tokenizer) return invalid_argument("a checkpoint without a tokenizer");
  if (contents.tokenizer->vocab_size() > contents.shape.vocab_size)
    return invalid_argument("a tokenizer of " + std::to_string(contents.tokenizer->vocab_size()) +
                            " tokens for a model of " + std::to_string(contents.shape.vocab_size));
  if (contents.state)
    for (const auto& [key, value] : contents.state->values)
      if (!std::isfinite(value)) return invalid_argument("the training state's " + key + " is not finite");
  return {};
}

Status fill_folder(const fs::path& folder, const CheckpointContents& contents, std::optional<int64_t> step) {
  const std::string json = contents.tokenizer->to_json();
  if (!json.empty()) SPORKLE_RETURN_IF_ERROR(write_file_atomically(folder / kTokenizerFile, json));
  SPORKLE_RETURN_IF_ERROR(write_file_atomically(
      folder / kConfigFile, model_config_to_json(contents.shape, contents.tokenizer->end_of_text())));
  SPORKLE_RETURN_IF_ERROR(write_tensors(folder / kModelFile, contents.parameters));
  if (contents.state) {
    SPORKLE_RETURN_IF_ERROR(write_tensors(folder / kStateTensorsFile, contents.state->tensors));
    const std::string digest = to_hex(parameters_sha256(contents.state->tensors));
    SPORKLE_RETURN_IF_ERROR(write_file_atomically(folder / kStateFile, state_to_json(*contents.state, digest)));
  }
  const CheckpointInfo info{std::string(contents.tokenizer->kind()), step,
                            to_hex(parameters_sha256(contents.parameters))};
  return write_file_atomically(folder / kInfoFile, info_to_json(info));
}

Status write_at_step(const fs::path& folder, const CheckpointContents& contents, std::optional<int64_t> step) {
  SPORKLE_RETURN_IF_ERROR(check_parameters(contents));
  return replace_folder(folder, [&](const fs::path& temporary) {
    // The temporary folder's name means nothing to the reader of a message.
    return fill_folder(temporary, contents, step).with_context("checkpoint " + folder.string());
  });
}

Result<std::optional<CheckpointInfo>> read_info(const fs::path& folder) {
  const fs::path path = folder / kInfoFile;
  auto text = read_file(path);
  if (text.status().code() == Code::not_found) return std::optional<CheckpointInfo>();
  SPORKLE_RETURN_IF_ERROR(text.status());
  SPORKLE_ASSIGN_OR_RETURN(CheckpointInfo info, info_from_json(*text, path.string()));
  return std::optional<CheckpointInfo>(std::move(info));
}

Result<ModelShape> read_shape(const fs::path& folder) {
  const fs::path path = folder / kConfigFile;
  SPORKLE_ASSIGN_OR_RETURN(const std::string text, read_file(path));
  return model_config_from_json(text, path.string());
}

Result<SafetensorsFile> open_model(const fs::path& folder) {
  auto file = SafetensorsFile::open(folder / kModelFile);
  if (file.status().code() != Code::not_found) return file;
  std::error_code error;
  for (const char* other : {"pytorch_model.bin", "model.safetensors.index.json", "tf_model.h5"})
    if (fs::exists(folder / other, error))
      return unsupported(folder.string() + " has its parameters in " + other + "; save it as one " + kModelFile);
  return file.status();
}

Result<std::vector<OwnedTensor>> read_parameters(const SafetensorsFile& file, const ModelShape& shape) {
  const auto corrupt = [&](const std::string& what) { return corrupt_data(file.name() + ": " + what); };
  std::unordered_map<std::string, const StoredTensor*> found;
  const StoredTensor* head = nullptr;
  for (const StoredTensor& tensor : file.tensors()) {
    std::string name = canonical_name(tensor.name);
    if (is_attention_mask(name) || is_rotary_table(name)) continue;
    if (name == "lm_head.weight" && shape.tied) {
      head = &tensor;
    } else if (!found.emplace(std::move(name), &tensor).second) {
      return corrupt("tensor " + tensor.name + " is there with and without the prefix \"transformer.\"");
    }
  }
  const std::string_view embedding =
      shape.architecture == Architecture::llama ? "model.embed_tokens.weight" : "wte.weight";
  std::vector<OwnedTensor> parameters;
  for (const TensorShape& wanted : model_parameters(shape)) {
    const auto entry = found.find(wanted.name);
    if (entry == found.end()) return corrupt("tensor " + wanted.name + " is missing");
    const StoredTensor& tensor = *entry->second;
    if (tensor.shape != wanted.shape)
      return corrupt("tensor " + tensor.name + " has shape " + shape_text(tensor.shape) + ", config.json asks for " +
                     shape_text(wanted.shape));
    if (wanted.name == embedding && head &&
        (head->type != tensor.type || !std::ranges::equal(head->bytes, tensor.bytes)))
      return unsupported(file.name() + ": lm_head.weight differs from " + wanted.name +
                         ", which config.json or the kind of model ties to it");
    auto values = to_f32(tensor);
    if (!values.ok()) return values.status().with_context(file.name());
    parameters.push_back({wanted.name, wanted.shape, std::move(*values)});
    found.erase(entry);
  }
  if (!found.empty()) {
    const auto first =
        std::min_element(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    return corrupt("tensor " + first->first + " does not belong to a " +
                   std::string(architecture_name(shape.architecture)) + " of " + std::to_string(shape.layers) +
                   " layers");
  }
  return parameters;
}

std::vector<TensorShape> llama_parameters(const ModelShape& shape) {
  const int64_t width = shape.width, inner = shape.inner_width, shared = width / shape.heads * shape.kv_heads;
  std::vector<TensorShape> list = {{"model.embed_tokens.weight", {shape.vocab_size, width}}};
  for (int64_t i = 0; i < shape.layers; ++i) {
    const std::string block = "model.layers." + std::to_string(i) + ".";
    list.push_back({block + "self_attn.q_proj.weight", {width, width}});
    list.push_back({block + "self_attn.k_proj.weight", {shared, width}});
    list.push_back({block + "self_attn.v_proj.weight", {shared, width}});
    list.push_back({block + "self_attn.o_proj.weight", {width, width}});
    list.push_back({block + "mlp.gate_proj.weight", {inner, width}});
    list.push_back({block + "mlp.up_proj.weight", {inner, width}});
    list.push_back({block + "mlp.down_proj.weight", {width, inner}});
    list.push_back({block + "input_layernorm.weight", {width}});
    list.push_back({block + "post_attention_layernorm.weight", {width}});
  }
  list.push_back({"model.norm.weight", {width}});
  if (!shape.tied) list.push_back({"lm_head.weight", {shape.vocab_size, width}});
  return list;
}

}  // namespace

std::vector<NamedTensor> views(std::span<const OwnedTensor> tensors) {
  std::vector<NamedTensor> result;
  for (const OwnedTensor& tensor : tensors) result.push_back({tensor.name, tensor.shape, tensor.values});
  return result;
}

std::string_view architecture_name(Architecture architecture) {
  return architecture == Architecture::llama ? "Llama" : "GPT-2";
}

std::vector<TensorShape> model_parameters(const ModelShape& shape) {
  if (shape.architecture == Architecture::llama) return llama_parameters(shape);
  const int64_t width = shape.width;
  std::vector<TensorShape> list = {{"wte.weight", {shape.vocab_size, width}}, {"wpe.weight", {shape.context, width}}};
  const auto norm = [&](const std::string& name) {
    list.push_back({name + ".weight", {width}});
    list.push_back({name + ".bias", {width}});
  };
  const auto linear = [&](const std::string& name, int64_t inputs, int64_t outputs) {
    list.push_back({name + ".weight", {inputs, outputs}});
    list.push_back({name + ".bias", {outputs}});
  };
  for (int64_t i = 0; i < shape.layers; ++i) {
    const std::string block = "h." + std::to_string(i) + ".";
    norm(block + "ln_1");
    linear(block + "attn.c_attn", width, 3 * width);
    linear(block + "attn.c_proj", width, width);
    norm(block + "ln_2");
    linear(block + "mlp.c_fc", width, 4 * width);
    linear(block + "mlp.c_proj", 4 * width, width);
  }
  norm("ln_f");
  return list;
}

Digest parameters_sha256(std::span<const NamedTensor> parameters) {
  constexpr uint32_t kCanonicalNan = 0x7FC00000;
  std::vector<const NamedTensor*> order;
  for (const NamedTensor& tensor : parameters) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) { return a->name < b->name; });
  Sha256 hash;
  const auto add_u64 = [&](uint64_t value) { hash.update(std::as_bytes(std::span(&value, 1))); };
  std::vector<uint32_t> words;
  for (const NamedTensor* tensor : order) {
    hash.update(std::string_view(tensor->name.c_str(), tensor->name.size() + 1));
    add_u64(tensor->shape.size());
    for (const int64_t dimension : tensor->shape) add_u64(static_cast<uint64_t>(dimension));
    for (std::span<const float> rest = tensor->values; !rest.empty();) {
      const auto part = rest.first(std::min<size_t>(rest.size(), 1 << 14));
      rest = rest.subspan(part.size());
      words.resize(part.size());
      for (size_t i = 0; i < part.size(); ++i)
        words[i] = std::isnan(part[i]) ? kCanonicalNan : std::bit_cast<uint32_t>(part[i]);
      hash.update(std::as_bytes(std::span(words)));
    }
  }
  return hash.finish();
}

Status write_checkpoint(const fs::path& folder, const CheckpointContents& contents) {
  return write_at_step(folder, contents, contents.state ? std::optional(contents.state->step) : std::nullopt);
}

Result<fs::path> save_checkpoint(const fs::path& directory, int64_t step, const CheckpointContents& contents,
                                 int64_t keep) {
  if (step < 0 || keep < 1)
    return invalid_argument("a checkpoint of step " + std::to_string(step) + ", keeping " + std::to_string(keep));
  remove_leftovers(directory);
  fs::path folder = checkpoint_path(directory, step);
  SPORKLE_RETURN_IF_ERROR(write_at_step(folder, contents, step));
  SPORKLE_RETURN_IF_ERROR(set_latest(directory, step));
  remove_old_checkpoints(directory, step, keep);
  return folder;
}

Result<Checkpoint> load_checkpoint(const fs::path& path) {
  Checkpoint checkpoint;
  SPORKLE_ASSIGN_OR_RETURN(checkpoint.folder, find_checkpoint(path));
  SPORKLE_ASSIGN_OR_RETURN(const auto info, read_info(checkpoint.folder));
  SPORKLE_ASSIGN_OR_RETURN(checkpoint.shape, read_shape(checkpoint.folder));
  SPORKLE_ASSIGN_OR_RETURN(const SafetensorsFile file, open_model(checkpoint.folder));
  SPORKLE_ASSIGN_OR_RETURN(checkpoint.parameters, read_parameters(file, checkpoint.shape));
  checkpoint.parameters_sha256 = parameters_sha256(views(checkpoint.parameters));
  if (info && info->parameters_sha256 != to_hex(checkpoint.parameters_sha256))
    return corrupt_data(file.name() + ": its parameters have the SHA-256 " + to_hex(checkpoint.parameters_sha256) +
                        ", " + kInfoFile + " says " + info->parameters_sha256 +
                        "; the file was damaged or changed after it was written");
  return checkpoint;
}

Result<TokenizerPtr> load_checkpoint_tokenizer(const fs::path& path) {
  SPORKLE_ASSIGN_OR_RETURN(const fs::path folder, find_checkpoint(path));
  SPORKLE_ASSIGN_OR_RETURN(const auto info, read_info(folder));
  SPORKLE_ASSIGN_OR_RETURN(const ModelShape shape, read_shape(folder));
  TokenizerPtr tokenizer = byte_tokenizer();
  if (!info || info->tokenizer != "bytes") {
    auto loaded = load_tokenizer(folder / kTokenizerFile);
    if (loaded.status().code() == Code::not_found)
      return not_found("the checkpoint " + folder.string() + " has no " + kTokenizerFile +
                       "; put the one of its Hugging Face tokenizer beside " + kModelFile);
    SPORKLE_RETURN_IF_ERROR(loaded.status());
    tokenizer = std::move(*loaded);
  }
  if (tokenizer->vocab_size() > shape.vocab_size)
    return corrupt_data(folder.string() + ": a tokenizer of " + std::to_string(tokenizer->vocab_size()) +
                        " tokens beside a model of " + std::to_string(shape.vocab_size));
  return tokenizer;
}

Result<LoadedTrainingState> load_training_state(const fs::path& path) {
  SPORKLE_ASSIGN_OR_RETURN(const fs::path folder, find_checkpoint(path));
  const fs::path state_path = folder / kStateFile;
  auto text = read_file(state_path);
  if (text.status().code() == Code::not_found)
    return not_found("the checkpoint " + folder.string() + " has no training state (" + kStateFile +
                     "): it can be loaded, but its training cannot be resumed");
  SPORKLE_RETURN_IF_ERROR(text.status());
  SPORKLE_ASSIGN_OR_RETURN(StateJson json, state_from_json(*text, state_path.string()));
  SPORKLE_ASSIGN_OR_RETURN(const SafetensorsFile file, SafetensorsFile::open(folder / kStateTensorsFile));
  LoadedTrainingState state = std::move(json.state);
  for (const StoredTensor& tensor : file.tensors()) {
    auto values = to_f32(tensor);
    if (!values.ok()) return values.status().with_context(file.name());
    state.tensors.push_back({tensor.name, tensor.shape, std::move(*values)});
  }
  if (to_hex(parameters_sha256(views(state.tensors))) != json.tensors_sha256)
    return corrupt_data(file.name() + ": its tensors do not have the SHA-256 that " + kStateFile +
                        " gives; the file was damaged");
  return state;
}

Result<CheckpointSummary> describe_checkpoint(const fs::path& path) {
  SPORKLE_ASSIGN_OR_RETURN(const Checkpoint checkpoint, load_checkpoint(path));
  SPORKLE_ASSIGN_OR_RETURN(const auto info, read_info(checkpoint.folder));
  SPORKLE_ASSIGN_OR_RETURN(const SafetensorsFile file, open_model(checkpoint.folder));
  CheckpointSummary summary;
  summary.folder = checkpoint.folder;
  summary.shape = checkpoint.shape;
  std::error_code error;
  const bool has_tokenizer = fs::exists(checkpoint.folder / kTokenizerFile, error);
  summary.tokenizer = info ? info->tokenizer : has_tokenizer ? "bpe" : "none";
  if (info) summary.step = info->step;
  for (const StoredTensor& tensor : file.tensors()) {
    summary.tensors.push_back(
        {tensor.name, std::string(stored_type_name(tensor.type)), tensor.shape, tensor.bytes.size()});
    summary.size_bytes += tensor.bytes.size();
  }
  for (const OwnedTensor& tensor : checkpoint.parameters) summary.parameter_count += tensor.values.size();
  summary.parameters_sha256 = checkpoint.parameters_sha256;
  return summary;
}

}  // namespace sporkle::train
