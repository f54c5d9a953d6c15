#include "tensor/program.h"

#include <cassert>

#include "tensor/pointwise.h"

namespace sporkle::tensor {
namespace {

// Builds one Program. A chain is the list of movements between a node and the loops, as links from the node outwards;
// nodes are built once for each chain and mask that reads them, and equal instructions are one.
class ProgramBuilder {
 public:
  ProgramBuilder(Program* program, const std::function<bool(const Node*)>& stored)
      : program_(program), stored_(stored) {}

  int value(Node* node, int chain, int mask) {
    while (is_movement(node->op) && !(node->storage)) {
      chain = extend(chain, node);
      node = node->inputs[0].get();
    }
    for (const Memo& memo : memo_)
      if (memo.node == node && memo.chain == chain && memo.mask == mask) return memo.value;
    const int result = compute(node, chain, mask);
    if (result >= 0) memo_.push_back({node, chain, mask, result});
    return result;
  }

  Node* must_store() const { return must_store_; }

 private:
  struct Link {
    const Node* movement;
    int outer;
  };
  struct Memo {
    const Node* node;
    int chain, mask, value;
  };

  int extend(int chain, const Node* movement) {
    for (size_t i = 0; i < links_.size(); ++i)
      if (links_[i].movement == movement && links_[i].outer == chain) return static_cast<int>(i);
    links_.push_back({movement, chain});
    return static_cast<int>(links_.size() - 1);
  }

  bool compose(int chain, View* view) {
    for (int link = chain; link >= 0; link = links_[static_cast<size_t>(link)].outer) {
      const Node* movement = links_[static_cast<size_t>(link)].movement;
      if (apply_movement(*movement, view)) continue;
      Node* node = movement->inputs[0].get();
      while (is_movement(node->op)) node = node->inputs[0].get();
      must_store_ = node;
      return false;
    }
    return true;
  }

  int compute(Node* node, int chain, int mask) {
    if (stored_(node)) {
      Leaf leaf{Leaf::Kind::load, node->dtype, node, {0, contiguous_strides(node->shape)}, 0, mask};
      return compose(chain, &leaf.view) ? add_leaf(leaf) : -1;
    }
    switch (node->op) {
      case Op::constant:
        return add_scalar(node->dtype, node->number, node->run_time);
      case Op::index: {
        const int position = axis_index(node->shape, static_cast<int>(node->number), chain);
        return position < 0 ? -1 : add(Op::cast, DType::i32, {position, -1, -1});
      }
      case Op::uniform:
      case Op::normal: {
        Leaf leaf{Leaf::Kind::index, DType::i64, nullptr, {0, contiguous_strides(node->shape)}};
        if (!compose(chain, &leaf.view)) return -1;
        const int position = add_leaf(leaf);
        const int counter = add_scalar(DType::u32, node->number >> 32, node->run_time, NumberPart::high);
        const int key = add_scalar(DType::u32, node->number & 0xFFFFFFFF, node->run_time, NumberPart::low);
        return add(node->op, node->dtype, {position, counter, key});
      }
      case Op::pad:
        return compute_pad(node, chain, mask);
      default:
        break;
    }
    assert(is_pointwise(node->op));
    std::array<int, 3> arguments{-1, -1, -1};
    for (size_t i = 0; i < node->inputs.size(); ++i) {
      arguments[i] = value(node->inputs[i].get(), chain, mask);
      if (arguments[i] < 0) return -1;
    }
    return node->op == Op::copy ? arguments[0] : add(node->op, node->dtype, arguments);
  }

