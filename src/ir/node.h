// The kernel IR: one immutable node type for index arithmetic, loads, stores, loops and reductions.
//
// A Context owns its nodes in an arena and interns them: two structurally equal nodes are the same pointer, so common
// subexpressions exist once and maps are keyed by pointer. Nodes live as long as their Context. A Context belongs to
// one thread at a time; nodes that nobody adds to any more may be read from any number of threads.
//
// What a kernel means is defined by the interpreter (ir/interpreter.h); every backend is tested against it.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <deque>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace sporkle::ir {

// `none` is the type of statements. f16 and bf16 are formats for storage: loaded, stored, selected and cast, no
// arithmetic. In a buffer a boolean is a byte: any but 0 is true, and true is stored as 1.
enum class DType : uint8_t { none, boolean, i8, u8, i32, u32, i64, u64, f16, bf16, f32, f64 };

std::string_view dtype_name(DType type);
// Bytes of one element in a buffer (a boolean takes one); 0 for none.
int dtype_size(DType type);
inline bool is_float(DType t) { return t >= DType::f16; }
inline bool is_integer(DType t) { return t >= DType::i8 && t <= DType::u64; }
inline bool is_signed(DType t) { return t == DType::i8 || t == DType::i32 || t == DType::i64; }

enum class Op : uint8_t {
  // Leaves.
  constant,  // value: the bits (an f32 constant holds the bits of the f32; integers are sign- or zero-extended)
  scalar,    // a scalar argument of the kernel; value: its index among the scalars
  buffer,    // a buffer argument of the kernel; value: its index among the buffers; type: of one element
  scratch,   // memory private to one iteration of the thread loop, undefined at its start; sources: element count (i64,
             // of scalars and constants alone); value: its number
  range,     // a loop index, i64, from 0 to extent - 1; sources: extent; value: its number, RangeKind in `attribute`

  // Arithmetic; operands and result have one type. Integers wrap; integer division truncates, by zero it gives 0 (and
  // mod gives 0). Shift counts are taken modulo the width; shr is arithmetic for signed types.
  add,
  sub,
  mul,
  div,
  mod,  // integers only; the sign of the dividend
  neg,
  min,  // min(a, b) = a < b or a is NaN ? a : b, and the mirror image for max: a NaN on either side wins
  max,
  fma,  // a * b + c, rounded once; floats only
  // Packed numbers: a and b are u32, c has the result's type, which says what is packed.
  //   f32: two bf16, the first in the low half: fma(a1, b1, fma(a0, b0, c)). Processors have instructions for it that
  //        round otherwise and take denormals for zero, so it exists in `fast` kernels alone.
  //   i32: four bytes, the first lowest, unsigned in a and signed in b: c + a0 b0 + a1 b1 + a2 b2 + a3 b3, wrapping.
  dot,
  sqrt,  // correctly rounded
  abs,
  floor,
  bit_and,  // integers and booleans
  bit_or,
  bit_xor,
  shl,
  shr,

  // Comparisons give a boolean. Floats: less, less_equal and equal are false, not_equal is true, on NaN.
  less,
  less_equal,
  equal,
  not_equal,

  select,  // boolean ? a : b
  // Float to integer truncates and saturates, NaN gives 0; integer to float and narrowing floats round to nearest even;
  // between integers the value wraps; to boolean: x != 0. f16 and bf16 convert to and from f32; their other casts go
  // through f32.
  cast,
  bitcast,  // same size; no booleans

  // Mathematical functions; f32 and f64. Each is defined by its expansion in ir/math.h, the same bits everywhere.
  exp,
  log,
  tanh,
  sin,
  cos,
  erf,    // the error function
  rsqrt,  // 1 / sqrt(x)

  // Memory. Sources: buffer or scratch, index (i64, in elements) [, mask (boolean), otherwise]. Where the mask is false
  // nothing is read and the value is `otherwise`.
  load,

