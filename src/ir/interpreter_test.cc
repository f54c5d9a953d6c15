#include "ir/interpreter.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "ir/builder.h"
#include "ir/text.h"

namespace sporkle::ir {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

template <typename T>
InterpreterBuffer view(std::vector<T>& memory) {
  return {reinterpret_cast<std::byte*>(memory.data()), memory.size() * sizeof(T)};
}

Kernel parsed(std::string_view text) {
  const Result<Kernel> kernel = parse(text);
  EXPECT_TRUE(kernel.ok()) << kernel.status().to_string() << "\n" << text;
  return kernel.ok() ? *kernel : Kernel();
}

// The bits of one expression, given as lines that end by defining `result`, for example "%0 = add f32 f32:1 f32:2".
uint64_t value_of(const std::string& lines, const std::string& type, const std::string& result) {
  const Kernel kernel =
      parsed("kernel \"value\" strict\nbuffer out@0 " + type + " write\n" + lines + "\nstore out@0 0 " + result + "\n");
  std::vector<uint64_t> out(1);
  const InterpreterBuffer buffers[] = {view(out)};
  const Status status = interpret(kernel, buffers, {});
  EXPECT_TRUE(status.ok()) << status.to_string();
  return out[0];
}
uint64_t value_of(const std::string& operation, const std::string& type) {
  return value_of("%0 = " + operation, type, "%0");
}
float f32_of(const std::string& operation) {
  return std::bit_cast<float>(static_cast<uint32_t>(value_of(operation, "f32")));
}
double f64_of(const std::string& operation) { return std::bit_cast<double>(value_of(operation, "f64")); }
int64_t i64_of(const std::string& operation) { return static_cast<int64_t>(value_of(operation, "i64")); }
int32_t i32_of(const std::string& operation) { return static_cast<int32_t>(value_of(operation, "i32")); }
int8_t i8_of(const std::string& operation) { return static_cast<int8_t>(value_of(operation, "i8")); }
uint8_t u8_of(const std::string& operation) { return static_cast<uint8_t>(value_of(operation, "u8")); }
bool bool_of(const std::string& operation) { return value_of(operation, "bool") != 0; }

TEST(Interpreter, FloatArithmetic) {
  EXPECT_EQ(f32_of("add f32 f32:16777216 f32:1"), 16777216.0f);
  EXPECT_EQ(f32_of("div f32 f32:1 f32:3"), 1.0f / 3.0f);
  EXPECT_EQ(f32_of("div f32 f32:1 f32:0"), kInf);
  EXPECT_EQ(f32_of("div f32 f32:1 f32:-0"), -kInf);
  EXPECT_TRUE(std::isnan(f32_of("div f32 f32:0 f32:0")));
  EXPECT_EQ(f32_of("sqrt f32 f32:2"), std::sqrt(2.0f));
  EXPECT_TRUE(std::isnan(f32_of("sqrt f32 f32:-1")));
  EXPECT_TRUE(std::signbit(f32_of("sqrt f32 f32:-0")));
  EXPECT_TRUE(std::signbit(f32_of("neg f32 f32:0")));
  EXPECT_TRUE(std::signbit(f32_of("add f32 f32:-0 f32:-0")));
  EXPECT_FALSE(std::signbit(f32_of("add f32 f32:-0 f32:0")));
  EXPECT_EQ(f32_of("abs f32 f32:-3.5"), 3.5f);
  EXPECT_EQ(f32_of("floor f32 f32:-0.5"), -1.0f);
  EXPECT_TRUE(std::signbit(f32_of("floor f32 f32:-0")));
  EXPECT_EQ(f64_of("add f64 f64:0.1 f64:0.2"), 0.1 + 0.2);
  // Denormals are kept, as operands and as results.
  EXPECT_EQ(f32_of("mul f32 f32:1e-20 f32:1e-20"), 1e-20f * 1e-20f);
  EXPECT_GT(f32_of("mul f32 f32:1e-20 f32:1e-20"), 0.0f);
  EXPECT_EQ(f32_of("mul f32 f32:1e-45 f32:16777216"), 0x1p-125f);
}

TEST(Interpreter, FmaRoundsOnce) {
  // 1 + 2^-12, squared, less its rounded square: the square's error, which two roundings lose.
  EXPECT_EQ(f32_of("fma f32 f32:1.000244140625 f32:1.000244140625 f32:-1.00048828125"), 0x1p-24f);
  EXPECT_EQ(f64_of("fma f64 f64:1.00000001490116119384765625 f64:1.00000001490116119384765625 f64:-1.0000000298023224"),
            std::fma(1.00000001490116119384765625, 1.00000001490116119384765625, -1.0000000298023224));
}

TEST(Interpreter, MinAndMaxKeepNaNs) {
  EXPECT_TRUE(std::isnan(f32_of("min f32 f32:0x7fc00000 f32:1")));
  EXPECT_TRUE(std::isnan(f32_of("min f32 f32:1 f32:0x7fc00000")));
  EXPECT_TRUE(std::isnan(f32_of("max f32 f32:0x7fc00000 f32:1")));
  EXPECT_TRUE(std::isnan(f32_of("max f32 f32:1 f32:0x7fc00000")));
  // Equal operands: the second one.
  EXPECT_FALSE(std::signbit(f32_of("min f32 f32:-0 f32:0")));
  EXPECT_TRUE(std::signbit(f32_of("min f32 f32:0 f32:-0")));
  EXPECT_FALSE(std::signbit(f32_of("max f32 f32:-0 f32:0")));
  EXPECT_TRUE(std::signbit(f32_of("max f32 f32:0 f32:-0")));
  EXPECT_EQ(f32_of("max f32 f32:1 f32:2"), 2.0f);
  EXPECT_EQ(i8_of("min i8 i8:-1 i8:1"), -1);
  EXPECT_EQ(u8_of("max u8 u8:255 u8:1"), 255);
}

TEST(Interpreter, IntegersWrapAndDivideByZeroToZero) {
  EXPECT_EQ(i8_of("add i8 i8:127 i8:1"), -128);
  EXPECT_EQ(i8_of("neg i8 i8:-128"), -128);
  EXPECT_EQ(i8_of("abs i8 i8:-128"), -128);
  EXPECT_EQ(u8_of("sub u8 u8:0 u8:1"), 255);
  EXPECT_EQ(u8_of("neg u8 u8:1"), 255);
  EXPECT_EQ(i32_of("mul i32 i32:65536 i32:65536"), 0);
  EXPECT_EQ(i32_of("mul i32 i32:2147483647 i32:2"), -2);
  EXPECT_EQ(i64_of("div i64 7 0"), 0);
  EXPECT_EQ(i64_of("mod i64 7 0"), 0);
  EXPECT_EQ(u8_of("div u8 u8:7 u8:0"), 0);
  EXPECT_EQ(i64_of("div i64 -7 2"), -3);
  EXPECT_EQ(i64_of("mod i64 -7 2"), -1);
  EXPECT_EQ(i64_of("mod i64 7 -2"), 1);
  EXPECT_EQ(i64_of("div i64 -9223372036854775808 -1"), std::numeric_limits<int64_t>::min());
  EXPECT_EQ(i64_of("mod i64 -9223372036854775808 -1"), 0);
  EXPECT_EQ(i32_of("div i32 i32:-2147483648 i32:-1"), std::numeric_limits<int32_t>::min());
  EXPECT_EQ(value_of("div u64 u64:18446744073709551615 u64:2", "u64"), std::numeric_limits<int64_t>::max());
  EXPECT_EQ(value_of("mod u64 u64:18446744073709551615 u64:10", "u64"), 5u);
}

TEST(Interpreter, ShiftsAndBits) {
  EXPECT_EQ(i8_of("shr i8 i8:-128 i8:1"), -64);
  EXPECT_EQ(u8_of("shr u8 u8:128 u8:1"), 64);
  EXPECT_EQ(i8_of("shl i8 i8:1 i8:7"), -128);
  EXPECT_EQ(i32_of("shl i32 i32:1 i32:33"), 2);  // counts modulo the width
  EXPECT_EQ(u8_of("shl u8 u8:1 u8:9"), 2);
  EXPECT_EQ(i64_of("shr i64 -1 65"), -1);
  EXPECT_EQ(i64_of("shl i64 1 -1"), std::numeric_limits<int64_t>::min());
  EXPECT_EQ(u8_of("xor u8 u8:12 u8:10"), 6);
  EXPECT_EQ(u8_of("and u8 u8:12 u8:10"), 8);
  EXPECT_TRUE(bool_of("or bool bool:0 bool:1"));
  EXPECT_FALSE(bool_of("xor bool bool:1 bool:1"));
}

TEST(Interpreter, Comparisons) {
  for (const char* op : {"less", "less_equal", "equal"})
    EXPECT_FALSE(bool_of(std::string(op) + " bool f32:0x7fc00000 f32:0x7fc00000"));
  EXPECT_TRUE(bool_of("not_equal bool f32:0x7fc00000 f32:0x7fc00000"));
  EXPECT_TRUE(bool_of("equal bool f32:0 f32:-0"));
  EXPECT_FALSE(bool_of("less bool f32:-0 f32:0"));
  EXPECT_TRUE(bool_of("less bool i8:-1 i8:1"));
  EXPECT_FALSE(bool_of("less bool u64:18446744073709551615 u64:1"));
  EXPECT_TRUE(bool_of("less_equal bool i64:3 i64:3"));
  EXPECT_EQ(i64_of("select i64 bool:0 1 2"), 2);
}

TEST(Interpreter, CastsSaturateAndRoundToEven) {
  EXPECT_EQ(i8_of("cast i8 f32:200"), 127);
  EXPECT_EQ(i8_of("cast i8 f32:-200"), -128);
  EXPECT_EQ(i8_of("cast i8 f32:-1.9"), -1);
  EXPECT_EQ(u8_of("cast u8 f32:-1"), 0);
  EXPECT_EQ(u8_of("cast u8 f32:0x7fc00000"), 0);
  EXPECT_EQ(i32_of("cast i32 f32:2147483648"), std::numeric_limits<int32_t>::max());
  EXPECT_EQ(i64_of("cast i64 f64:inf"), std::numeric_limits<int64_t>::max());
  EXPECT_EQ(i64_of("cast i64 f64:-9.3e18"), std::numeric_limits<int64_t>::min());
  EXPECT_EQ(value_of("cast u64 f64:1.8e19", "u64"), 18000000000000000000u);
  EXPECT_EQ(i8_of("cast i8 i64:200"), -56);  // between integers: wraps
  EXPECT_EQ(i64_of("cast i64 i8:-1"), -1);
  EXPECT_EQ(i64_of("cast i64 u8:255"), 255);
  EXPECT_EQ(f32_of("cast f32 i64:16777217"), 16777216.0f);
  EXPECT_EQ(f32_of("cast f32 i64:16777219"), 16777220.0f);
  EXPECT_EQ(f32_of("cast f32 u64:18446744073709551615"), 0x1p64f);
  EXPECT_EQ(f32_of("cast f32 f64:1.00000005960464477539"), 1.0f);  // a tie, to even
  EXPECT_EQ(f32_of("cast f32 bool:1"), 1.0f);
  EXPECT_TRUE(bool_of("cast bool f32:0.5"));
  EXPECT_TRUE(bool_of("cast bool i64:256"));
  EXPECT_FALSE(bool_of("cast bool f32:-0"));
  EXPECT_EQ(value_of("cast f16 f32:65520", "f16"), 0x7c00u);
  EXPECT_EQ(value_of("cast f16 f32:1.00048828125", "f16"), 0x3c00u);
  EXPECT_EQ(value_of("cast bf16 f32:1.01171875", "bf16"), 0x3f82u);
  EXPECT_EQ(i64_of("cast i64 f16:65504"), 65504);
  EXPECT_EQ(f64_of("cast f64 bf16:-1.5"), -1.5);
  EXPECT_EQ(value_of("bitcast u32 f32:-0", "u32"), 0x80000000u);
  EXPECT_EQ(i32_of("bitcast i32 f32:-0"), std::numeric_limits<int32_t>::min());
}

// Element k of a laned sum goes to lane k % L; lanes join in halves. Numbers of very different size show the order.
TEST(Interpreter, ReductionsKeepTheirOrder) {
  std::vector<float> x;
  for (int i = 0; i < 11; ++i) x.push_back(i % 3 == 0 ? 16777216.0f : static_cast<float>(i) / 3);
  const auto sum = [&](const std::string& lanes, const std::string& combine = "add", const char* init = "f32:0.25") {
    const Kernel kernel = parsed(
        "kernel \"sum\" strict\nbuffer x@0 f32 read\nbuffer y@1 f32 write\nscalar n$0 i64\n"
        "k#0 = range serial n$0\n%0 = load f32 x@0 k#0\n%1 = reduce f32 " +
        combine + " " + lanes + " " + init + " k#0 %0\nstore y@1 0 %1\n");
    std::vector<float> y(1);
    const InterpreterBuffer buffers[] = {view(x), view(y)};
    const uint64_t scalars[] = {x.size()};
    EXPECT_TRUE(interpret(kernel, buffers, scalars).ok());
    return y[0];
  };
  float in_order = 0.25f;
  for (const float value : x) in_order += value;
  EXPECT_EQ(sum(""), in_order);

  float lanes[4] = {-0.0f, -0.0f, -0.0f, -0.0f};
  for (size_t k = 0; k < x.size(); ++k) lanes[k % 4] += x[k];
  const float joined = 0.25f + ((lanes[0] + lanes[2]) + (lanes[1] + lanes[3]));
  EXPECT_EQ(sum("lanes=4"), joined);
  EXPECT_NE(joined, in_order);

  EXPECT_EQ(sum("lanes=8", "max"), 16777216.0f);
  EXPECT_EQ(sum("lanes=8", "min"), 0.25f);
  x.clear();
  EXPECT_EQ(sum("lanes=16"), 0.25f);
  EXPECT_TRUE(std::signbit(sum("lanes=16", "add", "f32:-0")));  // -0 is the identity of addition, 0 is not
  EXPECT_EQ(sum("lanes=16", "max", "f32:-inf"), -kInf);
  x = {1, kNan, 2};
  EXPECT_TRUE(std::isnan(sum("lanes=2", "max")));
}

TEST(Interpreter, IntegerReductionsStartFromTheLowestValue) {
  EXPECT_EQ(i8_of("add i8 i8:0 i8:0"), 0);
  const auto reduced = [](const std::string& type, const std::string& combine, const std::string& init) {
    return value_of("k#0 = range serial 0\n%0 = reduce " + type + " " + combine + " lanes=4 " + type + ":" + init +
                        " k#0 " + type + ":1",
                    type, "%0");
  };
  EXPECT_EQ(static_cast<int8_t>(reduced("i8", "max", "-128")), -128);
  EXPECT_EQ(static_cast<uint8_t>(reduced("u8", "min", "255")), 255);
  EXPECT_EQ(static_cast<int32_t>(reduced("i32", "add", "7")), 7);
}

TEST(Interpreter, LaneReduceJoinsInHalves) {
  const Kernel kernel = parsed(R"(kernel "lanes" strict
buffer x@0 f32 read
buffer y@1 f32 write
v#0 = range vector 4
%0 = load f32 x@0 v#0
%1 = lane_reduce f32 add %0 v#0
store y@1 0 %1
)");
  std::vector<float> x{16777216, 1, 1, 1}, y(1);
  const InterpreterBuffer buffers[] = {view(x), view(y)};
  ASSERT_TRUE(interpret(kernel, buffers, {}).ok());
  EXPECT_EQ(y[0], (x[0] + x[2]) + (x[1] + x[3]));
  EXPECT_NE(y[0], ((x[0] + x[1]) + x[2]) + x[3]);
}

TEST(Interpreter, FmaChain) {
  const Kernel kernel = parsed(R"(kernel "dot" strict
buffer a@0 f32 read
buffer b@1 f32 read
buffer c@2 f32 read_write
k#0 = range serial 3
%0 = load f32 c@2 0
%1 = load f32 a@0 k#0
%2 = load f32 b@1 k#0
%3 = reduce f32 fma %0 k#0 %1 %2
store c@2 0 %3
)");
  std::vector<float> a{0.1f, 0.2f, 0.3f}, b{0.7f, 0.8f, 0.9f}, c{0.5f};
  const float expected = std::fma(a[2], b[2], std::fma(a[1], b[1], std::fma(a[0], b[0], c[0])));
  const InterpreterBuffer buffers[] = {view(a), view(b), view(c)};
  ASSERT_TRUE(interpret(kernel, buffers, {}).ok());
  EXPECT_EQ(c[0], expected);
}

// Loads of memory that the kernel stores to are never stale.
TEST(Interpreter, SeesItsOwnStores) {
  const Kernel kernel = parsed(R"(kernel "prefix" strict
buffer x@0 i64 read_write
buffer y@1 i64 write
buffer w@2 i64 read
i#0 = range serial 4
serial_loop i#0
  %0 = add i64 i#0 1
  %1 = load i64 x@0 i#0
  %2 = load i64 x@0 %0
  %3 = add i64 %1 %2
  store x@0 %0 %3
%4 = load i64 x@0 4
k#1 = range serial 5
%5 = load i64 x@0 k#1
%6 = reduce i64 add %4 k#1 %5
store y@1 0 %6
store x@0 0 100
store y@1 1 %6
%7 = load i64 w@2 0
store y@1 2 %7
)");
  std::vector<int64_t> x{1, 2, 3, 4, 5}, y(3);
  // w is x under another name: overlapping arguments hold what was stored through the other.
  const InterpreterBuffer buffers[] = {view(x), view(y), view(x)};
  ASSERT_TRUE(interpret(kernel, buffers, {}).ok());
  EXPECT_EQ(x, (std::vector<int64_t>{100, 3, 6, 10, 15}));
  EXPECT_EQ(y, (std::vector<int64_t>{35 + 15, 134 + 15, 100}));
}

TEST(Interpreter, StoresTogetherReadBeforeTheyWrite) {
  const Kernel kernel = parsed(R"(kernel "rotate" strict
buffer x@0 i64 read_write
%0 = load i64 x@0 1
%1 = load i64 x@0 2
%2 = load i64 x@0 0
%3 = less bool %2 %0
together
  store x@0 0 %0
  store x@0 1 %1 %3
  store x@0 2 %2
)");
  std::vector<int64_t> x{1, 2, 3};
  const InterpreterBuffer buffers[] = {view(x)};
  ASSERT_TRUE(interpret(kernel, buffers, {}).ok());
  EXPECT_EQ(x, (std::vector<int64_t>{2, 3, 1}));
  ASSERT_TRUE(interpret(kernel, buffers, {}).ok());
  EXPECT_EQ(x, (std::vector<int64_t>{3, 1, 2}));
  ASSERT_TRUE(interpret(kernel, buffers, {}).ok());  // 3 is not below 1: the masked store stays out
  EXPECT_EQ(x, (std::vector<int64_t>{1, 1, 3}));
}

TEST(Interpreter, InnerExtentsMayDependOnOuterRanges) {
  const Kernel kernel = parsed(R"(kernel "triangle" strict
buffer y@0 i64 write
i#0 = range serial 5
loop i#0
  k#1 = range serial i#0
  %0 = reduce i64 add 0 k#1 k#1
  store y@0 i#0 %0
)");
  std::vector<int64_t> y(5);
  const InterpreterBuffer buffers[] = {view(y)};
  ASSERT_TRUE(interpret(kernel, buffers, {}).ok());
  EXPECT_EQ(y, (std::vector<int64_t>{0, 0, 1, 3, 6}));
}

TEST(Interpreter, MasksGuardAccesses) {
  const Kernel kernel = parsed(R"(kernel "mask" strict
buffer x@0 f32 read
buffer y@1 f32 write
scalar n$0 i64
v#0 = range vector 4
loop v#0
  %0 = less bool v#0 n$0
  %1 = load f32 x@0 v#0 %0 f32:-1
  %2 = less bool v#0 3
  store y@1 v#0 %1 %2
)");
  std::vector<float> x{5, 6}, y{0, 0, 0};
  const InterpreterBuffer buffers[] = {view(x), view(y)};
  const uint64_t scalars[] = {2};
  ASSERT_TRUE(interpret(kernel, buffers, scalars).ok());
  EXPECT_EQ(y, (std::vector<float>{5, 6, -1}));
}

TEST(Interpreter, ScratchIsPrivateToAThreadsIteration) {
  const Kernel kernel = parsed(R"(kernel "scratch" strict
buffer y@0 f32 write
scalar n$0 i64
t#0 = range thread n$0
loop t#0
  s!0 = scratch f32 2
  %0 = load f32 s!0 0
  store y@0 t#0 %0
  store s!0 0 f32:1
)");
  std::vector<float> y(3);
  const InterpreterBuffer buffers[] = {view(y)};
  const uint64_t scalars[] = {3};
  ASSERT_TRUE(interpret(kernel, buffers, scalars).ok());
  for (const float value : y) EXPECT_TRUE(std::isnan(value));  // undefined; shown as NaN, not as the last iteration's 1
}

TEST(Interpreter, StorageTypes) {
  const Kernel kernel = parsed(R"(kernel "types" strict
buffer half@0 f16 read_write
buffer flag@1 bool read_write
buffer small@2 i8 read_write
%0 = load f16 half@0 0
%1 = cast f32 %0
%2 = mul f32 %1 f32:3
%3 = cast f16 %2
store half@0 1 %3
%4 = load bool flag@1 0
%5 = xor bool %4 bool:1
store flag@1 1 %5
%6 = load i8 small@2 0
%7 = neg i8 %6
store small@2 1 %7
)");
  std::vector<uint16_t> half{0x3c00, 0};
  std::vector<uint8_t> flag{2, 7};  // any byte but 0 is true; true is stored as 1
  std::vector<int8_t> small{-5, 0};
  const InterpreterBuffer buffers[] = {view(half), view(flag), view(small)};
  ASSERT_TRUE(interpret(kernel, buffers, {}).ok());
  EXPECT_EQ(half[1], 0x4200);
  EXPECT_EQ(flag[1], 0);
  EXPECT_EQ(small[1], 5);
}

constexpr char kCopy[] = R"(kernel "copy" strict
buffer x@0 f32 read
buffer y@1 f32 write
scalar n$0 i64
i#0 = range serial n$0
loop i#0
  %0 = load f32 x@0 i#0
  store y@1 i#0 %0
)";