  int compute_pad(Node* node, int chain, int mask) {
    int inside = -1;
    const Shape& from = node->inputs[0]->shape;
    for (int axis = 0; axis < from.rank(); ++axis) {
      const int64_t begin = node->dims[axis], end = begin + from[axis];
      if (from[axis] == node->shape[axis]) continue;
      const int position = axis_index(node->shape, axis, chain);
      if (position < 0) return -1;
      if (begin > 0)
        inside = both(inside, add(Op::less_equal, DType::boolean,
                                  {add_scalar(DType::i64, static_cast<uint64_t>(begin)), position, -1}));
      if (end < node->shape[axis])
        inside = both(
            inside, add(Op::less, DType::boolean, {position, add_scalar(DType::i64, static_cast<uint64_t>(end)), -1}));
    }
    const int inner = value(node->inputs[0].get(), extend(chain, node), both(mask, inside));
    if (inner < 0) return -1;
    const Instruction& made = program_->code[static_cast<size_t>(inner)];
    if (made.leaf >= 0 && program_->leaves[static_cast<size_t>(made.leaf)].mask >= 0) return inner;  // zero already
    return add(Op::where, node->dtype, {inside, inner, add_scalar(node->dtype, 0)});
  }

  int both(int a, int b) { return a < 0 ? b : b < 0 ? a : add(Op::logical_and, DType::boolean, {a, b, -1}); }

  int axis_index(const Shape& shape, int axis, int chain) {
    Leaf leaf{Leaf::Kind::index, DType::i64, nullptr, {0, Dims::filled(shape.rank(), 0)}};
    leaf.view.strides[axis] = 1;
    return compose(chain, &leaf.view) ? add_leaf(leaf) : -1;
  }

  int add_scalar(DType dtype, uint64_t bits, int run_time = -1, NumberPart part = NumberPart::whole) {
    Leaf leaf{Leaf::Kind::scalar, dtype};
    leaf.bits = bits;
    leaf.run_time = run_time;
    leaf.part = part;
    return add_leaf(leaf);
  }

  int add_leaf(const Leaf& leaf) {
    for (size_t i = 0; i < program_->code.size(); ++i) {
      const int number = program_->code[i].leaf;
      if (number < 0) continue;
      const Leaf& other = program_->leaves[static_cast<size_t>(number)];
      if (other.kind == leaf.kind && other.dtype == leaf.dtype && other.base == leaf.base && other.bits == leaf.bits &&
          other.run_time == leaf.run_time && other.part == leaf.part && other.mask == leaf.mask &&
          other.view.offset == leaf.view.offset && other.view.strides == leaf.view.strides)
        return static_cast<int>(i);
    }
    program_->leaves.push_back(leaf);
    Instruction instruction{Op::leaf, leaf.dtype};
    instruction.leaf = static_cast<int>(program_->leaves.size() - 1);
    program_->code.push_back(instruction);
    return static_cast<int>(program_->code.size() - 1);
  }

  int add(Op op, DType dtype, std::array<int, 3> arguments) {
    for (size_t i = 0; i < program_->code.size(); ++i) {
      const Instruction& other = program_->code[i];
      if (other.op == op && other.dtype == dtype && other.arguments == arguments) return static_cast<int>(i);
    }
    program_->code.push_back({op, dtype, arguments});
    return static_cast<int>(program_->code.size() - 1);
  }

