// The one table of config keys, over the fields of a TrainConfig. For config*.cc only.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/status.h"
#include "train/config.h"

namespace sporkle::train {

struct TextField {
  std::string* value;
  std::vector<std::string> choices;  // empty: anything
};

struct IntegerField {
  int64_t* value;
  int64_t low;
  int64_t high;
};

struct NumberField {
  double* value;
  double low;
  double high;
  bool low_is_open = false;
  bool high_is_open = false;
};

struct Field {
  const char* section;
  const char* name;
  std::variant<TextField, IntegerField, NumberField> value;
  const char* meaning;

  std::string full_name() const { return std::string("[") + section + "] " + name; }
  std::string_view type() const;
  // "an integer from 1 to 64"
  std::string expected() const;
  std::string allowed() const;
  std::string to_toml() const;
  // invalid_argument when the value is out of range.
  Status check() const;
};

// The fields point into `config`.
std::vector<Field> config_fields(TrainConfig& config);

// The field that a user who wrote `name` in `section` most likely meant, by edit distance; one of another section only
// when it is closer.
const Field& nearest_field(const std::vector<Field>& fields, std::string_view section, std::string_view name);
std::string nearest_section(const std::vector<Field>& fields, std::string_view section);

}  // namespace sporkle::train
