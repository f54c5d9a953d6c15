// A fused expression: what one kernel computes for each element of its loops, from leaves that are affine in the loop
// indices. Internal.
//
// Reading through a movement costs nothing: the movements between a leaf and the loops are composed into the leaf's
// strides. Loops over neighbouring axes merge where every leaf allows it. What remains, without extents and strides, is
// the kernel's structure: key() names it, and kernels with equal keys are one compiled kernel.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "dsl/kernel.h"
#include "tensor/scalars.h"

namespace sporkle::tensor {

struct Leaf {
  enum class Kind : uint8_t {
    load,         // an element of `base`
    index,        // the affine value itself, i64
    scalar,       // a run-time number
    accumulator,  // the product that an epilogue starts from
  };
  Kind kind;
  DType dtype;
  Node* base = nullptr;
  View view;                // of load and index, over the loops
  uint64_t bits = 0;        // of scalar
  int mask = -1;            // of load: the value that says whether to read; elsewhere the leaf is 0
  int64_t stride_unit = 1;  // of load and index: run-time strides are known to be multiples of it
  // Of scalar: which number of the graph it is, if a plan takes that anew at every run (Node::run_time).
  int run_time = -1;
  NumberPart part = NumberPart::whole;
};

struct Instruction {
  Op op;  // a pointwise operation, or Op::leaf
  DType dtype;
  std::array<int, 3> arguments{-1, -1, -1};  // earlier instructions
  int leaf = -1;
};

class Program {
 public:
  std::vector<Leaf> leaves;
  std::vector<Instruction> code;
  int result = -1;
  Shape loops;

  // Builds the expression of `root`, over its own shape; nodes that `stored` accepts are leaves. On failure returns the
  // node that must be stored for it to succeed.
  Node* build(Node* root, const std::function<bool(const Node*)>& stored);

  int cost() const;

  // Moves every access `steps` elements on along an axis of the loops.
  void shift(int axis, int64_t steps);
};

// Merges neighbouring axes of loops where every access moves through both as through one, and drops those of extent 1.
// The accesses have as many strides as there are axes, before and after.
void merge_loops(Shape* extents, std::span<Strides* const> accesses);

// How an access moves with each loop: not at all, by 1, by 2 (with the innermost alone), or by a run-time stride.
std::string stride_classes(const Strides& strides);

// Whether every run-time stride is a multiple of `unit`.
bool has_stride_unit(const Strides& strides, int64_t unit);

// Declares a scalar for every run-time stride, in units of `unit`; append_strides gives their values.
std::vector<dsl::Expr> declare_strides(dsl::KernelBuilder& k, const Strides& strides, std::string_view name,
                                       int64_t unit = 1);
void append_strides(const Strides& strides, std::vector<uint64_t>* scalars, int64_t unit = 1);
void append_strides(const Strides& strides, Scalars* scalars, int64_t unit = 1);

// A program as kernel code: the arguments declared once, the expression evaluated wherever loop indices are given.
class ProgramCode {
 public:
  // What of `program` shapes a kernel; all that declare() and evaluate() look at.
  static std::string key(const Program& program);

  // `prefix` tells the arguments' names from those of a kernel's other programs.
  explicit ProgramCode(const Program& program, std::string prefix = "in")
      : program_(&program), prefix_(std::move(prefix)) {}
  // Declares the input buffers (loads, in order).
  void declare_buffers(dsl::KernelBuilder& k);
  void declare_scalars(dsl::KernelBuilder& k);
  dsl::Expr evaluate(dsl::KernelBuilder& k, std::span<const dsl::Expr> indices, const dsl::Expr* accumulator = nullptr);

  // The arguments for one launch, in the order of the declarations.
  static void append_bindings(const Program& program, std::vector<hal::Binding>* bindings);
  static void append_scalars(const Program& program, Scalars* scalars);

 private:
  struct LeafArguments {
    std::vector<dsl::Buffer> buffer;  // none or one
    dsl::Expr scalar;                 // of a scalar; the offset of an index or a masked load
    std::vector<dsl::Expr> strides;   // one for each loop that needs one
  };
  const Program* program_;
  std::string prefix_;
  std::vector<LeafArguments> arguments_;
};

// sum(stride_i * index_i), with `scalars` for the run-time strides.
dsl::Expr affine(const Strides& strides, std::span<const dsl::Expr> scalars, std::span<const dsl::Expr> indices);

}  // namespace sporkle::tensor
