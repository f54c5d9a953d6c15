// The interpreter's machinery, shared by interpret() and the debugger. Internal to ir.
//
// Hooks see what happens; those of interpret() are empty and cost nothing.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <string>
#include <unordered_map>
#include <vector>

#include "ir/arithmetic.h"
#include "ir/interpreter.h"
#include "ir/math.h"
#include "ir/node_rules.h"

namespace sporkle::ir {

inline constexpr size_t kMaxScratchBytes = size_t{256} << 20;

inline bool is_math(Op op) { return op >= Op::exp && op <= Op::rsqrt; }

// The expansion of a mathematical function as a list of steps; sources are positions in the list, and position 0 is the
// argument.
class MathProgram {
 public:
  MathProgram(const Node* (*expand)(Builder&, const Node*), DType type) {
    Context context;
    Builder builder(context);
    const Node* argument = builder.scalar(type, 0, "x");
    const Node* result = expand(builder, argument);
    std::unordered_map<const Node*, uint16_t> position{{argument, 0}};
    steps_.push_back({Op::scalar, type, type, {}, 0});
    visit_post_order(result, [&](const Node* node) {
      if (node == argument) return;
      Step step{node->op, node->type, DType::none, {}, static_cast<uint64_t>(node->value)};
      for (uint32_t i = 0; i < node->source_count; ++i) step.sources[i] = position.at(node->src(i));
      if (node->source_count > 0) step.from = node->src(0)->type;
      position[node] = static_cast<uint16_t>(steps_.size());
      steps_.push_back(step);
    });
  }

  uint64_t operator()(uint64_t x) const {
    thread_local std::vector<uint64_t> values;
    values.resize(std::max(values.size(), steps_.size()));
    values[0] = x;
    for (size_t i = 1; i < steps_.size(); ++i) {
      const Step& s = steps_[i];
      const uint64_t v[] = {values[s.sources[0]], values[s.sources[1]], values[s.sources[2]]};
      values[i] = s.op == Op::constant ? s.value : apply(s.op, s.type, s.from, v);
    }
    return values[steps_.size() - 1];
  }

  static const MathProgram& of(Op op, DType type) {
    static const auto make = [](DType t) {
      return std::array{MathProgram(expand_exp, t),  MathProgram(expand_log, t), MathProgram(expand_tanh, t),
                        MathProgram(expand_sin, t),  MathProgram(expand_cos, t), MathProgram(expand_erf, t),
                        MathProgram(expand_rsqrt, t)};
    };
    static const std::array<MathProgram, 7> f32 = make(DType::f32), f64 = make(DType::f64);
    return (type == DType::f32 ? f32 : f64)[static_cast<size_t>(op) - static_cast<size_t>(Op::exp)];
  }

 private:
  struct Step {
    Op op;
    DType type, from;
    uint16_t sources[3];
    uint64_t value;
  };
  std::vector<Step> steps_;
};

inline uint64_t read_element(DType type, const std::byte* from) {
  uint64_t bits = 0;
  std::memcpy(&bits, from, static_cast<size_t>(dtype_size(type)));
  return type == DType::boolean ? bits != 0 : canonical_bits(type, bits);
}

// Executes one kernel. Every node has a slot that remembers its value. What a value depends on are ranges and memory
// (buffers that are stored to): binding a range or storing forgets the slots that depend on it, so a value is computed
// again only when it may differ.
//
// Hooks: kActive says whether the rest is called. step() counts an iteration or a store and says whether to go on;
// open() and close() tell of ranges, bind() of their indices; value() of a value that was computed; load(), store() and
// clear() of elements of memory (load() says whether the element has a value); where() ends the message of an error.
struct NoHooks {
  static constexpr bool kActive = false;
};

template <typename Hooks>
class Interpreter {
 public:
  Interpreter(const Kernel& kernel, std::span<const InterpreterBuffer> buffers, std::span<const uint64_t> scalars,
              Hooks& hooks)
      : kernel_(kernel), hooks_(hooks) {
    memory_.assign(buffers.begin(), buffers.end());
    for (size_t i = 0; i < scalars.size(); ++i) scalars_.push_back(canonical_bits(kernel.scalars[i].type, scalars[i]));
    number_nodes();
    find_dependents();
  }

