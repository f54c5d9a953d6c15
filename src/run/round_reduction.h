// RoundReduction: the coordinator's view of one attempt of a round's workers to add up their updates among themselves.
// Collects what they say of it, checks it, and has the mean in the end. Pure computation, owned by one thread at a
// time.
//
// Every contributor says whose updates are in the mean and the mean's SHA-256, and sends a slice of it. Then it is told
// which chunks of its own update to show. What is checked (verify()):
//   - the contributors agree, with each other and with the slices, on the mean and on who is in it: more than half of
//     those who were asked;
//   - the chunks shown are those that were committed to before anybody was asked to reduce, and their mean has the
//     bits of the mean that was sent. Which chunks these are nobody knows before the mean is settled;
//   - no chunk of the mean is longer than the committed lengths allow: whoever adds more than it committed to is seen
//     wherever that is more than the others' updates can hide.
// Where anything of this fails, the attempt is of no use, and nobody is blamed: the round then goes by the coordinator,
// which gets every update whole and checks each as it does without peers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/sha256.h"
#include "base/status.h"
#include "mesh/clock.h"
#include "mesh/node_id.h"
#include "mesh/run_link.h"

namespace sporkle::run {

class RoundReduction {
 public:
  struct Member {
    mesh::NodeId node;
    std::string lease;
    uint64_t tokens = 0;
    std::optional<mesh::Address> address;  // where the others can connect to it
    std::vector<std::byte> commitment;     // one that committed_norm() accepts
  };

  // `members` by rising node ID; `count` values in an update. `audited`: what the worker has to show, commitment
  // chunks, rising and different. `deadline`: for whoever owns this to watch.
  RoundReduction(uint64_t attempt, size_t count, std::vector<Member> members, std::vector<uint32_t> audited,
                 mesh::Clock::TimePoint deadline);

  uint64_t attempt() const { return attempt_; }
  const std::vector<Member>& members() const { return members_; }
  mesh::Clock::TimePoint deadline() const { return deadline_; }
  // Whether this member is still to be told, or to tell what came of it.
  bool awaits(const mesh::NodeId& node) const;

  // What `node`, a member that is awaited, says. `contributors` by rising ID.
  void reduced(const mesh::NodeId& node, const Digest& mean_sha256, std::vector<mesh::NodeId> contributors,
               std::span<const std::byte> slice);
  void could_not(const mesh::NodeId& node);
  // The chunks of its own update that it was asked for; empty for those who are not in the mean.
  const std::vector<uint32_t>& audited() const { return audited_; }
  void shown(const mesh::NodeId& node, std::span<const std::byte> chunks);
  // The worker is gone, or has no update any more.
  void gone(const mesh::NodeId& node);

  // Why this attempt can come to nothing any more; empty while it can.
  const std::string& failure() const { return failure_; }
  // Every contributor has said and shown everything.
  bool complete() const;
  // Once complete.
  Status verify() const;
  const std::vector<mesh::NodeId>& contributors() const { return contributors_; }
  std::span<const float> mean() const { return mean_; }

 private:
  struct Part {
    bool reduced = false, failed = false, gone = false;
    std::vector<float> shown;
  };
  const Member* member(const mesh::NodeId& node) const;
  bool contributes(const mesh::NodeId& node) const;
  void fail(std::string why);
  Status verify_audit() const;
  Status verify_lengths() const;

  const uint64_t attempt_;
  const size_t count_;
  const std::vector<Member> members_;
  const std::vector<uint32_t> audited_;
  const mesh::Clock::TimePoint deadline_;
  std::map<mesh::NodeId, Part> parts_;
  std::vector<mesh::NodeId> contributors_;  // empty until the first report
  Digest mean_sha256_{};
  std::vector<float> mean_;
  std::string failure_;
};

// Where slice `rank` of `ranks` of `count` values begins; it ends where the next begins.
size_t slice_begin(size_t count, size_t rank, size_t ranks);

}  // namespace sporkle::run
