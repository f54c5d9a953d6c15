// ReductionGroup: nodes that add up their numbers over TCP, without a coordinator, and go on when one of them is lost.
//
// For training that talks rarely (a round's pseudo-gradients) and for plain data-parallel training on a LAN (gradients,
// every step). reduction.h says what is promised. Connections are TLS 1.3 with both sides authenticated by their keys,
// one for each pair of which at least one can be reached.
//
// A group has no thread: all_reduce() moves the bytes on the caller's. It belongs to one thread at a time.
#pragma once

#include <array>
#include <chrono>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/status.h"
#include "mesh/clock.h"
#include "mesh/identity.h"
#include "mesh/reduction.h"
#include "mesh/reduction_stream.h"
#include "mesh/run_link.h"

namespace sporkle::mesh {

struct ReductionMember {
  NodeId id;
  std::optional<Address> address;  // where others can connect to it; without one it only sends and fetches
};

struct ReductionGroupOptions {
  ReductionOptions reduction;
  // How long join() waits for connections. A member that is not there by then is lost.
  std::chrono::milliseconds connect_timeout{10'000};
  // Without encryption, and without proof of who the others are. For benchmarks between processes of one machine only;
  // all members must ask for it.
  bool plaintext_for_benchmark = false;
};

class ReductionGroup {
 public:
  // Connects to the other members. All must be given the same members, in any order; the node of `identity` is one of
  // them, and listens when it has an address. Errors: invalid_argument, permission_denied (this node is no member).
  // Members that cannot be reached or are not who they should be are lost, which the first all_reduce() tells.
  static Result<std::unique_ptr<ReductionGroup>> join(const Identity& identity, std::vector<ReductionMember> members,
                                                      std::optional<ReductionListener> listener,
                                                      const ReductionGroupOptions& options = {});
  ~ReductionGroup();

  // Adds up everybody's `input` into everybody's `output`, of the same size with all; they may not overlap. `combine`'s
  // members are in the order of their IDs. Returns whose inputs are in the sum: the same for all that return, this node
  // included. unavailable when the others went on without this node or too few are left; the group is then of no more
  // use. invalid_argument for sizes.
  Result<std::vector<NodeId>> all_reduce(std::span<const std::byte> input, std::span<std::byte> output,
                                         const Reduction::Combine& combine);

 private:
  struct Link;

  ReductionGroup(std::vector<ReductionMember> members, size_t self, uint64_t reachable,
                 const ReductionGroupOptions& options);
  void drop(Link& link);
  // Each moves what it can now, a few messages at most; true when something moved.
  bool read_some(Link& link);
  bool write_some(Link& link);
  bool fill_output(Link& link);
  bool all_sent(bool in_time);
  void wait_for_sockets();

  const std::vector<ReductionMember> members_;  // by rising ID
  const size_t self_;
  Reduction core_;
  SystemClock clock_;
  std::vector<std::unique_ptr<Link>> links_;  // by member; null: never, or no more
};

}  // namespace sporkle::mesh
