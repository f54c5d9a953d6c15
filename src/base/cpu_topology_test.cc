#include "base/cpu_topology.h"

#include <gtest/gtest.h>

#include "base/file.h"
#include "base/temporary_folder.h"

namespace sporkle {
namespace {

TEST(CpuTopology, ReadsListsOfProcessors) {
  EXPECT_EQ(parse_cpu_list("0-3,8,10-11\n"), (std::vector<int>{0, 1, 2, 3, 8, 10, 11}));
  EXPECT_EQ(parse_cpu_list("5"), std::vector<int>{5});
  EXPECT_EQ(parse_cpu_list(""), std::vector<int>{});  // a node with memory alone
  for (const char* text : {"a", "1-", "-1", "3-1", "1,,2", "1,", "1;2", "0-99999999999", "0-999999"})
    EXPECT_EQ(parse_cpu_list(text), std::nullopt) << text;
}

class Nodes {
 public:
  Nodes() : folder_(std::move(*made_)) {}
  void add(const std::string& name, const std::string& cpulist) {
    std::filesystem::create_directories(folder_.path() / name);
    ASSERT_TRUE(write_file_atomically(folder_.path() / name / "cpulist", cpulist).ok());
  }
  const std::filesystem::path& path() const { return folder_.path(); }

 private:
  Result<TemporaryFolder> made_ = TemporaryFolder::create("topology");
  TemporaryFolder folder_;
};

using Groups = std::vector<std::vector<int>>;

TEST(CpuTopology, NodesHaveTheProcessorsThatMayBeUsed) {
  Nodes nodes;
  nodes.add("node1", "4-7\n");
  nodes.add("node0", "0-3\n");
  nodes.add("node10", "8-9\n");
  nodes.add("node2", "\n");
  nodes.add("possible", "0-99\n");
  EXPECT_EQ(read_topology(nodes.path(), {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}).nodes,
            (Groups{{0, 1, 2, 3}, {4, 5, 6, 7}, {8, 9}}));
  EXPECT_EQ(read_topology(nodes.path(), {2, 5, 9}).nodes, (Groups{{2}, {5}, {9}}));
}

TEST(CpuTopology, WhatCannotBeTrustedIsOneNode) {
  EXPECT_EQ(read_topology("/nowhere", {0, 1}).nodes, (Groups{{0, 1}}));
  Nodes missing;
  missing.add("node0", "0");
  EXPECT_EQ(read_topology(missing.path(), {0, 1}).nodes, (Groups{{0, 1}}));
  Nodes twice;
  twice.add("node0", "0-1");
  twice.add("node1", "1");
  EXPECT_EQ(read_topology(twice.path(), {0, 1}).nodes, (Groups{{0, 1}}));
  Nodes garbled;
  garbled.add("node0", "0-");
  EXPECT_EQ(read_topology(garbled.path(), {0}).nodes, (Groups{{0}}));
}

TEST(CpuTopology, ThreadsFillOneNodeAfterTheOther) {
  const CpuTopology topology{{{0, 1}, {2, 3, 4}}};
  std::vector<int> found;
  for (int thread = 0; thread < 7; ++thread) found.push_back(topology.node_of(thread));
  EXPECT_EQ(found, (std::vector<int>{0, 0, 1, 1, 1, 0, 0}));
}

TEST(CpuTopology, ThisMachineHasOne) {
  const CpuTopology topology = host_topology();
  ASSERT_FALSE(topology.nodes.empty());
  EXPECT_FALSE(topology.nodes[0].empty());
}

}  // namespace
}  // namespace sporkle
