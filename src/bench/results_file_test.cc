#include "bench/results_file.h"

#include <gtest/gtest.h>

#include "base/file.h"
#include "train/temporary_folder.h"

namespace sporkle::bench {
namespace {

namespace fs = std::filesystem;
using train::testing::TemporaryFolder;

Record record(const std::string& name = "gemm") {
  Record r;
  r.name = name;
  r.shape = "64x32x16:nt";
  r.dtype = "f32";
  r.numerics = "strict";
  r.device = "cpu";
  r.threads = 2;
  r.value = 12.5;
  r.unit = "GFLOP/s";
  r.rounds = 9;
  return r;
}

Machine machine(const std::string& commit = "abc") {
  Machine m;
  m.machine = "small-2-cores";
  m.date = "2026-01-02";
  m.cpu = "Small";
  m.commit = commit;
  return m;
}

TEST(ResultsFile, KeptResultsAreOfThisProgramWhateverItsNoise) {
  const TemporaryFolder folder;
  const fs::path path = folder.path();
  EXPECT_TRUE(kept_results(path, machine())->empty());
  Machine noisy = machine();
  noisy.noise = 0.02;
  const Record gemm[] = {record("gemm")}, copy[] = {record("copy")}, old[] = {record("conv")};
  ASSERT_TRUE(append_results(path, machine("before"), old).ok());
  ASSERT_TRUE(append_results(path, machine(), gemm).ok());
  ASSERT_TRUE(append_results(path, noisy, copy).ok());
  const Result<std::vector<Record>> kept = kept_results(path, machine());
  ASSERT_TRUE(kept.ok()) << kept.status().to_string();
  ASSERT_EQ(kept->size(), 2u);
  EXPECT_EQ((*kept)[0], gemm[0]);
  EXPECT_EQ((*kept)[1], copy[0]);
}

void expect_refused(const std::string& text, const std::string& part) {
  const Result<ResultsFile> file = parse_results(text, "a.jsonl");
  ASSERT_FALSE(file.ok()) << text;
  EXPECT_EQ(file.status().code(), Code::corrupt_data);
  EXPECT_NE(file.status().message().find(part), std::string::npos) << file.status().message();
}

TEST(ResultsFile, AMachinesLineStartsASession) {
  const std::string text = to_json(record("a")) + "\n\n" + to_json(machine()) + "\n" + to_json(record("b")) + "\r\n" +
                           to_json(record("c")) + "\n" + to_json(machine("def")) + "\n" + to_json(record("d"));
  const Result<ResultsFile> file = parse_results(text, "a.jsonl");
  ASSERT_TRUE(file.ok()) << file.status().to_string();
  ASSERT_EQ(file->sessions.size(), 3u);
  EXPECT_FALSE(file->sessions[0].machine);
  EXPECT_EQ(file->sessions[1].machine, machine());
  EXPECT_EQ(file->sessions[1].records, (std::vector<Record>{record("b"), record("c")}));
  EXPECT_EQ(file->sessions[2].machine, machine("def"));
  EXPECT_EQ(file->sessions[2].records.size(), 1u);
}

TEST(ResultsFile, WrongLinesAreNamed) {
  expect_refused("", "a.jsonl:1: no result in it");
  expect_refused(to_json(machine()) + "\n", "no result in it");
  expect_refused(to_json(machine()) + "\nnonsense\n", "a.jsonl:2: ");
  expect_refused(to_json(machine()) + "\n\n" + to_json(record()) + "\n{\"name\":\"gemm\"}\n",
                 "a.jsonl:4: a result without the field");
  expect_refused(to_json(record()) + "\n{\"name\":\"machine\"}\n", "a.jsonl:2: the machine's line lacks");
  Record zero = record();
  zero.value = 0;
  expect_refused(to_json(zero), "a.jsonl:1: the result's value is 0.0");
  expect_refused(std::string(100'000, '['), "a.jsonl:1: ");
}

TEST(ResultsFile, AppendingWritesTheMachineOnlyWhenItChanged) {
  const TemporaryFolder folder;
  const fs::path results = folder.path() / "deep" / "results";
  const std::vector<Record> records = {record("a"), record("b")};
  for (const char* commit : {"abc", "abc", "def"}) {
    const Result<fs::path> path = append_results(results, machine(commit), records);
    ASSERT_TRUE(path.ok()) << path.status().to_string();
    EXPECT_EQ(path->filename(), "small-2-cores-2026-01-02.jsonl");
  }
  const Result<std::vector<ResultsFile>> files = read_results_folder(results);
  ASSERT_TRUE(files.ok()) << files.status().to_string();
  ASSERT_EQ(files->size(), 1u);
  ASSERT_EQ((*files)[0].sessions.size(), 2u);
  EXPECT_EQ((*files)[0].sessions[0].records.size(), 4u);
  EXPECT_EQ((*files)[0].sessions[1].machine, machine("def"));
}

TEST(ResultsFile, AppendingToADamagedFileFailsAndLeavesIt) {
  const TemporaryFolder folder;
  const fs::path path = folder.file("small-2-cores-2026-01-02.jsonl", "nonsense\n");
  const std::vector<Record> records = {record()};
  const Result<fs::path> appended = append_results(folder.path(), machine(), records);
  ASSERT_FALSE(appended.ok());
  EXPECT_NE(appended.status().message().find("small-2-cores-2026-01-02.jsonl:1: "), std::string::npos);
  EXPECT_EQ(*read_file(path), "nonsense\n");
  EXPECT_FALSE(append_results(path, machine(), records).ok());
}

TEST(ResultsFile, FoldersWithoutResults) {
  const TemporaryFolder folder;
  const auto empty = read_results_folder(folder.path());
  ASSERT_FALSE(empty.ok());
  EXPECT_EQ(empty.status().code(), Code::not_found);
  EXPECT_NE(empty.status().message().find("no results in"), std::string::npos);
  const auto missing = read_results_folder(folder.path() / "missing");
  ASSERT_FALSE(missing.ok());
  EXPECT_NE(missing.status().message().find("missing"), std::string::npos);
  folder.file("a.jsonl", "[]\n");
  const auto damaged = read_results_folder(folder.path());
  ASSERT_FALSE(damaged.ok());
  EXPECT_NE(damaged.status().message().find("a.jsonl:1: "), std::string::npos) << damaged.status().message();
  EXPECT_FALSE(read_results(folder.path() / "missing.jsonl").ok());
}

TEST(ResultsFile, CommandsQuoteWhatAShellWouldRead) {
  Record r = record();
  r.rival = "openblas";
  EXPECT_EQ(command_of(r),
            "sporkle bench gemm --shape 64x32x16:nt --dtype f32 --numerics strict --device cpu --threads 2 --against "
            "openblas --rounds 9");
  r.rival = "";
  r.name = "a b";
  r.shape = "$(x)'y";
  EXPECT_EQ(command_of(r),
            "sporkle bench 'a b' --shape '$(x)'\\''y' --dtype f32 --numerics strict --device cpu --threads 2 --rounds "
            "9");
}

}  // namespace
}  // namespace sporkle::bench