TEST(Interpreter, AccessOutOfBoundsIsAnError) {
  const Kernel kernel = parsed(kCopy);
  std::vector<float> x(4), y(5);
  const InterpreterBuffer buffers[] = {view(x), view(y)}, swapped[] = {view(y), view(x)};
  const uint64_t scalars[] = {5};
  const Status load = interpret(kernel, buffers, scalars), store = interpret(kernel, swapped, scalars);
  EXPECT_EQ(load.code(), Code::invalid_argument);
  EXPECT_EQ(load.message(), "kernel \"copy\": load of buffer \"x\" at index 4 is outside its 4 elements");
  EXPECT_EQ(store.message(), "kernel \"copy\": store of buffer \"y\" at index 4 is outside its 4 elements");
  const uint64_t none[] = {static_cast<uint64_t>(-3)};  // a negative extent: no iterations
  EXPECT_TRUE(interpret(kernel, buffers, none).ok());
}

TEST(Interpreter, NegativeIndexIsAnError) {
  const Kernel kernel = parsed("kernel \"k\" strict\nbuffer x@0 f32 write\nstore x@0 -1 f32:1\n");
  std::vector<float> x(4);
  const InterpreterBuffer buffers[] = {view(x)};
  EXPECT_NE(interpret(kernel, buffers, {}).message().find("at index -1 is outside"), std::string::npos);
}

