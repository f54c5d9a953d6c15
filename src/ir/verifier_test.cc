#include "ir/verifier.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "ir/builder.h"
#include "ir/text.h"
#include "ir/verifier_messages.h"

namespace sporkle::ir {
namespace {

// Whether `text` holds the pieces of a form between its gaps, in their order.
bool has_form(std::string_view text, std::string_view form) {
  for (;;) {
    const size_t gap = form.find("{}");
    const size_t at = text.find(form.substr(0, gap));
    if (at == std::string_view::npos) return false;
    if (gap == std::string_view::npos) return true;
    text.remove_prefix(at + gap);
    form.remove_prefix(gap + 2);
  }
}

// What the tests of this file heard from the verifier. When all have run, every message that it has must be among it.
class Heard final : public testing::Environment {
 public:
  static void add(const Status& status) { messages().push_back(status.message()); }
  void TearDown() override {
    if (GTEST_FLAG_GET(filter) != "*") return;
    for (const std::string_view form : kVerifierMessages) {
      bool found = false;
      for (const std::string& message : messages()) found = found || has_form(message, form);
      EXPECT_TRUE(found) << "no test provokes the verifier's \"" << form << "\"";
    }
  }

 private:
  static std::vector<std::string>& messages() {
    static std::vector<std::string> all;
    return all;
  }
};
[[maybe_unused]] testing::Environment* const kHeard = testing::AddGlobalTestEnvironment(new Heard);

TEST(VerifierMessages, AreToldApart) {
  for (const std::string_view form : kVerifierMessages) {
    EXPECT_FALSE(form.empty());
    EXPECT_EQ(std::ranges::count(kVerifierMessages, form), 1) << form;
  }
  EXPECT_TRUE(has_form("kernel \"k\": add has 1 sources; it takes 2", "{} has {} sources; it takes {}"));
  EXPECT_FALSE(has_form("kernel \"k\": add has 1 lanes", "{} has {} sources; it takes {}"));
}

constexpr char kHeader[] = R"(kernel "k" strict
buffer x@0 f32 read
buffer y@1 f32 write
buffer z@2 i64 read_write
scalar n$0 i64
scalar a$1 f32
)";

struct Mistake {
  const char* message;
  const char* text;
};

// One kernel for each class of mistake that the text form can hold.
constexpr Mistake kMistakes[] = {
    // Sources: how many, and of which types.
    {"add has 1 sources; it takes 2", "%0 = add i64 1\nstore z@2 0 %0\n"},
    {"load of buffer \"x\" has 1 sources; it takes 2 to 4", "%0 = load f32 x@0\nstore y@1 0 %0\n"},
    {"add of type i64 has a source of type f32", "%0 = add i64 1 f32:1\nstore z@2 0 %0\n"},
    {"less of type f32 has a source of type i64", "%0 = less bool f32:1 1\nstore z@2 0 1 %0\n"},
    {"less gives a bool, not i64", "%0 = less i64 1 1\nstore z@2 0 %0\n"},
    {"mod does not exist for type f32", "%0 = mod f32 f32:1 f32:1\nstore y@1 0 %0\n"},
    {"add does not exist for type f16", "%0 = add f16 f16:1 f16:1\n%1 = cast f32 %0\nstore y@1 0 %1\n"},
    {"add does not exist for type bool", "%0 = add bool bool:1 bool:1\nstore z@2 0 1 %0\n"},
    {"sqrt does not exist for type i64", "%0 = sqrt i64 1\nstore z@2 0 %0\n"},
    {"fma does not exist for type i64", "%0 = fma i64 1 1 1\nstore z@2 0 %0\n"},
    {"shl does not exist for type f32", "%0 = shl f32 f32:1 f32:1\nstore y@1 0 %0\n"},
    {"less does not exist for type bool", "%0 = less bool bool:1 bool:1\nstore z@2 0 1 %0\n"},
    {"select needs a bool as its condition, not i64", "%0 = select i64 1 1 1\nstore z@2 0 %0\n"},
    {"select of type i64 has a branch of type f32", "%0 = select i64 bool:1 1 f32:1\nstore z@2 0 %0\n"},
    {"bitcast from f32 to i64 changes the size", "%0 = bitcast i64 f32:1\nstore z@2 0 %0\n"},
    {"bitcast from bool to i8 changes the size", "%0 = bitcast i8 bool:1\n%1 = cast i64 %0\nstore z@2 0 %1\n"},

    // Memory.
    {"add uses buffer \"z\" as a value", "%0 = add i64 z@2 1\nstore z@2 0 %0\n"},
    {"store of buffer \"z\" uses buffer \"z\" as a value", "store z@2 0 z@2\n"},
    {"store needs a buffer or scratch as its first source, not scalar \"n\"", "store n$0 0 1\n"},
    {"load needs a buffer or scratch as its first source", "%0 = load i64 1 1\nstore z@2 0 %0\n"},
    {"needs an index of type i64, not f32", "store z@2 f32:0 1\n"},
    {"has a value of type f32; the memory holds i64", "store z@2 0 f32:1\n"},
    {"has a value of type i64; the memory holds f32", "%0 = load i64 x@0 0\nstore z@2 0 %0\n"},
    {"needs a mask of type bool, not i64", "store z@2 0 1 1\n"},
    {"has a mask but no value", "%0 = load i64 z@2 0 bool:1\nstore z@2 0 %0\n"},
    {"has a value of type f32 for where its mask is false", "%0 = load i64 z@2 0 bool:1 f32:1\nstore z@2 0 %0\n"},
    {"store of buffer \"x\" writes what is declared read-only", "store x@0 0 f32:1\n"},
    {"load of buffer \"y\" reads what is declared write-only", "%0 = load f32 y@1 0\nstore y@1 0 %0\n"},
    {"scratch \"t\" needs an element count of type i64", "t!0 = scratch i64 f32:1\nstore t!0 0 1\n"},
    {"scratch \"t\" needs an element count made of scalars and constants alone",
     "%0 = load i64 z@2 0\nt!0 = scratch i64 %0\nstore t!0 0 1\n"},

    // Ranges and loops.
    {"range of type i64 has a source of type f32", "#0 = range serial a$1\nloop #0\n"},
    {"range \"t\" is a thread range and needs an extent made of scalars",
     "%0 = load i64 z@2 0\nt#0 = range thread %0\nloop t#0\n"},
    {"range \"v\" is a vector range and needs a constant power of two", "v#0 = range vector n$0\nloop v#0\n"},
    {"range \"v\" is a vector range and needs a constant power of two", "v#0 = range vector 12\nloop v#0\n"},
    {"range \"v\" is a vector range and needs a constant power of two", "v#0 = range vector 2048\nloop v#0\n"},
    {"range \"v\" is a vector range and needs a constant power of two", "v#0 = range vector 0\nloop v#0\n"},
    {"loop needs a range as its first source, not scalar \"n\"", "loop n$0\n"},
    {"serial_loop runs in order and cannot open the thread or vector range \"v\"",
     "v#0 = range vector 4\nserial_loop v#0\n"},
    {"loop over the thread range \"t\" is not outermost and alone",
     "t#0 = range thread n$0\nloop t#0\n  store z@2 t#0 1\nstore z@2 0 1\n"},
    {"loop over the thread range \"t\" is not outermost and alone",
     "i#0 = range serial n$0\nt#1 = range thread n$0\nloop i#0\n  loop t#1\n    store z@2 t#1 1\n"},
    {"loop over the vector range \"w\" is inside another vector loop",
     "v#0 = range vector 4\nw#1 = range vector 4\ni#2 = range serial 2\nloop v#0\n  loop i#2\n    loop w#1\n"
     "      store z@2 w#1 1\n"},
    {"range \"v\" is an invocation range and needs a constant from 1 to 1024",
     "v#0 = range invocation 1025\nloop v#0\n"},
    {"range \"v\" is an invocation range and needs a constant from 1 to 1024",
     "v#0 = range invocation n$0\nloop v#0\n"},
    {"loop over the invocation range \"w\" is inside another invocation loop",
     "v#0 = range invocation 4\nw#1 = range invocation 4\nloop v#0\n  loop w#1\n    store z@2 w#1 1\n"},
    {"loop over the invocation range \"w\" is inside a vector loop",
     "v#0 = range vector 4\nw#1 = range invocation 4\nloop v#0\n  loop w#1\n    store z@2 w#1 1\n"},
    {"store of buffer \"z\" uses range \"i\" outside the loop that opens it",
     "i#0 = range serial n$0\nloop i#0\n  store z@2 i#0 1\nstore z@2 i#0 1\n"},
    {"uses range \"i\" outside the loop that opens it",
     "i#0 = range serial n$0\n%0 = reduce i64 add 0 i#0 i#0\n%1 = add i64 %0 i#0\nstore z@2 0 %1\n"},
    // The init and the extent stand outside the reduction.
    {"uses range \"i\" outside the loop that opens it",
     "i#0 = range serial n$0\n%0 = reduce i64 add i#0 i#0 1\nstore z@2 0 %0\n"},
    {"uses range \"j\" outside the loop that opens it",
     "j#0 = range serial n$0\ni#1 = range serial j#0\nloop i#1\n  loop j#0\n    store z@2 i#1 1\n"},
    {"range \"i\" is opened again where it is open already",
     "i#0 = range serial n$0\nloop i#0\n  loop i#0\n    store z@2 i#0 1\n"},
    {"range \"i\" is opened again where it is open already",
     "i#0 = range serial n$0\n%0 = reduce i64 add 0 i#0 i#0\n%1 = reduce i64 add 0 i#0 %0\nstore z@2 0 %1\n"},
    {"range \"i\" is opened again where it is open already",
     "i#0 = range serial n$0\n%0 = reduce i64 add 0 i#0 i#0\nloop i#0\n  store z@2 0 %0\n"},
    {"range \"i\" is opened by a loop and by a reduction",
     "i#0 = range serial n$0\n%0 = reduce i64 add 0 i#0 i#0\nloop i#0\n  store z@2 i#0 1\nstore z@2 0 %0\n"},

    // Reductions.
    {"reduce takes init, range and one value", "i#0 = range serial 4\n%0 = reduce i64 add 0 i#0 1 1\nstore z@2 0 %0\n"},
    {"reduce by fma takes init, range, a and b",
     "i#0 = range serial 4\n%0 = reduce f32 fma f32:0 i#0 f32:1\nstore y@1 0 %0\n"},
    {"reduce by fma does not exist for type i64",
     "i#0 = range serial 4\n%0 = reduce i64 fma 0 i#0 1 1\nstore z@2 0 %0\n"},
    {"reduce by dot takes init, range, a and b",
     "i#0 = range serial 4\n%0 = reduce i32 dot i32:0 i#0 u32:1\n%1 = cast i64 %0\nstore z@2 0 %1\n"},
    {"reduce by dot multiplies what is packed in u32, not i32",
     "i#0 = range serial 4\n%0 = reduce i32 dot i32:0 i#0 i32:1 u32:1\n%1 = cast i64 %0\nstore z@2 0 %1\n"},
    {"reduce by dot of bf16 rounds as the processor likes; a strict kernel cannot have it",
     "i#0 = range serial 4\n%0 = reduce f32 dot f32:0 i#0 u32:1 u32:1\nstore y@1 0 %0\n"},
    {"reduce by dot of type i32 adds to i64",
     "i#0 = range serial 4\n%0 = reduce i32 dot 0 i#0 u32:1 u32:1\n%1 = cast i64 %0\nstore z@2 0 %1\n"},
    {"reduce by dot does not exist for type i64",
     "i#0 = range serial 4\n%0 = reduce i64 dot 0 i#0 u32:1 u32:1\nstore z@2 0 %0\n"},
    {"dot multiplies what is packed in u32, not f32", "%0 = dot f32 f32:1 u32:1 f32:1\nstore y@1 0 %0\n"},
    {"dot of type i32 adds to i64", "%0 = dot i32 u32:1 u32:1 1\n%1 = cast i64 %0\nstore z@2 0 %1\n"},
    {"dot of bf16 rounds as the processor likes; a strict kernel cannot have it",
     "%0 = dot f32 u32:1 u32:1 f32:1\nstore y@1 0 %0\n"},
    {"reduce needs a serial range as its second source, not constant", "%0 = reduce i64 add 0 4 1\nstore z@2 0 %0\n"},
    {"reduce needs a serial range as its second source, not range \"v\"",
     "v#0 = range vector 4\n%0 = reduce i64 add 0 v#0 1\nstore z@2 0 %0\n"},
    {"reduce of type i64 has a source of type f32",
     "i#0 = range serial 4\n%0 = reduce i64 add 0 i#0 f32:1\nstore z@2 0 %0\n"},
    {"reduce has 3 lanes; it takes a power of two",
     "i#0 = range serial 4\n%0 = reduce i64 add lanes=3 0 i#0 1\nstore z@2 0 %0\n"},
    {"reduce has 2 lanes; it takes a power of two, and 1 by fma or dot",
     "i#0 = range serial 4\n%0 = reduce f32 fma lanes=2 f32:0 i#0 f32:1 f32:1\nstore y@1 0 %0\n"},
    {"reduce does not exist for type bool",
     "i#0 = range serial 4\n%0 = reduce bool max bool:0 i#0 bool:1\nstore z@2 0 1 %0\n"},
    {"lane_reduce combines by add, max or min alone",
     "v#0 = range vector 4\n%0 = lane_reduce f32 fma f32:1 v#0\nstore y@1 0 %0\n"},
    {"lane_reduce needs a vector range as its second source, not range \"i\"",
     "i#0 = range serial 4\n%0 = lane_reduce i64 add 1 i#0\nstore z@2 0 %0\n"},
    {"lane_reduce of type i64 has a source of type f32",
     "v#0 = range vector 4\n%0 = lane_reduce i64 add f32:1 v#0\nstore z@2 0 %0\n"},
};

TEST(Verifier, EachMistakeHasItsMessage) {
  for (const Mistake& mistake : kMistakes) {
    const Result<Kernel> result = parse(std::string(kHeader) + mistake.text);
    ASSERT_FALSE(result.ok()) << mistake.text;
    Heard::add(result.status());
    EXPECT_EQ(result.status().code(), Code::invalid_argument);
    EXPECT_NE(result.status().message().find(mistake.message), std::string::npos)
        << mistake.text << "\ngave: " << result.status().message() << "\nwanted: " << mistake.message;
    EXPECT_NE(result.status().message().find("kernel \"k\""), std::string::npos);
  }
}

// What looks like those mistakes and is none.
TEST(Verifier, AcceptsWhatIsWellFormed) {
  for (const char* text : {
           // Two loops in a row over one range.
           "i#0 = range serial n$0\nloop i#0\n  store z@2 i#0 1\nloop i#0\n  store z@2 i#0 2\n",
           // Two reductions over one range, side by side; an extent that depends on an outer range.
           "i#0 = range serial 4\nloop i#0\n  k#1 = range serial i#0\n  %0 = reduce i64 add 0 k#1 k#1\n"
           "  %1 = reduce i64 max lanes=8 %0 k#1 k#1\n  store z@2 i#0 %1\n",
           "t#0 = range thread n$0\nloop t#0\n  v#1 = range vector 8\n  loop v#1\n    store z@2 v#1 t#0\n",
           "%0 = mul i64 n$0 4\nt!0 = scratch f32 %0\nstore t!0 0 a$1\n%1 = load f32 t!0 0\nstore y@1 0 %1\n",
           "",
       }) {
    const Result<Kernel> result = parse(std::string(kHeader) + text);
    EXPECT_TRUE(result.ok()) << text << result.status().to_string();
  }
}

// Mistakes that only code can make.
class VerifierOfNodes : public testing::Test {
 protected:
  VerifierOfNodes() {
    kernel_.context = std::make_shared<Context>();
    kernel_.buffers = {{"x", DType::f32, Access::read_write}};
    kernel_.scalars = {{"n", DType::i64}};
    kernel_.body = b().block({});
  }
  Builder b() { return Builder(*kernel_.context); }
  void set_body(std::initializer_list<const Node*> statements) {
    kernel_.body = kernel_.context->make(Op::block, DType::none, statements);
  }
  const Node* store(const Node* value) {
    return kernel_.context->make(Op::store, DType::none, {b().buffer(DType::f32, 0, "x"), b().integer(0), value});
  }
  void expect(std::string_view message) {
    const Status status = verify(kernel_);
    EXPECT_EQ(status.code(), Code::invalid_argument);
    Heard::add(status);
    EXPECT_NE(status.message().find(message), std::string::npos) << status.message();
  }

