// The emitter's machinery; emitter.h says how it works. Internal to codegen/llvm.
//
// values.cc      what is emitted once and where
// arithmetic.cc  operations of scalars and vectors
// casts.cc       conversions between types
// dot.cc         dot products of packed numbers
// memory.cc      loads and stores
// transpose.cc   loads of vectors that run across memory
// loops.cc       loops, reductions, statements
// emitter.cc     the module around them
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "codegen/cpu_target.h"
#include "codegen/llvm/analysis.h"
#include "lower/lower.h"

namespace sporkle::codegen::llvm {

using ir::DType;
using ir::Node;
using ir::Op;

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
  Emitter(const lower::Lowered& lowered, const CpuTarget& target)
      : kernel_(lowered.kernel),
        target_(target),
        unroll_(lowered.unroll),
        streamed_(lowered.streamed),
        analysis_(lowered.kernel) {}

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
  // A value of another type; `a` has `width` lanes.
  std::string cast(DType to, DType from, int width, int depth, const std::string& a);
  std::string float_to_half(int width, int depth, const std::string& a);
  std::string half_to_float(int width, int depth, const std::string& a);
  std::string float_to_bfloat16(int width, int depth, const std::string& a);
  std::string bfloat16_to_float(int width, int depth, const std::string& a);
  // a * b + c; in `fast` kernels in two roundings where the processor has no fused instruction.
  std::string fma(DType type, int width, int depth, const std::string& a, const std::string& b, const std::string& c);
  // c and the products of the parts of a and b (see ir/node.h).
  std::string dot(DType type, int width, int depth, const std::string& a, const std::string& b, const std::string& c);
  std::string dot_of_register(DType type, int width, int depth, const std::string& a, const std::string& b,
                              const std::string& c);
  std::string dot_of_pairs(int width, int depth, const std::string& a, const std::string& b, const std::string& c);
  std::string dot_of_bytes(int width, int depth, const std::string& a, const std::string& b, const std::string& c);
  // Lanes [first, first + count) of a vector.
  std::string part_of(DType type, int width, int depth, const std::string& a, int first, int count);
  bool is_every_second(const Node* coefficient, const Node* access);
  std::string every_second_flag(const std::string& flags, int width, int half, int depth);
  Value emit_load(const Node* node);
  Value emit_lane_reduce(const Node* node);
  void emit_reductions(const std::vector<const Node*>& group);

  // A load whose lanes lie `stride` elements apart, of memory that the kernel only reads.
  struct Column {
    const Node* load;
    const Node* lane;    // the vector range
    const Node* stride;  // does not depend on it
    int width;
  };
  std::optional<Column> column_of(const Node* load);
  // Those among the loads that `roots` want and that are not there yet; what reductions' bodies load is left out.
  std::vector<const Node*> columns_below(std::span<const Node* const> roots);
  // Whether the next index of `range` asks for the column next to this one.
  bool runs_along(const Column& column, const Node* range);
  // `first` and the columns next to it, as many as it has lanes.
  std::vector<std::string> transposed_tile(const Column& first);
  // Loads the columns that `stores` want and that together make tiles.
  void load_tiles(std::span<const Node* const> stores);

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
    bool contiguous;    // the lanes' elements lie side by side
    bool every_second;  // or two apart, see is_every_second
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
  const CpuTarget target_;
  const std::unordered_map<const Node*, int>& unroll_;
  const std::set<std::string, std::less<>>& streamed_;  // names of ranges; see lower::Lowered
  Analysis analysis_;
  std::vector<std::unique_ptr<Scope>> scopes_;
  std::vector<const Node*> scratches_;
  std::unordered_map<const Node*, std::string> base_pointers_;
  std::set<std::string> declarations_;
  int counter_ = 0;
  Status status_;
};

}  // namespace sporkle::codegen::llvm