TEST(Interpreter, WrongArgumentsAreErrors) {
  const Kernel kernel = parsed(kCopy);
  std::vector<float> x(1);
  const InterpreterBuffer buffers[] = {view(x)};
  const uint64_t scalars[] = {1, 2};
  EXPECT_EQ(interpret(kernel, buffers, scalars).message(), "kernel \"copy\" takes 2 buffers, 1 were given");
  const InterpreterBuffer two[] = {view(x), view(x)};
  EXPECT_EQ(interpret(kernel, two, scalars).message(), "kernel \"copy\" takes 1 scalars, 2 were given");
  EXPECT_FALSE(interpret(Kernel(), {}, {}).ok());
}

TEST(Interpreter, ScratchTooLargeIsAnError) {
  const Kernel kernel = parsed("kernel \"k\" strict\nscalar n$0 i64\ns!0 = scratch f32 n$0\nstore s!0 0 f32:1\n");
  for (const int64_t count : {std::numeric_limits<int64_t>::max(), int64_t{1} << 40, int64_t{-1}}) {
    const uint64_t scalars[] = {static_cast<uint64_t>(count)};
    EXPECT_NE(interpret(kernel, {}, scalars).message().find("scratch \"s\" asks for " + std::to_string(count)),
              std::string::npos);
  }
  const uint64_t enough[] = {1};
  EXPECT_TRUE(interpret(kernel, {}, enough).ok());
}

