#include "bench/machine.h"

#include <gtest/gtest.h>

#include "train/temporary_folder.h"

namespace sporkle::bench {
namespace {

Machine full_machine() {
  Machine m;
  m.machine = "small-4-cores";
  m.date = "2026-01-02";
  m.cpu = "Small \"Xeon\"";
  m.cpu_features = "avx avx2";
  m.cores = 4;
  m.caches = {{1, "data", 32768, 1}, {3, "unified", 8388608, 4}};
  m.memory_bytes = 1ull << 35;
  m.devices = {{"cpu", "Small", "LLVM 19"}};
  m.kernel = "Linux 6";
  m.governor = "performance";
  m.compiler = "g++ 12";
  m.llvm = "19.1.7";
  m.commit = "0123abc";
  m.noise = 0.0125;
  return m;
}

TEST(Machine, ReadsWhatItWrites) {
  const Result<Machine> read = parse_machine(to_json(full_machine()));
  ASSERT_TRUE(read.ok()) << read.status().to_string();
  EXPECT_EQ(*read, full_machine());
  Machine sparse;
  sparse.machine = sparse.date = sparse.cpu = "x";
  const Result<Machine> short_line = parse_machine(to_json(sparse));
  ASSERT_TRUE(short_line.ok()) << short_line.status().to_string();
  EXPECT_EQ(*short_line, sparse);
}

TEST(Machine, WrongLinesAreRefusedWithTheirReason) {
  const auto refused = [](const std::string& from, const std::string& to, const std::string& part) {
    std::string line = to_json(full_machine());
    const size_t at = line.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    line.replace(at, from.size(), to);
    const Result<Machine> machine = parse_machine(line);
    ASSERT_FALSE(machine.ok()) << line;
    EXPECT_EQ(machine.status().code(), Code::corrupt_data);
    EXPECT_NE(machine.status().message().find(part), std::string::npos) << machine.status().message();
  };
  refused("\"date\":\"2026-01-02\",", "", "lacks the field \"date\"");
  refused("\"date\":\"2026-01-02\"", "\"date\":\"\"", "a string that is not empty");
  refused("\"cores\":4", "\"cores\":-4", "field \"cores\" of the machine's line is -4");
  refused("\"cores\":4", "\"cores\":4294967296", "at most 2147483647");
  refused("\"level\":1", "\"level\":\"one\"", "field \"level\"");
  refused("\"caches\":[", "\"caches\":[7,", "an object in each place");
  refused("\"devices\":[{\"id\":\"cpu\",\"name\":\"Small\",\"driver\":\"LLVM 19\"}]", "\"devices\":{}", "an array");
  refused("\"governor\":\"performance\"", "\"governor\":[]", "a string");
  refused("\"noise\":0.0125", "\"noise\":-1", "a number of at least 0");
  EXPECT_FALSE(parse_machine("[]").ok());
  EXPECT_FALSE(parse_machine("{").ok());
}

TEST(Machine, IsDescribedFromWhatTheSystemSays) {
  const train::testing::TemporaryFolder root;
  root.file("proc/cpuinfo",
            "processor\t: 0\nmodel name\t: Fine(R) Cores(TM) CPU X-7 @ 2.00GHz\nflags\t\t: fpu avx avx2 fma avx512f\n\n"
            "processor\t: 1\nmodel name\t: Fine(R) Cores(TM) CPU X-7 @ 2.00GHz\n");
  root.file("proc/meminfo", "MemTotal:       1024 kB\nMemFree: 3 kB\n");
  root.file("sys/devices/system/cpu/cpu0/cache/index0/level", "1\n");
  root.file("sys/devices/system/cpu/cpu0/cache/index0/type", "Data\n");
  root.file("sys/devices/system/cpu/cpu0/cache/index0/size", "48K\n");
  root.file("sys/devices/system/cpu/cpu0/cache/index0/shared_cpu_list", "0\n");
  root.file("sys/devices/system/cpu/cpu0/cache/index1/level", "3\n");
  root.file("sys/devices/system/cpu/cpu0/cache/index1/type", "Unified\n");
  root.file("sys/devices/system/cpu/cpu0/cache/index1/size", "32768K\n");
  root.file("sys/devices/system/cpu/cpu0/cache/index1/shared_cpu_list", "0-1,4\n");
  root.file("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave\n");
  const Machine m = describe_machine({.commit = "abc", .noise = 0.5, .root = root.path()});
  EXPECT_EQ(m.machine, "fine-cores-x-7-2-cores");
  EXPECT_EQ(m.cpu, "Fine(R) Cores(TM) CPU X-7 @ 2.00GHz");
  EXPECT_EQ(m.cpu_features, "avx avx2 fma avx512f");
  EXPECT_EQ(m.cores, 2);
  EXPECT_EQ(m.caches, (std::vector<Cache>{{1, "data", 48 * 1024, 1}, {3, "unified", 32 << 20, 3}}));
  EXPECT_EQ(m.memory_bytes, 1024u * 1024u);
  EXPECT_EQ(m.governor, "powersave");
  EXPECT_EQ(m.commit, "abc");
  EXPECT_EQ(m.noise, 0.5);
  EXPECT_EQ(m.date.size(), 10u);
  EXPECT_TRUE(m.kernel.starts_with("Linux ")) << m.kernel;
  EXPECT_FALSE(m.compiler.empty());
}

TEST(Machine, WithoutProcAndSysIsUnknownRatherThanWrong) {
  const train::testing::TemporaryFolder root;
  const Machine m = describe_machine({.root = root.path()});
  EXPECT_EQ(m.cpu, "unknown");
  EXPECT_EQ(m.machine, "unknown-0-cores");
  EXPECT_TRUE(m.caches.empty());
  EXPECT_TRUE(parse_machine(to_json(m)).ok());
}

TEST(Machine, ThisOneIsFound) {
  const Machine m = describe_machine({});
  EXPECT_GE(m.cores, 1);
  EXPECT_GT(m.memory_bytes, 0u);
  EXPECT_TRUE(m.same_hardware(m));
  EXPECT_FALSE(m.same_hardware(full_machine()));
}

}  // namespace
}  // namespace sporkle::bench
