// The lazy graph under tensor/tensor.h: one node type. Internal to this layer and to nothing above it.
//
// A node is immutable but for its result: realize() gives it storage. Nodes are shared by the tensors and nodes that
// use them; a Context's nodes belong to one thread at a time.
#pragma once

#include <functional>
#include <memory>
#include <source_location>
#include <string>
#include <vector>

#include "hal/device.h"
#include "ir/node.h"
#include "tensor/shape.h"

namespace sporkle::tensor {

using ir::DType;
class Context;
class Tensor;
struct Node;
using NodeRef = std::shared_ptr<Node>;

enum class Op : uint8_t {
  error,  // carries a Status instead of a value; everything made from it is an error too

  // Sources.
  leaf,      // data from outside, or a result that forgot where it came from
  constant,  // one number in every element; a run-time scalar of kernels
  index,     // i32: the index along one axis

  // Pointwise: one element of each input (all of the result's shape) gives one element. Table: pointwise.cc.
  copy,
  neg,
  sqrt,
  abs,
  floor,
  exp,
  log,
  tanh,
  sin,
  cos,
  erf,
  rsqrt,
  gelu,
  cast,
  add,
  sub,
  mul,
  div,
  min,
  max,
  less,
  less_equal,
  equal,
  not_equal,
  logical_and,
  logical_or,
  where,
  fma,
  uniform,  // random numbers; see random.h
  normal,

  // Movements: the same elements seen in another way. Nothing is copied.
  reshape,
  permute,
  expand,
  slice,
  detach,
  pad,  // a movement that adds zeros; read under a mask

  // Each runs in a kernel of its own, which pointwise operations may join.
  reduce,
  matmul,
  call,    // a kernel call; its results are the `output` nodes made from it
  output,  // result `number` of input 0, a call
  pack,    // the inputs one after the other (pack_offsets); most are computed where they lie in it
};

inline bool is_pointwise(Op op) { return op >= Op::copy && op <= Op::normal; }
inline bool is_movement(Op op) { return op >= Op::reshape && op <= Op::detach; }

// Device memory that goes back to its Context's pool; without a Context, a stand-in for memory that a plan has yet to
// place.
class Storage {
 public:
  Storage(Context* context, hal::BufferRef buffer) : context_(context), buffer_(std::move(buffer)) {}
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;
  const hal::BufferRef& buffer() const { return buffer_; }

  // Scratch of the planner, valid while `epoch` is its own.
  uint64_t epoch = 0;
  int plan_index = -1;

 private:
  Context* context_;
  hal::BufferRef buffer_;
};

struct KernelCall;

struct Node {
  Op op = Op::leaf;
  DType dtype = DType::none;
  Shape shape;
  Context* context = nullptr;
  std::vector<NodeRef> inputs;

  // permute: the permutation; slice: starts; pad: elements before. reduce: {first axis, one past the last} of a run.
  Dims dims;
  // constant: the bits of its value; index: the axis; reduce: ir::Combine; output: which; uniform, normal: RandomKey
  // bits.
  uint64_t number = 0;
  std::shared_ptr<const KernelCall> call;    // of a call
  std::vector<std::weak_ptr<Node>> outputs;  // of a call
  std::unique_ptr<Status> error;
  std::source_location source;  // the line of user code that asked for it; for profiles alone

  // The result, row-major, where it exists.
  std::shared_ptr<Storage> storage;

  // Scratch of the planner and of autograd, valid while `epoch` is theirs.
  uint64_t epoch = 0;
  int plan_index = -1;
  // Of a constant, a random number or a call, while a graph is planned: the place of its number (of its scalars) among
  // those that a plan takes anew at every run (plan.h); -1: the plan is made for this value.
  int run_time = -1;
  // While a graph is planned: the place on the way forward; -1: on the way back (passes/recompute.cc).
  int position = -1;
  bool gradient = false;    // made by grad()
  bool recomputed = false;  // a second time, to save memory

  Node() = default;
  ~Node();
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  int64_t count() const { return element_count(shape); }
};

// Where an element of a strided view lies, in elements of the base.
struct View {
  int64_t offset = 0;
  Strides strides;
};

// The view after one more movement (or pad, whose added elements lie outside the base). False when a reshape has no
// strides for it.
bool apply_movement(const Node& movement, View* view);

// The node at the end of the movements that start at `node`, and how `node` sees its row-major elements. reshape()
// takes care that such a view always exists.
Node* resolve(Node* node, View* view);

}  // namespace sporkle::tensor
