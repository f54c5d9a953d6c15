#include "tensor/fuse.h"

#include <algorithm>
#include <numeric>

#include "tensor/context.h"
#include "tensor/graph.h"
#include "tensor/kernel_call.h"
#include "tensor/kernels/matmul_cpu.h"
#include "tensor/pointwise.h"

namespace sporkle::tensor {
namespace {

constexpr int kNone = -1;
constexpr int kSeveral = -2;
constexpr int kMaxProgramSize = 160;  // operations, counted once for each path to them
constexpr int kMaxEpilogueCost = 48;  // the code is repeated for every accumulator of the tile

// Runs inside its readers' kernels unless it must be stored.
bool is_inlined(Op op) { return is_pointwise(op) || op == Op::constant || op == Op::index || op == Op::pad; }
bool is_source(Op op) { return op == Op::constant || op == Op::index || op == Op::uniform || op == Op::normal; }

class Planner {
 public:
  explicit Planner(const Graph& graph) : context_(graph.context()), graph_(graph), epoch_(context_.next_epoch()) {}

  Result<std::vector<Step>> run() {
    for (const NodeRef& node : graph_.nodes()) enter(node.get());
    measure();
    for (const NodeRef& root : graph_.roots())
      if (Entry* entry = find(root.get())) entry->stored = entry->wanted = true;
    assign_kernels();
    for (size_t i = 0; i < entries_.size(); ++i) {
      if (!entries_[i].stored || entries_[i].emitted || is_movement(entries_[i].node->op)) continue;
      if (Entry* reader = sole_reader(entries_[i])) {
        reader->products.push_back(static_cast<int>(i));
        continue;
      }
      SPORKLE_RETURN_IF_ERROR(emit(static_cast<int>(i)));
    }
    return std::move(steps_);
  }

 private:
  struct Entry {
    Node* node;
    int kernel = kNone;  // the entry in whose kernel this runs; kSeveral
    int cost = 0;        // of computing it from what is stored, while it is not stored itself
    bool stored = false;
    bool wanted = false;        // a root
    bool ends_product = false;  // while not stored: computed from a product, whose epilogue it may become
    bool emitted = false;
    std::vector<int> products;   // of a kernel's root: products read by it alone
    std::vector<Node*> outputs;  // of a call: its results that are wanted
  };

  Entry* find(const Node* node) {
    return node->epoch == epoch_ ? &entries_[static_cast<size_t>(node->plan_index)] : nullptr;
  }

  void enter(Node* node) {
    node->epoch = epoch_;
    node->plan_index = static_cast<int>(entries_.size());
    entries_.push_back({node});
    if (node->op == Op::output) find(node->inputs[0].get())->outputs.push_back(node);
  }

  // Learns what it takes to compute each value where it is read, and cuts chains of pointwise operations that would
  // make too large a kernel.
  void measure() {
    std::vector<int> sizes(entries_.size(), 0);
    for (size_t i = 0; i < entries_.size(); ++i) {
      Entry& entry = entries_[i];
      Node* node = entry.node;
      if (!is_inlined(node->op) && !is_movement(node->op)) continue;
      sizes[i] = is_movement(node->op) ? 0 : 1;
      if (is_pointwise(node->op) && !is_source(node->op)) entry.cost = pointwise_row(node->op).cost;
      for (const NodeRef& input : node->inputs) {
        const Entry* read = find(input.get());
        if (!read) continue;
        entry.ends_product |= read->node->op == Op::matmul || (read->ends_product && !read->stored);
        sizes[i] = std::min(sizes[i] + sizes[static_cast<size_t>(read - entries_.data())], kMaxProgramSize + 1);
        entry.cost = std::min(entry.cost + read->cost, kMaxProgramSize);
      }
      const bool alone = !context_.options().fuse && is_pointwise(node->op) && !is_source(node->op);
      if (alone || (sizes[i] > kMaxProgramSize && is_inlined(node->op))) {
        entry.stored = true;
        sizes[i] = 1;
        entry.cost = 0;
      }
    }
  }

  // Readers first: each entry learns in whose kernel its value is needed, or that it must be stored.
  void assign_kernels() {
    for (int i = static_cast<int>(entries_.size()) - 1; i >= 0; --i) {
      Entry& entry = entries_[static_cast<size_t>(i)];
      Node* node = entry.node;
      if (is_inlined(node->op)) {
        if (entry.kernel == kSeveral && entry.cost > kCheap) entry.stored = true;
      } else if (!is_movement(node->op)) {
        entry.stored = true;
      }
      const bool own_kernel = entry.stored && !is_movement(node->op);
      const bool reads_storage =
          node->op == Op::matmul || node->op == Op::call || node->op == Op::output || node->op == Op::pack;
      for (size_t number = 0; number < node->inputs.size(); ++number) {
        Entry* read = find(node->inputs[number].get());
        if (!read) continue;
        const bool computes = node->op == Op::matmul && computes_operand(*node, static_cast<int>(number));
        if ((reads_storage && !computes) || (is_movement(node->op) && entry.stored)) read->stored = true;
        const int kernel = own_kernel ? i : entry.kernel;
        read->kernel = read->kernel == kNone || read->kernel == kernel ? kernel : kSeveral;
      }
    }
  }