// 64^3 with the chain in order; a value is computed again only when what it depends on changes.
TEST(Interpreter, MatrixProductEqualsTheLoops) {
  const Kernel kernel = parsed(R"(kernel "gemm" strict
buffer a@0 f32 read
buffer b@1 f32 read
buffer c@2 f32 write
scalar n$0 i64
i#0 = range serial n$0
loop i#0
  j#1 = range serial n$0
  loop j#1
    %0 = mul i64 i#0 n$0
    %1 = add i64 %0 j#1
    k#2 = range serial n$0
    %2 = add i64 %0 k#2
    %3 = load f32 a@0 %2
    %4 = mul i64 k#2 n$0
    %5 = add i64 %4 j#1
    %6 = load f32 b@1 %5
    %7 = reduce f32 fma f32:0 k#2 %3 %6
    store c@2 %1 %7
)");
  constexpr size_t n = 64;
  std::vector<float> a(n * n), b(n * n), c(n * n);
  for (size_t i = 0; i < n * n; ++i) a[i] = 1.0f / static_cast<float>(i + 1), b[i] = static_cast<float>(i % 7) - 2.5f;
  const InterpreterBuffer buffers[] = {view(a), view(b), view(c)};
  const uint64_t scalars[] = {n};
  ASSERT_TRUE(interpret(kernel, buffers, scalars).ok());
  for (size_t i = 0; i < n; ++i)
    for (size_t j = 0; j < n; ++j) {
      float acc = 0;
      for (size_t k = 0; k < n; ++k) acc = std::fma(a[i * n + k], b[k * n + j], acc);
      ASSERT_EQ(c[i * n + j], acc);
    }
}

TEST(EvaluateInteger, ScalarsAndConstants) {
  Context context;
  Builder b(context);
  const Node *n = b.scalar(DType::i64, 0, "n"), *m = b.scalar(DType::i32, 1, "m");
  const uint64_t scalars[] = {10, 0xfffffffe};
  EXPECT_EQ(*evaluate_integer(b.div(b.add(n, b.integer(15)), b.integer(16)), scalars), 1);
  EXPECT_EQ(*evaluate_integer(m, scalars), -2);  // the low bits, sign-extended
  EXPECT_EQ(*evaluate_integer(b.cast(DType::i64, m), scalars), -2);
  EXPECT_NE(evaluate_integer(b.scalar(DType::i64, 2, "k"), scalars).status().message().find("scalar 2, 2 were given"),
            std::string::npos);
  EXPECT_NE(evaluate_integer(b.range(n, "i"), scalars).status().message().find("contains range"), std::string::npos);
  EXPECT_NE(evaluate_integer(b.constant(DType::f32, 1), scalars).status().message().find("this one is f32"),
            std::string::npos);
}

}  // namespace
}  // namespace sporkle::ir
