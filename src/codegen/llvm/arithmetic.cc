// Arithmetic with the bits that ir/node.h asks for.
#include "codegen/llvm/function_emitter.h"
#include "codegen/llvm/text.h"

namespace sporkle::codegen::llvm {

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

}  // namespace sporkle::codegen::llvm
