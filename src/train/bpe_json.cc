// Hugging Face's tokenizer.json, as far as it describes a byte-level BPE.
#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "train/bpe.h"
#include "train/unicode.h"

namespace sporkle::train {
namespace {

using nlohmann::json;

constexpr size_t kMaxJsonBytes = 256u << 20;
constexpr int64_t kMaxIdGap = 1 << 16;

std::string json_string(const std::string& text) {
  return json(text).dump(-1, ' ', false, json::error_handler_t::replace);
}

// A token as tokenizer.json spells it: each byte as its printable stand-in.
std::string spell(const std::string& bytes) {
  std::string text;
  for (const char byte : bytes) append_utf8(text, byte_to_code_point()[static_cast<unsigned char>(byte)]);
  return text;
}

// The bytes of a spelled token. A token with a character that stands for no byte means its own text.
std::string unspell(const std::string& text) {
  static const std::unordered_map<uint32_t, char> bytes = [] {
    std::unordered_map<uint32_t, char> map;
    for (size_t byte = 0; byte < 256; ++byte) map[byte_to_code_point()[byte]] = static_cast<char>(byte);
    return map;
  }();
  std::string result;
  for (size_t offset = 0; offset < text.size();) {
    const CodePoint character = decode_utf8(text, offset);
    const auto found = bytes.find(character.value);
    if (!character.valid || found == bytes.end()) return text;
    result.push_back(found->second);
    offset += character.size;
  }
  return result;
}

// Reads fields with messages that say where in the file they are.
class Reader {
 public:
  explicit Reader(std::string_view name) : name_(name) {}

  Status corrupt(const std::string& what) const { return corrupt_data(name_ + ": " + what); }
  Status not_supported(const std::string& what) const {
    return unsupported(name_ + ": " + what + "; Sporkle reads byte-level BPE tokenizers as GPT-2's");
  }

  // Absent and null count as `fallback`.
  Status boolean(const json& object, const char* where, const char* key, bool fallback, bool& value) const {
    const auto found = object.find(key);
    value = fallback;
    if (found == object.end() || found->is_null()) return {};
    if (!found->is_boolean()) return corrupt(std::string(where) + "." + key + " is not true or false");
    value = found->get<bool>();
    return {};
  }

  Status type_is(const json& object, const char* where, const char* type) const {
    const auto found = object.is_object() ? object.find("type") : object.end();
    if (found == object.end() || !found->is_string())
      return not_supported(std::string("no ") + where + " of type " + type);
    if (*found != type)
      return not_supported(std::string(where) + " is of type \"" + found->get<std::string>() + "\", not " + type);
    return {};
  }

  Status pre_tokenizer(const json& root, BpeModel& model) const {
    const auto found = root.find("pre_tokenizer");
    if (found == root.end()) return not_supported("no pre_tokenizer of type ByteLevel");
    SPORKLE_RETURN_IF_ERROR(type_is(*found, "pre_tokenizer", "ByteLevel"));
    SPORKLE_RETURN_IF_ERROR(boolean(*found, "pre_tokenizer", "add_prefix_space", true, model.add_prefix_space));
    return boolean(*found, "pre_tokenizer", "use_regex", true, model.use_regex);
  }

  Status check_model_options(const json& bpe) const {
    for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      const auto found = bpe.find(affix);
      if (found != bpe.end() && !found->is_null() && *found != "")
        return not_supported(std::string("model.") + affix + " is set");
    }
    const auto dropout = bpe.find("dropout");
    if (dropout != bpe.end() && !dropout->is_null() && *dropout != 0.0) return not_supported("model.dropout is set");
    bool ignore_merges = false;
    SPORKLE_RETURN_IF_ERROR(boolean(bpe, "model", "ignore_merges", false, ignore_merges));
    if (ignore_merges) return not_supported("model.ignore_merges is true");
    return {};
  }

  // Ids may have gaps, but a short file must not ask for a table of millions.
  Status id_of(const json& value, const std::string& token, size_t token_count, int32_t& id) const {
    const auto limit = std::min<int64_t>(kMaxVocabSize, static_cast<int64_t>(token_count) + kMaxIdGap);
    if (!value.is_number_integer() || value < 0 || value >= limit)
      return corrupt("the id of token " + json_string(token) + " is not a whole number from 0 to " +
                     std::to_string(limit - 1));
    id = value.get<int32_t>();
    return {};
  }

