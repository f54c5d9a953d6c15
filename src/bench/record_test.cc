#include "bench/record.h"

#include <gtest/gtest.h>

namespace sporkle::bench {
namespace {

Record full_record() {
  Record r;
  r.name = "gemm";
  r.shape = "64x32x16:nt";
  r.dtype = "f32";
  r.numerics = "strict";
  r.device = "cpu";
  r.threads = 2;
  r.value = 101.5;
  r.unit = "GFLOP/s";
  r.seconds = 0.00125;
  r.flops = 65536;
  r.bytes = 14336;
  r.noise = 0.0125;
  r.percent_of_peak = 91.25;
  r.rival = "OpenBLAS";
  r.rival_version = "OpenBLAS 0.3.21, kernel \"Zen\"";
  r.rival_value = 99;
  r.ratio = 1.02;
  r.ratio_min = 0.9;
  r.ratio_max = 1.1;
  r.ratio_noise = 0.015;
  r.max_rel_error = 1e-7;
  r.rival_max_rel_error = 2e-7;
  r.rounds = 9;
  return r;
}

// The line of full_record() with one field's text replaced.
std::string changed(const std::string& from, const std::string& to) {
  std::string line = to_json(full_record());
  const size_t at = line.find(from);
  EXPECT_NE(at, std::string::npos) << from << " is not in " << line;
  return at == std::string::npos ? line : line.replace(at, from.size(), to);
}

void expect_refused(const std::string& line, const std::string& part) {
  const Result<Record> record = parse_record(line);
  ASSERT_FALSE(record.ok()) << line;
  EXPECT_EQ(record.status().code(), Code::corrupt_data);
  EXPECT_NE(record.status().message().find(part), std::string::npos) << record.status().message();
}

TEST(Record, ReadsWhatItWrites) {
  const Result<Record> full = parse_record(to_json(full_record()));
  ASSERT_TRUE(full.ok()) << full.status().to_string();
  EXPECT_EQ(*full, full_record());

  Record sparse = full_record();
  sparse.noise = sparse.percent_of_peak = sparse.rival_value = sparse.ratio = sparse.ratio_min = sparse.ratio_max =
      sparse.ratio_noise = sparse.max_rel_error = sparse.rival_max_rel_error = std::nullopt;
  sparse.rival = sparse.rival_version = "";
  const Result<Record> read = parse_record(to_json(sparse));
  ASSERT_TRUE(read.ok()) << read.status().to_string();
  EXPECT_EQ(*read, sparse);
  EXPECT_NE(to_json(sparse).find("\"ratio\":null"), std::string::npos);
}

TEST(Record, UnknownFieldsAreIgnored) {
  const Result<Record> record = parse_record(changed("{", "{\"colour\":[1,2],"));
  ASSERT_TRUE(record.ok()) << record.status().to_string();
  EXPECT_EQ(*record, full_record());
}

TEST(Record, WrongLinesAreRefusedWithTheirReason) {
  expect_refused("", "not JSON");
  expect_refused("{\"name\":", "not JSON");
  expect_refused("[1]", "no JSON object but array");
  expect_refused("{}", "without the field \"name\"");
  expect_refused(changed("\"name\":\"gemm\"", "\"name\":\"\""), "not empty");
  expect_refused(changed("\"name\":\"gemm\"", "\"name\":7"), "field \"name\" of a result is 7, not a string");
  expect_refused(changed("\"value\":101.5,", ""), "without the field \"value\"");
  expect_refused(changed("\"value\":101.5", "\"value\":\"fast\""), "is \"fast\", not a finite number");
  expect_refused(changed("\"value\":101.5", "\"value\":1e999"), "not JSON");
  expect_refused(changed("\"threads\":2", "\"threads\":-2"), "is -2, not a whole number");
  expect_refused(changed("\"threads\":2", "\"threads\":2.5"), "is 2.5, not a whole number");
  expect_refused(changed("\"threads\":2", "\"threads\":18446744073709551615"), "not a whole number");
  expect_refused(changed("\"ratio\":1.02", "\"ratio\":true"), "field \"ratio\"");
  expect_refused(changed("\"unit\":\"GFLOP/s\"", "\"unit\":\"" + std::string(3, '\x01') + "\""), "not JSON");
}

TEST(Record, TimesAreBetterWhenSmaller) {
  EXPECT_TRUE(smaller_is_better("ms"));
  EXPECT_TRUE(smaller_is_better("us"));
  EXPECT_FALSE(smaller_is_better("GB/s"));
  EXPECT_FALSE(smaller_is_better("tokens/s"));
}

}  // namespace
}  // namespace sporkle::bench
