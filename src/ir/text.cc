#include "ir/text.h"

#include <array>
#include <charconv>

#include "ir/verifier.h"

namespace sporkle::ir {
namespace {

constexpr size_t kMaxTextBytes = size_t{16} << 20;
constexpr size_t kMaxDepth = 256;

constexpr std::array<std::string_view, 4> kCombineNames = {"add", "max", "min", "fma"};
constexpr std::array<std::string_view, 3> kRangeKindNames = {"serial", "thread", "vector"};
constexpr std::array<std::string_view, 3> kAccessNames = {"read", "write", "read_write"};

// The index of `name`, or -1.
template <typename Names>
int index_of(const Names& names, std::string_view name) {
  for (size_t i = 0; i < names.size(); ++i)
    if (names[i] == name) return static_cast<int>(i);
  return -1;
}

// ------------------------------------------------------------------------------------------------ printing

class Printer {
 public:
  std::string print(const Kernel& kernel) {
    out_.reserve(64 * kernel.context->size() + 256);
    out_ += "kernel ";
    quoted(kernel.name);
    out_ += ' ';
    out_ += numerics_name(kernel.numerics);
    out_ += '\n';
    for (const BufferArgument& b : kernel.buffers) {
      out_ += "buffer ";
      quoted(b.name);
      word(dtype_name(b.type));
      word(kAccessNames[static_cast<size_t>(b.access)]);
      out_ += '\n';
    }
    for (const ScalarArgument& s : kernel.scalars) {
      out_ += "scalar ";
      quoted(s.name);
      word(dtype_name(s.type));
      out_ += '\n';
    }
    if (!kernel.body) return out_;
    numbers_.reserve(kernel.context->size());
    values(kernel.body);
    out_ += "body\n";
    for (const Node* statement : kernel.body->src()) this->statement(statement, 1);
    return out_;
  }

 private:
  void word(std::string_view text) {
    out_ += ' ';
    out_ += text;
  }
  void number(int64_t n) {
    char digits[24];
    const auto end = std::to_chars(digits, digits + sizeof digits, n).ptr;
    out_.append(digits, end);
  }
  void reference(const Node* node) {
    out_ += " %";
    const auto found = numbers_.find(node);
    number(found == numbers_.end() ? -1 : found->second);
  }
  void quoted(std::string_view text) {
    static constexpr char digits[] = "0123456789abcdef";
    out_ += '"';
    for (const char c : text) {
      const auto byte = static_cast<unsigned char>(c);
      if (c == '"' || c == '\\') {
        out_ += '\\';
        out_ += c;
      } else if (byte < 0x20 || byte == 0x7f) {
        out_ += "\\x";
        out_ += digits[byte >> 4];
        out_ += digits[byte & 15];
      } else {
        out_ += c;
      }
    }
    out_ += '"';
  }

  // Every expression below `root`, sources first. The order follows from the structure alone.
  void values(const Node* root) {
    struct Visit {
      const Node* node;
      size_t next;
    };
    std::vector<Visit> stack{{root, 0}};
    std::unordered_set<const Node*> statements_seen;
    while (!stack.empty()) {
      Visit& top = stack.back();
      if (top.next < top.node->source_count) {
        const Node* source = top.node->src(top.next++);
        if (source->is_statement() ? statements_seen.insert(source).second : !numbers_.contains(source))
          stack.push_back({source, 0});
        continue;
      }
      const Node* node = top.node;
      stack.pop_back();
      if (!node->is_statement() && numbers_.emplace(node, static_cast<int64_t>(numbers_.size())).second) value(node);
    }
  }

