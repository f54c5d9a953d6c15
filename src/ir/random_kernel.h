// Random, valid kernels for property tests: every operation, type and loop form, edge values among the constants, every
// access in bounds or masked. The same seed gives the same kernel. Nodes are made as they are, without folding.
#pragma once

#include <array>
#include <cstring>
#include <limits>
#include <random>

#include "ir/arithmetic.h"
#include "ir/builder.h"
#include "ir/interpreter.h"

namespace sporkle::ir {

class RandomKernel {
 public:
  static constexpr int64_t kElements = 16;
  static constexpr std::array kTypes{DType::boolean, DType::i8,  DType::u8,   DType::i32, DType::u32, DType::i64,
                                     DType::u64,     DType::f16, DType::bf16, DType::f32, DType::f64};

  explicit RandomKernel(uint64_t seed) : random_(seed) {
    kernel_.context = std::make_shared<Context>();
    kernel_.name = seed % 3 ? "random" : "odd \"name\"\\\n\x80";
    kernel_.numerics = static_cast<Numerics>(below(3));
    for (const DType type : kTypes) {
      const std::string name = seed % 2 ? std::string(dtype_name(type)) : "";
      kernel_.buffers.push_back({name + " out", type, Access::read_write});
      kernel_.scalars.push_back({name, type});
    }
  }

  // A kernel of a few loops and stores.
  Kernel kernel() {
    std::vector<const Node*> statements;
    for (int i = 0; i < 3; ++i) statements.push_back(statement(3));
    kernel_.body = make(Op::block, DType::none, statements);
    return kernel_;
  }

  // A kernel that stores one random value of `type` at element 0 of the type's buffer.
  Kernel store_of_expression(DType type, int depth) {
    kernel_.body = make(Op::block, DType::none, {store(type, make(Op::constant, DType::i64, {}), value(type, depth))});
    return kernel_;
  }

  // Argument values for it.
  std::vector<uint64_t> scalars() {
    std::vector<uint64_t> result;
    for (const DType type : kTypes) result.push_back(static_cast<uint64_t>(edge_bits(type)));
    return result;
  }

  // Runs a kernel of this family with the same memory each time; returns the memory afterwards.
  static std::vector<std::vector<std::byte>> run(const Kernel& kernel, std::span<const uint64_t> scalars,
                                                 Status* status) {
    std::vector<std::vector<std::byte>> memory;
    std::vector<InterpreterBuffer> views;
    std::mt19937_64 fill(7);
    for (const DType type : kTypes) {
      std::vector<std::byte>& bytes = memory.emplace_back();
      for (int64_t i = 0; i < kElements * dtype_size(type); ++i)
        bytes.push_back(static_cast<std::byte>(type == DType::boolean ? fill() & 1 : fill()));
    }
    for (std::vector<std::byte>& bytes : memory) views.push_back({bytes.data(), bytes.size()});
    *status = interpret(kernel, views, scalars);
    return memory;
  }

  // Equal up to the bits of NaNs.
  static bool equal(const std::vector<std::vector<std::byte>>& a, const std::vector<std::vector<std::byte>>& b) {
    for (size_t t = 0; t < kTypes.size(); ++t)
      for (int64_t i = 0; i < kElements; ++i)
        if (!equal_element(kTypes[t], a[t], b[t], static_cast<size_t>(i))) return false;
    return true;
  }

 private:
  static bool equal_element(DType type, const std::vector<std::byte>& a, const std::vector<std::byte>& b, size_t i) {
    const size_t size = static_cast<size_t>(dtype_size(type));
    uint64_t x = 0, y = 0;
    std::memcpy(&x, &a[i * size], size);
    std::memcpy(&y, &b[i * size], size);
    if (x == y) return true;
    if (!is_float(type)) return false;
    const auto is_nan = [&](uint64_t bits) {
      const uint64_t as_double = apply(Op::cast, DType::f64, type, &bits);
      return apply(Op::not_equal, DType::boolean, DType::f64, std::array{as_double, as_double}.data()) == 1;
    };
    return is_nan(x) && is_nan(y);
  }

  uint64_t below(uint64_t n) { return random_() % n; }
  bool chance(uint64_t one_in) { return below(one_in) == 0; }