  Program* program_;
  const std::function<bool(const Node*)>& stored_;
  std::vector<Link> links_;
  std::vector<Memo> memo_;
  Node* must_store_ = nullptr;
};

// 0 and 1, and every second element along the innermost axis, are known to the code.
bool is_run_time(const Strides& strides, int axis) {
  const int64_t stride = strides[axis];
  return stride != 0 && stride != 1 && !(stride == 2 && axis == strides.rank() - 1);
}

}  // namespace

Node* Program::build(Node* root, const std::function<bool(const Node*)>& stored) {
  leaves.clear();
  code.clear();
  loops = root->shape;
  ProgramBuilder builder(this, stored);
  result = builder.value(root, -1, -1);
  return result < 0 ? builder.must_store() : nullptr;
}

int Program::cost() const {
  int total = 0;
  for (const Instruction& instruction : code)
    if (instruction.op != Op::leaf) total += pointwise_row(instruction.op).cost;
  return total;
}

void Program::shift(int axis, int64_t steps) {
  for (Leaf& leaf : leaves)
    if (leaf.kind == Leaf::Kind::load || leaf.kind == Leaf::Kind::index)
      leaf.view.offset += steps * leaf.view.strides[axis];
}

void merge_loops(Shape* extents, std::span<Strides* const> accesses) {
  Shape merged;
  for (int i = 0; i < extents->rank(); ++i) {
    const int64_t extent = (*extents)[i];
    if (extent == 1) continue;
    const int last = merged.rank() - 1;
    bool joins = last >= 0;
    for (const Strides* access : accesses) joins = joins && (*access)[last] == (*access)[i] * extent;
    const int to = joins ? last : last + 1;
    if (joins)
      merged[last] *= extent;
    else
      merged.push_back(extent);
    for (Strides* access : accesses) (*access)[to] = (*access)[i];
  }
  *extents = merged;
  for (Strides* access : accesses) *access = Dims(std::span(access->begin(), static_cast<size_t>(merged.rank())));
}

std::string stride_classes(const Strides& strides) {
  std::string classes;
  for (int i = 0; i < strides.rank(); ++i)
    classes += is_run_time(strides, i) ? 's' : static_cast<char>('0' + strides[i]);
  return classes;
}

bool has_stride_unit(const Strides& strides, int64_t unit) {
  for (int i = 0; i < strides.rank(); ++i)
    if (is_run_time(strides, i) && strides[i] % unit != 0) return false;
  return true;
}

std::vector<dsl::Expr> declare_strides(dsl::KernelBuilder& k, const Strides& strides, std::string_view name,
                                       int64_t unit) {
  std::vector<dsl::Expr> scalars;
  for (int i = 0; i < strides.rank(); ++i)
    if (is_run_time(strides, i)) scalars.push_back(k.size(std::string(name) + "_stride" + std::to_string(i)) * unit);
  return scalars;
}

void append_strides(const Strides& strides, std::vector<uint64_t>* scalars, int64_t unit) {
  for (int i = 0; i < strides.rank(); ++i)
    if (is_run_time(strides, i)) scalars->push_back(static_cast<uint64_t>(strides[i] / unit));
}

void append_strides(const Strides& strides, Scalars* scalars, int64_t unit) {
  append_strides(strides, &scalars->bits, unit);
}

dsl::Expr affine(const Strides& strides, std::span<const dsl::Expr> scalars, std::span<const dsl::Expr> indices) {
  dsl::Expr sum(0);
  size_t next = 0;
  for (int i = 0; i < strides.rank(); ++i) {
    const dsl::Expr position = indices[static_cast<size_t>(i)];
    if (strides[i] == 1) sum = sum + position;
    if (strides[i] == 2 && !is_run_time(strides, i)) sum = sum + position * 2;
    if (is_run_time(strides, i)) sum = sum + position * scalars[next++];
  }
  return sum;
}

std::string ProgramCode::key(const Program& program) {
  std::string key;
  key.reserve(32 * program.code.size());
  for (const Leaf& leaf : program.leaves) {
    key += static_cast<char>('a' + static_cast<int>(leaf.kind));
    key += ir::dtype_name(leaf.dtype);
    if (leaf.kind == Leaf::Kind::load || leaf.kind == Leaf::Kind::index) key += ':' + stride_classes(leaf.view.strides);
    if (leaf.stride_unit > 1) key += '*' + std::to_string(leaf.stride_unit);
    if (leaf.mask >= 0) key += '?' + std::to_string(leaf.mask);
    key += ' ';
  }
  key += '|';
  for (const Instruction& instruction : program.code) {
    if (instruction.op == Op::leaf) {
      key += " $" + std::to_string(instruction.leaf);
      continue;
    }
    key += ' ';
    key += pointwise_row(instruction.op).name;
    key += '.';
    key += ir::dtype_name(instruction.dtype);
    for (const int argument : instruction.arguments)
      if (argument >= 0) key += ',' + std::to_string(argument);
  }
  key += " =" + std::to_string(program.result);
  return key;
}

void ProgramCode::declare_buffers(dsl::KernelBuilder& k) {
  arguments_.resize(program_->leaves.size());
  for (size_t i = 0; i < arguments_.size(); ++i)
    if (program_->leaves[i].kind == Leaf::Kind::load)
      arguments_[i].buffer.push_back(k.input(program_->leaves[i].dtype, prefix_ + std::to_string(i)));
}

void ProgramCode::declare_scalars(dsl::KernelBuilder& k) {
  for (size_t i = 0; i < arguments_.size(); ++i) {
    const Leaf& leaf = program_->leaves[i];
    const std::string name = prefix_ + std::to_string(i);
    if (leaf.kind == Leaf::Kind::scalar) arguments_[i].scalar = k.scalar(leaf.dtype, name);
    if (leaf.kind == Leaf::Kind::index || (leaf.kind == Leaf::Kind::load && leaf.mask >= 0))
      arguments_[i].scalar = k.size(name + "_offset");
    if (leaf.kind == Leaf::Kind::load || leaf.kind == Leaf::Kind::index)
      arguments_[i].strides = declare_strides(k, leaf.view.strides, name, leaf.stride_unit);
  }
}

dsl::Expr ProgramCode::evaluate(dsl::KernelBuilder& k, std::span<const dsl::Expr> indices,
                                const dsl::Expr* accumulator) {
  std::vector<dsl::Expr> values;
  values.reserve(program_->code.size());
  for (const Instruction& instruction : program_->code) {
    if (instruction.op != Op::leaf) {
      std::array<dsl::Expr, 3> operands;
      for (size_t i = 0; i < 3 && instruction.arguments[i] >= 0; ++i)
        operands[i] = values[static_cast<size_t>(instruction.arguments[i])];
      values.push_back(pointwise_row(instruction.op).compute(k, operands.data(), instruction.dtype));
      continue;
    }
    const size_t number = static_cast<size_t>(instruction.leaf);
    const Leaf& leaf = program_->leaves[number];
    const LeafArguments& given = arguments_[number];
    switch (leaf.kind) {
      case Leaf::Kind::scalar:
        values.push_back(given.scalar);
        break;
      case Leaf::Kind::accumulator:
        values.push_back(*accumulator);
        break;
      case Leaf::Kind::index:
        values.push_back(given.scalar + affine(leaf.view.strides, given.strides, indices));
        break;
      case Leaf::Kind::load: {
        const dsl::Expr position = affine(leaf.view.strides, given.strides, indices);
        if (leaf.mask < 0)
          values.push_back(given.buffer[0][position]);
        else
          values.push_back(given.buffer[0].load(given.scalar + position, values[static_cast<size_t>(leaf.mask)],
                                                dsl::constant(leaf.dtype, 0)));
      }
    }
  }
  return values[static_cast<size_t>(program_->result)];
}

void ProgramCode::append_bindings(const Program& program, std::vector<hal::Binding>* bindings) {
  for (const Leaf& leaf : program.leaves) {
    if (leaf.kind != Leaf::Kind::load) continue;
    const int64_t offset = leaf.mask >= 0 ? 0 : leaf.view.offset * ir::dtype_size(leaf.dtype);
    bindings->push_back({leaf.base->storage->buffer(), static_cast<uint64_t>(offset)});
  }
}

void ProgramCode::append_scalars(const Program& program, Scalars* scalars) {
  for (const Leaf& leaf : program.leaves) {
    if (leaf.kind == Leaf::Kind::scalar) scalars->push_back(leaf.bits, leaf.run_time, leaf.part);
    if (leaf.kind == Leaf::Kind::index || (leaf.kind == Leaf::Kind::load && leaf.mask >= 0))
      scalars->push_back(static_cast<uint64_t>(leaf.view.offset));
    if (leaf.kind == Leaf::Kind::load || leaf.kind == Leaf::Kind::index)
      append_strides(leaf.view.strides, scalars, leaf.stride_unit);
  }
}

}  // namespace sporkle::tensor
