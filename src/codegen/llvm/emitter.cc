#include "codegen/llvm/emitter.h"

#include <algorithm>
#include <map>
#include <memory>
#include <numeric>
#include <set>

#include "codegen/cpu_abi.h"
#include "codegen/llvm/analysis.h"
#include "codegen/llvm/text.h"

namespace sporkle::codegen::llvm {
namespace {

using ir::Combine;
using ir::DType;
using ir::Node;
using ir::Op;
using ir::RangeKind;

// An emitted value: its operand text, the scope it lives in, and its lanes.
struct Value {
  std::string text;
  int depth = 0;
  int width = 1;
};

// One open loop (scope 0: the function). Its text grows while loops inside it are open, which is what lets a value that
// is needed inside but known outside move out.
struct Scope {
  std::string text;
  std::string label;  // of the block that the text ends in
  std::unordered_map<const Node*, Value> values;
  std::unordered_map<std::string, std::string> splats;  // scalar operand (with its type and width) to vector operand
};

class Emitter {
 public:
  explicit Emitter(const lower::Lowered& lowered)
      : kernel_(lowered.kernel), unroll_(lowered.unroll), analysis_(lowered.kernel) {}

  Result<std::string> module();

 private:
  // ---- Text ----
  std::string fresh(const char* prefix) { return std::string("%") + prefix + std::to_string(++counter_); }
  std::string fresh_label() { return "L" + std::to_string(++counter_); }
  int innermost() const { return static_cast<int>(scopes_.size()) - 1; }
  Scope& scope(int depth) { return *scopes_[static_cast<size_t>(depth)]; }
  void line(int depth, const std::string& text) { scope(depth).text.append("  ").append(text).push_back('\n'); }
  void start_block(int depth, const std::string& label) {
    scope(depth).text.append(label).append(":\n");
    scope(depth).label = label;
  }
  // "%v7 = <instruction>" in a scope; returns %v7.
  std::string define(int depth, const std::string& instruction) {
    const std::string name = fresh("v");
    line(depth, name + " = " + instruction);
    return name;
  }
  void declare(const std::string& declaration) { declarations_.insert(declaration); }
  void fail(Status status) {
    if (status_.ok()) status_ = std::move(status);
  }

  // ---- Values ----
  const Value* find(const Node* node) const {
    for (const auto& s : scopes_)
      if (const auto found = s->values.find(node); found != s->values.end()) return &found->second;
    return nullptr;
  }
  Value emit(const Node* node);
  Value compute(const Node* node);
  Value remember(const Node* node, Value value) {
    scope(value.depth).values.emplace(node, value);
    return value;
  }
  // The operand text of a value as a vector of `width`.
  std::string widened(const Value& value, DType type, int width);
  int depth_of(const Node* node, std::unordered_map<const Node*, int>& memo);
  std::string intrinsic(int depth, const std::string& name, DType type, int width,
                        const std::vector<std::string>& args);

  Value emit_binary(const Node* node);
  std::string binary_text(Op op, DType type, int width, int depth, const std::string& a, const std::string& b);
  std::string extremum(Op op, DType type, int width, int depth, const std::string& a, const std::string& b);
  std::string divide(Op op, DType type, int width, int depth, const std::string& a, const std::string& b);
  Value emit_cast(const Node* node);
  Value emit_load(const Node* node);
  Value emit_lane_reduce(const Node* node);
  void emit_reductions(const std::vector<const Node*>& group);

  std::string base_pointer(const Node* buffer);
  std::string address(const Node* buffer, const Value& index, int depth);
  std::string vector_address(const Node* buffer, const Value& index, int width, int depth);

  // ---- Statements ----
  void emit_statements(std::span<const Node* const> statements);
  void emit_stores(std::span<const Node* const> stores);
  void emit_together(std::span<const Node* const> stores);
  // A store whose operands are there.
  struct Write {
    const Node* store;
    bool contiguous;  // the lanes' elements lie side by side
    Value value, mask, where;
  };
  Write emit_operands(const Node* store);
  void emit_write(const Write& write);
  void emit_loop(const Node* loop);
  void prepare_reductions(std::span<const Node* const> roots);
  // Drops the values that came from loads of `buffer`: it is stored to here.
  void forget_reads_of(const Node* buffer);

  struct Carried {
    std::string type, initial, next, result;
    std::string phi;
  };
  // A loop in scope `depth`, from `start` while index < `end`. `body` runs with the loop's scope open.
  void counted_loop(int depth, const std::string& start, const std::string& end, int step,
                    std::vector<Carried>& carried, const std::function<void(const std::string& index)>& body);

  void thread_loop(const Node* loop);
  std::string scalar_function(const char* name, const Node* value);