  const Node* make(Op op, DType type, std::span<const Node* const> sources, int64_t value = 0, uint8_t attribute = 0,
                   uint8_t lanes = 0, std::string_view name = {}) {
    return kernel_.context->make(op, type, sources, value, attribute, lanes, name);
  }
  const Node* make(Op op, DType type, std::initializer_list<const Node*> sources, int64_t value = 0,
                   uint8_t attribute = 0, uint8_t lanes = 0, std::string_view name = {}) {
    return kernel_.context->make(op, type, sources, value, attribute, lanes, name);
  }

  int64_t edge_bits(DType type) {
    constexpr double infinity = std::numeric_limits<double>::infinity();
    static constexpr double values[] = {0.0,
                                        -0.0,
                                        1.0,
                                        -1.0,
                                        2.0,
                                        0.5,
                                        3.0,
                                        -7.0,
                                        127.0,
                                        128,
                                        255.0,
                                        65504,
                                        2147483648.,
                                        -2147483648.,
                                        9.3e18,
                                        1e-310,
                                        1e-40,
                                        -1e-45,
                                        1e9,
                                        3.4e38,
                                        infinity,
                                        -infinity,
                                        std::numeric_limits<double>::quiet_NaN()};
    if (chance(3)) return static_cast<int64_t>(canonical_bits(type, random_()));
    return constant_bits(type, values[below(std::size(values))]);
  }

  const Node* integer(int64_t n) { return make(Op::constant, DType::i64, {}, n); }

  const Node* range(int64_t extent, RangeKind kind) {
    static constexpr std::string_view names[] = {"i", "k", "", "two words", "x9"};
    return make(Op::range, DType::i64, {integer(extent)}, kernel_.context->next_number(), static_cast<uint8_t>(kind), 0,
                names[below(std::size(names))]);
  }

  size_t index_of(DType type) { return static_cast<size_t>(std::ranges::find(kTypes, type) - kTypes.begin()); }

  const Node* memory(DType type) {
    const size_t i = index_of(type);
    return make(Op::buffer, type, {}, static_cast<int64_t>(i), 0, 0, kernel_.buffers[i].name);
  }

  const Node* in_bounds(const Node* index) {
    return make(Op::bit_and, DType::boolean,
                {make(Op::less_equal, DType::boolean, {integer(0), index}),
                 make(Op::less, DType::boolean, {index, integer(kElements)})});
  }

  const Node* leaf(DType type) {
    const size_t i = index_of(type);
    if (type == DType::i64 && !open_.empty() && chance(2)) return open_[below(open_.size())];
    if (chance(2)) return make(Op::scalar, type, {}, static_cast<int64_t>(i), 0, 0, kernel_.scalars[i].name);
    return make(Op::constant, type, {}, edge_bits(type));
  }

  const Node* load(DType type, int depth) {
    if (type == unloaded_) return leaf(type);
    if (chance(2)) return make(Op::load, type, {memory(type), integer(static_cast<int64_t>(below(kElements)))});
    const Node* index = value(DType::i64, depth - 1);
    return make(Op::load, type, {memory(type), index, in_bounds(index), value(type, depth - 1)});
  }

  const Node* reduction(DType type, int depth) {
    if (chance(3)) {
      const Node* lane = range(int64_t{1} << below(4), RangeKind::vector);
      open_.push_back(lane);
      const Node* v = value(type, depth - 1);
      open_.pop_back();
      return make(Op::lane_reduce, type, {v, lane}, 0, static_cast<uint8_t>(below(3)));
    }
    const Node* init = value(type, depth - 1);
    const Node* k = range(static_cast<int64_t>(below(6)), RangeKind::serial);
    open_.push_back(k);
    const Node *a = value(type, depth - 1), *b = value(type, depth - 1);
    open_.pop_back();
    constexpr uint8_t fma = static_cast<uint8_t>(Combine::fma);
    if (type == DType::i32 && chance(3)) {
      const auto word = [&] { return value(DType::u32, depth - 1); };
      open_.push_back(k);
      const Node* const factors[] = {word(), word()};
      open_.pop_back();
      return make(Op::reduce, type, {init, k, factors[0], factors[1]}, 0, static_cast<uint8_t>(Combine::dot), 1);
    }
    if (is_float(type) && chance(2)) return make(Op::reduce, type, {init, k, a, b}, 0, fma, 1);
    return make(Op::reduce, type, {init, k, a}, 0, static_cast<uint8_t>(below(3)), static_cast<uint8_t>(1 << below(4)));
  }

