#include "apps/sporkle/kernel_arguments.h"

#include <array>
#include <charconv>
#include <cmath>
#include <cstring>
#include <optional>
#include <random>

#include "base/edit_distance.h"
#include "base/file.h"
#include "base/json_writer.h"
#include "ir/arithmetic.h"

namespace sporkle::app {
namespace {

constexpr int64_t kMostBytes = int64_t{4} << 30;
constexpr std::array<std::string_view, 5> kFills = {"random", "zeros", "ones", "index", "empty"};

std::string quoted(std::string_view text) { return "\"" + std::string(text) + "\""; }

// ": it has x, y; did you mean y?"
std::string among(std::string_view name, const std::vector<std::string>& known) {
  std::string text = "; it has ";
  for (size_t i = 0; i < known.size(); ++i) text += (i > 0 ? ", " : "") + known[i];
  if (known.empty()) text += "none";
  if (const std::string nearest = nearest_name(name, known); !nearest.empty())
    text += "; did you mean " + nearest + "?";
  return text;
}

// A number of the type; nothing when the text is none or it does not fit.
std::optional<uint64_t> parse_element(ir::DType type, std::string_view text) {
  const char *const begin = text.data(), *const end = begin + text.size();
  const auto read = [&](auto value) -> std::optional<decltype(value)> {
    const auto [stop, error] = std::from_chars(begin, end, value);
    return error == std::errc() && stop == end && begin != end ? std::optional(value) : std::nullopt;
  };
  if (ir::is_float(type)) {
    const auto number = read(double{});
    return number ? std::optional(static_cast<uint64_t>(ir::constant_bits(type, *number))) : std::nullopt;
  }
  if (type == ir::DType::boolean) {
    if (text == "true" || text == "1") return 1;
    return text == "false" || text == "0" ? std::optional<uint64_t>(0) : std::nullopt;
  }
  if (type == ir::DType::u64) return read(uint64_t{});
  const auto number = read(int64_t{});
  if (!number || ir::canonical_bits(type, static_cast<uint64_t>(*number)) != static_cast<uint64_t>(*number))
    return std::nullopt;
  return static_cast<uint64_t>(*number);
}

// "NAME=VALUE" with the name's place among `names`; each at most once.
Result<std::pair<size_t, std::string_view>> split_argument(std::string_view option, std::string_view text,
                                                           const std::vector<std::string>& names,
                                                           std::vector<bool>& given) {
  const size_t equals = text.find('=');
  if (equals == std::string_view::npos || equals == 0)
    return invalid_argument(std::string(option) + " " + std::string(text) + ": expected NAME=VALUE");
  const std::string_view name = text.substr(0, equals);
  const auto found = std::ranges::find(names, name);
  if (found == names.end())
    return not_found(std::string(option) + ": the kernel has no " + (option == "--scalar" ? "scalar " : "buffer ") +
                     quoted(name) + among(name, names));
  const size_t place = static_cast<size_t>(found - names.begin());
  if (given[place]) return invalid_argument(std::string(option) + ": " + std::string(name) + " is given twice");
  given[place] = true;
  return std::pair(place, text.substr(equals + 1));
}

std::vector<std::byte> filled(std::string_view fill, ir::DType type, int64_t count, std::mt19937_64& random) {
  const size_t size = static_cast<size_t>(ir::dtype_size(type));
  std::vector<std::byte> bytes(static_cast<size_t>(count) * size);
  for (int64_t i = 0; i < count; ++i) {
    uint64_t bits = ~uint64_t{0};  // of empty: a NaN shows where it should not
    if (fill == "random") {
      const double unit = static_cast<double>(random() >> 11) * 0x1p-53;
      bits = static_cast<uint64_t>(ir::is_float(type)           ? ir::constant_bits(type, 2 * unit - 1)
                                   : type == ir::DType::boolean ? static_cast<int64_t>(unit < 0.5)
                                                                : static_cast<int64_t>(unit * 100));
    } else if (fill != "empty") {
      const double number = fill == "ones" ? 1.0 : fill == "index" ? static_cast<double>(i) : 0.0;
      bits = static_cast<uint64_t>(ir::constant_bits(type, number));
    }
    std::memcpy(bytes.data() + static_cast<size_t>(i) * size, &bits, size);
  }
  return bytes;
}

Result<std::vector<std::byte>> read_elements(const std::string& path, const ir::BufferArgument& buffer) {
  const Result<std::string> content = read_file(path);
  const size_t size = static_cast<size_t>(ir::dtype_size(buffer.type));
  if (!content.ok()) {
    const std::vector<std::string> fills(kFills.begin(), kFills.end());
    const std::string nearest = nearest_name(path.substr(0, path.find(':')), fills);
    return invalid_argument("--inputs " + buffer.name + "=" + path + ": " +
                            (nearest.empty() ? content.status().message() : "did you mean " + nearest + ":COUNT?") +
                            " (expected random:COUNT, zeros:COUNT, ones:COUNT, index:COUNT, empty:COUNT, numbers with "
                            "commas between them, or a file)");
  }
  if (content->size() % size != 0)
    return invalid_argument("--inputs " + buffer.name + "=" + path + ": " + std::to_string(content->size()) +
                            " bytes are not whole elements of " + std::to_string(size) + " (" +
                            std::string(ir::dtype_name(buffer.type)) + ")");
  const auto* data = reinterpret_cast<const std::byte*>(content->data());
  return std::vector<std::byte>(data, data + content->size());
}

Result<std::vector<std::byte>> parse_buffer(const ir::BufferArgument& buffer, std::string_view text,
                                            std::mt19937_64& random, bool* has_values) {
  const size_t colon = text.find(':');
  const std::string_view fill = text.substr(0, std::min(colon, text.size()));
  const int64_t size = ir::dtype_size(buffer.type);
  if (colon != std::string_view::npos && std::ranges::find(kFills, fill) != kFills.end()) {
    const std::optional<uint64_t> count = parse_element(ir::DType::i64, text.substr(colon + 1));
    if (!count || static_cast<int64_t>(*count) < 0 || static_cast<int64_t>(*count) > kMostBytes / size)
      return invalid_argument("--inputs " + buffer.name + "=" + std::string(text) + ": " +
                              quoted(text.substr(colon + 1)) + " is no number of elements from 0 to " +
                              std::to_string(kMostBytes / size));
    *has_values = fill != "empty";
    return filled(fill, buffer.type, static_cast<int64_t>(*count), random);
  }
  std::vector<std::byte> bytes;
  bool is_list = !text.empty();
  for (std::string_view rest = text; is_list && !rest.empty();) {
    const std::string_view item = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(item.size() + 1, rest.size()));
    const std::optional<uint64_t> bits = parse_element(buffer.type, item);
    is_list = bits.has_value();
    if (!bits && parse_element(ir::DType::f64, item))
      return invalid_argument("--inputs " + buffer.name + ": " + quoted(item) + " is no " +
                              std::string(ir::dtype_name(buffer.type)));
    if (!bits) break;
    const auto* element = reinterpret_cast<const std::byte*>(&*bits);
    bytes.insert(bytes.end(), element, element + size);
  }
  if (is_list) return bytes;
  return read_elements(std::string(text), buffer);
}

template <typename Argument>
std::vector<std::string> names_of(const std::vector<Argument>& arguments) {
  std::vector<std::string> names;
  for (const Argument& argument : arguments) names.push_back(argument.name);
  return names;
}

// "x, y" of those that were not given.
std::string missing(const std::vector<std::string>& names, const std::vector<bool>& given) {
  std::string text;
  for (size_t i = 0; i < names.size(); ++i)
    if (!given[i]) text += (text.empty() ? "" : ", ") + names[i];
  return text;
}

}  // namespace

