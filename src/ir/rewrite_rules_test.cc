// Every rule by which Builder simplifies, by name: a node that the rule applies to keeps its value bit for bit, for
// random operands, the extremes of each type, NaNs, infinities, denormals and -0. A rule whose example it no longer
// changes fails, and so does an operation with constants that is not folded.
#include <gtest/gtest.h>

#include <limits>
#include <random>

#include "ir/arithmetic.h"
#include "ir/builder.h"
#include "ir/interpreter.h"
#include "ir/text.h"
#include "ir/verifier.h"

namespace sporkle::ir {
namespace {

constexpr DType kIntegers[] = {DType::i8, DType::u8, DType::i32, DType::u32, DType::i64, DType::u64};
constexpr DType kValues[] = {DType::boolean, DType::i8,  DType::u8,  DType::i32, DType::u32,
                             DType::i64,     DType::u64, DType::f32, DType::f64};

// One kernel that stores an expression of the scalars x, y (of one type) and the boolean c.
struct Example {
  explicit Example(DType t) : type(t), builder(*kernel.context) {
    kernel.name = "rule";
    kernel.scalars = {{"x", type}, {"y", type}, {"c", DType::boolean}};
    kernel.buffers = {{"in", type, Access::read}, {"out", type, Access::write}};
  }
  // Exactly this node: nothing is simplified.
  const Node* raw(Op op, std::initializer_list<const Node*> sources, DType result) {
    return kernel.context->make(op, result, sources);
  }
  const Node* raw(Op op, const Node* a, const Node* b) { return raw(op, {a, b}, type); }
  const Node* x() { return builder.scalar(type, 0, "x"); }
  const Node* y() { return builder.scalar(type, 1, "y"); }
  const Node* c() { return builder.scalar(DType::boolean, 2, "c"); }
  const Node* number(uint64_t value) { return builder.bits(type, static_cast<int64_t>(canonical_bits(type, value))); }

