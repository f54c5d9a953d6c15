// The cases elementwise, reduce, copy and launch: shapes are read in full, a right result passes, a wrong one does not.
#include <gtest/gtest.h>

#include "bench/cases.h"

namespace sporkle::bench {
namespace {

Result<std::unique_ptr<Case>> make(const char* name, const std::string& shape, const char* device = "cpu") {
  SPORKLE_ASSIGN_OR_RETURN(const CaseKind* kind, find_case(name));
  Setting setting;
  setting.shape = shape;
  setting.device = device;
  setting.threads = 2;
  return kind->make(setting);
}

void expect_refused(const char* name, const std::string& shape, const std::string& part) {
  const Status status = make(name, shape).status();
  EXPECT_EQ(status.code(), Code::invalid_argument) << shape;
  EXPECT_NE(status.message().find(part), std::string::npos) << status.message() << "\nlacks: " << part;
}

void expect_right(const char* name, const std::string& shape, const char* device = "cpu") {
  auto made = make(name, shape, device);
  ASSERT_TRUE(made.ok()) << made.status().to_string();
  Case& subject = **made;
  const Status prepared = subject.prepare();
  ASSERT_TRUE(prepared.ok()) << name << " " << shape << ": " << prepared.to_string();
  ASSERT_TRUE(subject.poison_outputs().ok());
  const Status unwritten = subject.check().status();
  EXPECT_EQ(unwritten.code(), Code::internal) << name << " " << shape << " checked without a run";
  const Result<Sample> sample = subject.run(2 * subject.sets());
  ASSERT_TRUE(sample.ok()) << sample.status().to_string();
  const Result<double> error = subject.check();
  ASSERT_TRUE(error.ok()) << name << " " << shape << ": " << error.status().to_string();
  EXPECT_GT(sample->wall_seconds, 0);
  EXPECT_LT(*error, 1e-4);
  EXPECT_GT(subject.value(1.0), 0);
}

TEST(MemoryCases, ReadTheirShapesInFull) {
  expect_refused("elementwise", "12", "is not of the form ROWSxCOLUMNS");
  expect_refused("elementwise", "33554432x33554432", "of memory");
  expect_refused("reduce", "12:sum", "is not of the form");
  expect_refused("reduce", "12x3:min", "ends in \":min\", which is none of :sum, :max, :all");
  expect_refused("reduce", "33554432x33554432", "of memory");
  expect_refused("copy", "12x3", "is not of the form ELEMENTS");
  expect_refused("copy", "1000000000000000", "of memory");
  expect_refused("transfer", "12x3", "is not of the form ELEMENTS");
  expect_refused("transfer", "12:within", "reads like ELEMENTS[:shared");
  expect_refused("transfer", "12:teleport", "reads like ELEMENTS[:shared");
  expect_refused("launch", "1000", "none of latency, chain, host");
}

TEST(MemoryCases, PassOnTheProcessor) {
  for (const char* shape : {"1x1", "5x3", "131x1003", "9x20000", "2x70000"}) expect_right("elementwise", shape);
  for (const char* shape : {"1x1:sum", "7x13:sum", "67x1001:sum", "3x65536:sum", "63x70001:sum", "64x70001:sum",
                            "2x65535", "5x999:max", "67x1001:all", "1024x1031:all", "33x5:all"})
    expect_right("reduce", shape);
  for (const char* shape : {"1", "1003", "300000"}) expect_right("copy", shape);
  for (const char* shape : {"latency", "chain", "host"}) expect_right("launch", shape);
}

TEST(MemoryCases, PassBetweenDevices) {
  for (const char* shape : {"100003:shared", "100003:pinned", "100003:staged", "1003:read_write"}) {
    const auto made = make("transfer", shape, "vulkan:0");
    if (made.status().code() == Code::unsupported) GTEST_SKIP() << made.status().message();
    expect_right("transfer", shape, "vulkan:0");
  }
  EXPECT_EQ(make("transfer", "12", "cpu").status().code(), Code::unsupported);
  EXPECT_EQ(make("transfer", "12", "vulkan:x").status().code(), Code::not_found);
}

TEST(MemoryCases, PassInTheInterpreter) {
  expect_right("elementwise", "5x17", "reference");
  expect_right("reduce", "5x100:sum", "reference");
  expect_right("copy", "1003", "reference");
  expect_right("launch", "chain", "reference");
}

}  // namespace
}  // namespace sporkle::bench
