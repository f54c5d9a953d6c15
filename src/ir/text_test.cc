#include "ir/text.h"

#include <gtest/gtest.h>

#include <chrono>

#include "ir/builder.h"
#include "ir/random_kernel.h"
#include "ir/verifier.h"

namespace sporkle::ir {
namespace {

constexpr char kSaxpy[] = R"(kernel "saxpy" strict
buffer x@0 f32 read
buffer y@1 f32 read_write
scalar n$0 i64
scalar a$1 f32
i#0 = range serial n$0
loop i#0
  %0 = load f32 x@0 i#0
  %1 = load f32 y@1 i#0
  %2 = fma f32 a$1 %0 %1
  store y@1 i#0 %2
)";

TEST(Text, ReadsAndPrintsTheExampleOfTheHeader) {
  const Result<Kernel> kernel = parse(kSaxpy);
  ASSERT_TRUE(kernel.ok()) << kernel.status().to_string();
  EXPECT_EQ(kernel->name, "saxpy");
  EXPECT_EQ(kernel->buffers.size(), 2u);
  EXPECT_EQ(kernel->buffers[1].access, Access::read_write);
  EXPECT_EQ(print(*kernel), kSaxpy);
}

TEST(Text, RandomKernelsRoundTripAndMeanTheSame) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    RandomKernel random(seed);
    const Kernel kernel = random.kernel();
    ASSERT_TRUE(verify(kernel).ok()) << verify(kernel).to_string();
    const std::string text = print(kernel);
    const Result<Kernel> read = parse(text);
    ASSERT_TRUE(read.ok()) << "seed " << seed << ": " << read.status().to_string() << "\n" << text;
    ASSERT_EQ(print(*read), text) << "seed " << seed;
    const std::vector<uint64_t> scalars = random.scalars();
    Status first, second;
    const auto expected = RandomKernel::run(kernel, scalars, &first),
               found = RandomKernel::run(*read, scalars, &second);
    ASSERT_TRUE(first.ok()) << "seed " << seed << ": " << first.to_string() << "\n" << text;
    ASSERT_TRUE(second.ok()) << second.to_string();
    ASSERT_TRUE(RandomKernel::equal(expected, found)) << "seed " << seed << "\n" << text;
  }
}

// The same kernel, its nodes made in two orders in contexts that hold other nodes as well.
TEST(Text, DoesNotDependOnTheOrderOfBuilding) {
  const auto build = [](bool backwards) {
    Kernel kernel;
    kernel.context = std::make_shared<Context>();
    kernel.name = "order";
    kernel.buffers = {{"x", DType::f32, Access::read_write}};
    Builder b(*kernel.context);
    if (backwards)
      for (int i = 0; i < 100; ++i) b.range(b.integer(i + 50), "unused");
    const Node* x = b.buffer(DType::f32, 0, "x");
    const Node *i, *j;
    if (backwards) {
      j = b.range(b.integer(3), "j");
      i = b.range(b.integer(2), "i");
    } else {
      i = b.range(b.integer(2), "i");
      j = b.range(b.integer(3), "j");
    }
    const auto product = [&] { return b.mul(b.load(x, j), b.constant(DType::f32, 3)); };
    const auto quotient = [&] { return b.div(b.load(x, i), b.constant(DType::f32, 7)); };
    const Node *p, *q;
    if (backwards)
      q = quotient(), p = product();
    else
      p = product(), q = quotient();
    const Node* store = b.store(x, b.add(i, j), b.add(p, q));
    kernel.body = b.block({{b.loop(Op::loop, i, {{b.loop(Op::loop, j, {{store}})}})}});
    return kernel;
  };
  EXPECT_EQ(print(build(false)), print(build(true)));
}