  Status run() {
    allocate_scratch();
    clear_scratch();
    if (status_.ok()) execute(slot_of_.at(kernel_.body));
    return status_;
  }

 private:
  struct Slot {
    Op op;
    DType type, from;  // from: of the first source
    bool known;        // `value` is current
    uint8_t attribute, lanes;
    uint32_t source_count;
    const uint32_t* sources;
    uint64_t value;
    uint32_t thing;  // of a range: its number among the ranges; of a buffer or scratch: among the memories
    const Node* node;
  };

  void number_nodes() {
    visit_post_order(kernel_.body, [&](const Node* node) {
      slot_of_.emplace(node, static_cast<uint32_t>(slots_.size()));
      std::vector<uint32_t>& sources = source_lists_.emplace_back();
      for (const Node* source : node->src()) sources.push_back(slot_of_.at(source));
      const DType from = sources.empty() ? DType::none : node->src(0)->type;
      Slot slot{node->op,
                node->type,
                from,
                false,
                node->attribute,
                node->lanes,
                node->source_count,
                sources.data(),
                static_cast<uint64_t>(node->value),
                0,
                node};
      switch (node->op) {
        case Op::constant:
          slot.known = true;
          break;
        case Op::scalar:
          slot.known = true;
          slot.value = scalars_[static_cast<size_t>(node->value)];
          break;
        case Op::range:
          slot.thing = range_count_++;
          break;
        case Op::buffer:
          slot.thing = static_cast<uint32_t>(node->value);
          break;
        case Op::scratch:
          slot.thing = static_cast<uint32_t>(memory_.size());
          memory_.push_back({nullptr, 0});
          scratch_slots_.push_back(static_cast<uint32_t>(slots_.size()));
          break;
        default:
          break;
      }
      slots_.push_back(slot);
    });
  }

  // Numbers of "things" that values depend on: ranges first, then memories.
  void find_dependents() {
    const size_t things = range_count_ + memory_.size();
    const size_t words = (things + 63) / 64;
    std::vector<uint64_t> sets(slots_.size() * words);
    const auto set_of = [&](uint32_t slot) { return sets.begin() + static_cast<ptrdiff_t>(slot * words); };
    const auto bit = [](auto set, size_t thing) -> uint64_t& { return set[static_cast<ptrdiff_t>(thing / 64)]; };
    const auto unite = [&](auto set, uint32_t source) {
      for (size_t w = 0; w < words; ++w) set[static_cast<ptrdiff_t>(w)] |= set_of(source)[static_cast<ptrdiff_t>(w)];
    };
    for (uint32_t i = 0; i < slots_.size(); ++i) {
      const Slot& slot = slots_[i];
      const auto set = set_of(i);
      if (slot.op == Op::range) {
        bit(set, slot.thing) |= uint64_t{1} << slot.thing % 64;
        continue;
      }
      if (slot.type == DType::none) continue;  // statements have no value
      for (uint32_t s = 0; s < slot.source_count; ++s) unite(set, slot.sources[s]);
      if (slot.op == Op::load) {
        const size_t thing = range_count_ + slots_[slot.sources[0]].thing;
        bit(set, thing) |= uint64_t{1} << thing % 64;
      }
      if (slot.op == Op::reduce || slot.op == Op::lane_reduce) {
        // The range is bound here: outside, the value depends on what its extent depends on instead.
        const Slot& range = slots_[slot.sources[1]];
        bit(set, range.thing) &= ~(uint64_t{1} << range.thing % 64);
        unite(set, range.sources[0]);
        const uint32_t init = slot.sources[0];
        if (slot.op == Op::reduce) unite(set, init);
      }
    }
    dependents_.resize(things);
    for (uint32_t i = 0; i < slots_.size(); ++i)
      for (size_t t = 0; t < things; ++t)
        if (bit(set_of(i), t) >> t % 64 & 1) dependents_[t].push_back(i);
    // Arguments may overlap in memory: a store to one changes what the other holds.
    overlapping_.resize(memory_.size());
    for (size_t a = 0; a < memory_.size(); ++a)
      for (size_t b = 0; b < memory_.size(); ++b) {
        const std::less<const std::byte*> before;
        const bool overlap = before(memory_[a].data, memory_[b].data + memory_[b].size_bytes) &&
                             before(memory_[b].data, memory_[a].data + memory_[a].size_bytes);
        if (a == b || overlap) overlapping_[a].push_back(b);
      }
  }