  // reduce: sources init, range, x (for Combine::fma and dot: init, range, a, b). The range must be opened by no loop.
  //   lanes = 1: acc = init; for k: acc = combine(acc, x(k))                       [fma: acc = fma(a(k), b(k), acc); so
  //   dot]
  //   lanes = L: acc[l] = identity; for k: acc[k % L] = combine(acc[k % L], x(k)), then lane_reduce over l, then
  //              combine(init, that)                                               [not for fma and dot]
  // The identity is -0.0 for add, -infinity (or the lowest integer) for max, +infinity (or the highest) for min.
  reduce,
  // lane_reduce: sources value, vector range of extent W = a power of two. v[l] is the value with the range bound to l;
  // for w = W/2, W/4 .. 1: v[l] = combine(v[l], v[l + w]) for l < w; the result is v[0].
  lane_reduce,

  // Statements (type none).
  store,        // buffer or scratch, index, value [, mask]
  loop,         // range, statements...: iterations are independent of each other and may run in any order
  serial_loop,  // the same, in order
  block,        // statements, in order
  together,     // stores: every index, value and mask is read before any of them writes
};

std::string_view op_name(Op op);

enum class Combine : uint8_t { add, max, min, fma, dot };
enum class RangeKind : uint8_t {
  serial,  // an ordinary loop, or a reduction's
  thread,  // iterations are spread over threads: the outermost loop of a kernel, at most one
  vector,  // constant extent: all iterations run at once as one vector; made by lowering
  // Constant extent: the iterations are the invocations of a GPU's workgroup, which runs one iteration of the thread
  // loop. A loop over it stands in no other of its kind; what one such loop stores, the next one may read. Scratch that
  // such loops reach only at `constant * extent + index` is each invocation's own, in registers.
  invocation,
};

std::string_view combine_name(Combine combine);
std::string_view range_kind_name(RangeKind kind);

struct Node {
  Op op;
  DType type;
  uint8_t attribute;  // Combine of a reduction, RangeKind of a range
  uint8_t lanes;      // of a reduce
  uint32_t id;        // order of creation in its Context, for deterministic iteration and printing
  int64_t value;
  const Node* const* sources;
  uint32_t source_count;
  std::string_view name;  // of scalars, buffers, scratch and ranges

  std::span<const Node* const> src() const { return {sources, source_count}; }
  const Node* src(size_t i) const { return sources[i]; }
  Combine combine() const { return static_cast<Combine>(attribute); }
  RangeKind range_kind() const { return static_cast<RangeKind>(attribute); }
  bool is_constant() const { return op == Op::constant; }
  bool is_constant(int64_t v) const { return op == Op::constant && value == v; }
  bool is_statement() const { return type == DType::none; }
};

class Context {
 public:
  Context() = default;
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  // The interned node with exactly these parts; checks and simplifies nothing (the verifier checks; Builder
  // simplifies).
  const Node* make(Op op, DType type, std::span<const Node* const> sources, int64_t value = 0, uint8_t attribute = 0,
                   uint8_t lanes = 0, std::string_view name = {});
  const Node* make(Op op, DType type, std::initializer_list<const Node*> sources, int64_t value = 0,
                   uint8_t attribute = 0, uint8_t lanes = 0, std::string_view name = {}) {
    return make(op, type, std::span(sources.begin(), sources.size()), value, attribute, lanes, name);
  }
  // A number no range or scratch of this Context has yet.
  int64_t next_number() { return ++last_number_; }
  // The text form's reader keeps numbers: later ones start above `number`.
  void reserve_number(int64_t number) { last_number_ = std::max(last_number_, number); }
  size_t size() const { return nodes_.size(); }

 private:
  struct Hash {
    size_t operator()(const Node* node) const;
  };
  struct Equal {
    bool operator()(const Node* a, const Node* b) const;
  };
  std::deque<Node> nodes_;
  std::deque<std::vector<const Node*>> source_lists_;
  std::deque<std::string> names_;
  std::unordered_set<const Node*, Hash, Equal> interned_;
  int64_t last_number_ = 0;
};

// Node-to-node map: the memo of a rewriting pass.
using NodeMap = std::unordered_map<const Node*, const Node*>;

// ---- Constants ----
// The bits that a constant of this type holds in Node::value for a number (rounded to the type).
int64_t constant_bits(DType type, double number);
int64_t constant_bits_integer(DType type, int64_t number);
// The number a constant node holds.
double constant_number(const Node* node);

}  // namespace sporkle::ir