TEST(Text, ConstantsAreExact) {
  Kernel kernel;
  kernel.context = std::make_shared<Context>();
  Builder b(*kernel.context);
  std::vector<const Node*> stores;
  int64_t next = 0;
  const auto store = [&](DType type, std::initializer_list<uint64_t> values) {
    const int index = static_cast<int>(kernel.buffers.size());
    kernel.buffers.push_back({"b", type, Access::write});
    for (const uint64_t bits : values)
      stores.push_back(
          b.store(b.buffer(type, index, "b"), b.integer(next++), b.bits(type, static_cast<int64_t>(bits))));
  };
  store(DType::f32, {0, 0x80000000, 1, 0x007fffff, 0x00800000, 0x3dcccccd, 0x7f7fffff, 0x7f800000, 0xff800000,
                     0x7fc00000, 0xffc00001, 0x7f800001});
  store(DType::f64, {0, uint64_t{1} << 63, 1, 0x3fb999999999999a, 0x7fefffffffffffff, 0x7ff0000000000000,
                     0xfff0000000000000, 0x7ff8000000000000, 0xfff8000000000123});
  store(DType::f16, {0, 1, 0x8000, 0x3c00, 0x7bff, 0x7c00, 0x7e00});
  store(DType::bf16, {0, 1, 0x8000, 0x3f80, 0x7f7f, 0xff80, 0x7fc1});
  store(DType::u64, {~uint64_t{0}});
  store(DType::i64, {uint64_t{1} << 63});
  store(DType::i8, {static_cast<uint64_t>(-128)});
  store(DType::boolean, {1});
  kernel.body = b.block(stores);
  const Result<Kernel> read = parse(print(kernel));
  ASSERT_TRUE(read.ok()) << read.status().to_string() << print(kernel);
  ASSERT_EQ(read->body->source_count, stores.size());
  for (size_t i = 0; i < stores.size(); ++i)
    EXPECT_EQ(read->body->src(i)->src(2)->value, stores[i]->src(2)->value) << print(kernel);
}

struct BadText {
  const char* text;  // after the header line
  const char* message;
};

TEST(Text, ErrorsNameTheLineAndWhatWasExpected) {
  const BadText cases[] = {
      {"buffer x@1 f32 read\n", "line 2: expected @0, the next number, found \"@1\""},
      {"buffer x@0 f33 read\n", "line 2: expected a type such as f32, found \"f33\""},
      {"buffer x@0 f32 reed\n", "line 2: expected read, write or read_write, found \"reed\""},
      {"buffer x@0 f32\n", "line 2: expected read, write or read_write, found the end of the line"},
      {"buffer x@0 f32 read now\n", "line 2: expected the end of the line, found \"now\""},
      {"buffer \"x@0 f32 read\n", "line 2: a quoted name does not end on its line"},
      {"buffer \"\\xg0\"@0 f32 read\n", "line 2: expected two hexadecimal digits after \\x"},
      {"buffer \"\\n\"@0 f32 read\n", "line 2: a backslash in a name stands before"},
      {"scalar n$0 i64\n\n// a comment\n%0 = ad i64 n$0 1\n", "line 5: expected an operation, found \"ad\""},
      {"%0 = add i65 1 1\n", "line 2: expected a type such as f32"},
      {"%1 = add i64 1 1\n", "line 2: expected %0, the next number, found \"%1\""},
      {"%0 add i64 1 1\n", "line 2: expected \" = \""},
      {"%0 = add i64 1 %0\n", "line 2: \"%0\" is used before it is defined"},
      {"%0 = add i64 1 ?\n", "line 2: expected an operand, found \"?\""},
      {"%0 = add i64 1 99999999999999999999\n", "line 2: expected a constant of type i64"},
      {"%0 = add u8 u8:256 u8:1\n", "line 2: expected a constant of type u8, found \"256\""},
      {"%0 = add f32 f32:nan f32:1\n", "line 2: expected a constant of type f32, found \"nan\""},
      {"%0 = add f32 f32:0x1ffffffff f32:1\n", "line 2: expected a constant of type f32"},
      {"%0 = add f32 f33:1 f32:1\n", "line 2: expected a type before the colon, found \"f33:1\""},
      {"%0 = range serial 3\n", "line 2: ranges are defined as name#0"},
      {"i#0 = add i64 1 1\n", "line 2: ranges are defined as name#0"},
      {"i#0 = range parallel 3\n", "line 2: expected serial, thread, vector or invocation, found \"parallel\""},
      {"i#0 = range serial 3\n%0 = reduce i64 times 0 i#0 1\n", "line 3: expected add, max, min, fma or dot"},
      {"i#0 = range serial 3\n%0 = reduce i64 add lanes=256 0 i#0 1\n", "line 3: lanes are a power of two up to 128"},
      {"i#0 = range serial 3\nloop j#0\n", "line 3: \"j#0\" was defined under another name, \"i\""},
      {"loop 1 2\n", "line 2: a loop takes one operand"},
      {"block 1\n", "line 2: block takes no operands"},
      {"  block\n", "line 2: indented by 2 spaces"},
      {"block\n   block\n", "line 3: indented by 3 spaces"},
      {"jump\n", "line 2: expected buffer, scalar, store"},
      {"store x@0 0 1\n", "line 2: \"x@0\" is used before it is defined"},
      {"buffer x@0 f32 read\nstore x@0 0 f32:1\n", "writes what is declared read-only"},
  };
  for (const BadText& bad : cases) {
    const Result<Kernel> result = parse("kernel \"k\" strict\n" + std::string(bad.text));
    ASSERT_FALSE(result.ok()) << bad.text;
    EXPECT_EQ(result.status().code(), Code::invalid_argument);
    EXPECT_NE(result.status().message().find(bad.message), std::string::npos)
        << bad.text << "\ngave: " << result.status().message();
  }
}

