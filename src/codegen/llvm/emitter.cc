#include "codegen/llvm/emitter.h"

#include <algorithm>

#include "codegen/cpu_abi.h"
#include "codegen/llvm/function_emitter.h"

namespace sporkle::codegen::llvm {

using ir::RangeKind;

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
    if (node->op == Op::scratch) scratches_.push_back(node);
    if (node->op == Op::range && node->range_kind() == RangeKind::thread) thread_range = node;
  });
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
  // Streamed stores are ordered with nothing that follows until a fence says so.
  if (!streamed_.empty()) line(0, "fence seq_cst");
  line(0, "ret void");
  std::string functions = "define void @" + std::string(kKernelSymbol) +
                          "(ptr %buffers, ptr %scalars, ptr %scratch, i64 %begin, i64 %end) #0 {\nentry:\n" +
                          scope(0).text + "}\n\n";
  functions += scalar_function(kThreadExtentSymbol, thread_range ? thread_range->src(0) : b.integer(1));
  functions += scalar_function(kScratchBytesSymbol, scratch_bytes);
  SPORKLE_RETURN_IF_ERROR(status_);
  SPORKLE_RETURN_IF_ERROR(analysis_.status());

  std::string text = "target triple = \"" + std::string(target_.triple()) + "\"\n\n";
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
  text += target_.is_x86()
              ? "\nattributes #0 = { nounwind \"min-legal-vector-width\"=\"512\" \"prefer-vector-width\"=\"512\" }\n"
              : "\nattributes #0 = { nounwind }\n";
  return text;
}

Result<std::string> emit(const lower::Lowered& lowered, const CpuTarget& target) {
  return Emitter(lowered, target).module();
}

}  // namespace sporkle::codegen::llvm
