#include "bench/cases.h"

#include <algorithm>
#include <charconv>

#include "base/edit_distance.h"
#include "base/format_units.h"
#include "bench/case_list.h"
#include "hal/host/system.h"
#include "ir/node.h"

namespace sporkle::bench {
namespace {

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

std::string suggestion(std::string_view word, const std::vector<std::string>& known) {
  const std::string nearest = nearest_name(word, known);
  return nearest.empty() ? std::string() : "; did you mean \"" + nearest + "\"?";
}

// The value among `values` that `name_of` names `name`.
template <typename T, typename NameOf>
Result<T> choose(const CaseKind& kind, std::string_view what, std::string_view name, const std::vector<T>& values,
                 NameOf name_of) {
  std::vector<std::string> known;
  for (const T value : values) {
    if (name_of(value) == name) return value;
    known.emplace_back(name_of(value));
  }
  return invalid_argument("the case " + kind.name + " has no " + std::string(what) + " \"" + std::string(name) + "\"" +
                          suggestion(name, known) + " (it has: " + joined(known) + ")");
}

}  // namespace

const std::vector<CaseKind>& case_kinds() {
  static const std::vector<CaseKind> kinds = {
      peak_case(), gemm_case(),     gemv_case(),   conv_case(),  attention_case(), elementwise_case(), reduce_case(),
      copy_case(), transfer_case(), launch_case(), train_case(), resnet_case(),    generate_case()};
  return kinds;
}

Result<const CaseKind*> find_case(std::string_view name) {
  std::vector<std::string> known;
  for (const CaseKind& kind : case_kinds()) {
    if (kind.name == name) return &kind;
    known.push_back(kind.name);
  }
  return not_found("unknown case \"" + std::string(name) + "\"" + suggestion(name, known) +
                   " (known: " + joined(known) + ")");
}

Result<ir::DType> parse_dtype(const CaseKind& kind, std::string_view name) {
  return choose(kind, "dtype", name, kind.dtypes, ir::dtype_name);
}

Result<ir::Numerics> parse_numerics(const CaseKind& kind, std::string_view name) {
  return choose(kind, "numerics", name, kind.numerics, ir::numerics_name);
}

Result<std::vector<int64_t>> parse_extents(std::string_view text, size_t count, std::string_view form) {
  // So that no product of extents overflows, in bytes either; far beyond what a machine can do.
  constexpr int64_t kLargestProduct = int64_t{1} << 50;
  std::vector<int64_t> extents;
  int64_t product = 1;
  for (std::string_view rest = text; extents.size() <= count;) {
    const std::string_view word = rest.substr(0, rest.find('x'));
    int64_t value = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
    if (error != std::errc() || end != word.data() + word.size() || value < 1) break;
    if (value > kLargestProduct / product)
      return invalid_argument("shape \"" + std::string(text) +
                              "\" is too large: its extents multiply to more than 2^50");
    product *= value;
    extents.push_back(value);
    if (word.size() == rest.size()) {
      if (extents.size() == count) return extents;
      break;
    }
    rest.remove_prefix(word.size() + 1);
  }
  return invalid_argument("shape \"" + std::string(text) + "\" is not of the form " + std::string(form) +
                          ", with whole numbers of at least 1");
}

Status check_memory(std::string_view shape, double bytes) {
  const double usable = static_cast<double>(hal::usable_memory_bytes());
  if (bytes <= usable) return {};
  return invalid_argument("shape \"" + std::string(shape) + "\" takes " + format_bytes(bytes) +
                          " of memory with its inputs, outputs and reference, and this process may use " +
                          format_bytes(usable) + "; measure a smaller shape");
}

Result<std::unique_ptr<Case>> within_memory(std::string_view shape, double bytes, std::unique_ptr<Case> subject) {
  SPORKLE_RETURN_IF_ERROR(check_memory(shape, bytes));
  subject->set_memory_bytes(bytes);
  return subject;
}

}  // namespace sporkle::bench
