#include "bench/record.h"

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/json_writer.h"

namespace sporkle::bench {
namespace {

using Json = nlohmann::json;

double or_null(const std::optional<double>& value) { return value.value_or(std::numeric_limits<double>::quiet_NaN()); }

// Reads fields of one object and keeps the first error.
class Fields {
 public:
  explicit Fields(const Json& object) : object_(object) {}

  void text(const char* name, std::string* target, bool required) {
    const Json* field = find(name, required);
    if (!field) return;
    if (!field->is_string()) return wrong(name, *field, "a string");
    *target = field->get<std::string>();
    if (required && target->empty()) wrong(name, *field, "a string that is not empty");
  }
  void count(const char* name, int64_t* target, bool required) {
    const Json* field = find(name, required);
    if (!field) return;
    // A whole number beyond int64_t would wrap around.
    const bool fits = field->is_number_integer() &&
                      (!field->is_number_unsigned() || field->get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX));
    if (!fits || field->get<int64_t>() < 0) return wrong(name, *field, "a whole number of at least 0");
    *target = field->get<int64_t>();
  }
  void number(const char* name, double* target, bool required) {
    const Json* field = find(name, required);
    if (!field) return;
    if (!field->is_number() || !std::isfinite(field->get<double>())) return wrong(name, *field, "a finite number");
    *target = field->get<double>();
  }
  void number(const char* name, std::optional<double>* target) {
    if (!find(name, false)) return;
    number(name, &target->emplace(), false);
  }
  const Status& status() const { return status_; }

 private:
  const Json* find(const char* name, bool required) {
    const auto found = object_.find(name);
    if (found != object_.end() && !found->is_null()) return &*found;
    if (required && status_.ok())
      status_ = corrupt_data("a result without the field \"" + std::string(name) +
                             "\"; results are lines that `sporkle bench --json` printed");
    return nullptr;
  }
  void wrong(const char* name, const Json& found, const std::string& expected) {
    if (!status_.ok()) return;
    std::string text = found.dump(-1, ' ', false, Json::error_handler_t::replace);
    if (text.size() > 60) text = text.substr(0, 60) + "...";
    status_ = corrupt_data("field \"" + std::string(name) + "\" of a result is " + text + ", not " + expected);
  }

  const Json& object_;
  Status status_;
};

}  // namespace

bool smaller_is_better(std::string_view unit) {
  return unit == "s" || unit == "ms" || unit == "us" || unit == "ns" || unit == "KiB";
}

std::string to_json(const Record& r) {
  return JsonObject()
      .add("name", r.name)
      .add("shape", r.shape)
      .add("dtype", r.dtype)
      .add("numerics", r.numerics)
      .add("device", r.device)
      .add("threads", r.threads)
      .add("value", r.value)
      .add("unit", r.unit)
      .add("percent_of_peak", or_null(r.percent_of_peak))
      .add("rival", r.rival)
      .add("rival_version", r.rival_version)
      .add("rival_value", or_null(r.rival_value))
      .add("ratio", or_null(r.ratio))
      .add("ratio_min", or_null(r.ratio_min))
      .add("ratio_max", or_null(r.ratio_max))
      .add("max_rel_error", or_null(r.max_rel_error))
      .add("rival_max_rel_error", or_null(r.rival_max_rel_error))
      .add("rounds", r.rounds)
      .add("noise", or_null(r.noise))
      .add("ratio_noise", or_null(r.ratio_noise))
      .add("seconds", r.seconds)
      .add("flops", r.flops)
      .add("bytes", r.bytes)
      .text();
}

Result<Record> parse_record(std::string_view line) {
  const Json object = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (object.is_discarded()) return corrupt_data("a result that is not JSON: " + json_quote(line.substr(0, 60)));
  if (!object.is_object())
    return corrupt_data("a result that is no JSON object but " + std::string(object.type_name()));
  Record r;
  Fields fields(object);
  fields.text("name", &r.name, true);
  fields.text("shape", &r.shape, true);
  fields.text("dtype", &r.dtype, true);
  fields.text("numerics", &r.numerics, true);
  fields.text("device", &r.device, true);
  fields.count("threads", &r.threads, true);
  fields.number("value", &r.value, true);
  fields.text("unit", &r.unit, true);
  fields.number("percent_of_peak", &r.percent_of_peak);
  fields.text("rival", &r.rival, false);
  fields.text("rival_version", &r.rival_version, false);
  fields.number("rival_value", &r.rival_value);
  fields.number("ratio", &r.ratio);
  fields.number("ratio_min", &r.ratio_min);
  fields.number("ratio_max", &r.ratio_max);
  fields.number("max_rel_error", &r.max_rel_error);
  fields.number("rival_max_rel_error", &r.rival_max_rel_error);
  fields.count("rounds", &r.rounds, false);
  fields.number("noise", &r.noise);
  fields.number("ratio_noise", &r.ratio_noise);
  fields.number("seconds", &r.seconds, false);
  fields.number("flops", &r.flops, false);
  fields.number("bytes", &r.bytes, false);
  if (!fields.status().ok()) return fields.status();
  return r;
}

}  // namespace sporkle::bench
