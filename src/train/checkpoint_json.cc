#include "train/checkpoint_json.h"

#include <nlohmann/json.hpp>

namespace sporkle::train {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr size_t kMaxJsonBytes = 16u << 20;
constexpr int kVersion = 1;
constexpr int64_t kMaxLayers = 4096;
constexpr int64_t kMaxDimension = 1 << 24;

std::string dump(const ordered_json& value) {
  return value.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

// A JSON object whose fields are read with messages that name file and field.
class Object {
 public:
  static Result<Object> parse(std::string_view text, std::string_view name) {
    Object object(name);
    if (text.size() > kMaxJsonBytes) return object.corrupt("it has " + std::to_string(text.size()) + " bytes");
    try {
      object.root_ = json::parse(text);
    } catch (const json::exception& error) {
      return object.corrupt(std::string("not JSON: ") + error.what());
    }
    if (!object.root_.is_object()) return object.corrupt("not a JSON object");
    return object;
  }

  Status corrupt(const std::string& what) const { return corrupt_data(name_ + ": " + what); }
  Status not_supported(const std::string& what) const { return unsupported(name_ + ": " + what); }

  // Null and absent are alike.
  const json* find(const char* key) const {
    const auto found = root_.find(key);
    return found == root_.end() || found->is_null() ? nullptr : &*found;
  }

  Result<int64_t> integer(const char* key, int64_t low, int64_t high) const {
    const json* value = find(key);
    if (!value) return corrupt(std::string(key) + " is missing");
    const bool fits = value->is_number_unsigned()
                          ? *value <= static_cast<uint64_t>(high) && (low < 0 || *value >= static_cast<uint64_t>(low))
                          : value->is_number_integer() && *value >= low && *value <= high;
    if (!fits)
      return corrupt(std::string(key) + " is not a whole number from " + std::to_string(low) + " to " +
                     std::to_string(high));
    return value->get<int64_t>();
  }

  Result<double> number(const char* key, double fallback) const {
    const json* value = find(key);
    if (!value) return fallback;
    if (!value->is_number()) return corrupt(std::string(key) + " is not a number");
    return value->get<double>();
  }

  Result<std::string> string(const char* key) const {
    const json* value = find(key);
    if (!value || !value->is_string()) return corrupt(std::string(key) + " is missing or no string");
    return value->get<std::string>();
  }

 private:
  explicit Object(std::string_view name) : name_(name) {}
  std::string name_;
  json root_;
};

Status check_version(const Object& object) {
  SPORKLE_ASSIGN_OR_RETURN(const int64_t version, object.integer("version", 1, 1 << 30));
  if (version == kVersion) return {};
  return object.not_supported("written by a newer Sporkle (format " + std::to_string(version) + "); this one reads " +
                              std::to_string(kVersion));
}

// Options of Hugging Face's GPT-2 that change what the model computes, with the only value Sporkle computes.
Status check_gpt2_options(const Object& config) {
  struct Option {
    const char* name;
    bool only;
  };
  for (const auto& [name, only] : {Option{"scale_attn_weights", true}, Option{"scale_attn_by_inverse_layer_idx", false},
                                   Option{"add_cross_attention", false}, Option{"tie_word_embeddings", true}}) {
    const json* value = config.find(name);
    if (value && *value != only)
      return config.not_supported(std::string(name) + " is " +
                                  value->dump(-1, ' ', true, json::error_handler_t::replace) +
                                  "; Sporkle's GPT-2 has " + (only ? "true" : "false"));
  }
  const json* activation = config.find("activation_function");
  // Two names for one function.
  if (activation && *activation != "gelu_new" && *activation != "gelu_pytorch_tanh")
    return config.not_supported("activation_function is " +
                                activation->dump(-1, ' ', true, json::error_handler_t::replace) +
                                "; Sporkle's GPT-2 has \"gelu_new\"");
  return {};
}

std::string llama_config_to_json(const ModelShape& shape, std::optional<int32_t> end_of_text) {
  ordered_json config;
  config["architectures"] = {"LlamaForCausalLM"};
  config["model_type"] = "llama";
  config["vocab_size"] = shape.vocab_size;
  config["max_position_embeddings"] = shape.context;
  config["hidden_size"] = shape.width;
  config["intermediate_size"] = shape.inner_width;
  config["num_hidden_layers"] = shape.layers;
  config["num_attention_heads"] = shape.heads;
  config["num_key_value_heads"] = shape.kv_heads;
  config["hidden_act"] = "silu";
  config["rms_norm_eps"] = shape.layer_norm_epsilon;
  config["rope_theta"] = shape.rotary_base;
  config["rope_scaling"] = nullptr;
  config["attention_bias"] = false;
  config["mlp_bias"] = false;
  config["attention_dropout"] = shape.dropout;
  config["initializer_range"] = 0.02;
  config["tie_word_embeddings"] = shape.tied;
  config["use_cache"] = true;
  config["bos_token_id"] = end_of_text ? ordered_json(*end_of_text) : ordered_json(nullptr);
  config["eos_token_id"] = config["bos_token_id"];
  config["torch_dtype"] = "float32";
  return dump(config);
}

// Options of Hugging Face's Llama that change what the model computes, with the only value Sporkle computes.
Status check_llama_options(const Object& config) {
  for (const char* name : {"attention_bias", "mlp_bias", "rope_scaling"}) {
    const json* value = config.find(name);
    if (value && *value != false)
      return config.not_supported(std::string(name) + " is " +
                                  value->dump(-1, ' ', true, json::error_handler_t::replace) +
                                  "; Sporkle's Llama has none");
  }
  const json* activation = config.find("hidden_act");
  if (activation && *activation != "silu")
    return config.not_supported("hidden_act is " + activation->dump(-1, ' ', true, json::error_handler_t::replace) +
                                "; Sporkle's Llama has \"silu\"");
  return {};
}

// Where the base of the rotation stands: newer files have an object for it.
Result<double> rotary_base(const Object& config) {
  const json* parameters = config.find("rope_parameters");
  if (!parameters) return config.number("rope_theta", 10000.0);
  const auto kind = parameters->is_object() ? parameters->find("rope_type") : parameters->end();
  if (!parameters->is_object() || (kind != parameters->end() && *kind != "default"))
    return config.not_supported("rope_parameters are not of the type \"default\"");
  const auto base = parameters->find("rope_theta");
  if (base == parameters->end() || !base->is_number()) return config.corrupt("rope_parameters have no rope_theta");
  return base->get<double>();
}

Result<ModelShape> llama_config(const Object& config) {
  SPORKLE_RETURN_IF_ERROR(check_llama_options(config));
  ModelShape shape;
  shape.architecture = Architecture::llama;
  SPORKLE_ASSIGN_OR_RETURN(shape.layers, config.integer("num_hidden_layers", 1, kMaxLayers));
  SPORKLE_ASSIGN_OR_RETURN(shape.heads, config.integer("num_attention_heads", 1, kMaxDimension));
  shape.kv_heads = shape.heads;
  if (config.find("num_key_value_heads")) {
    SPORKLE_ASSIGN_OR_RETURN(shape.kv_heads, config.integer("num_key_value_heads", 1, kMaxDimension));
  }
  SPORKLE_ASSIGN_OR_RETURN(shape.width, config.integer("hidden_size", 1, kMaxDimension));
  SPORKLE_ASSIGN_OR_RETURN(shape.inner_width, config.integer("intermediate_size", 1, kMaxDimension));
  SPORKLE_ASSIGN_OR_RETURN(shape.context, config.integer("max_position_embeddings", 1, kMaxDimension));
  SPORKLE_ASSIGN_OR_RETURN(shape.vocab_size, config.integer("vocab_size", 1, kMaxDimension));
  SPORKLE_ASSIGN_OR_RETURN(shape.layer_norm_epsilon, config.number("rms_norm_eps", 1e-6));
  SPORKLE_ASSIGN_OR_RETURN(shape.dropout, config.number("attention_dropout", 0.0));
  SPORKLE_ASSIGN_OR_RETURN(shape.rotary_base, rotary_base(config));
  const json* tied = config.find("tie_word_embeddings");
  if (tied && !tied->is_boolean()) return config.corrupt("tie_word_embeddings is neither true nor false");
  shape.tied = tied && tied->get<bool>();
  if (!(shape.layer_norm_epsilon > 0.0 && shape.layer_norm_epsilon < 1.0))
    return config.corrupt("rms_norm_eps does not lie between 0 and 1");
  if (!(shape.dropout >= 0.0 && shape.dropout < 1.0))
    return config.corrupt("attention_dropout does not lie between 0 and 1");
  if (!(shape.rotary_base > 0.0 && shape.rotary_base < 1e12)) return config.corrupt("rope_theta is not above 0");
  if (shape.width % (2 * shape.heads) != 0 || shape.heads % shape.kv_heads != 0)
    return config.corrupt("num_attention_heads " + std::to_string(shape.heads) + " does not divide hidden_size " +
                          std::to_string(shape.width) + " into even sizes, or num_key_value_heads " +
                          std::to_string(shape.kv_heads) + " does not divide it");
  if (config.find("head_dim")) {
    SPORKLE_ASSIGN_OR_RETURN(const int64_t size, config.integer("head_dim", 1, kMaxDimension));
    if (size != shape.width / shape.heads)
      return config.not_supported("head_dim is " + std::to_string(size) +
                                  "; Sporkle's Llama has hidden_size / num_attention_heads");
  }
  return shape;
}

}  // namespace

std::string model_config_to_json(const ModelShape& shape, std::optional<int32_t> end_of_text) {
  if (shape.architecture == Architecture::llama) return llama_config_to_json(shape, end_of_text);
  ordered_json config;
  config["architectures"] = {"GPT2LMHeadModel"};
  config["model_type"] = "gpt2";
  config["vocab_size"] = shape.vocab_size;
  config["n_positions"] = shape.context;
  config["n_ctx"] = shape.context;
  config["n_embd"] = shape.width;
  config["n_layer"] = shape.layers;
  config["n_head"] = shape.heads;
  config["n_inner"] = nullptr;
  config["activation_function"] = "gelu_new";
  config["resid_pdrop"] = shape.dropout;
  config["embd_pdrop"] = shape.dropout;
  config["attn_pdrop"] = shape.dropout;
  config["layer_norm_epsilon"] = shape.layer_norm_epsilon;
  config["initializer_range"] = 0.02;
  config["scale_attn_weights"] = true;
  config["tie_word_embeddings"] = true;
  config["use_cache"] = true;
  config["bos_token_id"] = end_of_text ? ordered_json(*end_of_text) : ordered_json(nullptr);
  config["eos_token_id"] = config["bos_token_id"];
  config["torch_dtype"] = "float32";
  return dump(config);
}

Result<ModelShape> model_config_from_json(std::string_view text, std::string_view name) {
  SPORKLE_ASSIGN_OR_RETURN(const Object config, Object::parse(text, name));
  SPORKLE_ASSIGN_OR_RETURN(const std::string model_type, config.string("model_type"));
  if (model_type == "llama") return llama_config(config);
  if (model_type != "gpt2")
    return config.not_supported("a model of type \"" + model_type + "\"; Sporkle loads \"gpt2\" and \"llama\"");
  SPORKLE_RETURN_IF_ERROR(check_gpt2_options(config));
  ModelShape shape;
  SPORKLE_ASSIGN_OR_RETURN(shape.layers, config.integer("n_layer", 1, kMaxLayers));
  SPORKLE_ASSIGN_OR_RETURN(shape.heads, config.integer("n_head", 1, kMaxDimension));
  SPORKLE_ASSIGN_OR_RETURN(shape.width, config.integer("n_embd", 1, kMaxDimension));
  SPORKLE_ASSIGN_OR_RETURN(shape.context, config.integer("n_positions", 1, kMaxDimension));
  SPORKLE_ASSIGN_OR_RETURN(shape.vocab_size, config.integer("vocab_size", 1, kMaxDimension));
  SPORKLE_ASSIGN_OR_RETURN(shape.layer_norm_epsilon, config.number("layer_norm_epsilon", 1e-5));
  SPORKLE_ASSIGN_OR_RETURN(shape.dropout, config.number("resid_pdrop", 0.1));
  if (!(shape.layer_norm_epsilon > 0.0 && shape.layer_norm_epsilon < 1.0))
    return config.corrupt("layer_norm_epsilon does not lie between 0 and 1");
  if (!(shape.dropout >= 0.0 && shape.dropout < 1.0)) return config.corrupt("resid_pdrop does not lie between 0 and 1");
  if (shape.width % shape.heads != 0)
    return config.corrupt("n_head " + std::to_string(shape.heads) + " does not divide n_embd " +
                          std::to_string(shape.width));
  if (config.find("n_inner")) {
    SPORKLE_ASSIGN_OR_RETURN(const int64_t inner, config.integer("n_inner", 1, 4 * kMaxDimension));
    if (inner != 4 * shape.width)
      return config.not_supported("n_inner is " + std::to_string(inner) + "; Sporkle's GPT-2 has 4 * n_embd");
  }
  return shape;
}

std::string info_to_json(const CheckpointInfo& info) {
  ordered_json object;
  object["format"] = "sporkle checkpoint";
  object["version"] = kVersion;
  object["step"] = info.step ? ordered_json(*info.step) : ordered_json(nullptr);
  object["tokenizer"] = info.tokenizer;
  object["parameters_sha256"] = info.parameters_sha256;
  return dump(object);
}

Result<CheckpointInfo> info_from_json(std::string_view text, std::string_view name) {
  SPORKLE_ASSIGN_OR_RETURN(const Object object, Object::parse(text, name));
  SPORKLE_RETURN_IF_ERROR(check_version(object));
  CheckpointInfo info;
  if (object.find("step")) {
    SPORKLE_ASSIGN_OR_RETURN(info.step, object.integer("step", 0, INT64_MAX));
  }
  SPORKLE_ASSIGN_OR_RETURN(info.tokenizer, object.string("tokenizer"));
  if (info.tokenizer != "bytes" && info.tokenizer != "bpe")
    return object.not_supported("the tokenizer \"" + info.tokenizer + "\" is unknown");
  SPORKLE_ASSIGN_OR_RETURN(info.parameters_sha256, object.string("parameters_sha256"));
  return info;
}

std::string state_to_json(const TrainingState& state, const std::string& tensors_sha256) {
  ordered_json object;
  object["format"] = "sporkle training state";
  object["version"] = kVersion;
  object["step"] = state.step;
  object["tokens"] = state.tokens;
  object["seed"] = state.seed;
  object["values"] = ordered_json::object();
  for (const auto& [key, value] : state.values) object["values"][key] = value;
  object["tensors_sha256"] = tensors_sha256;
  object["config"] = state.config_toml;
  return dump(object);
}

Result<StateJson> state_from_json(std::string_view text, std::string_view name) {
  SPORKLE_ASSIGN_OR_RETURN(const Object object, Object::parse(text, name));
  SPORKLE_RETURN_IF_ERROR(check_version(object));
  StateJson result;
  LoadedTrainingState& state = result.state;
  SPORKLE_ASSIGN_OR_RETURN(state.step, object.integer("step", 0, INT64_MAX));
  SPORKLE_ASSIGN_OR_RETURN(state.tokens, object.integer("tokens", 0, INT64_MAX));
  SPORKLE_ASSIGN_OR_RETURN(state.seed, object.integer("seed", INT64_MIN, INT64_MAX));
  SPORKLE_ASSIGN_OR_RETURN(state.config_toml, object.string("config"));
  SPORKLE_ASSIGN_OR_RETURN(result.tensors_sha256, object.string("tensors_sha256"));
  if (const json* values = object.find("values")) {
    if (!values->is_object()) return object.corrupt("values is not an object");
    for (const auto& [key, value] : values->items()) {
      if (!value.is_number()) return object.corrupt("values." + key + " is not a number");
      state.values[key] = value.get<double>();
    }
  }
  return result;
}

}  // namespace sporkle::train
