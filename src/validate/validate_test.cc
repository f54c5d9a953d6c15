// Validation finds each kind of planted error and names it; sound devices pass; calls depend on the seed alone.
#include "validate/validate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "hal/registry.h"
#include "hal/testing_device.h"
#include "tensor/pointwise.h"
#include "validate/document.h"
#include "validate/operations.h"

namespace sporkle::validate {
namespace {

using hal::testing::Fault;
using hal::testing::in_floats;

Subject faulty(const std::string& inner, const Fault& fault) {
  return {"faulty " + inner, inner, [inner, fault]() -> Result<std::shared_ptr<hal::Device>> {
            SPORKLE_ASSIGN_OR_RETURN(std::shared_ptr<hal::Device> device, hal::open_device(inner, {.threads = 1}));
            return std::shared_ptr<hal::Device>(std::make_shared<hal::testing::FaultyDevice>(device, fault));
          }};
}

Report validate_one(const std::string& operation, const Subject& subject, int64_t rounds = 6) {
  Options options;
  options.subjects = {subject};
  options.operations = {operation};
  options.rounds = rounds;
  options.workers = 1;
  const auto reports = validate(options);
  EXPECT_TRUE(reports.ok()) << reports.status().to_string();
  return reports.ok() ? reports->at(0) : Report{};
}

void expect_found(const std::string& operation, const Subject& subject, std::string_view part) {
  const Report report = validate_one(operation, subject);
  ASSERT_TRUE(report.failure) << operation << ": the planted error was not found";
  EXPECT_EQ(report.operation, operation);
  EXPECT_EQ(report.failure->subject, subject.name);
  EXPECT_NE(report.failure->what.find("element"), std::string::npos) << report.failure->what;
  EXPECT_NE(report.failure->what.find(part), std::string::npos) << report.failure->what;
}

TEST(PlantedErrorTest, WithoutOneEverythingPasses) {
  for (const char* operation : {"add", "matmul", "layer_norm", "sum"}) {
    const Report report = validate_one(operation, faulty("cpu", {}));
    EXPECT_FALSE(report.failure) << report.failure->what;
    EXPECT_GT(report.elements, 0);
  }
}

TEST(ValidateTest, F64ThatADeviceLacksIsSaidToBeUntested) {
  // Some processors' Vulkan driver has no fused multiply-add of f64.
  const auto device = hal::open_device("vulkan:0");
  if (!device.ok()) GTEST_SKIP() << device.status().to_string();
  const bool lacking = (*device)->info().target.find("fma64") == std::string::npos;
  const Subject subject{"vulkan:0", "vulkan:0", [] { return hal::open_device("vulkan:0"); }};
  const Report report = validate_one("layer_norm", subject, 24);
  EXPECT_FALSE(report.failure) << report.failure->what;
  EXPECT_EQ(report.untested > 0, lacking) << report.untested_why;
  EXPECT_EQ(report.untested_why.find("no fused multiply-add of f64") != std::string::npos, lacking);
}

TEST(PlantedErrorTest, AWrongElementIsFound) {
  const auto wrong = in_floats([](std::span<float> values) { values[values.size() / 2] += 1; });
  for (const char* operation : {"add", "matmul", "layer_norm"})
    expect_found(operation, faulty("cpu", {.in_read = wrong}), "0x");
}

TEST(PlantedErrorTest, AnUnwrittenTailIsFound) {
  const auto unwritten = in_floats([](std::span<float> values) {
    for (float& value : values.last((values.size() + 7) / 8)) value = std::nanf("");
  });
  for (const char* operation : {"copy", "sum", "conv2d"})
    expect_found(operation, faulty("cpu", {.in_read = unwritten}), "nan");
}

TEST(PlantedErrorTest, ADriftOfTwoUnitsInTheLastPlaceIsFound) {
  const auto drift = in_floats([](std::span<float> values) {
    for (float& value : values)
      for (int i = 0; i < 2; ++i) value = std::nextafter(value, INFINITY);
  });
  // Where the limit is wider than the drift, the bits betray it.
  const Report product = validate_one("mul", faulty("cpu", {.in_read = drift}));
  EXPECT_GE(product.worst_ulp, 2);
  EXPECT_GT(product.worst_share, 1);
  for (const char* operation : {"exp", "matmul", "batch_norm"})
    expect_found(operation, faulty("cpu", {.in_read = drift}), "0x");
}

TEST(PlantedErrorTest, AReorderedSumIsFound) {
  // Sums of rows go in sixteen lanes; this device makes them one chain.
  const auto reordered = [](std::string code) {
    for (size_t at; (at = code.find("lanes=16")) != std::string::npos;) code.replace(at, 8, "lanes=1");
    return code;
  };
  const Report report = validate_one("layer_norm", faulty("reference", {.in_code = reordered}), 12);
  ASSERT_TRUE(report.failure);
  EXPECT_NE(report.failure->what.find("same bits"), std::string::npos) << report.failure->what;
}

// The usual schedule is right, and so are the few that are drawn; one of those behind them is not.
TEST(PlantedErrorTest, AScheduleWithOtherBitsIsFound) {
  int loads = 0;
  Fault fault;
  fault.in_code = [&loads](std::string code) {
    ++loads;
    return code;
  };
  fault.in_read = in_floats([&loads](std::span<float> values) {
    if (loads == 12 || loads == 13) values[0] = std::nextafter(values[0], INFINITY);
  });
  const Report report = validate_one("matmul", faulty("cpu", fault), 1);
  ASSERT_TRUE(report.failure);
  EXPECT_EQ(report.failure->check, "schedules");
}

TEST(ValidateTest, RunsEveryItemOfSchedules) {
  const Report product = validate_one("matmul", find_subjects({"cpu"})->back(), 1);
  EXPECT_FALSE(product.failure) << product.failure->what;
  EXPECT_GT(product.schedules, 10);
  EXPECT_EQ(validate_one("permute", find_subjects({"reference"})->back(), 1).failures, 0);
}

TEST(ValidateTest, CoversEveryPointwiseOperation) {
  std::set<std::string_view> names;
  for (const tensor::OpRow& row : operations()) EXPECT_TRUE(names.insert(row.name).second) << row.name << " twice";
  for (const tensor::PointwiseRow& row : tensor::pointwise_table()) EXPECT_TRUE(names.count(row.name)) << row.name;
}

TEST(ValidateTest, IsTheSameForASeedWhateverTheWorkers) {
  Options options;
  options.subjects = *find_subjects({"reference"});
  options.operations = {"gelu", "sum", "layer_norm"};
  options.rounds = 3;
  options.workers = 1;
  const std::string one = operations_page(*validate(options));
  options.workers = 3;
  EXPECT_EQ(operations_page(*validate(options)), one);
}

TEST(ValidateTest, AFailedCallIsRepeatedByItsNumber) {
  const auto wrong = in_floats([](std::span<float> values) { values[0] = 77; });
  Options options;
  options.subjects = {faulty("cpu", {.in_read = wrong})};
  options.operations = {"tanh"};
  const auto all = *validate(options);
  ASSERT_TRUE(all[0].failure);
  options.only_call = all[0].failure->call;
  const auto again = *validate(options);
  ASSERT_TRUE(again[0].failure);
  EXPECT_EQ(again[0].failure->what, all[0].failure->what);
  EXPECT_EQ(again[0].calls, 1);
}

TEST(ValidateTest, RefusesWhatDoesNotExist) {
  Options options;
  EXPECT_EQ(validate(options).status().code(), Code::invalid_argument);
  options.subjects = *find_subjects({"reference"});
  options.operations = {"matmull"};
  const Status unknown = validate(options).status();
  EXPECT_EQ(unknown.code(), Code::not_found);
  EXPECT_NE(unknown.message().find("did you mean \"matmul\"?"), std::string::npos) << unknown.message();
  EXPECT_EQ(find_subjects({"quantum"}).status().code(), Code::not_found);
  EXPECT_EQ(find_subjects({"null"}).status().code(), Code::invalid_argument);
}

}  // namespace
}  // namespace sporkle::validate