  Kernel kernel_;
};

TEST_F(VerifierOfNodes, MissingParts) {
  EXPECT_TRUE(verify(kernel_).ok());
  kernel_.body = nullptr;
  expect("the kernel's body is not a block");
  kernel_.body = b().integer(1);
  expect("the kernel's body is not a block");
  kernel_.context = nullptr;
  expect("the kernel has no context");
}

TEST_F(VerifierOfNodes, StatementAsValue) {
  set_body({store(b().block({}))});
  expect("uses a statement (block) as a value");
}

TEST_F(VerifierOfNodes, ValueAsStatement) {
  set_body({b().integer(3)});
  expect("block has a value (constant) where a statement is wanted");
}

TEST_F(VerifierOfNodes, OnlyStoresHappenTogether) {
  const Node* one = store(b().constant(DType::f32, 1));
  set_body({kernel_.context->make(Op::together, DType::none, {one, b().block({})})});
  expect("together holds block; it takes stores alone");
  set_body({kernel_.context->make(Op::together, DType::none, {one})});
  expect("together has 1 sources; it takes 2 or more");
}

TEST_F(VerifierOfNodes, ArgumentsThatAreNotDeclared) {
  set_body({store(kernel_.context->make(Op::load, DType::f32, {b().buffer(DType::f32, 1, "w"), b().integer(0)}))});
  expect("buffer \"w\" is argument 1; the kernel declares 1");
  set_body({store(b().scalar(DType::f32, -1, "n"))});
  expect("scalar \"n\" is argument -1");
  set_body({store(b().scalar(DType::f32, 0, "n"))});
  expect("scalar \"n\" has type f32; the kernel declares i64");
  set_body({store(b().cast(DType::f32, b().scalar(DType::i64, 0, "m")))});
  expect("scalar \"m\" is declared under another name, \"n\"");
}

TEST_F(VerifierOfNodes, ConstantsHoldTheirTypesBits) {
  set_body({store(kernel_.context->make(Op::cast, DType::f32, {b().bits(DType::i8, 200)}))});
  expect("constant of type i8 has bits outside its type");
  set_body({store(b().bits(DType::f32, -1))});
  expect("constant of type f32 has bits outside its type");
}

TEST_F(VerifierOfNodes, UnknownAttributes) {
  const Node* range = kernel_.context->make(Op::range, DType::i64, {b().integer(4)}, 1, 7);
  set_body({kernel_.context->make(Op::loop, DType::none, {range})});
  expect("range is of an unknown kind");
  const Node* k = b().range(b().integer(4), "k");
  const Node* one = b().constant(DType::f32, 1);
  set_body({store(kernel_.context->make(Op::reduce, DType::f32, {one, k, one}, 0, 9, 1))});
  expect("reduce has an unknown way to combine");
  set_body({store(kernel_.context->make(Op::reduce, DType::f32, {one, k, one}, 0, 0, 0))});
  expect("reduce has 0 lanes");
}

TEST_F(VerifierOfNodes, Limits) {
  kernel_.name = std::string(300, 'n');
  expect("a name is longer than 256 bytes");
  kernel_.name = "k";
  kernel_.scalars.resize(2000, {"s", DType::i64});
  expect("more than 1024 buffers or scalars");
  kernel_.scalars = {{"n", DType::none}};
  expect("argument \"n\" has no type");
  kernel_.scalars = {};

  const Node* deep = b().constant(DType::f32, 1);
  for (int i = 0; i < 5000; ++i) deep = kernel_.context->make(Op::neg, DType::f32, {deep});
  set_body({store(deep)});
  expect("neg is nested deeper than 2048 nodes");

  // Many and not deep.
  std::vector<const Node*> many;
  for (int i = 0; i < 131072; ++i) many.push_back(b().integer(i));
  kernel_.body = kernel_.context->make(Op::block, DType::none, many);
  expect("the kernel has more than 131072 nodes");

  // Thirty nodes that stand for 2^30 statements.
  const Node* wide = store(b().constant(DType::f32, 1));
  for (int i = 0; i < 30; ++i) wide = kernel_.context->make(Op::block, DType::none, {wide, wide});
  set_body({wide});
  expect("more than 262144 statements");

  std::vector<const Node*> loops;
  for (int i = 0; i < 1025; ++i)
    loops.push_back(kernel_.context->make(Op::loop, DType::none, {b().range(b().integer(1), "i")}));
  kernel_.body = kernel_.context->make(Op::block, DType::none, loops);
  expect("the kernel has 1025 ranges");

  const Node* nested = b().block({});
  for (int i = 0; i < 300; ++i) nested = kernel_.context->make(Op::block, DType::none, {nested});
  set_body({nested});
  expect("loops and blocks nest deeper than 256");
}

}  // namespace
}  // namespace sporkle::ir