  void allocate_scratch() {
    size_t total = 0;
    for (const uint32_t index : scratch_slots_) {
      const Slot& slot = slots_[index];
      const int64_t count = static_cast<int64_t>(value(slot.sources[0]));
      const size_t element = static_cast<size_t>(dtype_size(slot.type));
      if (count < 0 || static_cast<uint64_t>(count) > (kMaxScratchBytes - total) / element)
        return fail(slot, "asks for " + std::to_string(count) + " elements; all scratch together may take " +
                              std::to_string(kMaxScratchBytes >> 20) + " MiB");
      std::vector<std::byte>& bytes = scratch_.emplace_back(static_cast<size_t>(count) * element);
      memory_[slot.thing] = {bytes.data(), bytes.size()};
      total += bytes.size();
    }
  }

  // Undefined at the start of an iteration of the thread loop; all ones (a NaN) makes a read of it show.
  void clear_scratch() {
    for (size_t i = 0; i < scratch_.size(); ++i) {
      if constexpr (Hooks::kActive) {
        const Slot& slot = slots_[scratch_slots_[i]];
        hooks_.clear(slot.thing, scratch_[i].size() / static_cast<size_t>(dtype_size(slot.type)));
      }
      std::ranges::fill(scratch_[i], std::byte{0xff});
      forget(range_count_ + slots_[scratch_slots_[i]].thing);
    }
  }

  // Keeps the first error; execution stops at the next statement or iteration.
  void fail(const Slot& slot, const std::string& what) {
    if (!status_.ok()) return;
    std::string message = "kernel \"" + kernel_.name + "\": " + describe(slot.node) + " " + what;
    if constexpr (Hooks::kActive) message += hooks_.where(slot.node);
    status_ = invalid_argument(message);
  }

  // Counts a step of `slot`.
  void step(const Slot& slot) {
    if constexpr (Hooks::kActive)
      if (!hooks_.step()) fail(slot, "is reached after the greatest number of steps");
  }
  void open(const Slot& range) {
    if constexpr (Hooks::kActive) hooks_.open(range.node);
  }
  void close(const Slot& range) {
    if constexpr (Hooks::kActive) hooks_.close(range.node);
  }

  void forget(size_t thing) {
    for (const uint32_t slot : dependents_[thing]) slots_[slot].known = false;
  }

  void bind(Slot& range, int64_t index) {
    forget(range.thing);
    range.value = static_cast<uint64_t>(index);
    range.known = true;
    if constexpr (Hooks::kActive) hooks_.bind(index);
  }

  // Where the element lies, or nullptr after reporting that it lies outside.
  std::byte* element(const Slot& access, int64_t index) {
    const Slot& target = slots_[access.sources[0]];
    const InterpreterBuffer& memory = memory_[target.thing];
    const size_t size = static_cast<size_t>(dtype_size(target.type));
    const size_t count = memory.size_bytes / size;
    if (index < 0 || static_cast<uint64_t>(index) >= count) {
      fail(access, "at index " + std::to_string(index) + " is outside its " + std::to_string(count) + " elements");
      return nullptr;
    }
    return memory.data + static_cast<size_t>(index) * size;
  }

