#include "codegen/spirv/emitter.h"

#include <algorithm>
#include <array>
#include <map>
#include <unordered_set>
#include <utility>

#include "codegen/matrix_product.h"
#include "codegen/spirv/arguments.h"
#include "codegen/spirv/arithmetic.h"
#include "codegen/spirv/memory_use.h"
#include "codegen/spirv/scopes.h"
#include "codegen/spirv/workgroup.h"
#include "ir/arithmetic.h"
#include "ir/builder.h"

namespace sporkle::codegen::spirv {
namespace {

using ir::Combine;
using ir::DType;
using ir::Node;
using ir::Op;
using ir::RangeKind;
using SpvOp = spv::Op;

constexpr int64_t kScratchAlignment = 16;
constexpr int64_t kVector = 4;

// The constant among an index's terms.
int64_t constant_term(const Node* index) {
  if (index->is_constant()) return index->value;
  return index->op == Op::add ? constant_term(index->src(0)) + constant_term(index->src(1)) : 0;
}

// An index as that of the first of four elements side by side, and which of them it is.
struct VectorElement {
  const Node* first;
  int64_t element;
};
std::optional<VectorElement> vector_element(ir::Builder& b, const Node* index) {
  const int64_t element = constant_term(index) & (kVector - 1);
  const Node* first = b.add(index, b.integer(-element));
  return known_multiple(first) % kVector == 0 ? std::optional(VectorElement{first, element}) : std::nullopt;
}

class Emitter {
 public:
  Emitter(const ir::Kernel& kernel, const VulkanTarget& target, bool packs, uint32_t workgroup)
      : kernel_(kernel),
        target_(target),
        finds_packs_(packs),
        usual_workgroup_(workgroup),
        s_(m_),
        arguments_(s_, kernel),
        memory_(kernel),
        workgroup_(kernel, 1024 * target.shared_kib),
        // Chains of products in tiles are where the speed counts, and the only thing that such kernels do with f32.
        arithmetic_(s_, target, workgroup_.is_used()) {}

  Result<GpuCode> run();

 private:
  // ---- Values ----
  Value emit(const Node* node);
  Value compute(const Node* node);
  int depth_of(const Node* node, std::unordered_map<const Node*, int>& memo);
  Value load(const Node* node);
  // The load as a part of one of four elements side by side in workgroup memory; nothing where it is none.
  std::optional<Value> load_from_vector(const Node* node);
  // The same in a buffer from which all four are read.
  std::optional<Value> load_from_pack(const Node* node);
  void reduce(const std::vector<const Node*>& group);
  Id combine(const Node* node, Id a, Id b);
  // The lanes of a reduction joined by its tree.
  Id join(const Node* node, std::vector<Id> lanes, int depth);

  // ---- Arguments and memory ----
  Id base_address(const Node* memory);
  Id register_of(const Node* scratch, const Node* index);
  Id shared_array(const Node* scratch);
  // Workgroup memory is laid out in vectors of four, to be read at once, where every access is to a known one of them.
  void find_vectors();
  // Four loads or stores of one statement that are side by side in a buffer, at a multiple of four, are one.
  void find_packs();
  // What can be done outside of a branch that reaches the memory there.
  void prepare(const Node* memory, const Node* index);
  // The operands of a load or store that say where: a pointer, and its alignment in device memory.
  Words place(const Node* memory, const Node* index, Id index_value, int depth);
  // Four elements of a buffer, and the operands of an access to them.
  Id pack_type(const Node* memory);
  Words pack_place(const Node* memory, Id first_index, int depth);

  // ---- Statements ----
  void statements(std::span<const Node* const> list);
  void stores(std::span<const Node* const> list);
  void together(std::span<const Node* const> list);
  // A store whose operands are there.
  struct Write {
    const Node* store;
    Id index, value, mask;
  };
  Write operands(const Node* store);
  void write(const Write& write);
  // Whether four writes from `first` on were one vector.
  bool write_pack(std::span<const Write> first);
  void loop(const Node* node);
  void open_loop(const Node* node, const std::function<void()>& body);
  void thread_loop(const Node* node);
  // Statements that all invocations of a workgroup run together; what is no loop over invocations, only the first does.
  void collective(std::span<const Node* const> list);
  // Whether it ends in a barrier, wherever it does anything.
  bool collective_loop(const Node* node);
  void barrier();
  // Emits the reductions below `roots` that are not known yet, those over one range together.
  void prepare_reductions(std::span<const Node* const> roots);
  // Runs `body`, which emits `list` in a scope of its own.
  void within(std::span<const Node* const> list, const std::function<void()>& body);
  // The scope in which what a kernel stores to is read: the innermost, or for workgroup memory that which no store to
  // it stands inside of, before all that is open further in.
  int depth_of_read(const Node* memory);
  void forget_reads_of(const Node* memory) {
    s_.forget([&](const Node* node) { return memory_.reads(node, memory); });
  }

  // ---- The module ----
  Status check_target() const;
  void define_interface();
  const Node* scratch_bytes_before(const Node* scratch);

  void fail(Status status) {
    if (status_.ok()) status_ = std::move(status);
  }

