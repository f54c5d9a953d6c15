#include "bench/cases.h"

#include <gtest/gtest.h>

namespace sporkle::bench {
namespace {

void expect_refused(const Status& status, Code code, const std::string& part) {
  EXPECT_EQ(status.code(), code) << status.to_string();
  EXPECT_NE(status.message().find(part), std::string::npos) << status.message() << "\nlacks: " << part;
}

TEST(Cases, ExtentsAreReadInFull) {
  const Result<std::vector<int64_t>> extents = parse_extents("12x1x7", 3, "MxNxK");
  ASSERT_TRUE(extents.ok()) << extents.status().to_string();
  EXPECT_EQ(*extents, (std::vector<int64_t>{12, 1, 7}));
  for (const char* wrong : {"", "x", "12x1", "12x1x7x2", "12x1x", "12x1x7 ", "12x0x7", "12x-1x7", "1e2x1x1", "a",
                            "99999999999999999999x1x1"})
    expect_refused(parse_extents(wrong, 3, "MxNxK").status(), Code::invalid_argument, "is not of the form MxNxK");
  expect_refused(parse_extents("67108864x67108864x2", 3, "MxNxK").status(), Code::invalid_argument, "2^50");
}

TEST(Cases, TypesAndNumericsAreTheCasesOwn) {
  CaseKind kind;
  kind.name = "gemm";
  kind.dtypes = {ir::DType::f32, ir::DType::f64};
  kind.numerics = {ir::Numerics::strict};
  EXPECT_EQ(*parse_dtype(kind, "f64"), ir::DType::f64);
  EXPECT_EQ(*parse_numerics(kind, "strict"), ir::Numerics::strict);
  expect_refused(parse_dtype(kind, "f65").status(), Code::invalid_argument,
                 "the case gemm has no dtype \"f65\"; did you mean \"f64\"? (it has: f32, f64)");
  expect_refused(parse_numerics(kind, "fast").status(), Code::invalid_argument, "(it has: strict)");
}

std::unique_ptr<Case> nothing() {
  Result<std::unique_ptr<Case>> made = (*find_case("launch"))->make({.shape = "host"});
  EXPECT_TRUE(made.ok()) << made.status().to_string();
  return std::move(*made);
}

TEST(Cases, WhatDoesNotFitMemoryIsRefusedAtOnce) {
  const Result<std::unique_ptr<Case>> small = within_memory("1x1", 1e3, nothing());
  ASSERT_TRUE(small.ok());
  EXPECT_EQ((*small)->memory_bytes(), 1e3);
  expect_refused(within_memory("9x9", 1e18, nothing()).status(), Code::invalid_argument, "shape \"9x9\" takes 1.00 EB");
}

TEST(Cases, PoisonIsNaN) {
  HostArray f32 = make_array("y", ir::DType::f32, {3}), f64 = make_array("y", ir::DType::f64, {2, 2});
  poison(&f32);
  poison(&f64);
  EXPECT_EQ(f64.values<double>().size(), 4u);
  for (const float x : f32.values<float>()) EXPECT_NE(x, x);
  for (const double x : f64.values<double>()) EXPECT_NE(x, x);
}

// What is measured as a ceiling is the rate of f32 and f64.
TEST(Cases, TrainingIn16BitsHasNoCeilingAndIsFast) {
  const auto kind = find_case("train");
  ASSERT_TRUE(kind.ok());
  Setting setting;
  setting.shape = "1x32x2x16x2";
  EXPECT_TRUE((*(*kind)->make(setting))->has_roofline());
  setting.dtype = ir::DType::bf16;
  EXPECT_NE((*kind)->make(setting).status().message().find("--numerics fast"), std::string::npos);
  setting.numerics = ir::Numerics::fast;
  EXPECT_FALSE((*(*kind)->make(setting))->has_roofline());
}

}  // namespace
}  // namespace sporkle::bench