  void value(const Node* node) {
    out_ += '%';
    number(numbers_.at(node));
    out_ += " = ";
    out_ += op_name(node->op);
    switch (node->op) {
      case Op::constant: {
        word(dtype_name(node->type));
        out_ += " 0x";
        char digits[24];
        const auto end = std::to_chars(digits, digits + sizeof digits, static_cast<uint64_t>(node->value), 16).ptr;
        out_.append(digits, end);
        break;
      }
      case Op::scalar:
      case Op::buffer:
        out_ += ' ';
        number(node->value);
        break;
      case Op::scratch:
        word(dtype_name(node->type));
        out_ += ' ';
        quoted(node->name);
        break;
      case Op::range:
        out_ += ' ';
        quoted(node->name);
        word(kRangeKindNames[node->attribute]);
        break;
      case Op::reduce:
        word(dtype_name(node->type));
        word(kCombineNames[node->attribute]);
        out_ += ' ';
        number(node->lanes);
        break;
      case Op::lane_reduce:
        word(dtype_name(node->type));
        word(kCombineNames[node->attribute]);
        break;
      default:
        word(dtype_name(node->type));
        break;
    }
    for (const Node* source : node->src()) reference(source);
    out_ += '\n';
  }

  void statement(const Node* node, size_t depth) {
    out_.append(2 * depth, ' ');
    out_ += op_name(node->op);
    if (node->op == Op::store) {
      for (const Node* source : node->src()) reference(source);
      out_ += '\n';
      return;
    }
    size_t first = 0;
    if (node->op != Op::block && node->source_count > 0) reference(node->src(first++));
    out_ += '\n';
    for (const Node* inner : node->src().subspan(first)) statement(inner, depth + 1);
  }

  std::string out_;
  std::unordered_map<const Node*, int64_t> numbers_;
};

// ------------------------------------------------------------------------------------------------ parsing

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Result<Kernel> parse() {
    kernel_.context = std::make_shared<Context>();
    SPORKLE_RETURN_IF_ERROR(header());
    SPORKLE_RETURN_IF_ERROR(values());
    SPORKLE_RETURN_IF_ERROR(body());
    SPORKLE_RETURN_IF_ERROR(verify(kernel_));
    return std::move(kernel_);
  }

 private:
  struct Open {
    Op op;
    std::vector<const Node*> sources;
  };

  Status error(std::string_view expected) const {
    std::string found(rest_.substr(0, 40));
    return invalid_argument("line " + std::to_string(line_number_) + ": expected " + std::string(expected) +
                            (found.empty() ? ", found the end of the line" : ", found \"" + found + "\""));
  }

  // Moves to the next line that is not empty. False at the end.
  bool next_line() {
    while (!text_.empty()) {
      const size_t end = std::min(text_.find('\n'), text_.size());
      line_ = text_.substr(0, end);
      text_.remove_prefix(std::min(end + 1, text_.size()));
      ++line_number_;
      indent_ = std::min(line_.find_first_not_of(' '), line_.size());
      rest_ = line_.substr(indent_);
      if (!rest_.empty()) return true;
    }
    rest_ = {};
    return false;
  }

  std::string_view take_word() {
    rest_.remove_prefix(std::min(rest_.find_first_not_of(' '), rest_.size()));
    const size_t end = std::min(rest_.find(' '), rest_.size());
    const std::string_view word = rest_.substr(0, end);
    rest_.remove_prefix(end);
    return word;
  }

  template <typename Int>
  bool take_number(Int* number, int base = 10) {
    const std::string_view before = rest_;
    const std::string_view word = take_word();
    const auto [end, failed] = std::from_chars(word.data(), word.data() + word.size(), *number, base);
    if (failed == std::errc() && end == word.data() + word.size() && !word.empty()) return true;
    rest_ = before;
    return false;
  }

  bool take_quoted(std::string* text) {
    rest_.remove_prefix(std::min(rest_.find_first_not_of(' '), rest_.size()));
    if (!rest_.starts_with('"')) return false;
    size_t i = 1;
    for (; i < rest_.size() && rest_[i] != '"'; ++i) {
      if (rest_[i] != '\\') {
        *text += rest_[i];
        continue;
      }
      if (++i >= rest_.size()) return false;
      if (rest_[i] != 'x') {
        *text += rest_[i];
        continue;
      }
      unsigned byte = 0;
      if (i + 2 >= rest_.size() || std::from_chars(&rest_[i + 1], &rest_[i + 1] + 2, byte, 16).ptr != &rest_[i + 1] + 2)
        return false;
      *text += static_cast<char>(byte);
      i += 2;
    }
    if (i >= rest_.size()) return false;
    rest_.remove_prefix(i + 1);
    return true;
  }