  // Whether the product can compute this operand as it reads it. What could be another product's epilogue is better
  // that: each of its elements is made once.
  bool computes_operand(const Node& product, int number) {
    if (!context_.options().fuse || context_.is_gpu()) return false;
    View views[2];
    Node* roots[2];
    for (size_t i = 0; i < 2; ++i) roots[i] = resolve(product.inputs[i].get(), &views[i]);
    const Entry* root = find(roots[number]);
    if (!root || roots[number]->storage || !is_inlined(root->node->op) || root->stored || root->ends_product)
      return false;
    return product_computes(context_, product, views[0].strides, views[1].strides, number, root->cost);
  }

  // The entry whose kernel could take this product in: its only reader, a pointwise one.
  Entry* sole_reader(const Entry& entry) {
    if (!context_.options().fuse || entry.node->op != Op::matmul || entry.wanted || entry.kernel < 0) return nullptr;
    Entry& reader = entries_[static_cast<size_t>(entry.kernel)];
    return is_pointwise(reader.node->op) || reader.node->op == Op::pad ? &reader : nullptr;
  }

  Status emit(int index) {
    if (entries_[static_cast<size_t>(index)].emitted) return {};
    entries_[static_cast<size_t>(index)].emitted = true;
    Node* node = entries_[static_cast<size_t>(index)].node;
    Step step{Step::Kind::pointwise, node};
    switch (node->op) {
      case Op::output:
        return emit_needed(node->inputs[0].get());
      case Op::call: {
        step.kind = Step::Kind::call;
        for (const NodeRef& input : node->inputs) {
          View view;
          step.reads.push_back(resolve(input.get(), &view));
        }
        step.results.resize(node->call->results.size());
        for (Node* output : entries_[static_cast<size_t>(index)].outputs) step.results[output->number] = output;
        break;
      }
      case Op::pack: {
        step.kind = Step::Kind::pack;
        for (const NodeRef& input : node->inputs) {
          View view;
          step.reads.push_back(resolve(input.get(), &view));
        }
        step.results = {node};
        break;
      }
      case Op::matmul: {
        step.kind = Step::Kind::matmul;
        SPORKLE_RETURN_IF_ERROR(set_operands(&step));
        step.results = {node};
        step.result_strides = contiguous_strides(node->shape);
        break;
      }
      case Op::reduce: {
        step.kind = Step::Kind::reduce;
        step.results = {node};
        SPORKLE_RETURN_IF_ERROR(build_reduced(node, &step));
        break;
      }
      default: {
        if (node->op == Op::error) return *node->error;  // its memory was taken since this was made from it
        if (!is_inlined(node->op)) return internal_error("an operation that no kernel computes was planned");
        step.results = {node};
        SPORKLE_RETURN_IF_ERROR(build(node, node, &step.program));
        SPORKLE_RETURN_IF_ERROR(take_in_product(index, &step));
      }
    }
    if (step.kind == Step::Kind::pointwise || step.kind == Step::Kind::reduce || step.program.result >= 0)
      for (const Leaf& leaf : step.program.leaves)
        if (leaf.kind == Leaf::Kind::load) step.reads.push_back(leaf.base);
    for (Node* read : step.reads) SPORKLE_RETURN_IF_ERROR(emit_needed(read));
    steps_.push_back(std::move(step));
    return {};
  }

  Status emit_needed(Node* node) {
    Entry* entry = find(node);
    if (!entry || entry->emitted) return {};
    return emit(static_cast<int>(entry - entries_.data()));
  }

  bool is_stored(const Node* node) {
    if (node->storage) return true;
    const Entry* entry = find(node);
    return entry && entry->stored;
  }

  // Over the shape of `node`, which is a leaf itself if it is stored and not `computed` here. Where a view has no
  // strides, what it shows is stored after all.
  Status build(Node* node, const Node* computed, Program* program) {
    const auto stored = [&](const Node* n) { return n != computed && is_stored(n); };
    while (Node* blocker = program->build(node, stored)) {
      Entry* entry = find(blocker);
      if (!entry || entry->stored) return internal_error("a view without strides was planned");
      entry->stored = true;
    }
    return {};
  }

  // The reduced axes are read as one; an operand whose leaves do not allow that is stored in row-major order first.
  Status build_reduced(Node* node, Step* step) {
    Node* operand = node->inputs[0].get();
    SPORKLE_RETURN_IF_ERROR(build(operand, nullptr, &step->program));
    const auto slice = [&](const Dims& dims) {
      return Dims(std::span(dims.begin() + node->dims[0], dims.begin() + node->dims[1]));
    };
    Shape extents = slice(operand->shape);
    std::vector<Strides> strides;
    for (const Leaf& leaf : step->program.leaves)
      if (leaf.kind == Leaf::Kind::load || leaf.kind == Leaf::Kind::index) strides.push_back(slice(leaf.view.strides));
    std::vector<Strides*> accesses;
    for (Strides& s : strides) accesses.push_back(&s);
    merge_loops(&extents, accesses);
    if (extents.rank() <= 1) return {};

    if (is_movement(operand->op)) {
      NodeRef copy = copy_of(Tensor(node->inputs[0])).node();
      operand = copy.get();
      enter(operand);
      step->temporaries.push_back(std::move(copy));
    }
    find(operand)->stored = true;
    return build(operand, nullptr, &step->program);
  }