  const ir::Kernel& kernel_;
  const std::unordered_map<const Node*, int>& unroll_;
  Analysis analysis_;
  std::vector<std::unique_ptr<Scope>> scopes_;
  std::vector<const Node*> scratches_;
  std::unordered_map<const Node*, std::string> base_pointers_;
  std::set<std::string> declarations_;
  int counter_ = 0;
  Status status_;
};

// ------------------------------------------------------------------------------------------------ values

std::string Emitter::widened(const Value& value, DType type, int width) {
  if (value.width == width) return value.text;
  const std::string scalar = value_type(type, 1), vector = value_type(type, width);
  Scope& home = scope(value.depth);
  const std::string key = vector + value.text;
  if (const auto found = home.splats.find(key); found != home.splats.end()) return found->second;
  const std::string one =
      define(value.depth, "insertelement " + vector + " poison, " + scalar + " " + value.text + ", i64 0");
  const std::string all = define(value.depth, "shufflevector " + vector + " " + one + ", " + vector + " poison, <" +
                                                  std::to_string(width) + " x i32> zeroinitializer");
  home.splats.emplace(key, all);
  return all;
}

std::string Emitter::intrinsic(int depth, const std::string& name, DType type, int width,
                               const std::vector<std::string>& args) {
  const std::string t = value_type(type, width);
  const std::string full = "@llvm." + name + "." + intrinsic_suffix(type, width);
  std::string parameters, arguments;
  for (const std::string& arg : args) {
    parameters += (parameters.empty() ? "" : ", ") + t;
    arguments += (arguments.empty() ? "" : ", ") + t + " " + arg;
  }
  declare("declare " + t + " " + full + "(" + parameters + ")");
  return define(depth, "call " + t + " " + full + "(" + arguments + ")");
}

// The scope a value will live in, found without emitting it.
int Emitter::depth_of(const Node* node, std::unordered_map<const Node*, int>& memo) {
  if (const Value* value = find(node)) return value->depth;
  if (const auto found = memo.find(node); found != memo.end()) return found->second;
  int depth = 0;
  if (node->op == Op::range) {
    depth = 0;  // not open: bound by a reduction below
  } else if (node->op == Op::load && analysis_.is_mutable(node->src(0))) {
    depth = innermost();
  } else {
    for (const Node* source : node->src()) depth = std::max(depth, depth_of(source, memo));
  }
  memo.emplace(node, depth);
  return depth;
}

Value Emitter::emit(const Node* node) {
  if (const Value* value = find(node)) return *value;
  if (node->op == Op::constant) return {constant_text(node->type, node->value, 1), 0, 1};
  if (node->op == Op::reduce) {
    emit_reductions({node});
    return *find(node);
  }
  return remember(node, compute(node));
}

Value Emitter::compute(const Node* node) {
  switch (node->op) {
    case Op::range:
      if (node->range_kind() == RangeKind::vector) {
        const int width = static_cast<int>(node->src(0)->value);
        return {width == 1 ? "0" : lane_numbers(width), 0, width};
      }
      fail(internal_error("range \"" + std::string(node->name) + "\" is used outside its loop"));
      return {"0", 0, 1};
    case Op::scalar: {
      const std::string pointer = define(0, "getelementptr i64, ptr %scalars, i64 " + std::to_string(node->value));
      const std::string bits = define(0, "load i64, ptr " + pointer + ", align 8");
      const std::string type = value_type(node->type, 1);
      switch (ir::dtype_size(node->type)) {
        case 8:
          return {node->type == DType::f64 ? define(0, "bitcast i64 " + bits + " to double") : bits, 0, 1};
        case 4: {
          const std::string low = define(0, "trunc i64 " + bits + " to i32");
          return {node->type == DType::f32 ? define(0, "bitcast i32 " + low + " to float") : low, 0, 1};
        }
        default:
          return {define(0, "trunc i64 " + bits + " to " + type), 0, 1};
      }
    }
    case Op::load:
      return emit_load(node);
    case Op::lane_reduce:
      return emit_lane_reduce(node);
    case Op::cast:
      return emit_cast(node);
    case Op::bitcast: {
      const Value a = emit(node->src(0));
      return {define(a.depth, "bitcast " + value_type(node->src(0)->type, a.width) + " " + a.text + " to " +
                                  value_type(node->type, a.width)),
              a.depth, a.width};
    }
    case Op::neg:
    case Op::abs:
    case Op::sqrt: {
      const Value a = emit(node->src(0));
      const std::string type = value_type(node->type, a.width);
      std::string text;
      if (node->op == Op::sqrt) {
        text = intrinsic(a.depth, "sqrt", node->type, a.width, {a.text});
      } else if (ir::is_float(node->type)) {
        text = node->op == Op::neg ? define(a.depth, "fneg " + type + " " + a.text)
                                   : intrinsic(a.depth, "fabs", node->type, a.width, {a.text});
      } else {
        const std::string zero = constant_text(node->type, 0, a.width);
        text = define(a.depth, "sub " + type + " " + zero + ", " + a.text);
        if (node->op == Op::abs && ir::is_signed(node->type)) {
          const std::string negative = define(a.depth, "icmp slt " + type + " " + a.text + ", " + zero);
          text = define(a.depth, "select " + value_type(DType::boolean, a.width) + " " + negative + ", " + type + " " +
                                     text + ", " + type + " " + a.text);
        } else if (node->op == Op::abs) {
          text = a.text;
        }
      }
      return {text, a.depth, a.width};
    }
    case Op::fma: {
      Value s[3];
      int depth = 0, width = 1;
      for (size_t i = 0; i < 3; ++i) {
        s[i] = emit(node->src(i));
        depth = std::max(depth, s[i].depth);
        width = std::max(width, s[i].width);
      }
      std::vector<std::string> args;
      for (const Value& v : s) args.push_back(widened(v, node->type, width));
      return {intrinsic(depth, "fma", node->type, width, args), depth, width};
    }
    case Op::select: {
      const Value c = emit(node->src(0)), a = emit(node->src(1)), b = emit(node->src(2));
      const int depth = std::max({c.depth, a.depth, b.depth}), width = std::max({c.width, a.width, b.width});
      const std::string type = value_type(node->type, width);
      return {define(depth, "select " + value_type(DType::boolean, width) + " " + widened(c, DType::boolean, width) +
                                ", " + type + " " + widened(a, node->type, width) + ", " + type + " " +
                                widened(b, node->type, width)),
              depth, width};
    }
    default:
      if (node->source_count == 2) return emit_binary(node);
      fail(internal_error("the CPU emitter met op " + std::string(ir::op_name(node->op)) +
                          ", which lowering should have removed"));
      return {"0", 0, analysis_.width(node)};
  }
}

Value Emitter::emit_binary(const Node* node) {
  const Value a = emit(node->src(0)), b = emit(node->src(1));
  const int depth = std::max(a.depth, b.depth), width = std::max(a.width, b.width);
  const DType type = node->src(0)->type;
  return {binary_text(node->op, type, width, depth, widened(a, type, width), widened(b, type, width)), depth, width};
}

std::string Emitter::binary_text(Op op, DType type, int width, int depth, const std::string& a, const std::string& b) {
  const bool floating = ir::is_float(type);
  const char* instruction = nullptr;
  switch (op) {
    case Op::add:
      instruction = floating ? "fadd" : "add";
      break;
    case Op::sub:
      instruction = floating ? "fsub" : "sub";
      break;
    case Op::mul:
      instruction = floating ? "fmul" : "mul";
      break;
    case Op::div:
      if (!floating) return divide(op, type, width, depth, a, b);
      instruction = "fdiv";
      break;
    case Op::mod:
      return divide(op, type, width, depth, a, b);
    case Op::min:
    case Op::max:
      return extremum(op, type, width, depth, a, b);
    case Op::bit_and:
      instruction = "and";
      break;
    case Op::bit_or:
      instruction = "or";
      break;
    case Op::bit_xor:
      instruction = "xor";
      break;
    case Op::shl:
    case Op::shr: {
      const std::string count = define(depth, "and " + value_type(type, width) + " " + b + ", " +
                                                  constant_text(type, 8 * ir::dtype_size(type) - 1, width));
      const char* shift = op == Op::shl ? "shl" : ir::is_signed(type) ? "ashr" : "lshr";
      return define(depth, std::string(shift) + " " + value_type(type, width) + " " + a + ", " + count);
    }
    case Op::less:
      instruction = floating ? "fcmp olt" : ir::is_signed(type) ? "icmp slt" : "icmp ult";
      break;
    case Op::less_equal:
      instruction = floating ? "fcmp ole" : ir::is_signed(type) ? "icmp sle" : "icmp ule";
      break;
    case Op::equal:
      instruction = floating ? "fcmp oeq" : "icmp eq";
      break;
    case Op::not_equal:
      instruction = floating ? "fcmp une" : "icmp ne";
      break;
    default:
      fail(internal_error("not a binary op: " + std::string(ir::op_name(op))));
      return a;
  }
  return define(depth, std::string(instruction) + " " + value_type(type, width) + " " + a + ", " + b);
}

// a wins where it is the smaller (larger) or NaN; see ir/node.h.
std::string Emitter::extremum(Op op, DType type, int width, int depth, const std::string& a, const std::string& b) {
  const std::string t = value_type(type, width), flag = value_type(DType::boolean, width);
  std::string wins;
  if (ir::is_float(type)) {
    const std::string ordered = define(depth, (op == Op::min ? "fcmp olt " : "fcmp ogt ") + t + " " + a + ", " + b);
    const std::string nan = define(depth, "fcmp uno " + t + " " + a + ", " + a);
    wins = define(depth, "or " + flag + " " + ordered + ", " + nan);
  } else {
    const char* sign = ir::is_signed(type) ? "s" : "u";
    wins = define(depth, std::string("icmp ") + sign + (op == Op::min ? "lt " : "gt ") + t + " " + a + ", " + b);
  }
  return define(depth, "select " + flag + " " + wins + ", " + t + " " + a + ", " + t + " " + b);
}

// x / 0 = x % 0 = 0, and the lowest integer / -1 wraps; the hardware traps on both.
std::string Emitter::divide(Op op, DType type, int width, int depth, const std::string& a, const std::string& b) {
  const std::string t = value_type(type, width), flag = value_type(DType::boolean, width);
  const bool is_signed = ir::is_signed(type);
  const std::string instruction =
      (is_signed ? (op == Op::div ? "sdiv " : "srem ") : (op == Op::div ? "udiv " : "urem ")) + t + " ";
  const bool plain = b.front() != '%' && b != "0" && b != "-1" && b.front() != '<';
  if (plain) return define(depth, instruction + a + ", " + b);
  const std::string zero = constant_text(type, 0, width), one = constant_text(type, 1, width);
  const std::string by_zero = define(depth, "icmp eq " + t + " " + b + ", " + zero);
  std::string safe = define(depth, "select " + flag + " " + by_zero + ", " + t + " " + one + ", " + t + " " + b);
  std::string minus_one, wrapped;
  if (is_signed) {
    minus_one = define(depth, "icmp eq " + t + " " + b + ", " + constant_text(type, -1, width));
    safe = define(depth, "select " + flag + " " + minus_one + ", " + t + " " + one + ", " + t + " " + safe);
    wrapped = op == Op::div ? define(depth, "sub " + t + " " + zero + ", " + a) : zero;
  }
  std::string result = define(depth, instruction + a + ", " + safe);
  if (is_signed)
    result = define(depth, "select " + flag + " " + minus_one + ", " + t + " " + wrapped + ", " + t + " " + result);
  return define(depth, "select " + flag + " " + by_zero + ", " + t + " " + zero + ", " + t + " " + result);
}

Value Emitter::emit_cast(const Node* node) {
  const Value a = emit(node->src(0));
  const DType from = node->src(0)->type, to = node->type;
  const std::string source = value_type(from, a.width), target = value_type(to, a.width);
  const auto convert = [&](const char* how) {
    return Value{define(a.depth, std::string(how) + " " + source + " " + a.text + " to " + target), a.depth, a.width};
  };
  if (from == to) return a;
  const std::string zero = constant_text(from, 0, a.width);
  if (to == DType::boolean)
    return {define(a.depth, (ir::is_float(from) ? "fcmp une " : "icmp ne ") + source + " " + a.text + ", " + zero),
            a.depth, a.width};
  if (ir::is_float(from) && ir::is_float(to)) return convert(from == DType::f32 ? "fpext" : "fptrunc");
  if (ir::is_float(to)) return convert(ir::is_signed(from) ? "sitofp" : "uitofp");
  if (ir::is_float(from)) {
    const std::string name = std::string("@llvm.fpto") + (ir::is_signed(to) ? "si" : "ui") + ".sat." +
                             intrinsic_suffix(to, a.width) + "." + intrinsic_suffix(from, a.width);
    declare("declare " + target + " " + name + "(" + source + ")");
    return {define(a.depth, "call " + target + " " + name + "(" + source + " " + a.text + ")"), a.depth, a.width};
  }
  const int before = from == DType::boolean ? 0 : ir::dtype_size(from), after = ir::dtype_size(to);
  if (before == after) return a;
  return convert(after < before ? "trunc" : ir::is_signed(from) ? "sext" : "zext");
}

Value Emitter::emit_lane_reduce(const Node* node) {
  Value value = emit(node->src(0));
  int width = static_cast<int>(node->src(1)->src(0)->value);
  value.text = widened(value, node->type, width);
  const Op op = node->combine() == Combine::add ? Op::add : node->combine() == Combine::max ? Op::max : Op::min;
  while (width > 1) {
    const std::string type = value_type(node->type, width);
    const int half = width / 2;
    std::string parts[2];
    for (int p = 0; p < 2; ++p) {
      if (half == 1) {
        parts[p] = define(value.depth, "extractelement " + type + " " + value.text + ", i64 " + std::to_string(p));
        continue;
      }
      std::string picks;
      for (int i = 0; i < half; ++i) picks += (i ? ", i32 " : "i32 ") + std::to_string(p * half + i);
      parts[p] = define(value.depth, "shufflevector " + type + " " + value.text + ", " + type + " poison, <" +
                                         std::to_string(half) + " x i32> <" + picks + ">");
    }
    value.text = binary_text(op, node->type, half, value.depth, parts[0], parts[1]);
    width = half;
  }
  return {value.text, value.depth, 1};
}

// ------------------------------------------------------------------------------------------------ memory

std::string Emitter::base_pointer(const Node* buffer) {
  if (const auto found = base_pointers_.find(buffer); found != base_pointers_.end()) return found->second;
  std::string pointer;
  if (buffer->op == Op::buffer) {
    const std::string slot = define(0, "getelementptr ptr, ptr %buffers, i64 " + std::to_string(buffer->value));
    pointer = define(0, "load ptr, ptr " + slot + ", align 8");
  } else {
    // Scratch areas follow each other, each rounded up to 64 bytes, as in sporkle_scratch_bytes.
    ir::Builder b(*kernel_.context);
    const Node* offset = b.integer(0);
    for (const Node* earlier : scratches_) {
      if (earlier == buffer) break;
      const Node* bytes = b.mul(earlier->src(0), b.integer(ir::dtype_size(earlier->type)));
      offset = b.add(offset, b.mul(b.div(b.add(bytes, b.integer(63)), b.integer(64)), b.integer(64)));
    }
    pointer = define(0, "getelementptr i8, ptr %scratch, i64 " + emit(offset).text);
  }
  base_pointers_.emplace(buffer, pointer);
  return pointer;
}

std::string Emitter::address(const Node* buffer, const Value& index, int depth) {
  const std::string base = base_pointer(buffer);
  return define(depth, "getelementptr " + memory_type(buffer->type, 1) + ", ptr " + base + ", i64 " + index.text);
}

std::string Emitter::vector_address(const Node* buffer, const Value& index, int width, int depth) {
  const std::string base = base_pointer(buffer);
  return define(depth, "getelementptr " + memory_type(buffer->type, 1) + ", ptr " + base + ", " +
                           value_type(DType::i64, width) + " " + widened(index, DType::i64, width));
}

Value Emitter::emit_load(const Node* node) {
  const Node *buffer = node->src(0), *index = node->src(1);
  const bool masked = node->source_count > 2;
  const Node* lane = analysis_.vector_range(index);
  const Node* coefficient = lane ? analysis_.lane_coefficient(index, lane) : nullptr;
  const bool contiguous = lane && coefficient && coefficient->is_constant(1);
  const int width = analysis_.width(node);
  const std::string align = std::to_string(ir::dtype_size(buffer->type));
  const Value where = emit(contiguous ? analysis_.at_lane_zero(index, lane) : index);
  Value mask{"true", 0, 1}, otherwise;
  int depth = where.depth;
  if (masked) {
    mask = emit(node->src(2));
    otherwise = emit(node->src(3));
    depth = std::max({depth, mask.depth, otherwise.depth});
  }
  // What the kernel itself stores to must be read now, not earlier.
  if (analysis_.is_mutable(buffer)) depth = innermost();
  const auto from_memory = [&](std::string text, int w) -> Value {
    if (buffer->type == DType::boolean)
      text = define(depth, "icmp ne " + memory_type(DType::boolean, w) + " " + text + ", " +
                               (w == 1 ? "0" : std::string("zeroinitializer")));
    return {text, depth, w};
  };

  if (width == 1) {
    std::string pointer = address(buffer, where, depth);
    if (!masked)
      return from_memory(
          define(depth, "load " + memory_type(buffer->type, 1) + ", ptr " + pointer + ", align " + align), 1);
    // Where the mask is false a zero of the function's own is read, so that no branch is needed.
    pointer = define(depth, "select i1 " + mask.text + ", ptr " + pointer + ", ptr @sporkle_zero");
    const Value loaded =
        from_memory(define(depth, "load " + memory_type(buffer->type, 1) + ", ptr " + pointer + ", align " + align), 1);
    const std::string type = value_type(buffer->type, 1);
    return {
        define(depth, "select i1 " + mask.text + ", " + type + " " + loaded.text + ", " + type + " " + otherwise.text),
        depth, 1};
  }

  const std::string type = memory_type(buffer->type, width);
  if (contiguous && !masked)
    return from_memory(define(depth, "load " + type + ", ptr " + address(buffer, where, depth) + ", align " + align),
                       width);
  std::string fallback = type + " zeroinitializer";
  if (masked) {
    std::string text = widened(otherwise, buffer->type, width);
    if (buffer->type == DType::boolean)
      text = define(depth, "zext " + value_type(DType::boolean, width) + " " + text + " to " + type);
    fallback = type + " " + text;
  }
  const std::string flags = masked ? widened(mask, DType::boolean, width) : constant_text(DType::boolean, 1, width);
  const std::string flag_type = value_type(DType::boolean, width);
  const DType element = buffer->type == DType::boolean ? DType::u8 : buffer->type;
  const std::string suffix = intrinsic_suffix(element, width);
  if (contiguous) {
    const std::string name = "@llvm.masked.load." + suffix + ".p0";
    declare("declare " + type + " " + name + "(ptr, i32 immarg, " + flag_type + ", " + type + ")");
    return from_memory(define(depth, "call " + type + " " + name + "(ptr " + address(buffer, where, depth) + ", i32 " +
                                         align + ", " + flag_type + " " + flags + ", " + fallback + ")"),
                       width);
  }
  const std::string pointers = "<" + std::to_string(width) + " x ptr>";
  const std::string name = "@llvm.masked.gather." + suffix + ".v" + std::to_string(width) + "p0";
  declare("declare " + type + " " + name + "(" + pointers + ", i32 immarg, " + flag_type + ", " + type + ")");
  return from_memory(
      define(depth, "call " + type + " " + name + "(" + pointers + " " + vector_address(buffer, where, width, depth) +
                        ", i32 " + align + ", " + flag_type + " " + flags + ", " + fallback + ")"),
      width);
}

Emitter::Write Emitter::emit_operands(const Node* node) {
  const Node* index = node->src(1);
  const Node* lane = analysis_.vector_range(index);
  const Node* coefficient = lane ? analysis_.lane_coefficient(index, lane) : nullptr;
  const bool contiguous = lane && coefficient && coefficient->is_constant(1);
  const Value value = emit(node->src(2));
  const Value mask = node->source_count > 3 ? emit(node->src(3)) : Value{"true", 0, 1};
  return {node, contiguous, value, mask, emit(contiguous ? analysis_.at_lane_zero(index, lane) : index)};
}

void Emitter::emit_write(const Write& write) {
  const auto& [node, contiguous, value, mask, where] = write;
  const Node* buffer = node->src(0);
  const bool masked = node->source_count > 3;
  const int width = analysis_.width(node);
  const int depth = innermost();
  const std::string align = std::to_string(ir::dtype_size(buffer->type));
  const std::string type = memory_type(buffer->type, width);
  std::string text = widened(value, buffer->type, width);
  if (buffer->type == DType::boolean)
    text = define(depth, "zext " + value_type(DType::boolean, width) + " " + text + " to " + type);

  if (width == 1) {
    const std::string pointer = address(buffer, where, depth);
    const std::string instruction = "store " + type + " " + text + ", ptr " + pointer + ", align " + align;
    if (!masked) {
      line(depth, instruction);
    } else {
      const std::string yes = fresh_label(), after = fresh_label();
      line(depth, "br i1 " + mask.text + ", label %" + yes + ", label %" + after);
      start_block(depth, yes);
      line(depth, instruction);
      line(depth, "br label %" + after);
      start_block(depth, after);
    }
  } else {
    const std::string flags = masked ? widened(mask, DType::boolean, width) : constant_text(DType::boolean, 1, width);
    const std::string flag_type = value_type(DType::boolean, width);
    const DType element = buffer->type == DType::boolean ? DType::u8 : buffer->type;
    const std::string suffix = intrinsic_suffix(element, width);
    if (contiguous && !masked) {
      line(depth, "store " + type + " " + text + ", ptr " + address(buffer, where, depth) + ", align " + align);
    } else if (contiguous) {
      const std::string name = "@llvm.masked.store." + suffix + ".p0";
      declare("declare void " + name + "(" + type + ", ptr, i32 immarg, " + flag_type + ")");
      line(depth, "call void " + name + "(" + type + " " + text + ", ptr " + address(buffer, where, depth) + ", i32 " +
                      align + ", " + flag_type + " " + flags + ")");
    } else {
      const std::string pointers = "<" + std::to_string(width) + " x ptr>";
      const std::string name = "@llvm.masked.scatter." + suffix + ".v" + std::to_string(width) + "p0";
      declare("declare void " + name + "(" + type + ", " + pointers + ", i32 immarg, " + flag_type + ")");
      line(depth, "call void " + name + "(" + type + " " + text + ", " + pointers + " " +
                      vector_address(buffer, where, width, depth) + ", i32 " + align + ", " + flag_type + " " + flags +
                      ")");
    }
  }
  forget_reads_of(buffer);
}

void Emitter::forget_reads_of(const Node* buffer) {
  for (const auto& s : scopes_)
    std::erase_if(s->values, [&](const auto& entry) { return analysis_.reads(entry.first, buffer); });
}

// ------------------------------------------------------------------------------------------------ loops

void Emitter::counted_loop(int depth, const std::string& start, const std::string& end, int step,
                           std::vector<Carried>& carried, const std::function<void(const std::string&)>& body) {
  // Scopes deeper than `depth` stay open but are set aside, so that this loop lands before them in the text.
  std::vector<std::unique_ptr<Scope>> aside;
  while (innermost() > depth) {
    aside.push_back(std::move(scopes_.back()));
    scopes_.pop_back();
  }
  const std::string head = fresh_label(), exit = fresh_label(), index = fresh("i");
  for (Carried& c : carried) c.phi = fresh("acc");
  scopes_.push_back(std::make_unique<Scope>());
  scope(depth + 1).label = head;
  body(index);
  const int inner = depth + 1;
  const std::string next = define(inner, "add nsw i64 " + index + ", " + std::to_string(step));
  const std::string more = define(inner, "icmp slt i64 " + next + ", " + end);
  line(inner, "br i1 " + more + ", label %" + head + ", label %" + exit);
  const std::unique_ptr<Scope> closed = std::move(scopes_.back());
  scopes_.pop_back();

  const std::string any = define(depth, "icmp slt i64 " + start + ", " + end);
  line(depth, "br i1 " + any + ", label %" + head + ", label %" + exit);
  const std::string before = scope(depth).label;
  start_block(depth, head);
  line(depth, index + " = phi i64 [ " + start + ", %" + before + " ], [ " + next + ", %" + closed->label + " ]");
  for (const Carried& c : carried)
    line(depth, c.phi + " = phi " + c.type + " [ " + c.initial + ", %" + before + " ], [ " + c.next + ", %" +
                    closed->label + " ]");
  scope(depth).text += closed->text;
  start_block(depth, exit);
  for (Carried& c : carried)
    c.result = define(
        depth, "phi " + c.type + " [ " + c.initial + ", %" + before + " ], [ " + c.next + ", %" + closed->label + " ]");
  while (!aside.empty()) {
    scopes_.push_back(std::move(aside.back()));
    aside.pop_back();
  }
}

// The chains of a register tile multiply rows with columns. In which order the steps of one k are written decides how
// many operands must be in registers at once: one of those that there are more of, and all of the others.
std::vector<size_t> order_of_chains(const std::vector<const Node*>& group) {
  std::vector<size_t> order(group.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::unordered_map<const Node*, size_t> left, right;  // operands, numbered as they appear
  for (const Node* node : group) {
    if (node->combine() != Combine::fma) return order;
    left.try_emplace(node->src(2), left.size());
    right.try_emplace(node->src(3), right.size());
  }
  const bool by_left = left.size() >= right.size();
  std::ranges::stable_sort(order, {},
                           [&](size_t g) { return by_left ? left.at(group[g]->src(2)) : right.at(group[g]->src(3)); });
  return order;
}

// Reductions over one range, in one loop with an accumulator each.
void Emitter::emit_reductions(const std::vector<const Node*>& group) {
  const Node* range = group[0]->src(1);
  std::unordered_map<const Node*, int> memo;
  int depth = depth_of(range->src(0), memo);
  for (const Node* node : group) depth = std::max(depth, depth_of(node, memo));
  std::vector<Carried> carried;
  std::vector<int> widths;
  for (const Node* node : group) {
    const Value init = emit(node->src(0));
    const int width = analysis_.width(node);
    widths.push_back(width);
    const std::string initial = node->src(0)->is_constant() ? constant_text(node->type, node->src(0)->value, width)
                                                            : widened(init, node->type, width);
    carried.push_back({value_type(node->type, width), initial, "", "", ""});
  }
  const std::string extent = emit(range->src(0)).text;
  const auto found = unroll_.find(range);
  const int unroll = found == unroll_.end() ? 1 : found->second;

  const std::vector<size_t> order = order_of_chains(group);

  const auto run = [&](const std::string& start, const std::string& end, int step) {
    counted_loop(depth, start, end, step, carried, [&](const std::string& index) {
      const int inner = innermost();
      std::vector<std::string> acc;
      for (const Carried& c : carried) acc.push_back(c.phi);
      for (int copy = 0; copy < step; ++copy) {
        scope(inner).values.clear();
        scope(inner).splats.clear();
        const std::string k = copy == 0 ? index : define(inner, "add nsw i64 " + index + ", " + std::to_string(copy));
        scope(inner).values.emplace(range, Value{k, inner, 1});
        std::vector<const Node*> roots;
        for (const Node* node : group)
          for (size_t s = 2; s < node->source_count; ++s) roots.push_back(node->src(s));
        prepare_reductions(roots);
        for (const size_t g : order) {
          const Node* node = group[g];
          const Value x = emit(node->src(2));
          if (node->combine() == Combine::fma) {
            const Value y = emit(node->src(3));
            acc[g] = intrinsic(inner, "fma", node->type, widths[g],
                               {widened(x, node->type, widths[g]), widened(y, node->type, widths[g]), acc[g]});
          } else {
            const Op op = node->combine() == Combine::add   ? Op::add
                          : node->combine() == Combine::max ? Op::max
                                                            : Op::min;
            acc[g] = binary_text(op, node->type, widths[g], inner, acc[g], widened(x, node->type, widths[g]));
          }
        }
      }
      for (size_t g = 0; g < group.size(); ++g) carried[g].next = acc[g];
    });
    for (Carried& c : carried) c.initial = c.result;
  };
  if (unroll > 1) {
    const std::string count = define(depth, "sdiv i64 " + extent + ", " + std::to_string(unroll));
    const std::string whole = define(depth, "mul i64 " + count + ", " + std::to_string(unroll));
    run("0", whole, unroll);
    run(whole, extent, 1);
  } else {
    run("0", extent, 1);
  }
  for (size_t g = 0; g < group.size(); ++g) remember(group[g], {carried[g].result, depth, widths[g]});
}

// Emits the reductions below `roots` that are not known yet, those over one range together. A reduction inside
// another's body that depends on its range is left to that body.
void Emitter::prepare_reductions(std::span<const Node* const> roots) {
  std::unordered_map<const Node*, int> level;  // 1 + the most reductions that must come before
  std::map<std::pair<int, uint32_t>, std::vector<const Node*>> groups;
  std::unordered_map<const Node*, bool> visited;
  const std::function<int(const Node*)> visit = [&](const Node* node) -> int {
    if (find(node) || node->is_constant()) return 0;
    if (const auto found = level.find(node); found != level.end()) return found->second;
    int before = 0;
    if (node->op == Op::reduce) {
      before = std::max(visit(node->src(0)), visit(node->src(1)->src(0)));
      // Reductions in the body that do not depend on this one's range come first.
      std::unordered_set<const Node*> seen;
      const std::function<void(const Node*)> search = [&](const Node* inner) {
        if (!seen.insert(inner).second) return;
        if (inner->op == Op::reduce && !ir::depends_on(inner, node->src(1))) {
          before = std::max(before, visit(inner));
          return;
        }
        for (const Node* source : inner->src()) search(source);
      };
      for (size_t s = 2; s < node->source_count; ++s) search(node->src(s));
      groups[{before, node->src(1)->id}].push_back(node);
      ++before;
    } else if (node->op != Op::range) {
      for (const Node* source : node->src()) before = std::max(before, visit(source));
    }
    level.emplace(node, before);
    return before;
  };
  for (const Node* root : roots) visit(root);
  for (const auto& [key, group] : groups) {
    std::vector<const Node*> pending;
    std::ranges::copy_if(group, std::back_inserter(pending), [&](const Node* node) { return !find(node); });
    if (!pending.empty()) emit_reductions(pending);
  }
}

void Emitter::emit_stores(std::span<const Node* const> stores) {
  // Together, unless a reduction of one would read what another stores.
  std::vector<const Node*> roots;
  bool together = true;
  for (const Node* store : stores)
    for (const Node* source : store->src().subspan(1)) {
      roots.push_back(source);
      if (!analysis_.reads(source, nullptr)) continue;
      ir::visit_post_order(source, [&](const Node* node) {
        if (node->op != Op::reduce || !together) return;
        together = std::ranges::none_of(stores, [&](const Node* s) { return analysis_.reads(node, s->src(0)); });
      });
    }
  if (together) prepare_reductions(roots);
  for (const Node* store : stores) {
    if (!together) prepare_reductions(store->src().subspan(1));
    emit_write(emit_operands(store));
  }
}

void Emitter::emit_together(std::span<const Node* const> stores) {
  std::vector<const Node*> roots;
  for (const Node* store : stores) roots.insert(roots.end(), store->src().begin() + 1, store->src().end());
  prepare_reductions(roots);
  std::vector<Write> writes;
  for (const Node* store : stores) writes.push_back(emit_operands(store));
  for (const Write& write : writes) emit_write(write);
}

void Emitter::emit_statements(std::span<const Node* const> statements) {
  for (size_t i = 0; i < statements.size();) {
    if (statements[i]->op != Op::store) {
      emit_loop(statements[i++]);
      continue;
    }
    size_t end = i;
    while (end < statements.size() && statements[end]->op == Op::store) ++end;
    emit_stores(statements.subspan(i, end - i));
    i = end;
  }
}

void Emitter::emit_loop(const Node* loop) {
  if (loop->op == Op::block) return emit_statements(loop->src());
  if (loop->op == Op::together) return emit_together(loop->src());
  const Node* range = loop->src(0);
  const std::span<const Node* const> body = loop->src().subspan(1);
  if (range->range_kind() == RangeKind::vector) return emit_statements(body);
  if (range->range_kind() == RangeKind::thread) return thread_loop(loop);
  const Value extent = emit(range->src(0));
  // From the second iteration on, what the body stores has changed: nothing read before the loop holds inside it.
  ir::visit_post_order(loop, [&](const Node* node) {
    if (node->op == Op::store) forget_reads_of(node->src(0));
  });
  std::vector<Carried> none;
  counted_loop(innermost(), "0", extent.text, 1, none, [&](const std::string& index) {
    scope(innermost()).values.emplace(range, Value{index, innermost(), 1});
    emit_statements(body);
  });
}

void Emitter::thread_loop(const Node* loop) {
  const Node* range = loop->src(0);
  std::vector<Carried> none;
  counted_loop(0, "%begin", "%end", 1, none, [&](const std::string& index) {
    scope(innermost()).values.emplace(range, Value{index, innermost(), 1});
    emit_statements(loop->src().subspan(1));
  });
}

// ------------------------------------------------------------------------------------------------ module

// A function of the scalars alone.
std::string Emitter::scalar_function(const char* name, const Node* value) {
  scopes_.clear();
  scopes_.push_back(std::make_unique<Scope>());
  scope(0).label = "entry";
  const Value result = emit(value);
  line(0, "ret i64 " + result.text);
  return "define i64 @" + std::string(name) + "(ptr %scalars) #0 {\nentry:\n" + scope(0).text + "}\n\n";
}

Result<std::string> Emitter::module() {
  const Node* thread_range = nullptr;
  ir::visit_post_order(kernel_.body, [&](const Node* node) {
    if (node->type == DType::f16 || node->type == DType::bf16)
      fail(unsupported("the CPU code generator has no " + std::string(ir::dtype_name(node->type)) + " yet"));
    if (node->op == Op::scratch) scratches_.push_back(node);
    if (node->op == Op::range && node->range_kind() == RangeKind::thread) thread_range = node;
  });
  SPORKLE_RETURN_IF_ERROR(status_);
  std::ranges::sort(scratches_, {}, &Node::value);

  ir::Builder b(*kernel_.context);
  const Node* scratch_bytes = b.integer(0);
  for (const Node* scratch : scratches_) {
    const Node* bytes = b.mul(scratch->src(0), b.integer(ir::dtype_size(scratch->type)));
    scratch_bytes = b.add(scratch_bytes, b.mul(b.div(b.add(bytes, b.integer(63)), b.integer(64)), b.integer(64)));
  }

  scopes_.push_back(std::make_unique<Scope>());
  scope(0).label = "entry";
  emit_statements(kernel_.body->src());
  line(0, "ret void");
  std::string functions = "define void @" + std::string(kKernelSymbol) +
                          "(ptr %buffers, ptr %scalars, ptr %scratch, i64 %begin, i64 %end) #0 {\nentry:\n" +
                          scope(0).text + "}\n\n";
  functions += scalar_function(kThreadExtentSymbol, thread_range ? thread_range->src(0) : b.integer(1));
  functions += scalar_function(kScratchBytesSymbol, scratch_bytes);
  SPORKLE_RETURN_IF_ERROR(status_);
  SPORKLE_RETURN_IF_ERROR(analysis_.status());

  std::string text = "target triple = \"x86_64-unknown-linux-gnu\"\n\n";
  text += "@sporkle_zero = private unnamed_addr constant [64 x i8] zeroinitializer, align 64\n\n";
  std::string signature =
      "i32 " + std::to_string(kernel_.buffers.size()) + ", i32 " + std::to_string(kernel_.scalars.size());
  for (const ir::BufferArgument& buffer : kernel_.buffers)
    signature += ", i32 " + std::to_string(ir::dtype_size(buffer.type));
  text += "@" + std::string(kSignatureSymbol) + " = constant [" + std::to_string(2 + kernel_.buffers.size()) +
          " x i32] [" + signature + "], align 4\n\n";
  text += functions;
  for (const std::string& declaration : declarations_) text += declaration + "\n";
  // Wide vectors are what the schedule asked for, whatever the CPU's usual preference.
  text += "\nattributes #0 = { nounwind \"min-legal-vector-width\"=\"512\" \"prefer-vector-width\"=\"512\" }\n";
  return text;
}

}  // namespace

Result<std::string> emit(const lower::Lowered& lowered) { return Emitter(lowered).module(); }

}  // namespace sporkle::codegen::llvm