TEST(Text, HeaderErrors) {
  for (const char* text : {"", "\n\n", "kernel k strict", "kernel \"k\"", "kernel \"k\" loose", "kernel \"k\" strict x",
                           "buffer x@0 f32 read"}) {
    const Result<Kernel> result = parse(text);
    ASSERT_FALSE(result.ok()) << text;
    EXPECT_NE(result.status().message().find("expected"), std::string::npos) << result.status().message();
  }
}

TEST(Text, IsBounded) {
  EXPECT_NE(parse(std::string((size_t{16} << 20) + 1, ' ')).status().message().find("at most 16 MiB"),
            std::string::npos);
  std::string nested = "kernel \"k\" strict\n";
  for (size_t i = 0; i < 300; ++i) nested += std::string(2 * i, ' ') + "block\n";
  EXPECT_NE(parse(nested).status().message().find("nest deeper than 256"), std::string::npos);
  // Long chains of values: refused by the verifier, not by the stack.
  std::string chain = "kernel \"k\" strict\nbuffer x@0 i64 write\n%0 = add i64 1 1\n";
  for (int i = 1; i < 140000; ++i) chain += "%" + std::to_string(i) + " = neg i64 %" + std::to_string(i - 1) + "\n";
  chain += "store x@0 0 %139999\n";
  EXPECT_NE(parse(chain).status().message().find("more than 131072 nodes"), std::string::npos);
  std::string deep = chain.substr(0, chain.find("%3000 ")) + "store x@0 0 %2999\n";
  EXPECT_NE(parse(deep).status().message().find("nested deeper than 2048 nodes"), std::string::npos);
}

TEST(Text, PrintingIsFastEnoughForEveryLaunch) {
  Kernel kernel;
  for (uint64_t seed = 1; !kernel.context || kernel.context->size() < 200; ++seed) kernel = RandomKernel(seed).kernel();
  double best_us = 1e9;
  size_t bytes = 0;
  for (int i = 0; i < 20; ++i) {
    const auto start = std::chrono::steady_clock::now();
    bytes += print(kernel).size();
    const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - start;
    best_us = std::min(best_us, took.count() * 200 / static_cast<double>(kernel.context->size()));
  }
  EXPECT_GT(bytes, 0u);
  RecordProperty("print_us_per_200_nodes", std::to_string(best_us));
  // Measured at 10; the wide margin is for debug and sanitizer builds.
  EXPECT_LT(best_us, 1000);
}

}  // namespace
}  // namespace sporkle::ir
