#include <charconv>
#include <limits>
#include <optional>

#include "ir/arithmetic.h"
#include "ir/text.h"
#include "ir/verifier.h"

namespace sporkle::ir {
namespace {

constexpr size_t kMaxTextBytes = size_t{16} << 20;
constexpr size_t kMaxDepth = 256;

// A word of the input for a message: short and printable.
std::string shown(std::string_view text) {
  if (text.empty()) return "the end of the line";
  std::string result = "\"";
  for (const char c : text.substr(0, 40)) result += c >= 0x20 && c < 0x7f ? c : '?';
  return result + (text.size() > 40 ? "...\"" : "\"");
}

// The enumerator that `names` (a function from enumerator to text) calls `word`.
template <typename Enum>
std::optional<Enum> find_name(std::string_view word, Enum last, std::string_view (*name)(Enum)) {
  for (int i = 0; i <= static_cast<int>(last); ++i)
    if (name(static_cast<Enum>(i)) == word) return static_cast<Enum>(i);
  return std::nullopt;
}

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\r'; }
bool is_name_start(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

// The words of one line, taken from its front.
class Line {
 public:
  explicit Line(std::string_view text) : rest_(text) { skip_space(); }

  bool at_end() const { return rest_.empty(); }
  std::string found() const { return shown(rest_.substr(0, rest_.find_first_of(" \t"))); }
  char front() const { return rest_.empty() ? '\0' : rest_.front(); }

  std::string_view word() {
    size_t size = 0;
    while (size < rest_.size() && !is_space(rest_[size])) ++size;
    return take(size);
  }

  bool accept(std::string_view text) {
    if (!rest_.starts_with(text)) return false;
    rest_.remove_prefix(text.size());
    return true;
  }

  void skip_space() {
    while (!rest_.empty() && is_space(rest_.front())) rest_.remove_prefix(1);
  }

  // A plain or quoted name, or nothing.
  Result<std::string> name() {
    if (front() == '"') return quoted();
    size_t size = 0;
    if (is_name_start(front()))
      while (size < rest_.size() && (is_name_start(rest_[size]) || is_digit(rest_[size]))) ++size;
    const std::string result(rest_.substr(0, size));
    rest_.remove_prefix(size);
    return result;
  }

  Result<std::string> quoted() {
    if (!accept("\"")) return invalid_argument("expected a quoted name, found " + found());
    std::string result;
    while (!rest_.empty() && rest_.front() != '"') {
      if (accept("\\x")) {
        uint8_t byte = 0;
        const char* const end = rest_.data() + std::min<size_t>(rest_.size(), 2);
        const auto [stop, error] = std::from_chars(rest_.data(), end, byte, 16);
        if (error != std::errc() || stop != rest_.data() + 2)
          return invalid_argument("expected two hexadecimal digits after \\x");
        rest_.remove_prefix(2);
        result += static_cast<char>(byte);
        continue;
      }
      if (accept("\\") && front() != '"' && front() != '\\')
        return invalid_argument("a backslash in a name stands before \", \\ or x and two digits");
      result += rest_.front();
      rest_.remove_prefix(1);
    }
    if (!accept("\"")) return invalid_argument("a quoted name does not end on its line");
    return result;
  }

  Result<int64_t> number() {
    int64_t value = 0;
    const auto [stop, error] = std::from_chars(rest_.data(), rest_.data() + rest_.size(), value);
    if (error != std::errc()) return invalid_argument("expected a number, found " + found());
    rest_.remove_prefix(static_cast<size_t>(stop - rest_.data()));
    return value;
  }

 private:
  std::string_view take(size_t size) {
    const std::string_view result = rest_.substr(0, size);
    rest_.remove_prefix(size);
    skip_space();
    return result;
  }

  std::string_view rest_;
};

class Parser {
 public:
  // `places`: filled with where nodes stand, or null.
  explicit Parser(ParsedText* places = nullptr) : places_(places) { kernel_.context = std::make_shared<Context>(); }

  Result<Kernel> run(std::string_view text) {
    while (!text.empty()) {
      const size_t end = std::min(text.find('\n'), text.size());
      ++line_number_;
      const Status status = line(text.substr(0, end));
      if (!status.ok()) return status.with_context("line " + std::to_string(line_number_));
      text.remove_prefix(std::min(end + 1, text.size()));
    }
    if (!has_header_) return invalid_argument("expected a line like: kernel \"name\" strict; found an empty text");
    close_bodies(0);
    kernel_.body = context().make(Op::block, DType::none, top_);
    SPORKLE_RETURN_IF_ERROR(verify(kernel_));
    return std::move(kernel_);
  }

 private:
  // A loop or block whose statements are being read.
  struct Body {
    Op op;
    std::vector<const Node*> sources;
    int line;
  };

  Context& context() { return *kernel_.context; }

  void place(const Node* node, int line) {
    if (places_) places_->lines.emplace(node, line);
  }
  // `name` with its sigil and number is what `node` is called.
  void place(const Node* node, std::string name, char sigil, size_t number) {
    if (!places_) return;
    place(node, line_number_);
    places_->names.emplace(std::move(name) + sigil + std::to_string(number), node);
  }

  Status line(std::string_view text) {
    const size_t spaces = std::min(text.find_first_not_of(' '), text.size());
    Line rest(text);
    if (rest.at_end() || rest.accept("//")) return {};
    if (!has_header_) return header(rest);
    if (spaces % 2 != 0 || spaces / 2 > bodies_.size())
      return invalid_argument("indented by " + std::to_string(spaces) + " spaces; two for each of the " +
                              std::to_string(bodies_.size()) + " loops and blocks open here are wanted, or fewer");
    close_bodies(spaces / 2);
    SPORKLE_RETURN_IF_ERROR(content(rest));
    rest.skip_space();
    if (!rest.at_end()) return invalid_argument("expected the end of the line, found " + rest.found());
    return {};
  }

  Status header(Line& rest) {
    if (rest.word() != "kernel") return invalid_argument("expected a line like: kernel \"name\" strict");
    SPORKLE_ASSIGN_OR_RETURN(kernel_.name, rest.quoted());
    rest.skip_space();
    const std::string_view numerics = rest.word();
    const auto found = find_name(numerics, Numerics::fast, numerics_name);
    if (!found) return invalid_argument("expected strict, stable or fast, found " + shown(numerics));
    kernel_.numerics = *found;
    has_header_ = true;
    return rest.at_end() ? Status() : invalid_argument("expected the end of the line, found " + rest.found());
  }

  Status content(Line& rest) {
    Line probe = rest;
    const std::string_view first = probe.word();
    if (first == "buffer") return rest = probe, buffer(rest);
    if (first == "scalar") return rest = probe, scalar(rest);
    if (first == "store" || first == "block" || first == "together" || first == "loop" || first == "serial_loop")
      return rest = probe, statement(*find_name(first, Op::together, op_name), rest);
    return definition(rest);
  }

  Status buffer(Line& rest) {
    SPORKLE_ASSIGN_OR_RETURN(std::string name, declared_name(rest, '@', kernel_.buffers.size()));
    SPORKLE_ASSIGN_OR_RETURN(const DType type, dtype(rest));
    const std::string_view word = rest.word();
    const auto access = find_name(word, Access::read_write, access_name);
    if (!access) return invalid_argument("expected read, write or read_write, found " + shown(word));
    buffers_.push_back(context().make(Op::buffer, type, {}, static_cast<int64_t>(kernel_.buffers.size()), 0, 0, name));
    place(buffers_.back(), name, '@', kernel_.buffers.size());
    kernel_.buffers.push_back({std::move(name), type, *access});
    return {};
  }

  Status scalar(Line& rest) {
    SPORKLE_ASSIGN_OR_RETURN(std::string name, declared_name(rest, '$', kernel_.scalars.size()));
    SPORKLE_ASSIGN_OR_RETURN(const DType type, dtype(rest));
    scalars_.push_back(context().make(Op::scalar, type, {}, static_cast<int64_t>(kernel_.scalars.size()), 0, 0, name));
    place(scalars_.back(), name, '$', kernel_.scalars.size());
    kernel_.scalars.push_back({std::move(name), type});
    return {};
  }

  Status statement(Op op, Line& rest) {
    std::vector<const Node*> sources;
    SPORKLE_RETURN_IF_ERROR(operands(rest, sources));
    if (op == Op::store) {
      statements().push_back(context().make(op, DType::none, sources));
      place(statements().back(), line_number_);
      return {};
    }
    const bool is_list = op == Op::block || op == Op::together;
    if (sources.size() != (is_list ? 0u : 1u))
      return invalid_argument(is_list ? std::string(op_name(op)) + " takes no operands"
                                      : "a loop takes one operand, its range");
    if (bodies_.size() >= kMaxDepth)
      return invalid_argument("loops and blocks nest deeper than " + std::to_string(kMaxDepth));
    bodies_.push_back({op, std::move(sources), line_number_});
    return {};
  }

  // %3 = add f32 %1 %2    i#0 = range serial 16    t!0 = scratch f32 64
  Status definition(Line& rest) {
    const std::string start = rest.found();
    SPORKLE_ASSIGN_OR_RETURN(const std::string name, rest.name());
    const char sigil = rest.front();
    const bool is_value = sigil == '%' && name.empty();
    if (!is_value && sigil != '#' && sigil != '!')
      return invalid_argument(
          "expected buffer, scalar, store, loop, serial_loop, block, together, or a definition such as %0 = ..., "
          "found " +
          start);
    std::vector<const Node*>& defined = is_value ? values_ : sigil == '#' ? ranges_ : scratches_;
    SPORKLE_RETURN_IF_ERROR(next_number(rest, sigil, defined.size()));
    rest.skip_space();
    if (rest.word() != "=") return invalid_argument("expected \" = \" after the number of what is defined");
    const std::string_view word = rest.word();
    const auto op = find_name(word, Op::lane_reduce, op_name);
    if (!op || *op == Op::constant || *op == Op::scalar || *op == Op::buffer)
      return invalid_argument("expected an operation, found " + shown(word));
    if ((sigil == '#') != (*op == Op::range) || (sigil == '!') != (*op == Op::scratch))
      return invalid_argument("ranges are defined as name#0, scratch as name!0, other values as %0");

    DType type = DType::i64;
    uint8_t attribute = 0, lanes = 0;
    if (*op == Op::range) {
      const std::string_view kind = rest.word();
      const auto found = find_name(kind, RangeKind::invocation, range_kind_name);
      if (!found) return invalid_argument("expected serial, thread, vector or invocation, found " + shown(kind));
      attribute = static_cast<uint8_t>(*found);
    } else {
      SPORKLE_ASSIGN_OR_RETURN(type, dtype(rest));
    }
    if (*op == Op::reduce || *op == Op::lane_reduce) {
      const std::string_view combine = rest.word();
      const auto found = find_name(combine, Combine::dot, combine_name);
      if (!found) return invalid_argument("expected add, max, min, fma or dot, found " + shown(combine));
      attribute = static_cast<uint8_t>(*found);
    }
    if (*op == Op::reduce) {
      lanes = 1;
      if (rest.accept("lanes=")) {
        SPORKLE_ASSIGN_OR_RETURN(const int64_t number, rest.number());
        if (number < 1 || number > 128) return invalid_argument("lanes are a power of two up to 128");
        lanes = static_cast<uint8_t>(number);
      }
    }
    std::vector<const Node*> sources;
    SPORKLE_RETURN_IF_ERROR(operands(rest, sources));
    // A range or scratch is equal to no other; its number in the text is only a name for it.
    const int64_t number = is_value ? 0 : context().next_number();
    defined.push_back(context().make(*op, type, sources, number, attribute, lanes, name));
    place(defined.back(), name, sigil, defined.size() - 1);
    return {};
  }

  Status operands(Line& rest, std::vector<const Node*>& sources) {
    for (rest.skip_space(); !rest.at_end(); rest.skip_space()) {
      SPORKLE_ASSIGN_OR_RETURN(sources.emplace_back(), operand(rest));
    }
    return {};
  }

  Result<const Node*> operand(Line& rest) {
    if (is_digit(rest.front()) || rest.front() == '-') return constant(DType::i64, rest.word());
    const std::string start = rest.found();
    SPORKLE_ASSIGN_OR_RETURN(const std::string name, rest.name());
    if (rest.accept(":")) {
      const auto type = find_name<DType>(name, DType::f64, dtype_name);
      if (!type || *type == DType::none) return invalid_argument("expected a type before the colon, found " + start);
      return constant(*type, rest.word());
    }
    const char sigil = rest.front();
    const std::vector<const Node*>* defined = sigil == '%'   ? &values_
                                              : sigil == '#' ? &ranges_
                                              : sigil == '@' ? &buffers_
                                              : sigil == '$' ? &scalars_
                                              : sigil == '!' ? &scratches_
                                                             : nullptr;
    if (!defined) return invalid_argument("expected an operand, found " + start);
    rest.accept(std::string_view(&sigil, 1));
    SPORKLE_ASSIGN_OR_RETURN(const int64_t number, rest.number());
    if (number < 0 || static_cast<size_t>(number) >= defined->size())
      return invalid_argument(start + " is used before it is defined");
    const Node* node = (*defined)[static_cast<size_t>(number)];
    const bool is_named = sigil != '%';
    if (is_named ? node->name != name : !name.empty())
      return invalid_argument(start + " was defined under another name, \"" + std::string(node->name) + "\"");
    return node;
  }

  Result<const Node*> constant(DType type, std::string_view text) {
    const char *const begin = text.data(), *const end = begin + text.size();
    const auto read = [&](auto& value, const char* from, auto... base) {
      const auto [stop, error] = std::from_chars(from, end, value, base...);
      return error == std::errc() && stop == end;
    };
    uint64_t bits = 0;
    bool valid;
    if (is_float(type) && text.starts_with("0x")) {
      valid = read(bits, begin + 2, 16);
    } else if (type == DType::f64) {
      double value = 0;
      valid = read(value, begin) && value == value;
      bits = static_cast<uint64_t>(constant_bits(type, value));
    } else if (is_float(type)) {
      float value = 0;
      valid = read(value, begin) && value == value;
      bits = static_cast<uint64_t>(constant_bits(type, static_cast<double>(value)));
    } else if (type == DType::u64) {
      valid = read(bits, begin);
    } else {
      int64_t value = 0;
      valid = read(value, begin);
      bits = static_cast<uint64_t>(value);
    }
    if (!valid || canonical_bits(type, bits) != bits)
      return invalid_argument("expected a constant of type " + std::string(dtype_name(type)) + ", found " +
                              shown(text));
    return context().make(Op::constant, type, {}, static_cast<int64_t>(bits));
  }

  Result<DType> dtype(Line& rest) {
    const std::string_view word = rest.word();
    const auto type = find_name(word, DType::f64, dtype_name);
    if (!type || *type == DType::none) return invalid_argument("expected a type such as f32, found " + shown(word));
    return *type;
  }

  Result<std::string> declared_name(Line& rest, char sigil, size_t expected) {
    SPORKLE_ASSIGN_OR_RETURN(std::string name, rest.name());
    SPORKLE_RETURN_IF_ERROR(next_number(rest, sigil, expected));
    rest.skip_space();
    return name;
  }

  // Things are numbered in the order in which they stand.
  static Status next_number(Line& rest, char sigil, size_t expected) {
    const std::string wanted = sigil + std::to_string(expected);
    const std::string found = rest.found();
    if (rest.accept(std::string_view(&sigil, 1))) {
      SPORKLE_ASSIGN_OR_RETURN(const int64_t number, rest.number());
      if (number == static_cast<int64_t>(expected)) return {};
    }
    return invalid_argument("expected " + wanted + ", the next number, found " + found);
  }

  std::vector<const Node*>& statements() { return bodies_.empty() ? top_ : bodies_.back().sources; }

  void close_bodies(size_t depth) {
    while (bodies_.size() > depth) {
      const Node* node = context().make(bodies_.back().op, DType::none, bodies_.back().sources);
      place(node, bodies_.back().line);
      bodies_.pop_back();
      statements().push_back(node);
    }
  }

  Kernel kernel_;
  ParsedText* places_;
  int line_number_ = 0;
  bool has_header_ = false;
  std::vector<const Node*> buffers_, scalars_, values_, ranges_, scratches_;  // by their numbers
  std::vector<const Node*> top_;                                              // the kernel's own statements
  std::vector<Body> bodies_;
};

}  // namespace

namespace {

Result<Kernel> parse_into(ParsedText* places, std::string_view text) {
  if (text.size() > kMaxTextBytes)
    return invalid_argument("a kernel's text has " + std::to_string(text.size()) + " bytes; at most " +
                            std::to_string(kMaxTextBytes >> 20) + " MiB are allowed");
  return Parser(places).run(text);
}

}  // namespace

Result<Kernel> parse(std::string_view text) { return parse_into(nullptr, text); }

Result<ParsedText> parse_with_lines(std::string_view text) {
  ParsedText parsed;
  SPORKLE_ASSIGN_OR_RETURN(parsed.kernel, parse_into(&parsed, text));
  return parsed;
}

}  // namespace sporkle::ir