  uint64_t value(uint32_t index) {
    Slot& slot = slots_[index];
    if (!slot.known) {
      slot.value = compute(slot);
      slot.known = true;
      if constexpr (Hooks::kActive)
        if (status_.ok()) hooks_.value(slot.node, slot.value);
    }
    return slot.value;
  }

  uint64_t compute(Slot& slot) {
    switch (slot.op) {
      case Op::load:
        return load(slot);
      case Op::reduce:
        return slot.lanes > 1 ? reduce_in_lanes(slot) : reduce_in_order(slot);
      case Op::lane_reduce:
        return lane_reduce(slot);
      case Op::exp:
      case Op::log:
      case Op::tanh:
      case Op::sin:
      case Op::cos:
      case Op::erf:
      case Op::rsqrt:
        return MathProgram::of(slot.op, slot.type)(value(slot.sources[0]));
      default:
        break;
    }
    uint64_t v[3] = {};
    for (uint32_t i = 0; i < slot.source_count; ++i) v[i] = value(slot.sources[i]);
    return apply(slot.op, slot.type, slot.from, v);
  }

  uint64_t load(Slot& slot) {
    const int64_t index = static_cast<int64_t>(value(slot.sources[1]));
    if (slot.source_count > 2) {
      const uint64_t mask = value(slot.sources[2]), otherwise = value(slot.sources[3]);
      if (!mask) return otherwise;
    }
    const std::byte* from = element(slot, index);
    if constexpr (Hooks::kActive)
      if (from && !hooks_.load(slots_[slot.sources[0]].thing, static_cast<size_t>(index)))
        fail(slot, "reads element " + std::to_string(index) + ", which was never written");
    return from ? read_element(slot.type, from) : 0;
  }

  int64_t extent(const Slot& range) { return static_cast<int64_t>(value(range.sources[0])); }

  uint64_t combine(const Slot& slot, uint64_t a, uint64_t b) {
    const uint64_t v[] = {a, b};
    return apply(combine_op(static_cast<Combine>(slot.attribute)), slot.type, slot.type, v);
  }

  uint64_t reduce_in_order(Slot& slot) {
    const Combine how = static_cast<Combine>(slot.attribute);
    const bool has_factors = how == Combine::fma || how == Combine::dot;
    Slot& range = slots_[slot.sources[1]];
    uint64_t acc = value(slot.sources[0]);
    const int64_t end = extent(range);
    open(range);
    for (int64_t k = 0; k < end && status_.ok(); ++k) {
      bind(range, k);
      step(slot);
      if (has_factors) {
        const uint64_t v[] = {value(slot.sources[2]), value(slot.sources[3]), acc};
        acc = apply(combine_op(how), slot.type, slot.type, v);
      } else {
        acc = combine(slot, acc, value(slot.sources[2]));
      }
    }
    close(range);
    return acc;
  }

  // v[l] = combine(v[l], v[l + w]) for w = half the width, a quarter ... 1.
  uint64_t join_lanes(const Slot& slot, std::span<uint64_t> v) {
    for (size_t w = v.size() / 2; w >= 1; w /= 2)
      for (size_t l = 0; l < w; ++l) v[l] = combine(slot, v[l], v[l + w]);
    return v[0];
  }

  uint64_t reduce_in_lanes(Slot& slot) {
    Slot& range = slots_[slot.sources[1]];
    const uint64_t init = value(slot.sources[0]);
    const int64_t end = extent(range);
    std::vector<uint64_t> acc(slot.lanes, combine_identity(static_cast<Combine>(slot.attribute), slot.type));
    open(range);
    for (int64_t k = 0; k < end && status_.ok(); ++k) {
      bind(range, k);
      step(slot);
      uint64_t& lane = acc[static_cast<size_t>(k) % slot.lanes];
      lane = combine(slot, lane, value(slot.sources[2]));
    }
    close(range);
    return combine(slot, init, join_lanes(slot, acc));
  }

