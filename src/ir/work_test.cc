#include "ir/work.h"

#include <gtest/gtest.h>

#include "ir/text.h"

namespace sporkle::ir {
namespace {

Work work_of(std::string_view text, std::vector<uint64_t> scalars, std::vector<uint64_t> buffer_bytes) {
  const Result<Kernel> kernel = parse(text);
  EXPECT_TRUE(kernel.ok()) << kernel.status().message();
  return kernel.ok() ? WorkCounter(*kernel).count(scalars, buffer_bytes) : Work{};
}

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

TEST(WorkTest, CountsAnElementwiseKernel) {
  const Work work = work_of(kSaxpy, {1000, 0}, {4000, 4000});
  EXPECT_EQ(work.flops, 2000u);
  EXPECT_EQ(work.read_bytes, 8000u);
  EXPECT_EQ(work.written_bytes, 4000u);
  EXPECT_TRUE(work.exact);
  EXPECT_EQ(work_of(kSaxpy, {0, 0}, {4000, 4000}).flops, 0u);
  EXPECT_EQ(work_of(kSaxpy, {1000, 0}, {400, 4000}).read_bytes, 4400u) << "no more than the buffer holds";
}

constexpr char kMatmul[] = R"(kernel "matmul" strict
buffer a@0 f32 read
buffer b@1 f32 read
buffer c@2 f32 write
scalar m$0 i64
scalar n$1 i64
scalar k$2 i64
i#0 = range serial m$0
loop i#0
  j#1 = range serial n$1
  loop j#1
    %0 = mul i64 i#0 n$1
    %1 = add i64 %0 j#1
    p#2 = range serial k$2
    %2 = mul i64 i#0 k$2
    %3 = add i64 %2 p#2
    %4 = load f32 a@0 %3
    %5 = mul i64 p#2 n$1
    %6 = add i64 %5 j#1
    %7 = load f32 b@1 %6
    %8 = reduce f32 fma f32:0 p#2 %4 %7
    store c@2 %1 %8
)";

TEST(WorkTest, CountsAMatrixProductAsTwoMNK) {
  const uint64_t m = 37, n = 53, k = 101;
  const Work work = work_of(kMatmul, {m, n, k}, {4 * m * k, 4 * k * n, 4 * m * n});
  EXPECT_EQ(work.flops, 2 * m * n * k);
  EXPECT_EQ(work.read_bytes, 4 * (m * k + k * n));
  EXPECT_EQ(work.written_bytes, 4 * m * n);
}

// Twelve columns in panels of eight: the last four of the second panel are padding.
constexpr char kPanels[] = R"(kernel "panels" strict
buffer x@0 f32 read
buffer y@1 f32 write
scalar rows$0 i64
scalar columns$1 i64
%0 = add i64 columns$1 7
%1 = div i64 %0 8
tile#0 = range thread %1
loop tile#0
  %2 = mul i64 tile#0 8
  m#1 = range serial rows$0
  loop m#1
    n#2 = range serial 8
    loop n#2
      %3 = add i64 %2 n#2
      %4 = mul i64 m#1 columns$1
      %5 = add i64 %4 %3
      %6 = less bool %3 columns$1
      k#3 = range serial 10
      %7 = load f32 x@0 %3 %6 f32:0
      %8 = reduce f32 fma f32:0 k#3 %7 %7
      %9 = mul f32 %8 f32:3
      store y@1 %5 %9 %6
)";

TEST(WorkTest, CountsWhatHappensUnderAMaskWhereItHolds) {
  const Work work = work_of(kPanels, {5, 12}, {48, 240});
  EXPECT_EQ(work.written_bytes, 5 * 12 * 4u);
  EXPECT_EQ(work.read_bytes, 12 * 4u);
  EXPECT_EQ(work.flops, 5 * 12 * (10 * 2u + 1)) << "for every column that is there";
}

constexpr char kTriangle[] = R"(kernel "triangle" strict
buffer x@0 f32 read
buffer y@1 f32 write
scalar n$0 i64
r#0 = range serial n$0
loop r#0
  %0 = add i64 r#0 1
  c#1 = range serial %0
  %1 = mul i64 r#0 n$0
  %2 = add i64 %1 c#1
  %3 = load f32 x@0 %2
  %4 = reduce f32 add lanes=16 f32:0 c#1 %3
  store y@1 r#0 %4
)";