  const Node* value(DType type, int depth) {
    if (depth <= 0 || chance(8)) return leaf(type);
    const auto next = [&](DType t) { return value(t, depth - 1); };
    const bool has_arithmetic = type != DType::boolean && type != DType::f16 && type != DType::bf16;
    switch (below(has_arithmetic ? 10 : 4)) {
      case 0:
        return load(type, depth);
      case 1:
        return make(Op::select, type, {next(DType::boolean), next(type), next(type)});
      case 2:
        return make(Op::cast, type, {next(kTypes[below(kTypes.size())])});
      case 3: {
        if (type == DType::boolean) {
          const DType of = std::array{DType::i32, DType::u64, DType::i64, DType::f32, DType::f64}[below(5)];
          const Op op = static_cast<Op>(static_cast<uint64_t>(Op::less) + below(4));
          return make(op, type, {next(of), next(of)});
        }
        const DType from = kTypes[1 + below(kTypes.size() - 1)];
        return dtype_size(from) == dtype_size(type) ? make(Op::bitcast, type, {next(from)}) : leaf(type);
      }
      case 4:
        return reduction(type, depth);
      case 5:
        return make(chance(2) ? Op::neg : Op::abs, type, {next(type)});
      default:
        break;
    }
    if (is_float(type) && chance(3)) {
      static constexpr Op unary[] = {Op::sqrt, Op::floor, Op::exp, Op::log,  Op::tanh,
                                     Op::sin,  Op::cos,   Op::erf, Op::rsqrt};
      if (chance(3)) return make(Op::fma, type, {next(type), next(type), next(type)});
      return make(unary[below(std::size(unary))], type, {next(type)});
    }
    if (type == DType::i32 && chance(8)) return make(Op::dot, type, {next(DType::u32), next(DType::u32), next(type)});
    static constexpr Op binary[] = {Op::add,     Op::sub,    Op::mul,     Op::div, Op::min, Op::max,
                                    Op::bit_and, Op::bit_or, Op::bit_xor, Op::mod, Op::shl, Op::shr};
    return make(binary[below(is_float(type) ? 6 : std::size(binary))], type, {next(type), next(type)});
  }

  const Node* store(DType type, const Node* index, const Node* stored) {
    if (index->is_constant(0)) return make(Op::store, DType::none, {memory(type), index, stored});
    return make(Op::store, DType::none, {memory(type), index, stored, in_bounds(index)});
  }

  const Node* statement(int depth) {
    if (depth == 0 || chance(3)) {
      const DType type = kTypes[below(kTypes.size())];
      return store(type, value(DType::i64, 2), value(type, 4));
    }
    if (chance(6)) return make(Op::block, DType::none, {statement(depth - 1), statement(depth - 1)});
    if (chance(6)) {
      std::vector<const Node*> stores;
      for (uint64_t n = 2 + below(2); n > 0; --n) stores.push_back(statement(0));
      return make(Op::together, DType::none, stores);
    }
    if (chance(4)) return vector_loop();
    const Node* r = range(static_cast<int64_t>(below(4)), RangeKind::serial);
    open_.push_back(r);
    std::vector<const Node*> sources{r};
    for (uint64_t n = below(3); n > 0; --n) sources.push_back(statement(depth - 1));
    open_.pop_back();
    // In order, since the iterations may store to what others load.
    return make(Op::serial_loop, DType::none, sources);
  }

  // Iterations are independent: each stores to its own element of memory that none loads.
  const Node* vector_loop() {
    const DType type = kTypes[below(kTypes.size())];
    const Node* lane = range(int64_t{2} << below(4), RangeKind::vector);
    open_.push_back(lane);
    unloaded_ = type;
    const Node* stored = store(type, lane, value(type, 4));
    unloaded_ = DType::none;
    open_.pop_back();
    return make(Op::loop, DType::none, {lane, stored});
  }

  std::mt19937_64 random_;
  Kernel kernel_;
  std::vector<const Node*> open_;  // ranges that expressions may use
  DType unloaded_ = DType::none;   // of the memory that no expression may load
};

}  // namespace sporkle::ir
