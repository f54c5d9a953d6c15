#include <charconv>

#include "ir/arithmetic.h"
#include "ir/text.h"

namespace sporkle::ir {
namespace {

// Appends to one string; numbers come from counters in the order of first use, so that neither the order in which a
// kernel was built nor what else its Context holds shows.
class Printer {
 public:
  explicit Printer(const Kernel& kernel) : kernel_(kernel) {
    const size_t nodes = kernel.context ? kernel.context->size() : 0;
    numbers_.assign(nodes, -1);
    out_.reserve(256 + 24 * nodes);
  }

  std::string run() {
    out_ += "kernel ";
    quoted(kernel_.name);
    out_ += ' ';
    out_ += numerics_name(kernel_.numerics);
    out_ += '\n';
    int number = 0;
    for (const BufferArgument& buffer : kernel_.buffers) {
      out_ += "buffer ";
      reference(buffer.name, '@', number++);
      word(dtype_name(buffer.type));
      word(access_name(buffer.access));
      out_ += '\n';
    }
    number = 0;
    for (const ScalarArgument& scalar : kernel_.scalars) {
      out_ += "scalar ";
      reference(scalar.name, '$', number++);
      word(dtype_name(scalar.type));
      out_ += '\n';
    }
    if (kernel_.body)
      for (const Node* node : kernel_.body->src()) statement(node);
    return std::move(out_);
  }

 private:
  void statement(const Node* node) {
    const bool is_store = node->op == Op::store;
    const size_t operands = is_store ? node->source_count : node->op == Op::block || node->op == Op::together ? 0 : 1;
    for (size_t i = 0; i < operands; ++i) define(node->src(i));
    indent();
    out_ += op_name(node->op);
    for (size_t i = 0; i < operands; ++i) operand(node->src(i));
    out_ += '\n';
    depth_++;
    for (size_t i = operands; i < node->source_count; ++i) statement(node->src(i));
    depth_--;
  }

  // A line for the node, after those of its sources, where it is first used. Arguments and constants need none.
  void define(const Node* node) {
    if (node->op == Op::constant || node->op == Op::scalar || node->op == Op::buffer) return;
    if (numbers_[node->id] >= 0) return;
    for (const Node* source : node->src()) define(source);
    int& counter = node->op == Op::range ? ranges_ : node->op == Op::scratch ? scratches_ : values_;
    numbers_[node->id] = counter++;
    indent();
    reference_to(node);
    out_ += " =";
    word(op_name(node->op));
    word(node->op == Op::range ? range_kind_name(node->range_kind()) : dtype_name(node->type));
    if (node->op == Op::reduce || node->op == Op::lane_reduce) word(combine_name(node->combine()));
    if (node->op == Op::reduce && node->lanes != 1) {
      out_ += " lanes=";
      integer(node->lanes);
    }
    for (const Node* source : node->src()) operand(source);
    out_ += '\n';
  }

  void operand(const Node* node) {
    out_ += ' ';
    node->op == Op::constant ? constant(node) : reference_to(node);
  }

  void reference_to(const Node* node) {
    switch (node->op) {
      case Op::buffer:
        return reference(node->name, '@', node->value);
      case Op::scalar:
        return reference(node->name, '$', node->value);
      case Op::range:
        return reference(node->name, '#', numbers_[node->id]);
      case Op::scratch:
        return reference(node->name, '!', numbers_[node->id]);
      default:
        return reference({}, '%', numbers_[node->id]);
    }
  }

  void reference(std::string_view name, char sigil, int64_t number) {
    const auto is_plain = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; };
    bool plain = name.empty() || is_plain(name[0]);
    for (const char c : name) plain = plain && (is_plain(c) || (c >= '0' && c <= '9'));
    if (plain)
      out_ += name;
    else
      quoted(name);
    out_ += sigil;
    integer(number);
  }

  // An i64 as it is, others as type:number. Decimals are the shortest that read back as the same bits; a NaN is its
  // bits.
  void constant(const Node* node) {
    const uint64_t bits = static_cast<uint64_t>(node->value);
    if (node->type != DType::i64) {
      out_ += dtype_name(node->type);
      out_ += ':';
    }
    const double value = constant_number(node);
    if (is_float(node->type) && (value != value || canonical_bits(node->type, bits) != bits)) {
      out_ += "0x";
      append(bits, 16);
    } else if (node->type == DType::f64) {
      append(value);
    } else if (is_float(node->type)) {
      append(static_cast<float>(value));
    } else if (node->type == DType::u64) {
      append(bits);
    } else {
      append(node->value);
    }
  }

  void quoted(std::string_view text) {
    static constexpr char digits[] = "0123456789abcdef";
    out_ += '"';
    for (const char c : text) {
      const unsigned char byte = static_cast<unsigned char>(c);
      if (c == '"' || c == '\\') {
        out_ += '\\';
        out_ += c;
      } else if (byte < 0x20 || byte >= 0x7f) {
        out_ += "\\x";
        out_ += digits[byte >> 4];
        out_ += digits[byte & 15];
      } else {
        out_ += c;
      }
    }
    out_ += '"';
  }

  void indent() { out_.append(2 * static_cast<size_t>(depth_), ' '); }
  void word(std::string_view text) {
    out_ += ' ';
    out_ += text;
  }
  void integer(int64_t number) { append(number); }
  void append(auto... number) {
    char text[32];
    out_.append(text, std::to_chars(text, text + sizeof(text), number...).ptr);
  }

  const Kernel& kernel_;
  std::string out_;
  std::vector<int> numbers_;  // by Node::id; -1: not defined yet
  int values_ = 0, ranges_ = 0, scratches_ = 0;
  int depth_ = 0;
};

}  // namespace

std::string print(const Kernel& kernel) { return Printer(kernel).run(); }

}  // namespace sporkle::ir