  bool take_type(DType* type) {
    const std::string_view before = rest_, word = take_word();
    for (int t = static_cast<int>(DType::boolean); t <= static_cast<int>(DType::f64); ++t)
      if (dtype_name(static_cast<DType>(t)) == word) {
        *type = static_cast<DType>(t);
        return true;
      }
    rest_ = before;
    return false;
  }

  template <typename Names>
  bool take_choice(const Names& names, uint8_t* choice) {
    const std::string_view before = rest_;
    const int index = index_of(names, take_word());
    if (index < 0)
      rest_ = before;
    else
      *choice = static_cast<uint8_t>(index);
    return index >= 0;
  }

  // The values named on the rest of the line.
  Status take_references(std::vector<const Node*>* nodes) {
    for (;;) {
      rest_.remove_prefix(std::min(rest_.find_first_not_of(' '), rest_.size()));
      if (rest_.empty()) return {};
      if (!rest_.starts_with('%')) return error("a value such as %3");
      rest_.remove_prefix(1);
      size_t number = 0;
      if (!take_number(&number)) return error("a value's number");
      if (number >= values_.size()) return error("a value defined before, not %" + std::to_string(number));
      nodes->push_back(values_[number]);
    }
  }

  Status header() {
    if (!next_line() || take_word() != "kernel") return error("kernel \"name\" numerics");
    uint8_t numerics = 0;
    static constexpr std::array<std::string_view, 3> kNumerics = {"strict", "stable", "fast"};
    if (!take_quoted(&kernel_.name)) return error("the kernel's name in quotes");
    if (!take_choice(kNumerics, &numerics)) return error("strict, stable or fast");
    kernel_.numerics = static_cast<Numerics>(numerics);
    while (next_line()) {
      const std::string_view before = rest_, word = take_word();
      std::string name;
      DType type{};
      if (word == "buffer") {
        uint8_t access = 0;
        if (!take_quoted(&name)) return error("the buffer's name in quotes");
        if (!take_type(&type)) return error("an element type");
        if (!take_choice(kAccessNames, &access)) return error("read, write or read_write");
        kernel_.buffers.push_back({std::move(name), type, static_cast<Access>(access)});
      } else if (word == "scalar") {
        if (!take_quoted(&name)) return error("the scalar's name in quotes");
        if (!take_type(&type)) return error("the scalar's type");
        kernel_.scalars.push_back({std::move(name), type});
      } else {
        rest_ = before;
        return {};
      }
      if (!take_word().empty()) return error("the end of the line");
    }
    return error("values and a body");
  }

  Status values() {
    do {
      const std::string_view before = rest_;
      if (take_word() == "body") return {};
      rest_ = before;
      SPORKLE_RETURN_IF_ERROR(value());
    } while (next_line());
    return error("body");
  }

  Status value() {
    size_t number = 0;
    if (!rest_.starts_with('%')) return error("a value such as %3 = ..., or body");
    rest_.remove_prefix(1);
    if (!take_number(&number) || number != values_.size())
      return error("%" + std::to_string(values_.size()) + ", the next value's number");
    if (take_word() != "=") return error("=");
    const std::string_view name = take_word();
    int op = -1;
    for (int i = 0; i < static_cast<int>(Op::store); ++i)
      if (op_name(static_cast<Op>(i)) == name) op = i;
    if (op < 0) return error("an operation, not \"" + std::string(name) + "\"");
    return value_of(static_cast<Op>(op));
  }