TEST(WorkTest, FollowsLoopsThatDependOnEachOther) {
  const Work work = work_of(kTriangle, {100}, {40000, 400});
  EXPECT_EQ(work.flops, 100 * 101 / 2u);
  EXPECT_EQ(work.read_bytes, 4 * 100 * 101 / 2u);
  EXPECT_TRUE(work.exact);
}

TEST(WorkTest, SamplesWhatIsTooLargeToStepThrough) {
  const uint64_t n = 1'000'000;
  const Work work = work_of(kTriangle, {n}, {4 * n * n, 4 * n});
  EXPECT_FALSE(work.exact);
  const double expected = static_cast<double>(n) * static_cast<double>(n + 1) / 2;
  EXPECT_NEAR(static_cast<double>(work.flops) / expected, 1.0, 1e-3);
}

TEST(WorkTest, DeepNestsTakeNoLongerThanFlatOnes) {
  // Six loops, each as long as the index of the one around it: looked at one by one they would take hours.
  std::string text = R"(kernel "deep" strict
buffer y@0 f32 write
scalar n$0 i64
i0#0 = range serial n$0
loop i0#0
)";
  std::string indent = "  ", outer = "i0#0";
  for (int depth = 1; depth < 6; ++depth) {
    const std::string extent = "%" + std::to_string(depth - 1), at = std::to_string(depth);
    const std::string range = "i" + at + "#" + at;
    text += indent + extent + " = add i64 " + outer + " 1\n";
    text += indent + range + " = range serial " + extent + "\n";
    text += indent + "loop " + range + "\n";
    indent += "  ";
    outer = range;
  }
  text += indent + "store y@0 i5#5 f32:1\n";
  const Work work = work_of(text, {4096}, {4 * 4096});
  EXPECT_FALSE(work.exact);
  EXPECT_EQ(work.written_bytes, 4 * 4096u);
}

constexpr char kInvariant[] = R"(kernel "invariant" strict
buffer x@0 f64 read
buffer y@1 f64 write
scalar n$0 i64
scalar a$1 f64
i#0 = range serial n$0
loop i#0
  j#1 = range serial 10
  loop j#1
    %0 = load f64 x@0 i#0
    %1 = sqrt f64 %0
    %2 = mul f64 a$1 a$1
    %3 = sub f64 %1 %2
    %4 = add i64 i#0 j#1
    store y@1 %4 %3
)";

TEST(WorkTest, CountsAValueOnceWhereItIsKnown) {
  const Work work = work_of(kInvariant, {50, 0}, {400, 8 * 59});
  EXPECT_EQ(work.flops, 50u /* sqrt */ + 1u /* mul */ + 50u /* sub */);
  EXPECT_EQ(work.read_bytes, 400u);
  EXPECT_EQ(work.written_bytes, 8 * 59u) << "the window's 500 stores reach 59 elements";
}

constexpr char kGather[] = R"(kernel "gather" strict
buffer t@0 i32 read
buffer w@1 f32 read
buffer y@2 f32 write
scalar n$0 i64
i#0 = range serial n$0
loop i#0
  %0 = load i32 t@0 i#0
  %1 = cast i64 %0
  %2 = load f32 w@1 %1
  %3 = exp f32 %2
  store y@2 i#0 %3
)";

TEST(WorkTest, BoundsGathersByTheirNumberAndTheBuffer) {
  EXPECT_EQ(work_of(kGather, {10}, {40, 4000, 40}).read_bytes, 80u);
  EXPECT_EQ(work_of(kGather, {10}, {40, 20, 40}).read_bytes, 60u);
  EXPECT_GT(work_of(kGather, {10}, {40, 20, 40}).flops, 50u) << "exp counts as what it expands to";
}

constexpr char kDataDependent[] = R"(kernel "counted" strict
buffer c@0 i64 read
buffer y@1 f32 write
%0 = load i64 c@0 0
i#0 = range serial %0
loop i#0
  store y@1 i#0 f32:1
)";

TEST(WorkTest, SaysWhatItCannotKnow) {
  const Work work = work_of(kDataDependent, {}, {8, 400});
  EXPECT_FALSE(work.exact);
  EXPECT_EQ(work.written_bytes, 0u);
}

}  // namespace
}  // namespace sporkle::ir