  DType type;
  Kernel kernel{.context = std::make_shared<Context>()};
  Builder builder;
  std::mt19937_64 random{7};
};

uint64_t operand(DType type, std::mt19937_64& random) {
  static constexpr uint64_t interesting[] = {0,
                                             1,
                                             2,
                                             3,
                                             ~uint64_t{0},
                                             0x7f,
                                             0x80,
                                             0xff,
                                             0x7fffffff,
                                             0x80000000,
                                             0xffffffff,
                                             0x7fffffffffffffff,
                                             0x8000000000000000,
                                             0x3f800000,
                                             0x7fc00000,
                                             0x7f800000,
                                             0xff800000,
                                             1u << 23,
                                             0x3ff0000000000000,
                                             0x7ff8000000000000,
                                             0x7ff0000000000000,
                                             0xfff0000000000000,
                                             0x0010000000000000};
  const uint64_t bits = random() % 3 == 0 ? random() : interesting[random() % std::size(interesting)];
  return canonical_bits(type, type == DType::boolean ? bits & 1 : bits);
}

std::vector<std::byte> stored(const Example& example, const Node* value, std::span<const uint64_t> scalars) {
  Kernel kernel = example.kernel;
  Builder b(*kernel.context);
  kernel.buffers[1].type = value->type;
  const Node* out = b.buffer(value->type, 1, "out");
  const Node* statement = kernel.context->make(Op::store, DType::none, {out, b.integer(0), value});
  kernel.body = kernel.context->make(Op::block, DType::none, {statement});
  std::vector<std::byte> in(8, std::byte{3}), result(8);
  const InterpreterBuffer buffers[] = {{in.data(), in.size()}, {result.data(), result.size()}};
  const Status status = interpret(kernel, buffers, scalars);
  EXPECT_TRUE(status.ok()) << status.to_string() << "\n" << print(kernel);
  return result;
}

// The node as the Builder would have made it from the same sources.
void expect_rule(Example& example, const Node* raw, const std::string& name) {
  SCOPED_TRACE(name + " of " + std::string(dtype_name(example.type)));
  const Node* simplified = example.builder.rebuild(raw, raw->src());
  EXPECT_NE(raw, simplified) << "the rule did not apply";
  for (int i = 0; i < 60; ++i) {
    const uint64_t scalars[] = {operand(example.type, example.random), operand(example.type, example.random),
                                example.random() & 1};
    ASSERT_EQ(stored(example, raw, scalars), stored(example, simplified, scalars))
        << "x = " << scalars[0] << ", y = " << scalars[1] << ", c = " << scalars[2];
  }
}

using Make = const Node* (*)(Example&);
struct Rule {
  const char* name;
  Make make;
};

const Node* any(Example& e) { return e.number(operand(e.type, e.random) | 2); }

const Rule kIntegerRules[] = {
    {"0 + x", [](Example& e) { return e.raw(Op::add, e.number(0), e.x()); }},
    {"x + 0", [](Example& e) { return e.raw(Op::add, e.x(), e.number(0)); }},
    {"constant + x", [](Example& e) { return e.raw(Op::add, any(e), e.x()); }},
    {"(x + constant) + constant", [](Example& e) { return e.raw(Op::add, e.raw(Op::add, e.x(), any(e)), any(e)); }},
    {"(x + constant) + y", [](Example& e) { return e.raw(Op::add, e.raw(Op::add, e.x(), any(e)), e.y()); }},
    {"x + (y + constant)", [](Example& e) { return e.raw(Op::add, e.x(), e.raw(Op::add, e.y(), any(e))); }},
    {"x - 0", [](Example& e) { return e.raw(Op::sub, e.x(), e.number(0)); }},
    {"x - x", [](Example& e) { return e.raw(Op::sub, e.x(), e.x()); }},
    {"0 * x", [](Example& e) { return e.raw(Op::mul, e.number(0), e.x()); }},
    {"x * 0", [](Example& e) { return e.raw(Op::mul, e.x(), e.number(0)); }},
    {"(x * 48) % 16", [](Example& e) { return e.raw(Op::mod, e.raw(Op::mul, e.x(), e.number(48)), e.number(16)); }},
    {"1 * x", [](Example& e) { return e.raw(Op::mul, e.number(1), e.x()); }},
    {"x * 1", [](Example& e) { return e.raw(Op::mul, e.x(), e.number(1)); }},
    {"constant * x", [](Example& e) { return e.raw(Op::mul, any(e), e.x()); }},
    {"x / 1", [](Example& e) { return e.raw(Op::div, e.x(), e.number(1)); }},
    {"x mod 1", [](Example& e) { return e.raw(Op::mod, e.x(), e.number(1)); }},
    {"min(x, x)", [](Example& e) { return e.raw(Op::min, e.x(), e.x()); }},
    {"max(x, x)", [](Example& e) { return e.raw(Op::max, e.x(), e.x()); }},
};

const Rule kBooleanRules[] = {
    {"true and x", [](Example& e) { return e.raw(Op::bit_and, e.number(1), e.x()); }},
    {"false and x", [](Example& e) { return e.raw(Op::bit_and, e.number(0), e.x()); }},
    {"x and true", [](Example& e) { return e.raw(Op::bit_and, e.x(), e.number(1)); }},
    {"x and false", [](Example& e) { return e.raw(Op::bit_and, e.x(), e.number(0)); }},
    {"x and x", [](Example& e) { return e.raw(Op::bit_and, e.x(), e.x()); }},
    {"true or x", [](Example& e) { return e.raw(Op::bit_or, e.number(1), e.x()); }},
    {"false or x", [](Example& e) { return e.raw(Op::bit_or, e.number(0), e.x()); }},
    {"x or true", [](Example& e) { return e.raw(Op::bit_or, e.x(), e.number(1)); }},
    {"x or false", [](Example& e) { return e.raw(Op::bit_or, e.x(), e.number(0)); }},
    {"x or x", [](Example& e) { return e.raw(Op::bit_or, e.x(), e.x()); }},
};

// Of every type, floats among them: they only move values.
const Rule kValueRules[] = {
    {"select(true, x, y)",
     [](Example& e) {
       return e.raw(Op::select, {e.builder.boolean(true), e.x(), e.y()}, e.type);
     }},
    {"select(false, x, y)",
     [](Example& e) {
       return e.raw(Op::select, {e.builder.boolean(false), e.x(), e.y()}, e.type);
     }},
    {"select(c, x, x)",
     [](Example& e) {
       return e.raw(Op::select, {e.c(), e.x(), e.x()}, e.type);
     }},
    {"cast to its own type", [](Example& e) { return e.raw(Op::cast, {e.x()}, e.type); }},
    {"load where true",
     [](Example& e) {
       Builder& b = e.builder;
       return e.raw(Op::load, {b.buffer(e.type, 0, "in"), b.integer(0), b.boolean(true), e.x()}, e.type);
     }},
    {"load where false",
     [](Example& e) {
       Builder& b = e.builder;
       return e.raw(Op::load, {b.buffer(e.type, 0, "in"), b.integer(0), b.boolean(false), e.x()}, e.type);
     }},
};

TEST(RewriteRules, OfIntegersKeepEveryBit) {
  for (const DType type : kIntegers)
    for (const Rule& rule : kIntegerRules) {
      Example example(type);
      expect_rule(example, rule.make(example), rule.name);
    }
}

TEST(RewriteRules, OfBooleansKeepEveryBit) {
  for (const Rule& rule : kBooleanRules) {
    Example example(DType::boolean);
    expect_rule(example, rule.make(example), rule.name);
  }
}

TEST(RewriteRules, OfAllValuesKeepEveryBit) {
  for (const DType type : kValues)
    for (const Rule& rule : kValueRules) {
      Example example(type);
      expect_rule(example, rule.make(example), rule.name);
    }
}

TEST(RewriteRules, BitcastsOfBitcastsKeepEveryBit) {
  for (const auto& [type, other] : {std::pair{DType::f32, DType::u32},
                                    {DType::i32, DType::f32},
                                    {DType::f64, DType::i64},
                                    {DType::i8, DType::u8}}) {
    Example example(type);
    const Node* there = example.raw(Op::bitcast, {example.x()}, other);
    expect_rule(example, example.raw(Op::bitcast, {there}, type), "bitcast there and back");
  }
}

TEST(RewriteRules, ConstantsFoldToWhatTheInterpreterGives) {
  constexpr Op kBinary[] = {Op::add,     Op::sub,    Op::mul,     Op::div,  Op::mod,        Op::min,   Op::max,
                            Op::bit_and, Op::bit_or, Op::bit_xor, Op::less, Op::less_equal, Op::equal, Op::not_equal};
  for (const DType type : kIntegers)
    for (const Op op : kBinary) {
      const DType result = op >= Op::less ? DType::boolean : type;
      for (int i = 0; i < 30; ++i) {
        Example example(type);
        example.random.seed(static_cast<uint64_t>(i));
        const Node* a = example.number(operand(type, example.random));
        const Node* b = example.number(operand(type, example.random));
        expect_rule(example, example.raw(op, {a, b}, result), std::string(op_name(op)) + " of constants");
      }
    }
  for (const DType from : kIntegers)
    for (const DType to : kValues) {
      if (from == to) continue;
      Example example(from);
      const Node* small = example.number(100 + example.random() % 20);
      expect_rule(example, example.raw(Op::cast, {small}, to), "cast of a constant");
    }
}

TEST(RewriteRules, StatementsThatDoNothingGo) {
  Context context;
  Builder b(context);
  const Node* out = b.buffer(DType::i64, 0, "out");
  const Node* never = context.make(Op::store, DType::none, {out, b.integer(0), b.integer(1), b.boolean(false)});
  const Node* always = context.make(Op::store, DType::none, {out, b.integer(0), b.integer(1), b.boolean(true)});
  const Node* plain = context.make(Op::store, DType::none, {out, b.integer(0), b.integer(1)});
  EXPECT_EQ(b.rebuild(never, never->src()), b.block({}));
  EXPECT_EQ(b.rebuild(always, always->src()), plain);
  const Node* block = context.make(Op::block, DType::none, {plain});
  const Node* nested = context.make(Op::block, DType::none, {block, plain});
  EXPECT_EQ(b.rebuild(nested, nested->src())->source_count, 2u);
  const Node* together = context.make(Op::together, DType::none, {plain, b.block({})});
  EXPECT_EQ(b.rebuild(together, together->src()), plain);
}

}  // namespace
}  // namespace sporkle::ir