  // One of the products that only the kernel of entry `index` reads may take the kernel in as its epilogue; the others
  // run before it.
  Status take_in_product(int index, Step* step) {
    const std::vector<int> products = entries_[static_cast<size_t>(index)].products;
    for (size_t i = products.size(); i-- > 0;) {
      Node* product = entries_[static_cast<size_t>(products[i])].node;
      Step joined = *step;
      if (!join(product, &joined)) continue;
      // What else the kernel reads comes first, and may turn out to read the product as well.
      for (const Leaf& leaf : joined.program.leaves)
        if (leaf.kind == Leaf::Kind::load) SPORKLE_RETURN_IF_ERROR(emit_needed(leaf.base));
      if (entries_[static_cast<size_t>(products[i])].emitted) continue;
      entries_[static_cast<size_t>(products[i])].emitted = true;
      SPORKLE_RETURN_IF_ERROR(set_operands(&joined));
      *step = std::move(joined);
      break;
    }
    for (const int product : products) SPORKLE_RETURN_IF_ERROR(emit(product));
    return {};
  }

  Status set_operands(Step* step) {
    MatrixOperand* const operands[] = {&step->a, &step->b};
    for (size_t i = 0; i < 2; ++i) {
      MatrixOperand& operand = *operands[i];
      Node* const input = step->node->inputs[i].get();
      Node* const base = resolve(input, &operand.view);
      if (!is_stored(base)) SPORKLE_RETURN_IF_ERROR(build(input, nullptr, &operand.program));
      if (is_stored(base)) {
        operand.program = {};
        operand.base = base;
        step->reads.push_back(base);
      }
      for (const Leaf& leaf : operand.program.leaves)
        if (leaf.kind == Leaf::Kind::load) step->reads.push_back(leaf.base);
    }
    return {};
  }

  // Turns a pointwise step into `product` with the step's program as its epilogue, if every access of the program can
  // be expressed over the product's axes.
  static bool join(Node* product, Step* step) {
    Program& program = step->program;
    Leaf* accumulator = nullptr;
    for (Leaf& leaf : program.leaves) {
      if (leaf.kind != Leaf::Kind::load || leaf.base != product) continue;
      if (accumulator || leaf.mask >= 0) return false;
      accumulator = &leaf;
    }
    // More than one pass over k goes through the result's memory, which must then hold the product's type. Products of
    // 16-bit operands take care of that themselves.
    const bool any_type = product->inputs[0]->dtype != product->dtype;
    if (!accumulator || accumulator->view.offset != 0 || (step->node->dtype != product->dtype && !any_type))
      return false;
    if (program.cost() > kMaxEpilogueCost || element_count(program.loops) != product->count()) return false;

    // The loops in the order in which they run through the product's memory.
    std::vector<int> order(static_cast<size_t>(program.loops.rank()));
    std::iota(order.begin(), order.end(), 0);
    const Strides& through = accumulator->view.strides;
    std::erase_if(order, [&](int axis) { return program.loops[axis] == 1; });
    std::ranges::sort(order, [&](int a, int b) { return through[a] > through[b]; });
    const auto reorder = [&](const Dims& dims) {
      Dims result;
      for (const int axis : order) result.push_back(dims[axis]);
      return result;
    };
    const Shape loops = reorder(program.loops);
    if (!(reorder(through) == contiguous_strides(loops))) return false;

    const auto convert = [&](const Strides& strides, Strides* result) {
      return reshape_strides(loops, reorder(strides), product->shape, result);
    };
    Strides result_strides;
    if (!convert(contiguous_strides(program.loops), &result_strides)) return false;
    const int last = product->shape.rank() - 1;
    if (product->shape[last] != 1 && result_strides[last] != 1) return false;
    result_strides[last] = 1;
    std::vector<Strides> converted(program.leaves.size());
    for (size_t i = 0; i < converted.size(); ++i) {
      const Leaf::Kind kind = program.leaves[i].kind;
      if (kind != Leaf::Kind::load && kind != Leaf::Kind::index) continue;
      if (!convert(program.leaves[i].view.strides, &converted[i])) return false;
    }
    for (size_t i = 0; i < converted.size(); ++i) program.leaves[i].view.strides = converted[i];
    accumulator->kind = Leaf::Kind::accumulator;
    accumulator->base = nullptr;
    program.loops = product->shape;
    step->kind = Step::Kind::matmul;
    step->node = product;
    step->result_strides = result_strides;
    return true;
  }

  Context& context_;
  const Graph& graph_;
  const uint64_t epoch_;
  std::vector<Entry> entries_;
  std::vector<Step> steps_;
};

}  // namespace

Result<std::vector<Step>> fuse(const Graph& graph) { return Planner(graph).run(); }

}  // namespace sporkle::tensor