  uint64_t lane_reduce(Slot& slot) {
    Slot& range = slots_[slot.sources[1]];
    std::vector<uint64_t> v(static_cast<size_t>(extent(range)));
    open(range);
    for (size_t l = 0; l < v.size() && status_.ok(); ++l) {
      bind(range, static_cast<int64_t>(l));
      step(slot);
      v[l] = value(slot.sources[0]);
    }
    close(range);
    return join_lanes(slot, v);
  }

  void execute(uint32_t index) {
    Slot& slot = slots_[index];
    switch (slot.op) {
      case Op::block:
        for (uint32_t i = 0; i < slot.source_count && status_.ok(); ++i) execute(slot.sources[i]);
        break;
      case Op::loop:
      case Op::serial_loop:
        loop(slot);
        break;
      case Op::store:
        write(read_store(index));
        break;
      case Op::together:
        together(slot);
        break;
      default:
        break;
    }
  }

  void loop(const Slot& slot) {
    Slot& range = slots_[slot.sources[0]];
    const bool is_thread = range.node->range_kind() == RangeKind::thread;
    const int64_t end = extent(range);
    open(range);
    for (int64_t i = 0; i < end && status_.ok(); ++i) {
      bind(range, i);
      step(slot);
      if (is_thread) clear_scratch();
      for (uint32_t s = 1; s < slot.source_count && status_.ok(); ++s) execute(slot.sources[s]);
    }
    close(range);
  }

  void together(const Slot& slot) {
    std::vector<Write> writes;
    for (uint32_t i = 0; i < slot.source_count && status_.ok(); ++i) writes.push_back(read_store(slot.sources[i]));
    if (!status_.ok()) return;
    for (const Write& w : writes) write(w);
  }

  // One element about to be written; `to` is null where the mask or an error forbids it.
  struct Write {
    uint32_t store;
    std::byte* to;
    uint64_t stored;
  };

  Write read_store(uint32_t index) {
    const Slot& slot = slots_[index];
    step(slot);
    const int64_t where = static_cast<int64_t>(value(slot.sources[1]));
    const uint64_t stored = value(slot.sources[2]);
    const bool masked_off = slot.source_count > 3 && !value(slot.sources[3]);
    return {index, masked_off || !status_.ok() ? nullptr : element(slot, where), stored};
  }

  void write(const Write& w) {
    if (!w.to) return;
    const Slot& target = slots_[slots_[w.store].sources[0]];
    std::memcpy(w.to, &w.stored, static_cast<size_t>(dtype_size(target.type)));
    if constexpr (Hooks::kActive)
      hooks_.store(target.thing, static_cast<size_t>(w.to - memory_[target.thing].data) /
                                     static_cast<size_t>(dtype_size(target.type)));
    for (const size_t memory : overlapping_[target.thing]) forget(range_count_ + memory);
  }

  const Kernel& kernel_;
  Hooks& hooks_;
  std::vector<InterpreterBuffer> memory_;  // the buffer arguments, then scratch
  std::vector<uint64_t> scalars_;
  std::vector<Slot> slots_;  // sources before what uses them
  std::unordered_map<const Node*, uint32_t> slot_of_;
  std::deque<std::vector<uint32_t>> source_lists_;
  std::vector<uint32_t> scratch_slots_;
  std::vector<std::vector<std::byte>> scratch_;
  uint32_t range_count_ = 0;
  std::vector<std::vector<uint32_t>> dependents_;  // by thing: the slots to forget when it changes
  std::vector<std::vector<size_t>> overlapping_;   // by memory: itself and the memories that share bytes with it
  Status status_;
};

// invalid_argument when a kernel is given another number of arguments than it takes.
Status check_argument_counts(const Kernel& kernel, size_t buffers, size_t scalars);

}  // namespace sporkle::ir