  Status vocabulary(const json& bpe, std::unordered_map<std::string, int32_t>& ids, BpeModel& model) const {
    const auto found = bpe.find("vocab");
    if (found == bpe.end() || !found->is_object()) return corrupt("model.vocab is missing or not an object");
    for (const auto& [token, value] : found->items()) {
      int32_t id = 0;
      SPORKLE_RETURN_IF_ERROR(id_of(value, token, found->size(), id));
      if (token.empty()) return corrupt("model.vocab has an empty token");
      if (static_cast<size_t>(id) >= model.tokens.size()) model.tokens.resize(static_cast<size_t>(id) + 1);
      std::string& slot = model.tokens[static_cast<size_t>(id)];
      if (!slot.empty())
        return corrupt("id " + std::to_string(id) + " belongs to two tokens, one of them " + json_string(token));
      slot = unspell(token);
      ids.emplace(token, id);
    }
    return {};
  }

  Status merges(const json& bpe, const std::unordered_map<std::string, int32_t>& ids, BpeModel& model) const {
    const auto found = bpe.find("merges");
    if (found == bpe.end() || !found->is_array()) return corrupt("model.merges is missing or not a list");
    for (const json& merge : *found) {
      const std::string where = "merge " + std::to_string(model.merges.size());
      std::string left, right;
      if (merge.is_string()) {
        const auto& text = merge.get_ref<const std::string&>();
        const size_t space = text.find(' ');
        if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos)
          return corrupt(where + " is " + json_string(text) + ", not two tokens with a space between");
        left = text.substr(0, space);
        right = text.substr(space + 1);
      } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
        left = merge[0].get<std::string>();
        right = merge[1].get<std::string>();
      } else {
        return corrupt(where + " is neither a string nor a list of two");
      }
      const auto left_id = ids.find(left);
      const auto right_id = ids.find(right);
      if (left_id == ids.end() || right_id == ids.end())
        return corrupt(where + " names " + json_string(left_id == ids.end() ? left : right) +
                       ", which is not in model.vocab");
      if (!ids.contains(left + right))
        return corrupt(where + " makes " + json_string(left + right) + ", which is not in model.vocab");
      model.merges.emplace_back(left_id->second, right_id->second);
    }
    return {};
  }

  Status added_tokens(const json& root, BpeModel& model) const {
    const auto found = root.find("added_tokens");
    if (found == root.end() || found->is_null()) return {};
    if (!found->is_array()) return corrupt("added_tokens is not a list");
    std::unordered_set<std::string> seen;
    for (const json& entry : *found) {
      const auto content = entry.is_object() ? entry.find("content") : entry.end();
      const auto id = entry.is_object() ? entry.find("id") : entry.end();
      if (content == entry.end() || id == entry.end() || !content->is_string())
        return corrupt("an entry of added_tokens has no id or content");
      AddedToken token;
      token.content = content->get<std::string>();
      if (token.content.empty() || !seen.insert(token.content).second)
        return corrupt("added token " + json_string(token.content) + " is empty or there twice");
      SPORKLE_RETURN_IF_ERROR(id_of(*id, token.content, model.tokens.size() + found->size(), token.id));
      for (const char* option : {"single_word", "lstrip", "rstrip"}) {
        bool set = false;
        SPORKLE_RETURN_IF_ERROR(boolean(entry, "added_tokens", option, false, set));
        if (set) return not_supported("added token " + json_string(token.content) + " has " + option);
      }
      SPORKLE_RETURN_IF_ERROR(boolean(entry, "added_tokens", "special", false, token.special));
      SPORKLE_RETURN_IF_ERROR(boolean(entry, "added_tokens", "normalized", !token.special, token.normalized));
      model.added.push_back(std::move(token));
    }
    return {};
  }

 private:
  std::string name_;
};

}  // namespace