Result<KernelArguments> parse_kernel_arguments(const ir::Kernel& kernel, const std::vector<std::string>& inputs,
                                               const std::vector<std::string>& scalars, uint64_t seed) {
  KernelArguments arguments;
  arguments.buffers.resize(kernel.buffers.size());
  arguments.initialised.assign(kernel.buffers.size(), true);
  arguments.scalars.resize(kernel.scalars.size());

  const std::vector<std::string> buffer_names = names_of(kernel.buffers), scalar_names = names_of(kernel.scalars);
  std::vector<bool> given(kernel.buffers.size());
  for (const std::string& input : inputs) {
    SPORKLE_ASSIGN_OR_RETURN(const auto argument, split_argument("--inputs", input, buffer_names, given));
    const auto [place, text] = argument;
    std::mt19937_64 random(seed * 1'000'003 + place);
    bool has_values = true;
    SPORKLE_ASSIGN_OR_RETURN(arguments.buffers[place], parse_buffer(kernel.buffers[place], text, random, &has_values));
    arguments.initialised[place] = has_values;
  }
  if (const std::string names = missing(buffer_names, given); !names.empty())
    return invalid_argument(
        "the kernel's buffers need contents, or at least a size: give --inputs NAME=random:COUNT, or "
        "NAME=empty:COUNT for one that it only writes, for " +
        names);
  given.assign(kernel.scalars.size(), false);
  for (const std::string& scalar : scalars) {
    SPORKLE_ASSIGN_OR_RETURN(const auto argument, split_argument("--scalar", scalar, scalar_names, given));
    const auto [place, text] = argument;
    const std::optional<uint64_t> bits = parse_element(kernel.scalars[place].type, text);
    if (!bits)
      return invalid_argument("--scalar " + scalar + ": " + quoted(text) + " is no " +
                              std::string(ir::dtype_name(kernel.scalars[place].type)));
    arguments.scalars[place] = *bits;
  }
  if (const std::string names = missing(scalar_names, given); !names.empty())
    return invalid_argument("the kernel's scalars need values: give --scalar NAME=VALUE for " + names);
  return arguments;
}

std::string element_text(ir::DType type, uint64_t bits) {
  if (type == ir::DType::boolean) return bits ? "true" : "false";
  if (type == ir::DType::u64) return std::to_string(bits);
  if (!ir::is_float(type)) return std::to_string(static_cast<int64_t>(bits));
  ir::Context context;
  const double value = ir::constant_number(context.make(ir::Op::constant, type, {}, static_cast<int64_t>(bits)));
  if (std::isnan(value)) return "nan";
  char text[40];
  // The shortest that reads back: of a float in its own precision.
  const auto end = type == ir::DType::f64 ? std::to_chars(text, text + sizeof text, value)
                                          : std::to_chars(text, text + sizeof text, static_cast<float>(value));
  return std::string(text, end.ptr);
}

uint64_t element_bits(ir::DType type, const std::byte* element) {
  uint64_t bits = 0;
  std::memcpy(&bits, element, static_cast<size_t>(ir::dtype_size(type)));
  return type == ir::DType::boolean ? bits != 0 : ir::canonical_bits(type, bits);
}

}  // namespace sporkle::app
