#include "bench/compare.h"

#include <gtest/gtest.h>

#include <random>

#include "bench/statistics.h"

namespace sporkle::bench {
namespace {

Record record(const std::string& name, double value, const std::string& unit = "GFLOP/s") {
  Record r;
  r.name = name;
  r.shape = "1024";
  r.dtype = "f32";
  r.numerics = "strict";
  r.device = "cpu";
  r.threads = 2;
  r.value = value;
  r.unit = unit;
  r.noise = 0.03;
  r.rounds = 9;
  return r;
}

Machine machine(double noise = 0.01) {
  Machine m;
  m.machine = "small-2-cores";
  m.date = "2026-01-01";
  m.cpu = "Small";
  m.cores = 2;
  m.noise = noise;
  return m;
}

ResultsFile file(std::vector<Record> records, std::optional<Machine> of = machine()) {
  return {"results.jsonl", {{std::move(of), std::move(records)}}};
}

Comparison compared(const ResultsFile& old_file, const ResultsFile& new_file, const CompareOptions& options = {}) {
  const Result<Comparison> result = compare(old_file, new_file, options);
  EXPECT_TRUE(result.ok()) << result.status().to_string();
  return result.ok() ? *result : Comparison{};
}

void expect_refused(const ResultsFile& old_file, const ResultsFile& new_file, const std::string& part,
                    const CompareOptions& options = {}) {
  const Result<Comparison> result = compare(old_file, new_file, options);
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.status().code(), Code::invalid_argument);
  EXPECT_NE(result.status().message().find(part), std::string::npos) << result.status().message();
}

TEST(Compare, IdenticalFilesAreUnchanged) {
  const ResultsFile same = file({record("gemm", 100), record("copy", 20, "GB/s"), record("launch", 3, "us")});
  const Comparison comparison = compared(same, same);
  EXPECT_EQ(comparison.changes.size(), 3u);
  EXPECT_EQ(comparison.count(Verdict::unchanged), 3u);
  EXPECT_TRUE(comparison.missing.empty() && comparison.added.empty() && comparison.warnings.empty());
}

TEST(Compare, ASlowdownOf15PercentIsFoundAtThreePercentNoise) {
  const Comparison comparison = compared(file({record("gemm", 100), record("launch", 3, "us")}),
                                         file({record("gemm", 100 / 1.15), record("launch", 3 * 1.15, "us")}));
  ASSERT_EQ(comparison.changes.size(), 2u);
  for (const Change& change : comparison.changes) {
    EXPECT_NEAR(change.slowdown, 0.15, 1e-9);
    EXPECT_EQ(change.verdict, Verdict::slower);
    EXPECT_GT(change.margin, 0.05);
    EXPECT_LT(change.margin, 0.1);
  }
}

TEST(Compare, ASpeedupIsFoundAlike) {
  const Comparison comparison = compared(file({record("gemm", 100), record("launch", 3, "us")}),
                                         file({record("gemm", 115), record("launch", 3 / 1.15, "us")}));
  EXPECT_EQ(comparison.count(Verdict::faster), 2u);
}

TEST(Compare, TheNoiseOfEitherSideWidensTheMargin) {
  Record noisy = record("gemm", 100 / 1.15);
  noisy.noise = 0.2;
  EXPECT_EQ(compared(file({record("gemm", 100)}), file({noisy})).count(Verdict::unchanged), 1u);
  EXPECT_EQ(
      compared(file({record("gemm", 100)}, machine(0.2)), file({record("gemm", 100 / 1.15)})).count(Verdict::unchanged),
      1u);
}

TEST(Compare, TheThresholdHoldsWhereNoNoiseIsKnown) {
  Record old_record = record("gemm", 100), new_record = record("gemm", 100 / 1.06);
  old_record.noise = new_record.noise = std::nullopt;
  const ResultsFile old_file = file({old_record}, std::nullopt), new_file = file({new_record}, std::nullopt);
  EXPECT_EQ(compared(old_file, new_file).count(Verdict::slower), 1u);
  EXPECT_EQ(compared(old_file, new_file, {.threshold = 0.07}).count(Verdict::unchanged), 1u);
  expect_refused(old_file, new_file, "threshold", {.threshold = 0});
  expect_refused(old_file, new_file, "threshold", {.threshold = std::nan("")});
}

Record against(double value, double ratio, double ratio_noise = 0.01) {
  Record r = record("gemm", value);
  r.rival = "OpenBLAS";
  r.rival_version = "0.3.21";
  r.ratio = ratio;
  r.ratio_noise = ratio_noise;
  return r;
}

TEST(Compare, RatiosSayWhatAMachineThatDriftsHides) {
  // The machine runs at 85 %, the rival on it too.
  const Comparison drift = compared(file({against(100, 1.2)}), file({against(85, 1.21)}));
  ASSERT_EQ(drift.changes.size(), 1u);
  EXPECT_TRUE(drift.changes[0].by_ratio);
  EXPECT_EQ(drift.changes[0].verdict, Verdict::unchanged);
  // The machine runs at 110 %, and we take 15 % longer.
  const Comparison slower = compared(file({against(100, 1.2)}), file({against(110 / 1.15, 1.2 / 1.15)}));
  EXPECT_NEAR(slower.changes[0].slowdown, 0.15, 1e-9);
  EXPECT_EQ(slower.changes[0].verdict, Verdict::slower);
  EXPECT_EQ(compared(file({against(110 / 1.15, 1.2 / 1.15)}), file({against(100, 1.2)})).count(Verdict::faster), 1u);
  // The rival became 15 % faster, and we did not change.
  EXPECT_EQ(compared(file({against(100, 1.2)}), file({against(100, 1.2 / 1.15)})).count(Verdict::unchanged), 1u);
  EXPECT_EQ(compared(file({against(100, 1.2, 0.1)}), file({against(85, 1.2 / 1.15)})).count(Verdict::unchanged), 1u)
      << "the ratios' noise widens the margin";
}

TEST(Compare, RatiosToAnotherVersionOrOfUnknownNoiseDoNotCount) {
  Record updated = against(85, 1.2);
  updated.rival_version = "0.3.30";
  Record unknown = against(85, 1.2);
  unknown.ratio_noise = std::nullopt;
  for (const Record& now : {updated, unknown}) {
    const Comparison comparison = compared(file({against(100, 1.2)}), file({now}));
    EXPECT_FALSE(comparison.changes[0].by_ratio);
    EXPECT_EQ(comparison.changes[0].verdict, Verdict::slower);
  }
}

TEST(Compare, MissingAndNewRowsAreNamed) {
  Record other_threads = record("gemm", 50);
  other_threads.threads = 1;
  Record other_rival = record("copy", 20, "GB/s");
  other_rival.rival = "memcpy";
  const Comparison comparison =
      compared(file({record("gemm", 100), other_threads}), file({record("gemm", 100), other_rival}));
  ASSERT_EQ(comparison.missing.size(), 1u);
  EXPECT_EQ(comparison.missing[0].threads, 1);
  ASSERT_EQ(comparison.added.size(), 1u);
  EXPECT_EQ(row_name(comparison.added[0]), "copy 1024 f32 strict, cpu, 2 threads, against memcpy");
  expect_refused(file({record("gemm", 1)}), file({record("copy", 1)}), "no row in common");
}

TEST(Compare, TheLastOfARepeatedRowCounts) {
  const Comparison comparison = compared(file({record("gemm", 50), record("gemm", 100)}), file({record("gemm", 100)}));
  ASSERT_EQ(comparison.changes.size(), 1u);
  EXPECT_EQ(comparison.changes[0].verdict, Verdict::unchanged);
}

TEST(Compare, OtherUnitsAreRefused) {
  expect_refused(file({record("gemm", 100)}), file({record("gemm", 100, "ms")}), "is in GFLOP/s in results.jsonl");
}

TEST(Compare, OtherMachinesAreRefusedUnlessAllowed) {
  Machine other = machine();
  other.cpu = "Large";
  const ResultsFile old_file = file({record("gemm", 100)}), new_file = file({record("gemm", 100)}, other);
  expect_refused(old_file, new_file, "--across-machines");
  const Comparison comparison = compared(old_file, new_file, {.across_machines = true});
  ASSERT_EQ(comparison.warnings.size(), 1u);
  EXPECT_NE(comparison.warnings[0].find("(Large, 2 cores)"), std::string::npos) << comparison.warnings[0];
  // Another program on the same machine is what comparing is for.
  Machine updated = machine();
  updated.commit = "abc";
  updated.date = "2026-02-01";
  EXPECT_TRUE(compared(old_file, file({record("gemm", 100)}, updated)).warnings.empty());
  EXPECT_EQ(compared(old_file, file({record("gemm", 100)}, std::nullopt)).warnings.size(), 1u);
}

// Rounds of a given relative standard deviation, summed up as measuring sums them up.
Record drawn(const std::string& name, double seconds, double deviation, std::mt19937& random) {
  std::normal_distribution<double> round(seconds, seconds * deviation);
  std::vector<double> times(9);
  for (double& time : times) time = round(random);
  Record r = record(name, median(times), "s");
  r.noise = relative_noise(times);
  r.rounds = static_cast<int64_t>(times.size());
  return r;
}

TEST(Compare, FilesOfOneDistributionAreUnchangedAndAPlantedSlowdownIsNot) {
  std::mt19937 random(20261124);
  size_t false_alarms = 0, found = 0, rows = 0;
  for (int trial = 0; trial < 200; ++trial) {
    std::vector<Record> before, after, slowed;
    for (int i = 0; i < 10; ++i) {
      const std::string name = "case" + std::to_string(i);
      before.push_back(drawn(name, 1, 0.03, random));
      after.push_back(drawn(name, 1, 0.03, random));
      slowed.push_back(drawn(name, 1.15, 0.03, random));
    }
    // The machine's noise comes from many repetitions, so it is near the truth: 0.6745 of the deviation.
    const Machine same = machine(0.02);
    false_alarms += compared(file(before, same), file(after, same)).count(Verdict::slower);
    found += compared(file(before, same), file(slowed, same)).count(Verdict::slower);
    rows += 10;
  }
  EXPECT_LT(static_cast<double>(false_alarms), 0.003 * static_cast<double>(rows)) << false_alarms;
  EXPECT_GT(static_cast<double>(found), 0.99 * static_cast<double>(rows)) << found;
}

}  // namespace
}  // namespace sporkle::bench
