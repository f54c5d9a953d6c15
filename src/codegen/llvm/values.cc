// Values: each emitted once, in the outermost scope where all it depends on is known.
#include <algorithm>

#include "codegen/llvm/function_emitter.h"
#include "codegen/llvm/text.h"

namespace sporkle::codegen::llvm {

using ir::Combine;
using ir::RangeKind;

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
    case Op::cast: {
      const Value a = emit(node->src(0));
      return {cast(node->type, node->src(0)->type, a.width, a.depth, a.text), a.depth, a.width};
    }
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
    case Op::fma:
    case Op::dot: {
      Value s[3];
      int depth = 0, width = 1;
      for (size_t i = 0; i < 3; ++i) {
        s[i] = emit(node->src(i));
        depth = std::max(depth, s[i].depth);
        width = std::max(width, s[i].width);
      }
      std::string v[3];
      for (size_t i = 0; i < 3; ++i) v[i] = widened(s[i], node->src(i)->type, width);
      return {node->op == Op::fma ? fma(node->type, width, depth, v[0], v[1], v[2])
                                  : dot(node->type, width, depth, v[0], v[1], v[2]),
              depth, width};
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

}  // namespace sporkle::codegen::llvm
