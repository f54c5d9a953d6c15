// Which processors lie on which memory node (NUMA). Plain values; thread-safe.
#pragma once

#include <filesystem>
#include <optional>
#include <string_view>
#include <vector>

namespace sporkle {

struct CpuTopology {
  // The processors of each node that has some which this process may use, nodes and processors in ascending order.
  // Never empty: where the system says nothing, one node with all of them.
  std::vector<std::vector<int>> nodes;

  // The node on which the n-th of several threads runs: the first node's processors come first, and after the last
  // processor it starts again.
  int node_of(int thread) const;
};

// "0-3,8,10-11"; nothing where the text is no such list.
std::optional<std::vector<int>> parse_cpu_list(std::string_view text);

// From node0/cpulist, node1/cpulist ... in `folder`, without those that are not among `usable`.
CpuTopology read_topology(const std::filesystem::path& folder, const std::vector<int>& usable);

// This machine's, bounded by the process's CPU affinity.
CpuTopology host_topology();

// Keeps this thread on these processors. False where the system does not allow it.
bool pin_this_thread(const std::vector<int>& processors);

}  // namespace sporkle