  Status value_of(Op op) {
    DType type = DType::i64;
    int64_t bits = 0;
    uint8_t attribute = 0, lanes = 0;
    std::string name;
    const bool argument = op == Op::scalar || op == Op::buffer;
    if (!argument && op != Op::range && !take_type(&type)) return error("a type");
    switch (op) {
      case Op::constant: {
        uint64_t value = 0;
        rest_.remove_prefix(std::min(rest_.find_first_not_of(' '), rest_.size()));
        if (!rest_.starts_with("0x")) return error("the constant's bits, 0x...");
        rest_.remove_prefix(2);
        if (!take_number(&value, 16)) return error("hexadecimal digits");
        bits = static_cast<int64_t>(value);
        break;
      }
      case Op::scalar:
      case Op::buffer: {
        const size_t count = op == Op::scalar ? kernel_.scalars.size() : kernel_.buffers.size();
        if (!take_number(&bits) || bits < 0 || static_cast<size_t>(bits) >= count)
          return error("the number of one of the " + std::to_string(count) + " " + std::string(op_name(op)) +
                       " arguments");
        const auto i = static_cast<size_t>(bits);
        name = op == Op::scalar ? kernel_.scalars[i].name : kernel_.buffers[i].name;
        type = op == Op::scalar ? kernel_.scalars[i].type : kernel_.buffers[i].type;
        break;
      }
      case Op::scratch:
        if (!take_quoted(&name)) return error("the scratch memory's name in quotes");
        bits = kernel_.context->next_number();
        break;
      case Op::range:
        if (!take_quoted(&name)) return error("the range's name in quotes");
        if (!take_choice(kRangeKindNames, &attribute)) return error("serial, thread or vector");
        bits = kernel_.context->next_number();
        break;
      case Op::reduce:
        if (!take_choice(kCombineNames, &attribute)) return error("add, max, min or fma");
        if (!take_number(&lanes)) return error("the number of lanes");
        break;
      case Op::lane_reduce:
        if (!take_choice(kCombineNames, &attribute)) return error("add, max or min");
        break;
      default:
        break;
    }
    std::vector<const Node*> sources;
    SPORKLE_RETURN_IF_ERROR(take_references(&sources));
    values_.push_back(kernel_.context->make(op, type, sources, bits, attribute, lanes, name));
    return {};
  }

  Status body() {
    std::vector<Open> open{{Op::block, {}}};
    const auto close = [&] {
      Open done = std::move(open.back());
      open.pop_back();
      open.back().sources.push_back(kernel_.context->make(done.op, DType::none, done.sources));
    };
    while (next_line()) {
      const size_t depth = indent_ / 2;
      if (indent_ % 2 != 0 || depth < 1 || depth > open.size())
        return error("two spaces of indentation for each enclosing statement");
      if (depth > kMaxDepth) return error("at most " + std::to_string(kMaxDepth) + " nested statements");
      while (open.size() > depth) close();
      const std::string_view word = take_word();
      Op op = Op::store;
      if (word == "loop")
        op = Op::loop;
      else if (word == "serial_loop")
        op = Op::serial_loop;
      else if (word == "block")
        op = Op::block;
      else if (word != "store")
        return error("store, loop, serial_loop or block, not \"" + std::string(word) + "\"");
      std::vector<const Node*> sources;
      SPORKLE_RETURN_IF_ERROR(take_references(&sources));
      if (op == Op::store) {
        open.back().sources.push_back(kernel_.context->make(op, DType::none, sources));
      } else {
        if (sources.size() != (op == Op::block ? 0u : 1u)) return error("exactly one range after a loop");
        open.push_back({op, std::move(sources)});
      }
    }
    while (open.size() > 1) close();
    kernel_.body = kernel_.context->make(Op::block, DType::none, open.front().sources);
    return {};
  }

  std::string_view text_, line_, rest_;
  size_t indent_ = 0;
  int line_number_ = 0;
  Kernel kernel_;
  std::vector<const Node*> values_;
};

}  // namespace

std::string print(const Kernel& kernel) { return Printer().print(kernel); }

Result<Kernel> parse(std::string_view text) {
  if (text.size() > kMaxTextBytes)
    return invalid_argument("the text of a kernel may have 16 MiB at most, not " + std::to_string(text.size()) +
                            " bytes");
  return Parser(text).parse();
}

}  // namespace sporkle::ir
