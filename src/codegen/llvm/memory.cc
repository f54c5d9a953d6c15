// Loads and stores.
#include <algorithm>

#include "codegen/llvm/function_emitter.h"
#include "codegen/llvm/text.h"

namespace sporkle::codegen::llvm {

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

// Whether lanes lie two elements apart and are worth two contiguous accesses with a shuffle: a gather or a scatter
// takes each element by itself.
bool Emitter::is_every_second(const Node* coefficient, const Node* access) {
  const DType type = access->src(0)->type;
  return coefficient->is_constant(2) && analysis_.width(access) >= 4 && (type == DType::f32 || type == DType::f64);
}

// Which lanes of one half of an access to every second element are in use: nothing is touched beyond the last.
std::string Emitter::every_second_flag(const std::string& flags, int width, int half, int depth) {
  const std::string type = value_type(DType::boolean, width);
  const int first = half * width / 2;
  return define(depth, "shufflevector " + type + " " + flags + ", " + type + " zeroinitializer, " +
                           lane_picture(width, [&](int i) { return i % 2 == 0 ? first + i / 2 : width; }));
}

Value Emitter::emit_load(const Node* node) {
  const Node *buffer = node->src(0), *index = node->src(1);
  const bool masked = node->source_count > 2;
  const Node* lane = analysis_.vector_range(index);
  const Node* coefficient = lane ? analysis_.lane_coefficient(index, lane) : nullptr;
  const bool contiguous = lane && coefficient && coefficient->is_constant(1);
  const int width = analysis_.width(node);
  const std::string align = std::to_string(ir::dtype_size(buffer->type));
  // Every second element: two loads and a shuffle, where a gather takes each element by itself.
  const bool every_second = lane && coefficient && is_every_second(coefficient, node);
  const Value where = emit(contiguous || every_second ? analysis_.at_lane_zero(index, lane) : index);
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
  if (every_second) {
    // Masked, so that nothing is read beyond the last element.
    const std::string name = "@llvm.masked.load." + suffix + ".p0", start = address(buffer, where, depth);
    declare("declare " + type + " " + name + "(ptr, i32 immarg, " + flag_type + ", " + type + ")");
    std::string halves[2];
    for (const int half : {0, 1}) {
      const std::string wanted = every_second_flag(flags, width, half, depth);
      const std::string pointer = define(depth, "getelementptr " + memory_type(buffer->type, 1) + ", ptr " + start +
                                                    ", i64 " + std::to_string(half * width));
      halves[half] = define(depth, "call " + type + " " + name + "(ptr " + pointer + ", i32 " + align + ", " +
                                       flag_type + " " + wanted + ", " + type + " zeroinitializer)");
    }
    const std::string even = define(depth, "shufflevector " + type + " " + halves[0] + ", " + type + " " + halves[1] +
                                               ", " + lane_picture(width, [](int i) { return 2 * i; }));
    if (!masked) return from_memory(even, width);
    return from_memory(define(depth, "select " + flag_type + " " + flags + ", " + type + " " + even + ", " + fallback),
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
  const bool every_second = lane && coefficient && is_every_second(coefficient, node);
  const Value value = emit(node->src(2));
  const Value mask = node->source_count > 3 ? emit(node->src(3)) : Value{"true", 0, 1};
  const Value where = emit(contiguous || every_second ? analysis_.at_lane_zero(index, lane) : index);
  return {node, contiguous, every_second, value, mask, where};
}

void Emitter::emit_write(const Write& write) {
  const auto& [node, contiguous, every_second, value, mask, where] = write;
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
      const bool streams = streamed_.contains(analysis_.vector_range(node->src(1))->name);
      const std::string whole = std::to_string(width * static_cast<int>(ir::dtype_size(buffer->type)));
      line(depth, "store " + type + " " + text + ", ptr " + address(buffer, where, depth) + ", align " +
                      (streams ? whole + ", !nontemporal !{i32 1}" : align));
    } else if (contiguous) {
      const std::string name = "@llvm.masked.store." + suffix + ".p0";
      declare("declare void " + name + "(" + type + ", ptr, i32 immarg, " + flag_type + ")");
      line(depth, "call void " + name + "(" + type + " " + text + ", ptr " + address(buffer, where, depth) + ", i32 " +
                      align + ", " + flag_type + " " + flags + ")");
    } else if (every_second) {
      const std::string name = "@llvm.masked.store." + suffix + ".p0", start = address(buffer, where, depth);
      declare("declare void " + name + "(" + type + ", ptr, i32 immarg, " + flag_type + ")");
      for (const int half : {0, 1}) {
        const int first = half * width / 2;
        const std::string spread = define(depth, "shufflevector " + type + " " + text + ", " + type + " " + text +
                                                     ", " + lane_picture(width, [&](int i) { return first + i / 2; }));
        const std::string wanted = every_second_flag(flags, width, half, depth);
        const std::string pointer = define(depth, "getelementptr " + memory_type(buffer->type, 1) + ", ptr " + start +
                                                      ", i64 " + std::to_string(half * width));
        line(depth, "call void " + name + "(" + type + " " + spread + ", ptr " + pointer + ", i32 " + align + ", " +
                        flag_type + " " + wanted + ")");
      }
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

}  // namespace sporkle::codegen::llvm