  const ir::Kernel& kernel_;
  const VulkanTarget& target_;
  const bool finds_packs_;
  const uint32_t usual_workgroup_;  // of invocations that share nothing
  Module m_;
  Scopes s_;
  Arguments arguments_;
  MemoryUse memory_;
  std::vector<const Node*> scratches_;
  Workgroup workgroup_;
  Arithmetic arithmetic_;
  Workgroup::Traffic pending_;  // since the last barrier
  const Node* thread_loop_ = nullptr;
  Id number_ = 0, local_number_ = 0;  // the variables of the invocation's or workgroup's number, and of that within it
  Id invocation_ = 0;                 // of the workgroup, in scope 0
  Words function_variables_;
  std::vector<std::pair<int, std::unordered_set<const Node*>>> stored_within_;  // open scopes, and what each stores to
  std::map<std::pair<const Node*, int64_t>, Id> registers_;
  std::unordered_map<const Node*, Id> shared_arrays_;
  std::unordered_set<const Node*> in_vectors_;    // of workgroup memory
  std::unordered_set<const Node*> packs_;         // loads of the first of four elements
  std::unordered_set<const Node*> packed_;        // buffers that must begin at a multiple of four elements
  Id iteration_in_dispatch_ = 0, iteration_ = 0;  // of the thread loop, in scope 0
  std::unordered_map<const Node*, Id> base_addresses_;
  Status status_;
};

// ------------------------------------------------------------------------------------------------ values

// The scope a value will live in, found without emitting it.
int Emitter::depth_of(const Node* node, std::unordered_map<const Node*, int>& memo) {
  if (const Value* value = s_.find(node)) return value->depth;
  if (const auto found = memo.find(node); found != memo.end()) return found->second;
  int depth = 0;
  if (node->op == Op::range) {
    depth = 0;  // not open: bound by a reduction below
  } else {
    if (node->op == Op::load && memory_.is_stored_to(node->src(0))) depth = depth_of_read(node->src(0));
    for (const Node* source : node->src()) depth = std::max(depth, depth_of(source, memo));
  }
  memo.emplace(node, depth);
  return depth;
}

Value Emitter::emit(const Node* node) {
  if (const Value* value = s_.find(node)) return *value;
  if (node->op == Op::constant) return {m_.constant(node->type, node->value), 0};
  if (node->op == Op::reduce) {
    reduce({node});
    return *s_.find(node);
  }
  const Value value = compute(node);
  s_.remember(node, value);
  return value;
}

Value Emitter::compute(const Node* node) {
  if (node->op == Op::scalar) {
    const size_t number = kernel_.buffers.size() + static_cast<size_t>(node->value);
    return {arithmetic_.from_bits(node->type, 0, arguments_.bits(number)), 0};
  }
  if (node->op == Op::load) return load(node);
  if (node->op < Op::add || node->op > Op::bitcast) {
    fail(internal_error("the GPU code generator met " + std::string(ir::op_name(node->op)) +
                        ", which lowering should have removed or a loop opened"));
    return {m_.constant(node->type, 0), 0};
  }
  std::array<Id, 3> v{};
  int depth = 0;
  if (node->op == Op::mod && !ir::is_float(node->type)) {  // beside the quotient, one division makes both
    ir::Builder b(*kernel_.context);
    const Value x = emit(node->src(0)), y = emit(node->src(1));
    const Value quotient = emit(b.binary(Op::div, node->src(0), node->src(1)));
    depth = std::max({x.depth, y.depth, quotient.depth});
    return {arithmetic_.remainder(node->type, depth, x.id, y.id, quotient.id), depth};
  }
  for (size_t i = 0; i < node->source_count; ++i) {
    const Value source = emit(node->src(i));
    v[i] = source.id;
    depth = std::max(depth, source.depth);
  }
  return {arithmetic_.apply(node->op, node->type, node->src(0)->type, depth, v), depth};
}

std::optional<Value> Emitter::load_from_vector(const Node* node) {
  const Node* memory = node->src(0);
  if (!in_vectors_.contains(memory) || node->source_count > 2) return std::nullopt;
  ir::Builder b(*kernel_.context);
  const auto [first_index, element] = *vector_element(b, node->src(1));
  const Node* first = b.load(memory, first_index);
  const Value* known = s_.find_vector(first);
  if (!known) {
    const Value index = emit(first_index);
    const int depth = std::max(index.depth, depth_of_read(memory));
    const Id vector = m_.vector_type(m_.memory_type(memory->type), kVector), u32 = m_.integer_type(32);
    const Id narrow = s_.define(depth, SpvOp::OpUConvert, u32, {index.id});
    const Id line = s_.define(depth, SpvOp::OpShiftRightLogical, u32, {narrow, m_.constant_u32(2)});
    const Id at = s_.define(depth, SpvOp::OpAccessChain, m_.pointer_type(spv::StorageClass::Workgroup, vector),
                            {shared_array(memory), line});
    s_.remember_vector(first, {s_.define(depth, SpvOp::OpLoad, vector, {at}), depth});
    known = s_.find_vector(first);
  }
  const int depth = known->depth;
  const Id loaded = s_.define(depth, SpvOp::OpCompositeExtract, m_.memory_type(memory->type),
                              {known->id, static_cast<uint32_t>(element)});
  return Value{arithmetic_.from_memory(memory->type, depth, loaded), depth};
}

void Emitter::within(std::span<const Node* const> list, const std::function<void()>& body) {
  std::unordered_set<const Node*> stored;
  for (const Node* statement : list)
    ir::visit_post_order(statement, [&](const Node* node) {
      if (node->op == Op::store) stored.insert(node->src(0));
    });
  stored_within_.emplace_back(s_.innermost(), std::move(stored));
  body();
  stored_within_.pop_back();
}

int Emitter::depth_of_read(const Node* memory) {
  if (memory->op != Op::scratch || workgroup_.place(memory) != Workgroup::Place::shared) return s_.innermost();
  int depth = 0;
  for (const auto& [scope, stored] : stored_within_)
    if (stored.contains(memory)) depth = std::max(depth, scope);
  return depth;
}

std::optional<Value> Emitter::load_from_pack(const Node* node) {
  const Node* memory = node->src(0);
  if (memory->op != Op::buffer || node->source_count > 2) return std::nullopt;
  ir::Builder b(*kernel_.context);
  const std::optional<VectorElement> at = vector_element(b, node->src(1));
  if (!at) return std::nullopt;
  const Node* first = b.load(memory, at->first);
  if (!packs_.contains(first)) return std::nullopt;
  const Value* known = s_.find_vector(first);
  if (!known) {
    const Value index = emit(at->first);
    base_address(memory);
    const Id loaded =
        s_.define(index.depth, SpvOp::OpLoad, pack_type(memory), {}, pack_place(memory, index.id, index.depth));
    s_.remember_vector(first, {loaded, index.depth});
    known = s_.find_vector(first);
  }
  const int depth = known->depth;
  const uint32_t number = static_cast<uint32_t>(at->element);
  if (ir::dtype_size(memory->type) == 2) {
    const Id u32 = m_.integer_type(32),
             word = s_.define(depth, SpvOp::OpCompositeExtract, u32, {known->id, number / 2});
    const bool high = number % 2 == 1;
    return Value{s_.define(depth, high ? SpvOp::OpShiftRightLogical : SpvOp::OpBitwiseAnd, u32,
                           {word, m_.constant_u32(high ? 16 : 0xffff)}),
                 depth};
  }
  const Id part = s_.define(depth, SpvOp::OpCompositeExtract, m_.memory_type(memory->type), {known->id, number});
  return Value{arithmetic_.from_memory(memory->type, depth, part), depth};
}

Value Emitter::load(const Node* node) {
  if (const std::optional<Value> part = load_from_vector(node)) return *part;
  if (const std::optional<Value> part = load_from_pack(node)) return *part;
  const Node* memory = node->src(0);
  const Value index = emit(node->src(1));
  const bool is_masked = node->source_count > 2;
  Value mask, otherwise;
  int depth = index.depth;
  if (is_masked) {
    mask = emit(node->src(2));
    otherwise = emit(node->src(3));
    depth = std::max({depth, mask.depth, otherwise.depth});
  }
  // What the kernel itself stores to must be read now, not earlier.
  if (memory_.is_stored_to(memory)) depth = std::max(depth, depth_of_read(memory));
  const auto read = [&] {
    const Words operands = place(memory, node->src(1), index.id, depth);
    const Id loaded = s_.define(depth, SpvOp::OpLoad, m_.memory_type(memory->type), {}, operands);
    return arithmetic_.from_memory(memory->type, depth, loaded);
  };
  prepare(memory, node->src(1));
  if (!is_masked) return {read(), depth};
  return {s_.choose(depth, mask.id, m_.value_type(memory->type), otherwise.id, read), depth};
}

Id Emitter::combine(const Node* node, Id a, Id b) {
  return arithmetic_.apply(ir::combine_op(node->combine()), node->type, node->type, s_.innermost(), std::array{a, b});
}

Id Emitter::join(const Node* node, std::vector<Id> lanes, int depth) {
  const Op op = ir::combine_op(node->combine());
  for (size_t width = lanes.size() / 2; width >= 1; width /= 2)
    for (size_t l = 0; l < width; ++l)
      lanes[l] = arithmetic_.apply(op, node->type, node->type, depth, std::array{lanes[l], lanes[l + width]});
  return lanes[0];
}

// Reductions over one range, in one loop. One of L lanes carries L partial results that move along by one place in
// every iteration, so that the next element's is always the first; behind the loop they are turned back by extent % L
// places.
void Emitter::reduce(const std::vector<const Node*>& group) {
  const Node* range = group[0]->src(1);
  std::unordered_map<const Node*, int> memo;
  int depth = depth_of(range->src(0), memo);
  for (const Node* node : group) depth = std::max(depth, depth_of(node, memo));
  std::vector<Scopes::Carried> carried;
  std::vector<size_t> first;  // of each reduction's among `carried`
  for (const Node* node : group) {
    first.push_back(carried.size());
    const Id type = m_.value_type(node->type);
    if (node->lanes == 1) {
      carried.push_back({type, emit(node->src(0)).id});
    } else {
      const Id identity =
          m_.constant(node->type, static_cast<int64_t>(ir::combine_identity(node->combine(), node->type)));
      carried.insert(carried.end(), node->lanes, {type, identity});
    }
  }
  const Id extent = emit(range->src(0)).id;
  s_.counted_loop(depth, m_.constant_u64(0), extent, m_.constant_u64(1), carried, [&](Id index) {
    const int inner = s_.innermost();
    s_.remember(range, {index, inner});
    std::vector<const Node*> roots;
    for (const Node* node : group)
      for (const Node* source : node->src().subspan(2)) roots.push_back(source);
    prepare_reductions(roots);
    for (size_t g = 0; g < group.size(); ++g) {
      const Node* node = group[g];
      Scopes::Carried* acc = &carried[first[g]];
      const Id x = emit(node->src(2)).id;
      Id next;
      if (node->combine() == Combine::fma)
        next = arithmetic_.apply(Op::fma, node->type, node->type, inner,
                                 std::array{x, emit(node->src(3)).id, acc->result});
      else
        next = combine(node, acc->result, x);
      for (int l = 0; l + 1 < node->lanes; ++l) acc[l].next = acc[l + 1].result;
      acc[node->lanes - 1].next = next;
    }
  });
  for (size_t g = 0; g < group.size(); ++g) {
    const Node* node = group[g];
    if (node->lanes == 1) {
      s_.remember(node, {carried[first[g]].result, depth});
      continue;
    }
    std::vector<Id> lanes;
    for (int l = 0; l < node->lanes; ++l) lanes.push_back(carried[first[g] + static_cast<size_t>(l)].result);
    // Element 0's lane stands at place (L - extent) % L now: turned forwards by extent % L, one bit of it at a time.
    for (int places = 1; places < node->lanes; places *= 2) {
      const Id bit = s_.define(depth, SpvOp::OpBitwiseAnd, m_.integer_type(64),
                               {extent, m_.constant_u64(static_cast<uint64_t>(places))});
      const Id is_set = s_.define(depth, SpvOp::OpINotEqual, m_.bool_type(), {bit, m_.constant_u64(0)});
      std::vector<Id> turned;
      for (int l = 0; l < node->lanes; ++l) {
        const size_t from = static_cast<size_t>((l + node->lanes - places) % node->lanes);
        turned.push_back(s_.define(depth, SpvOp::OpSelect, m_.value_type(node->type),
                                   {is_set, lanes[from], lanes[static_cast<size_t>(l)]}));
      }
      lanes = std::move(turned);
    }
    const Id total = join(node, lanes, depth);
    const Id init = emit(node->src(0)).id;
    const Op op = ir::combine_op(node->combine());
    s_.remember(node, {arithmetic_.apply(op, node->type, node->type, depth, std::array{init, total}), depth});
  }
}

// A reduction inside another's body that depends on its range is left to that body.
void Emitter::prepare_reductions(std::span<const Node* const> roots) {
  std::unordered_map<const Node*, int> level;  // 1 + the most reductions that must come before
  std::map<std::pair<int, uint32_t>, std::vector<const Node*>> groups;
  const std::function<int(const Node*)> visit = [&](const Node* node) -> int {
    if (s_.find(node) || node->is_constant()) return 0;
    if (const auto found = level.find(node); found != level.end()) return found->second;
    int before = 0;
    if (node->op == Op::reduce) {
      before = std::max(visit(node->src(0)), visit(node->src(1)->src(0)));
      // Reductions in the body that do not depend on this one's range come first.
      std::unordered_set<const Node*> seen;
      const std::function<void(const Node*)> search = [&](const Node* inner) {
        if (!seen.insert(inner).second) return;
        if (inner->op == Op::reduce && !ir::depends_on(inner, node->src(1))) {
          before = std::max(before, visit(inner));
          return;
        }
        for (const Node* source : inner->src()) search(source);
      };
      for (const Node* source : node->src().subspan(2)) search(source);
      groups[{before, node->src(1)->id}].push_back(node);
      ++before;
    } else if (node->op != Op::range) {
      for (const Node* source : node->src()) before = std::max(before, visit(source));
    }
    level.emplace(node, before);
    return before;
  };
  for (const Node* root : roots) visit(root);
  for (const auto& [key, group] : groups) {
    std::vector<const Node*> pending;
    std::ranges::copy_if(group, std::back_inserter(pending), [&](const Node* node) { return !s_.find(node); });
    if (!pending.empty()) reduce(pending);
  }
}

// ------------------------------------------------------------------------------------------------ memory

// The bytes of the scratch areas in front of this one (nullptr: of all), each filled up to kScratchAlignment.
const Node* Emitter::scratch_bytes_before(const Node* scratch) {
  ir::Builder b(*kernel_.context);
  const Node* bytes = b.integer(0);
  for (const Node* earlier : scratches_) {
    if (earlier == scratch) break;
    const Node* size = b.mul(earlier->src(0), b.integer(ir::dtype_size(earlier->type)));
    const Node* blocks = b.div(b.add(size, b.integer(kScratchAlignment - 1)), b.integer(kScratchAlignment));
    bytes = b.add(bytes, b.mul(blocks, b.integer(kScratchAlignment)));
  }
  return bytes;
}

Id Emitter::base_address(const Node* memory) {
  if (const auto found = base_addresses_.find(memory); found != base_addresses_.end()) return found->second;
  Id address;
  if (memory->op == Op::buffer) {
    address = arguments_.bits(static_cast<size_t>(memory->value));
  } else {
    const Id u64 = m_.integer_type(64);
    const Id size = emit(scratch_bytes_before(nullptr)).id, before = emit(scratch_bytes_before(memory)).id;
    address = s_.define(0, SpvOp::OpIMul, u64, {iteration_in_dispatch_, size});
    address = s_.define(0, SpvOp::OpIAdd, u64, {arguments_.word(2), address});
    address = s_.define(0, SpvOp::OpIAdd, u64, {address, before});
  }
  return base_addresses_[memory] = address;
}

Id Emitter::register_of(const Node* scratch, const Node* index) {
  Id& variable = registers_[{scratch, workgroup_.register_index(index)}];
  if (variable == 0) {
    variable = m_.fresh();
    const Id type = m_.pointer_type(spv::StorageClass::Function, m_.memory_type(scratch->type));
    append(function_variables_, SpvOp::OpVariable,
           {type, variable, static_cast<uint32_t>(spv::StorageClass::Function)});
  }
  return variable;
}

Id Emitter::shared_array(const Node* scratch) {
  Id& variable = shared_arrays_[scratch];
  if (variable == 0) {
    const bool vectors = in_vectors_.contains(scratch);
    const Id element = m_.memory_type(scratch->type);
    const Id array = m_.array_type(vectors ? m_.vector_type(element, kVector) : element,
                                   static_cast<uint32_t>(scratch->src(0)->value / (vectors ? kVector : 1)));
    variable = m_.global_variable(spv::StorageClass::Workgroup, array);
  }
  return variable;
}

void Emitter::find_vectors() {
  ir::Builder b(*kernel_.context);
  std::unordered_map<const Node*, bool> all;
  ir::visit_post_order(kernel_.body, [&](const Node* node) {
    if ((node->op != Op::load && node->op != Op::store) || node->src(0)->op != Op::scratch) return;
    const Node* scratch = node->src(0);
    if (workgroup_.place(scratch) != Workgroup::Place::shared || ir::dtype_size(scratch->type) != 4 ||
        scratch->src(0)->value % kVector != 0)
      return;
    bool& in_vectors = all.try_emplace(scratch, true).first->second;
    in_vectors = in_vectors && vector_element(b, node->src(1));
  });
  for (const auto& [scratch, in_vectors] : all)
    if (in_vectors) in_vectors_.insert(scratch);
}

void Emitter::find_packs() {
  ir::Builder b(*kernel_.context);
  ir::visit_post_order(kernel_.body, [&](const Node* node) {
    if (node->op != Op::together && node->op != Op::store) return;
    std::unordered_map<const Node*, unsigned> seen;  // which of the four, by the load of the first
    ir::visit_post_order(node, [&](const Node* load) {
      if (load->op != Op::load || load->source_count > 2 || load->src(0)->op != Op::buffer) return;
      if (memory_.is_stored_to(load->src(0)) || ir::dtype_size(load->type) == 1) return;
      if (const auto at = vector_element(b, load->src(1))) seen[b.load(load->src(0), at->first)] |= 1u << at->element;
    });
    for (const auto& [first, elements] : seen)
      if (elements == (1u << kVector) - 1) {
        packs_.insert(first);
        packed_.insert(first->src(0));
      }
  });
}

Id Emitter::pack_type(const Node* memory) {
  // Values of 16 bits are computed with in words; a device need not have arithmetic of less.
  if (ir::dtype_size(memory->type) == 2) return m_.vector_type(m_.integer_type(32), kVector / 2);
  return m_.vector_type(m_.memory_type(memory->type), kVector);
}

Words Emitter::pack_place(const Node* memory, Id first_index, int depth) {
  const Id u64 = m_.integer_type(64), vector = pack_type(memory);
  const uint32_t size = static_cast<uint32_t>(ir::dtype_size(memory->type));
  const Id offset = s_.define(depth, SpvOp::OpIMul, u64, {first_index, m_.constant_u64(size)});
  const Id address = s_.define(depth, SpvOp::OpIAdd, u64, {base_address(memory), offset});
  const Id pointer = s_.define(depth, SpvOp::OpConvertUToPtr,
                               m_.pointer_type(spv::StorageClass::PhysicalStorageBuffer, vector), {address});
  return {pointer, static_cast<uint32_t>(spv::MemoryAccessMask::Aligned), size * static_cast<uint32_t>(kVector)};
}

void Emitter::prepare(const Node* memory, const Node* index) {
  ir::Builder b(*kernel_.context);
  if (in_vectors_.contains(memory)) emit(vector_element(b, index)->first);
  if (memory->op == Op::buffer || workgroup_.place(memory) == Workgroup::Place::device) base_address(memory);
}

Words Emitter::place(const Node* memory, const Node* index, Id index_value, int depth) {
  const Workgroup::Place where = memory->op == Op::buffer ? Workgroup::Place::device : workgroup_.place(memory);
  if (where == Workgroup::Place::registers) return {register_of(memory, index)};
  const Id element = m_.memory_type(memory->type);
  if (where == Workgroup::Place::shared) {
    const Id u32 = m_.integer_type(32), type = m_.pointer_type(spv::StorageClass::Workgroup, element);
    if (!in_vectors_.contains(memory)) {
      const Id narrow = s_.define(depth, SpvOp::OpUConvert, u32, {index_value});
      return {s_.define(depth, SpvOp::OpAccessChain, type, {shared_array(memory), narrow})};
    }
    ir::Builder b(*kernel_.context);
    const VectorElement at = *vector_element(b, index);
    const Id narrow = s_.define(depth, SpvOp::OpUConvert, u32, {emit(at.first).id});
    const Id line = s_.define(depth, SpvOp::OpShiftRightLogical, u32, {narrow, m_.constant_u32(2)});
    return {s_.define(depth, SpvOp::OpAccessChain, type,
                      {shared_array(memory), line, m_.constant_u32(static_cast<uint32_t>(at.element))})};
  }
  const Id u64 = m_.integer_type(64);
  const uint32_t size = static_cast<uint32_t>(ir::dtype_size(memory->type));
  const Id offset = s_.define(depth, SpvOp::OpIMul, u64, {index_value, m_.constant_u64(size)});
  const Id address = s_.define(depth, SpvOp::OpIAdd, u64, {base_address(memory), offset});
  const Id pointer = s_.define(depth, SpvOp::OpConvertUToPtr,
                               m_.pointer_type(spv::StorageClass::PhysicalStorageBuffer, element), {address});
  return {pointer, static_cast<uint32_t>(spv::MemoryAccessMask::Aligned), size};
}

Emitter::Write Emitter::operands(const Node* node) {
  return {node, emit(node->src(1)).id, emit(node->src(2)).id, node->source_count > 3 ? emit(node->src(3)).id : 0};
}

void Emitter::write(const Write& write) {
  const Node* memory = write.store->src(0);
  const int depth = s_.innermost();
  const auto store = [&] {
    Words operands = place(memory, write.store->src(1), write.index, depth);
    operands.insert(operands.begin() + 1, arithmetic_.to_memory(memory->type, depth, write.value));
    s_.line(depth, SpvOp::OpStore, {}, operands);
  };
  prepare(memory, write.store->src(1));
  if (write.mask != 0)
    s_.when(depth, write.mask, store);
  else
    store();
  forget_reads_of(memory);
}

bool Emitter::write_pack(std::span<const Write> first) {
  const Node* memory = first[0].store->src(0);
  const int size = ir::dtype_size(memory->type);
  if (!finds_packs_ || first.size() < static_cast<size_t>(kVector) || memory->op != Op::buffer || size == 1)
    return false;
  ir::Builder b(*kernel_.context);
  const std::optional<VectorElement> begin = vector_element(b, first[0].store->src(1));
  if (!begin) return false;
  for (int64_t i = 0; i < kVector; ++i) {
    const Write& one = first[static_cast<size_t>(i)];
    if (one.mask != 0 || one.store->src(0) != memory) return false;
    const std::optional<VectorElement> at = vector_element(b, one.store->src(1));
    if (!at || at->first != begin->first || at->element != i) return false;
  }
  const int depth = s_.innermost();
  Words parts;
  for (size_t i = 0; i < static_cast<size_t>(kVector); i += size == 2 ? 2 : 1) {
    if (size != 2) {
      parts.push_back(arithmetic_.to_memory(memory->type, depth, first[i].value));
      continue;
    }
    const Id u32 = m_.integer_type(32);
    const Id low = s_.define(depth, SpvOp::OpBitwiseAnd, u32, {first[i].value, m_.constant_u32(0xffff)});
    const Id high = s_.define(depth, SpvOp::OpShiftLeftLogical, u32, {first[i + 1].value, m_.constant_u32(16)});
    parts.push_back(s_.define(depth, SpvOp::OpBitwiseOr, u32, {low, high}));
  }
  Words operands = pack_place(memory, emit(begin->first).id, depth);
  operands.insert(operands.begin() + 1, s_.define(depth, SpvOp::OpCompositeConstruct, pack_type(memory), {}, parts));
  s_.line(depth, SpvOp::OpStore, {}, operands);
  packed_.insert(memory);
  forget_reads_of(memory);
  return true;
}

// ------------------------------------------------------------------------------------------------ statements

void Emitter::stores(std::span<const Node* const> list) {
  // Together, unless a reduction of one would read what another stores.
  std::vector<const Node*> roots;
  bool together = true;
  for (const Node* node : list)
    for (const Node* source : node->src().subspan(1)) {
      roots.push_back(source);
      if (!memory_.reads(source, nullptr)) continue;
      ir::visit_post_order(source, [&](const Node* inner) {
        if (inner->op != Op::reduce || !together) return;
        together = std::ranges::none_of(list, [&](const Node* s) { return memory_.reads(inner, s->src(0)); });
      });
    }
  if (together) prepare_reductions(roots);
  for (const Node* node : list) {
    if (!together) prepare_reductions(node->src().subspan(1));
    write(operands(node));
  }
}

void Emitter::together(std::span<const Node* const> list) {
  std::vector<const Node*> roots;
  for (const Node* store : list) roots.insert(roots.end(), store->src().begin() + 1, store->src().end());
  prepare_reductions(roots);
  std::vector<Write> writes;
  for (const Node* store : list) writes.push_back(operands(store));
  for (size_t i = 0; i < writes.size();) {
    const bool packed = write_pack(std::span(writes).subspan(i));
    if (!packed) write(writes[i]);
    i += packed ? static_cast<size_t>(kVector) : 1;
  }
}

void Emitter::statements(std::span<const Node* const> list) {
  for (size_t i = 0; i < list.size();) {
    if (list[i]->op != Op::store) {
      loop(list[i++]);
      continue;
    }
    size_t end = i;
    while (end < list.size() && list[end]->op == Op::store) ++end;
    stores(list.subspan(i, end - i));
    i = end;
  }
}

void Emitter::loop(const Node* node) {
  if (node->op == Op::block) return statements(node->src());
  if (node->op == Op::together) return together(node->src());
  if (node == thread_loop_) return thread_loop(node);
  open_loop(node, [&] { statements(node->src().subspan(1)); });
}

void Emitter::open_loop(const Node* node, const std::function<void()>& body) {
  const Node* range = node->src(0);
  const Id extent = emit(range->src(0)).id;
  // From the second iteration on, what the body stores has changed: nothing read before the loop holds inside it.
  ir::visit_post_order(node, [&](const Node* inner) {
    if (inner->op == Op::store) forget_reads_of(inner->src(0));
  });
  std::vector<Scopes::Carried> none;
  s_.counted_loop(s_.innermost(), m_.constant_u64(0), extent, m_.constant_u64(1), none, [&](Id index) {
    s_.remember(range, {index, s_.innermost()});
    within(node->src().subspan(1), body);
  });
}

void Emitter::thread_loop(const Node* node) {
  s_.remember(node->src(0), {iteration_, 0});
  const std::span<const Node* const> body = node->src().subspan(1);
  if (workgroup_.is_used())
    collective(body);
  else
    statements(body);
}

// ------------------------------------------------------------------------------------------------ workgroups

void Emitter::barrier() {
  const Id workgroup = m_.constant_u32(static_cast<uint32_t>(spv::Scope::Workgroup));
  const auto semantics = spv::MemorySemanticsMask::AcquireRelease | spv::MemorySemanticsMask::WorkgroupMemory |
                         spv::MemorySemanticsMask::UniformMemory;
  s_.line(s_.innermost(), SpvOp::OpControlBarrier,
          {workgroup, workgroup, m_.constant_u32(static_cast<uint32_t>(semantics))});
  pending_ = {};
}

void Emitter::collective(std::span<const Node* const> list) {
  const auto only_first_runs = [&](const Node* statement) {
    return statement->op != Op::block && !workgroup_.is_collective(statement);
  };
  for (size_t i = 0; i < list.size();) {
    if (list[i]->op == Op::block) {
      collective(list[i++]->src());
      continue;
    }
    size_t end = i + 1;
    Workgroup::Traffic traffic = workgroup_.traffic(list[i]);
    if (only_first_runs(list[i]))
      for (; end < list.size() && only_first_runs(list[end]); ++end) traffic.add(workgroup_.traffic(list[end]));
    if (traffic.conflicts_with(pending_)) barrier();
    if (only_first_runs(list[i])) {
      const Id is_first = s_.define(s_.innermost(), SpvOp::OpIEqual, m_.bool_type(), {invocation_, m_.constant_u64(0)});
      const auto part = list.subspan(i, end - i);
      s_.branch(is_first, [&] { within(part, [&] { statements(part); }); });
    }
    if (only_first_runs(list[i]) || !collective_loop(list[i])) pending_.add(traffic);
    i = end;
  }
}

bool Emitter::collective_loop(const Node* node) {
  if (node == thread_loop_) {
    thread_loop(node);
    return false;
  }
  const Node* range = node->src(0);
  const std::span<const Node* const> body = node->src().subspan(1);
  if (range->range_kind() == RangeKind::invocation) {
    if (range->src(0)->value == workgroup_.invocations()) {
      s_.remember(range, {invocation_, 0});
      statements(body);
      return false;
    }
    const Id takes_part = s_.define(s_.innermost(), SpvOp::OpSLessThan, m_.bool_type(),
                                    {invocation_, m_.constant_u64(static_cast<uint64_t>(range->src(0)->value))});
    s_.branch(takes_part, [&] {
      s_.remember(range, {invocation_, s_.innermost()});
      within(body, [&] { statements(body); });
    });
    return false;
  }
  const Workgroup::Traffic before = std::exchange(pending_, {});
  // The next iteration begins where this one ends.
  const Workgroup::Traffic& traffic = workgroup_.traffic(node);
  const bool conflicts = traffic.conflicts_with(traffic);
  open_loop(node, [&] {
    collective(body);
    if (conflicts) barrier();
  });
  pending_ = before;
  return conflicts;
}

// ------------------------------------------------------------------------------------------------ module

Status Emitter::check_target() const {
  if (workgroup_.invocations() > target_.workgroup)
    return unsupported("it needs workgroups of " + std::to_string(workgroup_.invocations()) +
                       " invocations; this device has at most " + std::to_string(target_.workgroup));
  Status status;
  const auto lacks = [&](const std::string& what, const char* feature) {
    if (status.ok())
      status = unsupported("it needs " + what + ", which this device lacks (the Vulkan feature " + feature + ")");
  };
  const auto check_memory = [&](DType type) {
    const int size = ir::dtype_size(type);
    const std::string what = "memory of " + std::string(ir::dtype_name(type));
    if (size == 1 && !target_.storage8) lacks(what, "storageBuffer8BitAccess");
    if (size == 2 && !target_.storage16) lacks(what, "storageBuffer16BitAccess");
  };
  ir::visit_post_order(kernel_.body, [&](const Node* node) {
    if (node->type == DType::f64 && !target_.f64) lacks("f64", "shaderFloat64");
    if (node->op == Op::buffer || node->op == Op::scratch) check_memory(node->type);
  });
  return status;
}

void Emitter::define_interface() {
  m_.capability(spv::Capability::Shader);
  m_.capability(spv::Capability::PhysicalStorageBufferAddresses);
  number_ = m_.builtin(m_.vector_type(m_.integer_type(32), 3),
                       workgroup_.is_used() ? spv::BuiltIn::WorkgroupId : spv::BuiltIn::GlobalInvocationId);
  if (workgroup_.is_used()) local_number_ = m_.builtin(m_.integer_type(32), spv::BuiltIn::LocalInvocationIndex);
}

Result<GpuCode> Emitter::run() {
  SPORKLE_RETURN_IF_ERROR(check_target());
  ir::visit_post_order(kernel_.body, [&](const Node* node) {
    if (node->op == Op::scratch && workgroup_.place(node) == Workgroup::Place::device) scratches_.push_back(node);
    if (node->op == Op::loop && node->src(0)->range_kind() == RangeKind::thread) thread_loop_ = node;
  });
  std::ranges::sort(scratches_, {}, &Node::value);
  find_vectors();
  if (finds_packs_) find_packs();
  define_interface();

  const Id u32 = m_.integer_type(32), u64 = m_.integer_type(64);
  const Id function = m_.fresh(), entry = m_.fresh(), inside = m_.fresh(), exit = m_.fresh();
  s_.open(entry);
  s_.start_block(0, entry);
  const Id at = s_.define(0, SpvOp::OpLoad, m_.vector_type(u32, 3), {number_});
  const Id number = s_.define(0, SpvOp::OpCompositeExtract, u32, {at, 0});
  iteration_in_dispatch_ = s_.define(0, SpvOp::OpUConvert, u64, {number});
  iteration_ = s_.define(0, SpvOp::OpIAdd, u64, {arguments_.word(0), iteration_in_dispatch_});
  if (workgroup_.is_used())
    invocation_ = s_.define(0, SpvOp::OpUConvert, u64, {s_.define(0, SpvOp::OpLoad, u32, {local_number_})});
  const Id runs = s_.define(0, SpvOp::OpSLessThan, m_.bool_type(), {iteration_, arguments_.word(1)});
  s_.line(0, SpvOp::OpSelectionMerge, {exit, 0});
  s_.line(0, SpvOp::OpBranchConditional, {runs, inside, exit});
  s_.start_block(0, inside);
  if (workgroup_.is_used())
    collective(kernel_.body->src());
  else
    statements(kernel_.body->src());
  s_.line(0, SpvOp::OpBranch, {exit});
  s_.start_block(0, exit);
  s_.line(0, SpvOp::OpReturn, {});

  Words text;
  append(text, SpvOp::OpFunction, {m_.void_type(), function, 0, m_.function_type({m_.void_type()})});
  const Words& body = s_.at(0).text;
  constexpr ptrdiff_t label_words = 2;  // a function's variables stand behind its first label
  text.insert(text.end(), body.begin(), body.begin() + label_words);
  text.insert(text.end(), function_variables_.begin(), function_variables_.end());
  text.insert(text.end(), body.begin() + label_words, body.end());
  append(text, SpvOp::OpFunctionEnd, {});
  m_.add_function(text);
  SPORKLE_RETURN_IF_ERROR(status_);
  SPORKLE_RETURN_IF_ERROR(arithmetic_.status());

  const auto control = [&](bool wanted, spv::Capability capability, spv::ExecutionMode mode, uint32_t width) {
    if (!wanted) return;
    m_.capability(capability);
    m_.execution_mode(function, mode, {width});
  };
  control(target_.rte32, spv::Capability::RoundingModeRTE, spv::ExecutionMode::RoundingModeRTE, 32);
  control(target_.rte64, spv::Capability::RoundingModeRTE, spv::ExecutionMode::RoundingModeRTE, 64);
  // Where products and sums are to be contracted, and only all or nothing can be said of a kernel, it must be nothing.
  const bool contracts = target_.contract32 && workgroup_.is_used();
  if (target_.controls2) m_.fast_math_default(function, target_.f64);
  control(!target_.controls2 && target_.nan32 && !contracts, spv::Capability::SignedZeroInfNanPreserve,
          spv::ExecutionMode::SignedZeroInfNanPreserve, 32);
  control(!target_.controls2 && target_.nan64 && !contracts, spv::Capability::SignedZeroInfNanPreserve,
          spv::ExecutionMode::SignedZeroInfNanPreserve, 64);
  control(target_.denormal32, spv::Capability::DenormPreserve, spv::ExecutionMode::DenormPreserve, 32);
  control(target_.denormal64, spv::Capability::DenormPreserve, spv::ExecutionMode::DenormPreserve, 64);

  GpuCode code;
  for (const ir::BufferArgument& buffer : kernel_.buffers)
    code.buffers.push_back({static_cast<uint32_t>(ir::dtype_size(buffer.type)), buffer.access});
  for (const Node* memory : packed_) {
    GpuBuffer& buffer = code.buffers[static_cast<size_t>(memory->value)];
    buffer.alignment_bytes = buffer.element_bytes * static_cast<uint32_t>(kVector);
  }
  code.arguments_inline = arguments_.are_inline();
  code.workgroup_size = workgroup_.is_used() ? workgroup_.invocations() : usual_workgroup_;
  code.iterations_per_workgroup = workgroup_.is_used() ? 1 : usual_workgroup_;
  code.shared_bytes = workgroup_.shared_bytes();
  ir::Builder b(*kernel_.context);
  const Node* extent = thread_loop_ ? thread_loop_->src(0)->src(0) : b.integer(1);
  SPORKLE_ASSIGN_OR_RETURN(code.launch, LaunchFormula::make(kernel_, extent, scratch_bytes_before(nullptr)));
  code.spirv = m_.assemble(function, code.workgroup_size);
  return code;
}

}  // namespace

Result<GpuCode> emit(const ir::Kernel& kernel, const VulkanTarget& target, bool packs, uint32_t workgroup) {
  return Emitter(kernel, target, packs, workgroup).run();
}

}  // namespace sporkle::codegen::spirv