std::string bpe_to_json(const BpeModel& model) {
  const auto flag = [](bool value) { return value ? "true" : "false"; };
  const std::string byte_level = R"({"type": "ByteLevel", "add_prefix_space": )" +
                                 std::string(flag(model.add_prefix_space)) +
                                 R"(, "trim_offsets": true, "use_regex": )" + flag(model.use_regex) + "}";
  std::unordered_set<int32_t> added_ids;
  std::string text = "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": [";
  for (const AddedToken& token : model.added) {
    text += added_ids.empty() ? "\n    " : ",\n    ";
    added_ids.insert(token.id);
    text +=
        "{\"id\": " + std::to_string(token.id) + ", \"content\": " + json_string(token.content) +
        ", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": " + flag(token.normalized) +
        ", \"special\": " + flag(token.special) + "}";
  }
  text += "\n  ],\n  \"normalizer\": null,\n  \"pre_tokenizer\": " + byte_level +
          ",\n  \"post_processor\": " + byte_level + ",\n  \"decoder\": " + byte_level +
          ",\n  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": null,\n"
          "    \"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null,\n    \"fuse_unk\": false,\n"
          "    \"byte_fallback\": false,\n    \"ignore_merges\": false,\n    \"vocab\": {";
  const auto spelled = [&](int32_t id) {
    const std::string& token = model.tokens[static_cast<size_t>(id)];
    return added_ids.contains(id) ? token : spell(token);
  };
  bool first = true;
  for (size_t id = 0; id < model.tokens.size(); ++id) {
    if (model.tokens[id].empty()) continue;
    text += first ? "\n      " : ",\n      ";
    first = false;
    text += json_string(spelled(static_cast<int32_t>(id))) + ": " + std::to_string(id);
  }
  text += "\n    },\n    \"merges\": [";
  first = true;
  for (const auto& [left, right] : model.merges) {
    text += first ? "\n      " : ",\n      ";
    first = false;
    text += json_string(spelled(left) + " " + spelled(right));
  }
  text += "\n    ]\n  }\n}\n";
  return text;
}

Result<BpeModel> bpe_from_json(std::string_view text, std::string_view name) {
  const Reader reader(name);
  if (text.size() > kMaxJsonBytes)
    return reader.corrupt("it has " + std::to_string(text.size()) + " bytes, more than any tokenizer.json");
  json root;
  try {
    root = json::parse(text);
  } catch (const json::exception& error) {
    return reader.corrupt(std::string("not JSON: ") + error.what());
  }
  if (!root.is_object()) return reader.corrupt("not a JSON object");
  const auto normalizer = root.find("normalizer");
  if (normalizer != root.end() && !normalizer->is_null()) return reader.not_supported("it has a normalizer");
  const auto bpe = root.find("model");
  if (bpe == root.end() || !bpe->is_object()) return reader.corrupt("no object \"model\"");
  // Old files, GPT-2's among them, leave the type out.
  if (bpe->contains("type")) SPORKLE_RETURN_IF_ERROR(reader.type_is(*bpe, "model", "BPE"));
  BpeModel model;
  SPORKLE_RETURN_IF_ERROR(reader.pre_tokenizer(root, model));
  if (root.contains("decoder")) SPORKLE_RETURN_IF_ERROR(reader.type_is(root["decoder"], "decoder", "ByteLevel"));
  SPORKLE_RETURN_IF_ERROR(reader.check_model_options(*bpe));
  std::unordered_map<std::string, int32_t> ids;
  SPORKLE_RETURN_IF_ERROR(reader.vocabulary(*bpe, ids, model));
  SPORKLE_RETURN_IF_ERROR(reader.merges(*bpe, ids, model));
  SPORKLE_RETURN_IF_ERROR(reader.added_tokens(root, model));
  for (const AddedToken& token : model.added) {
    const auto known = ids.find(token.content);
    if (known != ids.end() && known->second != token.id)
      return reader.corrupt("added token " + json_string(token.content) + " has id " + std::to_string(token.id) +
                            ", in model.vocab it has " + std::to_string(known->second));
    if (static_cast<size_t>(token.id) >= model.tokens.size()) model.tokens.resize(static_cast<size_t>(token.id) + 1);
    std::string& slot = model.tokens[static_cast<size_t>(token.id)];
    if (!slot.empty() && known == ids.end())
      return reader.corrupt("added token " + json_string(token.content) + " has the id of another token");
    slot = token.content;
  }
  return model;
}

}  // namespace sporkle::train
