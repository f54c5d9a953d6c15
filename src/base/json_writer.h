// Writes JSON, for the event lines of --json. Values only grow; there is no reading back (nlohmann/json does that where
// it is needed, without making every file that prints an event compile it).
//
//   JsonObject().add("event", "round").add("round", 3).add("loss", 2.5).text()   ->
//   {"event":"round","round":3,"loss":2.5}
//
// Plain values, used by one thread at a time.
#pragma once

#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>

namespace sporkle {

class JsonArray;
class JsonObject;

// A JSON string with its quotes. Control characters are escaped, and bytes that are not valid UTF-8 become U+FFFD.
std::string json_quote(std::string_view text);

// One value's text. Doubles have the fewest digits that read back to the same value; NaN and infinities become null.
std::string json_value(double value);
std::string json_value(const JsonObject& value);
std::string json_value(const JsonArray& value);
inline std::string json_value(float value) { return json_value(static_cast<double>(value)); }
inline std::string json_value(std::string_view value) { return json_quote(value); }
inline std::string json_value(const std::string& value) { return json_quote(value); }
inline std::string json_value(const char* value) { return json_quote(value); }
template <std::integral T>
std::string json_value(T value) {
  if constexpr (std::same_as<T, bool>) {
    return value ? "true" : "false";
  } else {
    return std::to_string(value);
  }
}

class JsonObject {
 public:
  // Appends a member. Keys are not checked for repetition.
  template <typename T>
  JsonObject& add(std::string_view key, const T& value) {
    members_ += (members_.empty() ? "" : ",") + json_quote(key) + ":" + json_value(value);
    return *this;
  }
  std::string text() const { return "{" + members_ + "}"; }

 private:
  std::string members_;
};

class JsonArray {
 public:
  template <typename T>
  JsonArray& add(const T& value) {
    elements_ += (elements_.empty() ? "" : ",") + json_value(value);
    return *this;
  }
  std::string text() const { return "[" + elements_ + "]"; }

 private:
  std::string elements_;
};

}  // namespace sporkle
