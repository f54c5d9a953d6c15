// Reading a config: TOML to TrainConfig through the table of keys.
#include <toml++/toml.h>

#include <cmath>
#include <sstream>

#include "base/file.h"
#include "train/config.h"
#include "train/config_table.h"

namespace sporkle::train {
namespace {

std::string found_text(const toml::node& node) {
  std::ostringstream text;
  if (node.is_table()) return "a table";
  if (node.is_array()) return "a list";
  text << node.type();
  const std::string type = text.str();
  if (node.is_string()) return "the string \"" + std::string(**node.as_string()) + "\"";
  if (node.is_integer()) return "the integer " + std::to_string(**node.as_integer());
  if (node.is_boolean()) return **node.as_boolean() ? "true" : "false";
  return "a " + type;
}

class ConfigReader {
 public:
  explicit ConfigReader(std::string_view file_name) : file_name_(file_name), fields_(config_fields(config_)) {}

  Result<TrainConfig> read(const toml::table& root) {
    for (const auto& [key, node] : root) {
      const toml::table* section = node.as_table();
      const std::string name(key.str());
      if (!section) {
        const Field& nearest = nearest_field(fields_, "", name);
        return at(key, "\"" + name + "\" stands outside any section; did you mean " + nearest.full_name() + "?");
      }
      SPORKLE_RETURN_IF_ERROR(read_section(key, *section));
    }
    const toml::table* train = root["train"].as_table();
    if (train && train->contains("steps") && train->contains("tokens"))
      return at(train->find("tokens")->first, "[train] has both steps and tokens; set one of them");
    const Status valid = validate_config(config_);
    if (!valid.ok()) return valid.with_context(file_name_);
    return config_;
  }

 private:
  Status at(const toml::key& key, const std::string& what) const {
    return invalid_argument(file_name_ + ":" + std::to_string(key.source().begin.line) + ": " + what);
  }

  Status read_section(const toml::key& section_key, const toml::table& section) {
    const std::string section_name(section_key.str());
    bool known = false;
    for (const Field& field : fields_) known = known || section_name == field.section;
    if (!known)
      return at(section_key, "unknown section [" + section_name + "]; did you mean [" +
                                 nearest_section(fields_, section_name) + "]?");
    for (const auto& [key, node] : section) {
      Field* field = nullptr;
      for (Field& candidate : fields_)
        if (section_name == candidate.section && key.str() == candidate.name) field = &candidate;
      if (!field) {
        const Field& nearest = nearest_field(fields_, section_name, key.str());
        return at(
            key, "unknown key \"" + std::string(key.str()) + "\" in [" + section_name + "]; did you mean " +
                     (section_name == nearest.section ? "\"" + std::string(nearest.name) + "\"" : nearest.full_name()) +
                     "?");
      }
      if (!store(*field, node))
        return at(key, field->full_name() + " is " + found_text(node) + "; " + field->expected() + " was expected");
      const Status in_range = field->check();
      if (!in_range.ok()) return at(key, in_range.message());
    }
    return {};
  }

  // False when the node's type is not the field's. A number may be written as an integer.
  static bool store(Field& field, const toml::node& node) {
    if (auto* text = std::get_if<TextField>(&field.value)) {
      if (!node.is_string()) return false;
      *text->value = **node.as_string();
    } else if (auto* integer = std::get_if<IntegerField>(&field.value)) {
      if (!node.is_integer()) return false;
      *integer->value = **node.as_integer();
    } else {
      if (!node.is_number()) return false;
      *std::get<NumberField>(field.value).value =
          node.is_integer() ? static_cast<double>(**node.as_integer()) : **node.as_floating_point();
    }
    return true;
  }

  std::string file_name_;
  TrainConfig config_;
  std::vector<Field> fields_;  // point into config_
};

}  // namespace

Result<TrainConfig> parse_config(std::string_view text, std::string_view file_name) {
  try {
    return ConfigReader(file_name).read(toml::parse(text));
  } catch (const toml::parse_error& error) {
    return invalid_argument(std::string(file_name) + ":" + std::to_string(error.source().begin.line) +
                            ": not TOML: " + std::string(error.description()));
  }
}

Result<TrainConfig> load_config(const std::filesystem::path& path) {
  SPORKLE_ASSIGN_OR_RETURN(const std::string text, read_file(path));
  return parse_config(text, path.string());
}

}  // namespace sporkle::train
